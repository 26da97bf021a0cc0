"""One deep generative memory: what it draws, and that it keeps what it knew."""

import copy
from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from driver import MultiHead, digits, network
from torch import nn

from avalanche_dgm.data import ExperienceData
from avalanche_dgm.errors import RangeError, ShapeError, UnknownTaskError, UnsupportedModelError
from avalanche_dgm.fitting import fit
from avalanche_dgm.memories import DeepGenerativeMemory, Frozen, MemorySettings
from avalanche_dgm.optimizers import OptimizerSpec


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def memory_of(learner=None, *, task_aware=False, **settings):
    torch.manual_seed(0)
    values = {"hidden": (32,), "latent": 8, "generator_steps": 20, "batch_size": 32, **settings}
    memory = DeepGenerativeMemory(MemorySettings(**values))
    memory.attach(learner or network(), task_aware=task_aware)
    return memory


def learn(memory, *incoming, steps=None, forget=False):
    """Generator and dictionary; the learner is not touched."""
    memory.generator.build(incoming[0].images)
    previous = Frozen(memory).module if memory.tasks and not forget else None
    generator = rng(len(memory.tasks))
    for phase in memory.learn(incoming, generator, previous=previous):
        fit(phase if steps is None else replace(phase, steps=steps), generator)
    return memory


def phase_of(memory, *incoming):
    """The generator's training on what comes next, without its steps."""
    (phase,) = memory.learn(incoming, rng(), previous=Frozen(memory).module)
    return phase


@pytest.mark.parametrize("sampling", ["class", "prior"])
@pytest.mark.parametrize("build", [False, True])
def test_nothing_is_drawn_before_anything_was_learned(sampling, build):
    memory = memory_of(sampling=sampling, consolidation="rehearsal")
    if build:
        memory.generator.build(digits(0).images)
    for draw in (memory.sample, memory.generate):
        with pytest.raises(UnknownTaskError, match="Nothing was learned yet"):
            draw(3, rng())


def test_an_optimiser_may_be_a_mapping():
    memory = memory_of(generator_optimizer={"lr": 1e-2})
    assert memory.settings.generator_optimizer == OptimizerSpec(lr=1e-2)


@cache
def judge():
    """A classifier of real digits, to look at generated ones."""
    data = digits(*range(10), per_class=None)
    net = network(seed=9)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(net(data.images), data.labels).backward()
        optimizer.step()
    assert (net(data.images).argmax(1) == data.labels).float().mean() > 0.97
    return net


@pytest.mark.parametrize("labels", ["soft", "hard"])
@pytest.mark.parametrize("sampling", ["class", "prior"])
def test_a_draw(labels, sampling):
    memory = learn(
        memory_of(labels=labels, sampling=sampling, consolidation="rehearsal"), digits(3, 7)
    )
    replay = memory.sample(40, rng())
    assert replay.images.shape == (40, 1, 8, 8)
    assert replay.images.min() >= 0
    assert replay.images.max() <= 1
    assert replay.labels.dtype == replay.tasks.dtype == torch.int64
    assert not replay.images.requires_grad
    if sampling == "class":
        assert torch.bincount(replay.labels, minlength=10)[[3, 7]].tolist() == [20, 20]
    else:
        assert set(replay.labels.tolist()) <= {3, 7}
        assert replay.tasks.unique().tolist() == [0]
    assert (replay.targets is None) == (labels == "hard")
    if replay.targets is not None:
        torch.testing.assert_close(replay.targets.sum(1), torch.ones(40))
        unknown = [c for c in range(10) if c not in (3, 7)]
        assert (replay.targets[:, unknown] == 0).all()
        assert (replay.targets[:, [3, 7]] > 0).all()


def test_soft_targets_are_the_learner_s_softened_answers():
    memory = learn(memory_of(temperature=3.0), digits(0, 1, 2))
    replay = memory.sample(12, rng())
    with torch.no_grad():
        logits = memory.learner(replay.images)[:, :3]
    torch.testing.assert_close(replay.targets[:, :3], torch.softmax(logits / 3.0, dim=1))


