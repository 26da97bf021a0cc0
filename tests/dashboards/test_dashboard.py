"""What happens in a run, as panels."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from recording import Recording

from avalanche_dgm.dashboards import drawing, keys, views
from avalanche_dgm.dashboards.dashboard import Dashboard, LearnedExperience
from avalanche_dgm.dashboards.views import Examples
from avalanche_dgm.data import Latents
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.methods import MethodStats, Naive, PseudoRehearsal
from avalanche_dgm.metrics import StreamAccuracies, functional

MATRIX = torch.tensor([[0.9, 0.1, math.nan], [0.5, 0.8, 0.2]])


def dashboard(**options):
    sink = Recording()
    return Dashboard([sink], **options), sink


def test_a_test():
    board, sink = dashboard()
    board.log_test(StreamAccuracies(MATRIX), names=["a", "b", "c"], seconds=2.0)
    assert sink.values("accuracy/experience_001") == {2: pytest.approx(0.8)}
    for name in ("average_accuracy", "forgetting", "backward_transfer", "retention"):
        expected = float(getattr(functional, name)(MATRIX))
        assert sink.values(f"stream/{name}") == {2: pytest.approx(expected)}
    assert sink.values("time/test") == {2: 2.0}
    assert sink.values("accuracy/table") == {2: ["after", "a", "b", "c"]}
    assert sink.flushed == 1


def test_columns_come_in_the_order_in_which_they_were_learned():
    board, sink = dashboard()
    accuracies = StreamAccuracies(MATRIX[:, [2, 0, 1]], [1, 2, 0])
    board.log_test(accuracies, experiences=[4, 6, 9])
    expected = float(functional.forgetting(MATRIX))
    assert sink.values("stream/forgetting") == {2: pytest.approx(expected)}
    assert sink.values("accuracy/experience_009") == {2: pytest.approx(0.8)}


def test_what_was_not_measured_is_left_out():
    board, sink = dashboard()
    board.log_test(StreamAccuracies(MATRIX[:1]))
    assert "accuracy/experience_002" not in sink.names()
    assert "stream/forgetting" not in sink.names()
    assert all(math.isfinite(p[4]) for p in sink.shown if p[0] == "scalar")


def test_experiences_that_come_again():
    board, sink = dashboard()
    board.log_test(StreamAccuracies(torch.cat([MATRIX, MATRIX[:1]]), [0, 1, 0]))
    assert sink.values("stream/average_accuracy") == {3: pytest.approx(0.5)}
    # The first counts from when it came again.
    assert sink.values("stream/backward_transfer") == {3: pytest.approx(0.1 - 0.8)}


def test_an_experience_without_a_method():
    board, sink = dashboard()
    board.log_experience(LearnedExperience(experiences=1, seconds=2.0, shown=100), None)
    assert [p[3:] for p in sink.shown] == [("time/learn", 2.0), ("time/samples_per_second", 50.0)]


def test_phases_and_sleeps():
    board, sink = dashboard()
    phases = {"sleep: tasks 1, 2": 1.0, "sleep: tasks 3": 2.0, "generator (short-term)": 3.0}
    stats = MethodStats(sleeps=2, sleep_seconds=3.0, phase_seconds=phases, histogram={1: 4})
    experience = LearnedExperience(experiences=3, seconds=1.0, shown=1, stats=stats)
    board.log_experience(experience, Naive())
    board.log_sleep(stats, before=1, at=3)
    assert sink.values("time/phase/sleep") == {3: 3.0}
    assert [p[1:] for p in sink.shown if p[1] == keys.SLEEP] == [
        ("sleep", 2, "sleeps/seconds", 3.0),
        ("sleep", 2, "sleeps/experiences", 3.0),
    ]
    assert sink.values("replay/labels") == {3: {1: 4}}
    board.log_sleep(stats, before=2, at=3)
    assert len([p for p in sink.shown if p[1] == keys.SLEEP]) == 2


def test_options():
    with pytest.raises(ConfigError, match="samples_per_class=0 must be a whole number"):
        Dashboard([], samples_per_class=0)


class Learned3(PseudoRehearsal):
    """Reconstructs and encodes, and has samples of three classes."""

    def sample(self, n):
        from avalanche_dgm.data import Replay

        labels = torch.randint(3, (n,), generator=self.rng)
        images = labels[:, None, None, None] / 2 + 0.01 * torch.rand(n, 1, 8, 8, generator=self.rng)
        return Replay(images, labels, torch.zeros(n, dtype=torch.int64))

    def reconstruct(self, images, tasks):
        return images + torch.randn((), generator=self.rng) * 0 + 0.5

    def encode(self, images, tasks):
        return images.flatten(1)


def examples(n=30):
    labels = torch.arange(n) % 3
    images = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return Examples(images + labels[:, None, None, None], labels, labels * 0, labels)


def test_looking_changes_no_random_numbers():
    method = Learned3(seed=3)
    first = torch.rand(3, generator=method.rng)
    state = method.random.get_state()
    assert list(views.samples(method, 5, n_classes=3)) == [(0, 0), (0, 1), (0, 2)]
    one = views.reconstructions(method, examples().images, examples().tasks)
    assert torch.equal(one, examples().images + 0.5)
    views.embedding(method, examples())
    after = method.random.get_state()
    assert state["seed"] == after["seed"]
    assert all(
        torch.equal(state["generators"][k], after["generators"][k]) for k in after["generators"]
    )
    torch.manual_seed(0)
    fresh = Learned3(seed=3)
    views.samples(fresh, 5, n_classes=3)
    assert torch.equal(torch.rand(3, generator=fresh.rng), first)


def test_the_same_samples_for_the_same_seed():
    method = Learned3(seed=3)
    one, two = (views.samples(method, 5, n_classes=3) for _ in range(2))
    assert len(one) == 3
    assert all(torch.equal(one[k], two[k]) for k in one)
    other = views.samples(method, 5, n_classes=3, seed=99)
    assert not any(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("case", ["one dimension", "not finite", "all the same"])
def test_latents_that_have_no_picture(case):
    class Poor(Learned3):
        def encode(self, images, tasks):
            codes = images.flatten(1)
            if case == "one dimension":
                return codes[:, :1]
            return codes * (math.nan if case == "not finite" else 0)

    found = views.embedding(Poor(seed=0), examples())
    assert (found is not None) == (case == "one dimension")
    board, sink = dashboard()
    board.log_examples(Poor(seed=0), examples(), at=1, last=True)
    assert ("latents/tsne" in sink.names()) == (case == "one dimension")


def test_what_is_made_of_test_images():
    board, sink = dashboard(samples_per_class=4)
    board.log_examples(Learned3(seed=0), examples(), at=2, last=False)
    assert sink.values("reconstructions/error") == {2: pytest.approx(0.25)}
    assert "latents/tsne" not in sink.names()
    board.log_examples(Learned3(seed=0), examples(), at=3, last=True)
    assert sink.names("image") == {"reconstructions/grid", "latents/tsne"}
    few = Dashboard([sink], latents=False)
    sink.shown.clear()
    few.log_examples(Learned3(seed=0), examples(), at=3, last=True)
    assert "latents/tsne" not in sink.names()


def test_examples_of_some_experiences():
    some = examples().of_experiences([2, 0])
    assert some.classes() == [(0, 0), (0, 2)]
    assert (some.labels[some.rows_of((0, 2))] == 2).all()
    assert len(some.images) == 20


def test_a_grid_of_samples():
    rows = [np.zeros((2, 1, 8, 8)), np.ones((3, 1, 8, 8))]
    picture = drawing.grid(rows)
    # Enlarged to 32 pixels, with gaps of 2 between them.
    assert picture.shape == (66, 100, 3)
    assert (picture[:32, :32] == 0).all()
    assert (picture[34:, :32] == 255).all()
    assert (picture[:32, 68:] == 128).all()
    colour = drawing.grid([np.stack([np.full((2, 2), v) for v in (0.0, 0.5, 1.0)])[None]])
    assert colour[0, 0].tolist() == [0, 128, 255]
    assert (drawing.grid([np.full((1, 1, 4, 4), 0.3)], low=0, high=1) == 77).all()


def test_a_heat_map_tells_accuracies_apart():
    names = [str(i) for i in range(3)]
    low = drawing.heat_map(np.zeros((3, 3)), names, names)
    high = drawing.heat_map(np.ones((3, 3)), names, names)
    none = drawing.heat_map(np.full((3, 3), np.nan), names, names)
    assert low.shape == high.shape == none.shape
    assert (low != high).any()
    assert (none == 255).mean() > 0.9
    long = drawing.heat_map(np.zeros((2, 40)), ["a long name"] * 40, ["x", "y"])
    assert long.shape[1] < 1600


def test_flat_samples_are_drawn_as_squares():
    board, sink = dashboard()

    class Flat(Learned3):
        def sample(self, n):
            replay = super().sample(n)
            return dataclasses.replace(replay, images=replay.images.flatten(1))

    class OfLatents(Flat):
        def sample(self, n):
            replay = super().sample(n)
            return dataclasses.replace(replay, images=Latents.of(replay.images))

    experience = LearnedExperience(experiences=1, seconds=1, shown=1)
    board.log_experience(experience, Flat(seed=0))
    assert "samples/grid" in sink.names("image")
    sink.shown.clear()
    board.log_experience(experience, OfLatents(seed=0))
    assert "memory/bytes" in sink.names()
    assert "samples/grid" not in sink.names()
