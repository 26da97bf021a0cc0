"""A-LTM: what the stable network holds, and what the flexible one is asked to keep."""

import copy

import pytest
import torch
from driver import Driver, MultiHead, added_by_replay, added_loss, digits, network
from torch import nn

from avalanche_dgm.errors import CapacityError, ConfigError, UnknownTaskError
from avalanche_dgm.methods import ALTM


def learned(n=1, *, net=None, classes=((0, 1, 2, 3, 4), (5, 6, 7, 8, 9)), steps=150, **settings):
    """A driver after some experiences of five digits."""
    torch.manual_seed(0)
    driver = Driver(ALTM(seed=0, **settings), net or network(), steps=steps)
    for part in classes[:n]:
        driver.train(digits(*part, per_class=80))
    return driver


def retention(**settings):
    """Accuracy on the first digits after the second ones, over that before; and on the second.

    One head for each, as in the paper.
    """
    torch.manual_seed(0)
    net = MultiHead(2, 10)
    if settings is not None and settings.pop("none", False):
        settings = {"weight": 1e-12}
    settings = {"weight": 1.0, **settings}
    driver = Driver(ALTM(seed=0, **settings), net, task_aware=True, steps=200, lr=1e-2)
    old, new = (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)
    tests = [digits(*c, per_class=60, skip=100, task=t) for t, c in enumerate((old, new))]
    driver.train(digits(*old, per_class=100, task=0))
    before = driver.accuracy(tests[0])
    driver.train(digits(*new, per_class=100, task=1))
    return driver.accuracy(tests[0]) / before, driver.accuracy(tests[1])


def test_it_keeps_old_answers():
    plain, _ = retention(none=True)
    naive, new = retention()
    stored, new_stored = retention(replay="stored", per_class=20)
    assert naive > plain
    assert stored > 0.95
    assert naive > 0.85
    assert min(new, new_stored) > 0.9


def test_penalty_is_the_squared_distance_over_old_outputs():
    """Eq. 4 by hand, for a single head."""
    driver = learned(1, weight=0.3)
    method = driver.method
    assert method.stable is not None
    images = digits(7, 8, per_class=6).images
    tasks = torch.zeros(12, dtype=torch.int64)
    other = network(seed=5)
    logits = other(images)
    with torch.no_grad():
        wanted = driver.learner(images)  # N is a copy of what H was.
    expected = 0.3 * ((logits - wanted)[:, :5] ** 2).sum(1).mean()
    torch.testing.assert_close(added_loss(method, images, tasks, logits), expected)
    assert added_loss(method, images, tasks, wanted) == 0


def test_penalty_of_several_heads():
    net = MultiHead(3, 4)
    driver = Driver(ALTM(seed=0, weight=1.0), net, task_aware=True, steps=5)
    for task, classes in enumerate(((0, 1), (2, 3))):
        driver.train(digits(*classes, task=task, per_class=20))
    new = digits(0, 1, task=2, per_class=5)
    driver.method.begin(new)
    stable = driver.method.stable.module
    with torch.no_grad():
        for head in net.heads:
            head.weight.add_(0.1)
    total = 0.0
    for task, columns in ((0, [0, 1]), (1, [2, 3])):
        old = torch.full_like(new.tasks, task)
        difference = (net(new.images, old) - stable(new.images, old))[:, columns]
        total += (difference**2).sum(1).mean()
    found = added_loss(driver.method, new.images, new.tasks, net(new.images, new.tasks))
    torch.testing.assert_close(found, total)


def test_replay_adds_the_distance_on_old_inputs():
    driver = learned(1, replay="stored", per_class=10, weight=2.0)
    driver.method.begin(digits(5, 6))
    five = digits(5)
    assert added_loss(driver.method, five.images, five.tasks, torch.zeros(60, 10)) is None
    replay = driver.method.replay(16)
    assert set(replay.labels.tolist()) <= set(range(5))
    logits = network(seed=3)(replay.images)
    with torch.no_grad():
        wanted = driver.learner(replay.images)
    distance = ((logits - wanted) ** 2).sum(1).mean()  # also what is not learned yet
    new = torch.tensor(0.7)
    torch.testing.assert_close(added_by_replay(driver.method, replay, logits, new), 2 * distance)