def test_prior_labels_are_the_learner_s_decisions_among_known_classes():
    memory = learn(
        memory_of(sampling="prior", consolidation="rehearsal", labels="hard"), digits(0, 4)
    )
    replay = memory.sample(50, rng())
    with torch.no_grad():
        logits = memory.learner(replay.images)
        again = memory.sample(50, rng(), reconstruct=True)
        seen = memory.learner(memory.reconstruct(again.images))
    assert torch.equal(replay.labels, 4 * (logits[:, 4] > logits[:, 0]))
    assert torch.equal(again.labels, 4 * (seen[:, 4] > seen[:, 0]))


@pytest.mark.parametrize("sampling", ["class", "prior"])
def test_draws_follow_the_generator_of_random_numbers(sampling):
    memory = learn(memory_of(sampling=sampling, consolidation="rehearsal"), digits(0, 1))
    one, two, other = memory.sample(9, rng(1)), memory.sample(9, rng(1)), memory.sample(9, rng(2))
    assert torch.equal(one.images, two.images)
    assert torch.equal(one.targets, two.targets)
    assert not torch.equal(one.images, other.images)


def test_task_aware_labels_keep_to_the_task():
    memory = memory_of(MultiHead(3, 10), task_aware=True)
    both = [digits(0, 1, key="a", task=0), digits(2, 3, key="b", task=2)]
    learn(memory, *both)
    replay = memory.sample(40, rng())
    assert replay.tasks.unique().tolist() == [0, 2]
    for task, mine in [(0, [0, 1]), (2, [2, 3])]:
        rows = replay.tasks == task
        assert set(replay.labels[rows].tolist()) == set(mine)
        others = [c for c in range(10) if c not in mine]
        assert (replay.targets[rows][:, others] == 0).all()
    images, tasks = replay.images, replay.tasks
    with torch.no_grad():
        logits = memory.learner(images, tasks)
    first = tasks == 0
    torch.testing.assert_close(
        replay.targets[first][:, :2], torch.softmax(logits[first][:, :2] / 2.0, dim=1)
    )


def test_task_labels_need_class_sampling():
    with pytest.raises(UnsupportedModelError, match="sampling='class'"):
        memory_of(MultiHead(2, 10), task_aware=True, sampling="prior", consolidation="rehearsal")


def test_a_model_that_answers_with_something_else():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    memory = learn(memory_of(Pair()), digits(0, 1))
    with pytest.raises(UnsupportedModelError, match="tuple"):
        memory.sample(3, rng())


@pytest.mark.parametrize("sampling", ["class", "prior"])
def test_drawing_leaves_the_learner_alone(sampling):
    """Also one in training mode: its BatchNorm statistics and its modes stay."""
    net = nn.Sequential(
        nn.Flatten(1), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 10)
    )
    memory = learn(memory_of(net, sampling=sampling, consolidation="rehearsal"), digits(0, 1))
    net.train()
    net[3].eval()
    before = copy.deepcopy(net.state_dict())
    one, two = memory.sample(20, rng()), memory.sample(20, rng())
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert net.training
    assert net[2].training
    assert not net[3].training
    assert torch.equal(one.targets, two.targets)


def test_later_images_are_checked():
    memory = learn(memory_of(), digits(0, 1))
    with pytest.raises(ShapeError):
        memory.generator.build(torch.rand(3, 1, 9, 8))
    with pytest.raises(RangeError):
        memory.generator.build(255 * torch.rand(3, 1, 8, 8))
    memory.generator.build(torch.rand(3, 1, 8, 8))


def test_dictionary_counts_repetitions():
    memory = memory_of()
    for data in [digits(0), digits(1), digits(0)]:
        learn(memory, data, steps=1)
    assert len(memory.tasks) == 2
    assert memory.tasks.total() == 3
    assert memory.tasks["0"] == 2
    assert list(memory.tasks) == ["0", "1"]
    assert len(memory.generator.classes) == 2


@pytest.mark.parametrize(
    ("count", "kappa", "expected"),
    [("tasks", 0.0, 1 / 3), ("classes", 0.0, 1 / 4), ("tasks", 0.7, 0.7), ("classes", 0.3, 0.3)],
)
def test_fraction_of_new_samples(count, kappa, expected):
    memory = memory_of(count=count, kappa=kappa)
    assert memory.fraction([digits(0)]) == 1.0
    learn(memory, digits(0, 1), steps=1)
    learn(memory, digits(2), steps=1)
    assert memory.fraction([digits(5)]) == pytest.approx(expected)


