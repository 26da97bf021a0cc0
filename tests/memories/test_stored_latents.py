"""Moments of classes, and stored latents that are replayed with noise."""

import copy
import pickle

import numpy as np
import pytest
import torch

from avalanche_dgm.data import Replay
from avalanche_dgm.errors import ConfigError, RangeError, ShapeError
from avalanche_dgm.memories import ClassMoments, StoredLatents


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def classes(n=400, d=3, seed=0):
    """Vectors of three classes, one of them under two task labels, each with its own spread."""
    made = np.random.default_rng(seed)
    samples, labels, tasks = [], [], []
    for row, (task, label) in enumerate([(0, 4), (0, 1), (1, 4)]):
        mixing = made.normal(size=(d, d))
        samples.append(made.normal(size=(n, d)) @ mixing.T + 10 * row)
        labels += [label] * n
        tasks += [task] * n
    order = made.permutation(len(labels))
    flat = torch.tensor(np.concatenate(samples), dtype=torch.float32)
    return flat[order], torch.tensor(labels)[order], torch.tensor(tasks)[order]


def of(samples, labels, tasks, task, label):
    return samples[(labels == label) & (tasks == task)].double().numpy()


@pytest.mark.parametrize("cuts", [[], [7], [1, 200, 1100]])
def test_moments_are_those_of_all_samples_however_they_came(cuts):
    samples, labels, tasks = classes()
    moments = ClassMoments()
    for part in torch.tensor_split(torch.arange(len(labels)), cuts):
        moments.add(samples[part].view(-1, 3, 1), labels[part], tasks[part])
    assert moments.classes.tolist() == [[0, 1], [0, 4], [1, 4]]
    assert moments.seen.tolist() == [400] * 3
    factors = torch.zeros(3, 3, 3)
    rows, columns = np.tril_indices(3)
    factors[:, rows, columns] = moments.factors
    for row, (task, label) in enumerate(moments.classes.tolist()):
        mine = of(samples, labels, tasks, task, label)
        np.testing.assert_allclose(moments.means[row], mine.mean(axis=0), rtol=1e-4)
        found = (factors[row] @ factors[row].T).numpy()
        np.testing.assert_allclose(found, np.cov(mine.T, bias=True), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_noise_keeps_mean_and_covariance_of_each_class(strength):
    samples, labels, tasks = classes()
    moments = ClassMoments()
    moments.add(samples, labels, tasks)
    index = torch.arange(len(labels)).repeat(60)
    replay = Replay(samples[index].view(-1, 3, 1), labels[index], tasks[index])
    made = moments.jitter(replay, strength, rng())
    assert made.images.shape == replay.images.shape
    assert torch.equal(made.labels, replay.labels)
    assert torch.equal(made.tasks, replay.tasks)
    for task, label in moments.classes.tolist():
        mine = of(samples, labels, tasks, task, label)
        drawn = of(made.images.flatten(1), made.labels, made.tasks, task, label)
        np.testing.assert_allclose(drawn.mean(axis=0), mine.mean(axis=0), atol=0.06)
        spread = np.cov(mine.T, bias=True)
        found = np.cov(drawn.T, bias=True)
        np.testing.assert_allclose(found, spread, atol=0.05 * np.abs(spread).max())
    flat, before = made.images.flatten(), replay.images.flatten()
    if strength == 0:
        torch.testing.assert_close(flat, before)
    together = np.corrcoef(
        *[of(r.images.flatten(1), r.labels, r.tasks, 0, 4)[:, 0] for r in (made, replay)]
    )[0, 1]
    assert together == pytest.approx((1 - strength**2) ** 0.5, abs=0.02)


def test_a_class_of_one_sample_and_of_equal_ones():
    moments = ClassMoments()
    moments.add(
        torch.tensor([[1.0, 2.0], [5.0, 5.0], [5.0, 5.0]]),
        torch.tensor([0, 1, 1]),
        torch.zeros(3, dtype=torch.int64),
    )
    replay = Replay(torch.tensor([[1.0, 2.0]]), torch.tensor([0]), torch.tensor([0]))
    torch.testing.assert_close(
        moments.jitter(replay, 1.0, rng()).images, replay.images, atol=0.01, rtol=0
    )


def test_other_classes_stay_bit_for_bit():
    samples, labels, tasks = classes()
    moments, known = ClassMoments(), tasks == 0
    moments.add(samples[known], labels[known], tasks[known])
    before = moments.factors.clone(), moments.means.clone()
    moments.add(samples[~known], labels[~known], tasks[~known])
    assert len(moments) == 3
    assert torch.equal(moments.factors[:2], before[0])
    assert torch.equal(moments.means[:2], before[1])


@pytest.mark.parametrize("scale", [1.0, 1e5])
def test_latents_that_do_not_vary_in_every_direction(scale):
    """As behind rectifiers; and of any size."""
    basis = torch.randn(2, 40, generator=rng(2))
    flat = scale * torch.relu(torch.randn(300, 2, generator=rng(3)) @ basis)
    none = torch.zeros(300, dtype=torch.int64)
    moments = ClassMoments()
    moments.add(flat, none, none)
    made = moments.jitter(Replay(flat, none, none), 1.0, rng()).images
    assert bool(torch.isfinite(made).all())
    assert float(made.var(dim=0).sum()) == pytest.approx(float(flat.var(dim=0).sum()), rel=0.3)


def test_what_is_not_finite_changes_nothing():
    samples, labels, tasks = classes()
    moments = ClassMoments()
    moments.add(samples, labels, tasks)
    before = moments.factors.clone()
    with pytest.raises(RangeError, match="NaN or infinite"):
        moments.add(samples / 0, labels, tasks)
    assert torch.equal(moments.factors, before)


def test_a_class_that_was_not_shown_is_left_as_it_is():
    samples, labels, tasks = classes()
    moments, known = ClassMoments(), tasks == 0
    moments.add(samples[known], labels[known], tasks[known])
    made = moments.jitter(Replay(samples, labels, tasks), 0.7, rng()).images
    assert torch.equal(made[~known], samples[~known])
    assert not torch.isclose(made[known], samples[known]).all(dim=1).any()


def test_large_matrices_are_read_class_by_class_with_the_same_result(monkeypatch):
    samples, labels, tasks = classes()
    moments = ClassMoments()
    moments.add(samples, labels, tasks)
    replay = Replay(samples, labels, tasks)
    at_once = moments.jitter(replay, 0.7, rng()).images
    monkeypatch.setattr("avalanche_dgm.memories.moments._AT_ONCE", 1)
    torch.testing.assert_close(moments.jitter(replay, 0.7, rng()).images, at_once)


def test_a_copy_has_no_second_copy_of_the_matrices():
    samples, labels, tasks = classes()
    moments = ClassMoments()
    moments.add(samples, labels, tasks)
    replay = Replay(samples, labels, tasks)
    wanted = moments.jitter(replay, 0.7, rng()).images
    loaded = pickle.loads(pickle.dumps(moments))
    assert loaded._unpacked is None
    assert torch.equal(loaded.jitter(replay, 0.7, rng()).images, wanted)
    # Loading other moments forgets those that were unpacked.
    other = ClassMoments()
    other.add(2 * samples, labels, tasks)
    loaded.load_state_dict(other.state_dict())
    made = loaded.jitter(replay, 0.7, rng()).images
    assert torch.equal(made, other.jitter(replay, 0.7, rng()).images)


def test_samples_of_another_size():
    moments = ClassMoments()
    one = torch.zeros(1, dtype=torch.int64)
    moments.add(torch.rand(1, 3), one, one)
    with pytest.raises(ShapeError, match="4 values came, but 3"):
        moments.add(torch.rand(1, 4), one, one)
    assert moments.means.shape == (1, 3)


def latents(n, values, *classes, seed=0):
    labels = torch.tensor(classes).repeat_interleave(n)
    samples = torch.randn(len(labels), values, generator=rng(seed))
    return samples, labels, torch.zeros_like(labels)


def filled(n, values, **settings):
    memory = StoredLatents(per_class=n, **settings)
    data = latents(50, values, 0, 1)
    memory.add(*data, rng())
    if memory.wants_moments():
        memory.note(*data)
    return memory


@pytest.mark.parametrize(
    ("n", "values", "given", "kept"),
    [
        # 10 latents of 17 values are 170 numbers; a mean and a triangle are 17 * 20 / 2.
        (10, 17, {}, True),
        (10, 18, {}, False),
        (10, 18, {"covariance": True}, True),
        (10, 17, {"covariance": False}, False),
        (20, 17, {"dtype": "float16"}, True),
        (20, 18, {"dtype": "float16"}, False),
        (40, 17, {"dtype": "uint8"}, True),
        (40, 18, {"dtype": "uint8"}, False),
        (50, 300, {}, False),
        (50, 300, {"covariance": True}, True),
    ],
)
def test_moments_are_kept_where_they_take_no_more_than_the_latents(n, values, given, kept):
    memory = filled(n, values, **given)
    assert memory.wants_moments() is kept
    assert len(memory.moments) == (2 if kept else 0)
    # Later classes do not change it, whatever is stored of them.
    more = latents(200 if not kept else 1, values, 5)
    memory.add(*more, rng(1))
    assert memory.wants_moments() is kept


def test_a_memory_of_a_largest_size_keeps_them_only_if_told():
    for given, kept in ((None, False), (True, True)):
        memory = StoredLatents(total=100, covariance=given)
        memory.add(*latents(50, 4, 0, 1), rng())
        assert memory.wants_moments() is kept


def test_bytes_by_hand():
    """Two classes: two numbers, a counter, a mean and a triangle each."""
    with_moments, without = filled(10, 6, covariance=True), filled(10, 6, covariance=False)
    assert with_moments.bytes - without.bytes == 2 * (16 + 8 + 4 * (6 + 21))


def test_noise_falls_with_what_is_stored():
    """By the number's tenth root; what is given is taken."""

    def spread(n, **settings):
        memory = filled(n, 6, covariance=True, **settings)
        near = memory.rehearse(4000, rng(1)).images[:, None] - memory.data()[0][None]
        return float(near.square().sum(dim=2).min(dim=1).values.mean())

    one, five, all_of_them = spread(1), spread(5), spread(50)
    assert one > five > all_of_them > 0
    assert spread(5, jitter=0.0) == 0
    assert spread(5, jitter=5**-0.1) == pytest.approx(five)


def test_without_moments_it_is_noise_of_pairs():
    memory = filled(10, 6, covariance=False, jitter=0.3)
    found, wanted = memory.rehearse(40, rng(2)), memory.draw(40, rng(2), jitter=0.3)
    assert torch.equal(found.images, wanted.images)


@pytest.mark.parametrize("given", [None, True, False])
def test_state_dict_into_an_empty_one(given):
    memory = filled(20, 6, covariance=given)
    fresh = StoredLatents(per_class=20, covariance=given)
    fresh.load_state_dict(copy.deepcopy(memory.state_dict()))
    assert fresh.wants_moments() == memory.wants_moments()
    for one in (memory, fresh):
        more = latents(30, 6, 1, 2, seed=4)
        one.add(*more, rng(3))
        if one.wants_moments():
            one.note(*more)
    assert torch.equal(memory.rehearse(30, rng(5)).images, fresh.rehearse(30, rng(5)).images)


def test_what_was_images_has_the_moments_of_what_it_becomes():
    memory = StoredLatents(per_class=10, covariance=True)
    images, labels, tasks = latents(50, 8, 0, 1)
    memory.add(images, labels, tasks, rng())
    assert not len(memory.moments)
    memory.convert(lambda x, tasks: x[:, :3] * 2)
    made, found, _ = memory.data()
    # As many as were shown, so that they weigh as much when the classes come back.
    assert memory.moments.seen.tolist() == [50, 50]
    torch.testing.assert_close(memory.moments.means[0], made[found == 0].mean(dim=0))


@pytest.mark.parametrize(
    "wrong",
    [
        {"jitter": -0.1},
        {"jitter": 1.5},
        {"jitter": float("nan")},
        {"jitter": "half"},
        {"jitter": True},
        {"covariance": "full"},
        {"covariance": 1},
    ],
    ids=str,
)
def test_bad_settings(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(ConfigError, match=f"{name}={value!r}"):
        StoredLatents(per_class=1, **wrong)