class Masking(nn.Module):
    """Has no outputs yet for some classes, as Avalanche's growing classifier."""

    def __init__(self, value):
        super().__init__()
        self.net, self.value = network(), value
        self.register_buffer("absent", torch.arange(10) % 2 == 1)

    def forward(self, x):
        return self.net(x).masked_fill(self.absent, self.value)


@pytest.mark.parametrize("value", [-1000.0, -torch.inf])
def test_outputs_that_are_masked_are_held_like_those_that_there_are_not(value):
    net = Masking(value)
    driver = learned(1, net=net, classes=[(0, 2, 4)], steps=10, replay="stored", per_class=5)
    driver.method.begin(digits(1, 5))
    net.absent[[1, 5]] = False
    replay = driver.method.replay(16)
    logits = net(replay.images)
    with torch.no_grad():
        wanted = driver.method.stable.module.net(replay.images)
    wanted[:, [1, 5]] = wanted[:, ::2].amin(1, keepdim=True)
    seen = [0, 1, 2, 4, 5, 6, 8]  # neither network has the others
    expected = (logits - wanted)[:, seen].square().sum(1).mean()
    distance = driver.method.distance(logits, replay.images, replay.tasks, old_inputs=True)
    torch.testing.assert_close(distance, expected)
    distance.backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_the_stable_network_is_frozen_for_good():
    """Not by gradients, not by BatchNorm, not by train()."""
    net = nn.Sequential(nn.Flatten(1), nn.Linear(64, 20), nn.BatchNorm1d(20), nn.Linear(20, 10))
    driver = learned(1, net=net, steps=10)
    driver.method.train()
    before = copy.deepcopy(driver.method.stable.state_dict())
    images = digits(5, 6).images
    tasks = torch.zeros(len(images)).long()
    added_loss(driver.method, images, tasks, net(images)).backward()
    driver.method.stable.train()
    assert not any(part.training for part in driver.method.stable.modules())
    after = driver.method.stable.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(p.grad is None for p in driver.method.stable.parameters())


def test_replace_makes_it_what_was_learned():
    driver = learned(2, steps=10)
    images = digits(3, 7).images
    assert torch.equal(driver.method.stable.module(images), driver.predict(images))


def test_distil_learns_new_answers_and_keeps_old_ones():
    driver = learned(2, consolidation="distil", distil_steps=400, replay="stored", per_class=20)
    assert "consolidation" in driver.phases
    new, old = digits(5, 6, 7, 8, 9, skip=100), digits(0, 1, 2, 3, 4, skip=100)
    stable = driver.method.stable.module
    with torch.no_grad():
        apart = (stable(new.images) - driver.learner(new.images))[:, 5:].square().mean()
        size = driver.learner(new.images)[:, 5:].square().mean()
        assert apart < 0.1 * size
        kept = stable(old.images)[:, :5].argmax(1) == old.labels
    assert kept.float().mean() > 0.85
    assert not hasattr(driver.method, "candidate")


class Growing(MultiHead):
    """A head for each task once it was asked for, as Avalanche's multi-head classifier has it."""

    def __init__(self):
        super().__init__(1, 4)

    def grow(self, task):
        while len(self.heads) <= task:
            self.heads.append(nn.Linear(32, 4))


@pytest.mark.parametrize("grows", [False, True])
def test_distil_with_several_heads_keeps_each_without_replay(grows):
    """The paper's case, three tasks: N learns the new head and holds the old ones."""
    torch.manual_seed(0)
    net = Growing() if grows else MultiHead(3, 4)
    method = ALTM(seed=0, weight=1.0, consolidation="distil", distil_steps=200)
    driver = Driver(method, net, task_aware=True, steps=60)
    parts = [((0, 1), 0), ((2, 3), 1), ((0, 3), 2)]
    for classes, task in parts:
        if grows:
            net.grow(task)
        driver.train(digits(*classes, task=task, per_class=60))
    stable = method.stable.module
    for classes, task in parts:
        test = digits(*classes, task=task, skip=100, per_class=60)
        with torch.no_grad():
            answers = stable(test.images, test.tasks).argmax(dim=1)
        assert (answers == test.labels).float().mean() > 0.9, f"task {task}"