@pytest.mark.parametrize("n_max", [None, 60])
def test_rehearsal_follows_the_budget(n_max):
    memory = memory_of(consolidation="rehearsal", n_max=n_max, count="tasks")
    for data in [digits(0), digits(1), digits(2)]:
        learn(memory, data, steps=1)
    data = digits(3, per_class=50)
    budget, phase = memory.budget([data]), phase_of(memory, data)
    images = phase.data[0]
    assert len(images) == budget.n_incoming + budget.n_generated == (200 if n_max is None else 60)
    real = {image.numpy().tobytes() for image in data.images}
    kept = [i for i in images if i.numpy().tobytes() in real]
    assert len(kept) == budget.n_incoming == (50 if n_max is None else 15)


def test_aligned_phase_sees_new_data_and_draws_old_by_itself():
    memory = learn(memory_of(), digits(0, 1))
    data = digits(2)
    phase = phase_of(memory, data)
    assert torch.equal(phase.data[0], data.images)


@cache
def two_tasks(consolidation, *, forget=False):
    """Digits 0 and 1, then 2 and 3; returns what is drawn for 0 and 1 before and after."""
    memory = memory_of(
        consolidation=consolidation, hidden=(128, 128), generator_steps=250, batch_size=64
    )
    learn(memory, digits(0, 1, per_class=None), steps=500)
    rows = memory.generator.classes.balanced(200, rng(7))
    codes, before = memory.generator.codes_and_samples(rows, rng(7))
    learn(memory, digits(2, 3, per_class=None), forget=forget)
    after = memory.generator.network.decode(codes).detach()
    return memory, before, after


def recognised(memory, *classes):
    """Share of drawn images that a classifier of real digits takes for what they are."""
    replay = memory.sample(400, rng(3))
    mine = torch.isin(replay.labels, torch.tensor(classes))
    answers = judge()(replay.images).argmax(1)
    return float((answers == replay.labels)[mine].float().mean())


def test_aligned_consolidation_keeps_the_images_of_old_codes():
    memory, before, after = two_tasks("aligned")
    spread = (before - before.mean(0)).square().mean()
    assert (after - before).square().mean() < 0.3 * spread
    assert recognised(memory, 0, 1) > 0.7
    assert recognised(memory, 2, 3) > 0.65
    # Without it the old codes decode to the new digits.
    memory, before, after = two_tasks("aligned", forget=True)
    assert (after - before).square().mean() > spread
    assert recognised(memory, 0, 1) < 0.5


def test_rehearsal_keeps_old_classes_though_their_codes_move():
    memory, before, after = two_tasks("rehearsal")
    assert recognised(memory, 0, 1) > 0.7
    assert recognised(memory, 2, 3) > 0.65
    # The codes did move, so the densities had to be fitted anew.
    moved, kept = two_tasks("aligned")[1:], (before, after)
    assert (kept[1] - kept[0]).square().mean() > (moved[1] - moved[0]).square().mean()


def test_state_dict_into_an_empty_memory():
    memory = learn(memory_of(), digits(0, 1), digits(2))
    other = memory_of(network(seed=5))
    other.load_state_dict(memory.state_dict())
    assert list(other.tasks) == list(memory.tasks) == ["0,1", "2"]
    one, two = memory.sample(20, rng()), other.sample(20, rng())
    for name in ("images", "labels", "tasks", "targets"):
        assert torch.equal(getattr(one, name), getattr(two, name))
    # An empty state empties.
    other.load_state_dict(memory_of().state_dict())
    assert other.generator.network is None
    assert other.shape is None


def test_several_labels_and_task_labels_in_one_task():
    part = digits(0, 1, key="k", task=0)
    rest = digits(1, 2, key="k", task=1)
    data = ExperienceData(
        torch.cat([part.images, rest.images]),
        torch.cat([part.labels, rest.labels]),
        torch.cat([part.tasks, rest.tasks]),
        "k",
    )
    memory = learn(memory_of(), data)
    assert sorted(memory.generator.classes.rows.tolist()) == [
        [0, 0, 0],
        [0, 0, 1],
        [0, 1, 1],
        [0, 1, 2],
    ]
    replay = memory.sample(60, rng())
    assert torch.bincount(replay.labels).tolist() == [20, 20, 20]