def test_distil_holds_old_heads_on_new_inputs():
    """The term is that of the naive penalty, for the network that learns."""
    net = MultiHead(2, 4)
    method = ALTM(seed=0, weight=0.5, consolidation="distil", distil_steps=3)
    driver = Driver(method, net, task_aware=True, steps=3)
    driver.train(digits(0, 1, task=0, per_class=20))
    new = digits(2, 3, task=1, per_class=10)
    method.attach(net, task_aware=True)
    method.begin(new)
    method.candidate = copy.deepcopy(net)
    with torch.no_grad():
        method.candidate.heads[0].weight.add_(0.3)
        method.candidate.heads[1].weight.add_(0.2)
        old = torch.zeros_like(new.tasks)
        difference = method.candidate(new.images, old) - method.stable.module(new.images, old)
        held = difference[:, :2].square().sum(dim=1).mean()
        learned = method.candidate(new.images, new.tasks) - net(new.images, new.tasks)
        wanted = learned[:, [2, 3]].square().sum(dim=1).mean() + 0.5 * held
        phase = method._distillation(new, net)
        found = phase.loss((new.images, new.tasks), torch.Generator())
    torch.testing.assert_close(found, wanted)
    assert held > 0


@pytest.mark.parametrize("settings", [{}, {"replay": "stored", "per_class": 5}])
def test_a_head_that_shrinks_is_refused_before_anything_is_trained(settings):
    driver = learned(1, steps=5, **settings)
    driver.learner = network(6)
    before = copy.deepcopy(driver.learner.state_dict())
    with pytest.raises(ConfigError, match="The classifier has 6 outputs, but 10 were learned"):
        driver.train(digits(1, 2))
    assert all(torch.equal(before[k], v) for k, v in driver.learner.state_dict().items())
    driver.learner = network(12)
    driver.train(digits(5, 6))
    assert driver.method.experiences == 2


def test_one_of_several_heads_that_shrinks_is_refused():
    net = MultiHead(2, 4)
    driver = Driver(ALTM(seed=0), net, task_aware=True, steps=3)
    driver.train(digits(0, 1, task=0, per_class=20))
    net.heads = nn.ModuleList(nn.Linear(32, 2) for _ in range(2))
    with pytest.raises(ConfigError, match="The head of task 0 has 2 outputs, but 4 were learned"):
        driver.train(digits(0, 1, task=1, per_class=20))


def test_the_generative_memory_has_its_own_consolidation():
    method = ALTM(replay="generated", sampling="prior", memory_consolidation="rehearsal")
    assert method.source.settings.consolidation == "rehearsal"
    assert method.settings.consolidation == "replace"
    with pytest.raises(ConfigError, match="consolidation is for replay='generated'"):
        ALTM(memory_consolidation="rehearsal")


def test_generated_replay_stores_no_image():
    driver = learned(2, replay="generated", hidden=(48,), latent=8, generator_steps=100, steps=20)
    replay = driver.method.sample(50)
    assert set(replay.labels.tolist()) <= set(range(10))
    assert len(set(replay.labels.tolist())) > 5
    real = {image.numpy().tobytes() for image in digits(*range(10), per_class=80).images}
    tensors = [t for t in driver.method.state_dict().values() if isinstance(t, torch.Tensor)]
    kept = [row for t in tensors if t.ndim > 1 for row in t.flatten(1) if row.numel() == 64]
    assert not any(row.numpy().tobytes() in real for row in kept)


def test_what_cannot_work():
    for settings, message in (
        ({"weight": 0}, "weight=0"),
        ({"replay": "latent"}, "stored"),
        ({"consolidation": "merge"}, "distil"),
        ({"replay_size": 0}, "replay_size"),
        ({"distil_steps": 0}, "distil_steps"),
        ({"per_class": 3}, "replay='stored'"),
        ({"latent": 3}, "replay='generated'"),
        ({"replay": "generated", "latnt": 3}, "latnt"),
    ):
        with pytest.raises(ConfigError, match=message):
            ALTM(**settings)
    driver = Driver(ALTM(replay="stored", share=0.01), network())
    with pytest.raises(CapacityError, match="share=0.01"):
        driver.train(digits(0, 1, 2, per_class=20))
    assert driver.method.experiences == 0
    with pytest.raises(UnknownTaskError, match="train on an experience"):
        ALTM().sample(3)
    with pytest.raises(UnknownTaskError, match="no samples"):
        learned(1, steps=2).method.sample(3)
