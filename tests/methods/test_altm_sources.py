"""A-LTM with other memories' inputs: what is replayed, what it is compared with, what is frozen."""

import copy

import pytest
import torch
from driver import Driver, MultiHead, added_by_replay, added_loss, digits, network
from torch import nn

from avalanche_dgm.errors import ConfigError, LabelError
from avalanche_dgm.generators import ClassDensity
from avalanche_dgm.memories import StoredMemory
from avalanche_dgm.methods import ALTM, LatentReplay, MeRGAN, Naive
from avalanche_dgm.methods.abilities import ReplaySource
from avalanche_dgm.methods.registry import METHODS, load_methods

GAN = {
    "generator_steps": 2,
    "width": 4,
    "discriminator_width": 4,
    "latent": 16,
    "replay_per_class": 8,
    "batch_size": 24,
}
ARGUMENTS = {
    "dgr": {"generator_steps": 5, "hidden": (8,), "latent": 4},
    "latent-replay": {"layer": "2", "per_class": 10},
    "dynamic-memory": {**GAN, "smax": 1e3},
    "mergan": {**GAN, "class_inputs": 10},
    "ewc-generator": {**GAN, "class_inputs": 10, "fisher_samples": 4},
    "gan-replay": {**GAN, "class_inputs": 10},
}
OLD, NEW = (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)


def driver_of(name, *, net=None, steps=5, **settings):
    torch.manual_seed(0)
    method = ALTM(seed=0, replay=name, source=ARGUMENTS[name], **settings)
    return Driver(method, net or network(), steps=steps)


def test_every_method_is_tried():
    load_methods()
    sources = {m.kind for m in METHODS.values() if issubclass(m.kind, ReplaySource)}
    assert {METHODS[name].kind for name in ARGUMENTS} == sources


@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_distance_is_taken_on_what_the_source_replays(name):
    """By hand, from H's and N's answers to the very inputs; of old classes only."""
    driver = driver_of(name, weight=2.0)
    driver.train(digits(0, 1, 2, per_class=20))
    method, new = driver.method, digits(3, 4, per_class=20)
    method.attach(driver.learner, task_aware=False)
    method.begin(new)
    driver.run(method.before_learning(new))
    prepared = method.prepare(new)
    replay = method.replay(30)
    assert len(replay) == 30
    assert set(replay.labels.tolist()) == {0, 1, 2}
    assert replay.targets is None
    other = copy.deepcopy(driver.learner)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.05)
    behind = 3 if name == "latent-replay" else 0  # The layers after the cut, of four.
    mine, wanted = other[behind:](replay.images), driver.learner[behind:](replay.images)
    expected = 2.0 * (mine - wanted).square().sum(dim=1).mean()
    loss = torch.tensor(0.7)
    torch.testing.assert_close(added_by_replay(method, replay, mine, loss), expected)
    assert added_loss(method, prepared.images, prepared.tasks, mine) is None


def test_latents_are_answered_as_the_images_that_they_were_made_of():
    driver = driver_of("latent-replay")
    driver.train(digits(0, 1, 2, per_class=20)).train(digits(3, 4, per_class=20))
    method, data = driver.method, digits(0, 3, per_class=8, skip=50)
    stable = method.stable.module
    latents = method.encode_batch(data.images, data.tasks)
    assert latents.shape == (16, 32)
    torch.testing.assert_close(method._logits(latents, data.tasks, stable), stable(data.images))


@pytest.mark.parametrize("consolidation", ["replace", "distil"])
def test_layers_before_latents_are_frozen_in_both_networks(consolidation):
    driver = driver_of("latent-replay", consolidation=consolidation, distil_steps=20)
    driver.train(digits(*OLD, per_class=20))
    front = copy.deepcopy(driver.learner[1].state_dict())
    back = driver.learner[3].weight.clone()
    driver.train(digits(*NEW, per_class=20))
    for net in (driver.learner, driver.method.stable.module):
        assert all(torch.equal(front[key], value) for key, value in net[1].state_dict().items())
        assert not torch.equal(back, net[3].weight)
    assert ("consolidation" in driver.phases) == (consolidation == "distil")


def test_latents_keep_old_answers_where_the_plain_network_forgets():
    """One head for all classes: without replay the old ones are gone."""

    def after(method):
        torch.manual_seed(0)
        net = nn.Sequential(*wide_body(), nn.Linear(200, 64), nn.ReLU(), nn.Linear(64, 10))
        driver = Driver(method, net, steps=250)
        for classes in (OLD, NEW):
            driver.train(digits(*classes, per_class=100))
        return [driver.accuracy(digits(*c, per_class=60, skip=100)) for c in (OLD, NEW)]

    source = {"layer": "2", "memory": "density"}
    held = after(ALTM(seed=0, weight=0.01, replay="latent-replay", source=source))
    assert after(ALTM(seed=0, weight=1e-12))[0] < 0.1
    assert held[0] > 0.85
    assert held[1] > 0.65


def wide_body():
    return nn.Flatten(1), nn.Linear(64, 200), nn.ReLU()


class OneBody(MultiHead):
    """Runs what its heads share once: a body, and a layer behind it."""

    def __init__(self):
        super().__init__(0, 10)
        self.body = nn.Sequential(*wide_body())
        self.shared = nn.Sequential(nn.Linear(200, 24), nn.ReLU())
        self.heads = nn.ModuleList(nn.Linear(24, 10) for _ in range(2))

    def forward(self, images, tasks):
        shared = self.shared(self.body(images))
        every = torch.stack([head(shared) for head in self.heads], dim=1)
        return every[torch.arange(len(images)), tasks]


def with_several_heads(weight):
    """How far the old head's answers to test images moved, and the accuracy of both heads."""
    torch.manual_seed(0)
    net = OneBody()
    source = {"layer": "body", "per_class": 20}
    method = ALTM(seed=0, weight=weight, replay="latent-replay", source=source)
    driver = Driver(method, net, task_aware=True, steps=150, lr=1e-2)
    tests = [digits(*c, per_class=60, skip=100, task=t) for t, c in enumerate((OLD, NEW))]
    driver.train(digits(*OLD, per_class=100, task=0))
    body = copy.deepcopy(net.body.state_dict())
    before = driver.predict(tests[0].images, tests[0].tasks)
    driver.train(digits(*NEW, per_class=100, task=1))
    assert all(torch.equal(body[key], value) for key, value in net.body.state_dict().items())
    moved = driver.predict(tests[0].images, tests[0].tasks) - before
    return float(moved[:, :5].square().mean()), [driver.accuracy(test) for test in tests]


def test_several_heads_and_latents():
    """A shared layer behind the cut is held, and moves freely where nothing holds it."""
    held, accuracies = with_several_heads(0.1)
    free, _ = with_several_heads(1e-12)
    assert held < 0.2 * free
    assert min(accuracies) > 0.8


@pytest.mark.slow
def test_a_generator_that_grows_keeps_old_answers():
    """Generated digits of dynamic memory, one head for all classes, no image stored."""

    def after(**settings):
        torch.manual_seed(0)
        driver = Driver(ALTM(seed=0, **settings), network(), steps=250, lr=1e-2)
        for classes in (OLD, NEW):
            driver.train(digits(*classes, per_class=100))
        return driver.accuracy(digits(*OLD, per_class=60, skip=100))

    source = {"generator_steps": 400, "width": 8, "discriminator_width": 8}
    held = after(weight=1.0, replay="dynamic-memory", source=source)
    assert after(weight=1e-12) < 0.1
    assert held > 0.5


def test_one_stream_of_random_numbers():
    """Restoring the method restores what its source draws."""
    driver = driver_of("latent-replay")
    driver.train(digits(0, 1, per_class=20))
    assert driver.method.source.random is driver.method.random
    other = copy.deepcopy(driver.method)
    assert other.source.random is other.random
    state = driver.method.random.get_state()
    first = driver.method.sample(8).images
    driver.method.random.set_state(state)
    assert torch.equal(first, driver.method.sample(8).images)


def test_what_a_source_refuses():
    for settings, message in (
        ({"replay": "latent"}, "latent-replay"),
        ({"replay": "stored", "source": {"per_class": 3}}, "give settings directly"),
        ({"source": {}}, "replay by a named method"),
        ({"replay": "mergan", "source": {"class_input": 3}}, "class_input"),
        (
            {"replay": "mergan", "source": {"own_fake_fraction": 0.5}},
            "'own_fake_fraction' in source",
        ),
        ({"replay": "dynamic-memory", "source": {"classifier": "discriminator"}}, "'classifier'"),
        ({"replay": "latent-replay", "source": {"schedule": "mixed"}}, "'schedule'"),
        ({"replay": "latent-replay", "source": {"seed": 3}}, "'seed'"),
        ({"replay": "latent-replay", "share": 0.5}, "replay='stored'"),
    ):
        with pytest.raises(ConfigError, match=message):
            ALTM(**settings)


def test_a_class_that_comes_back_changes_nothing():
    driver = driver_of("dynamic-memory")
    driver.train(digits(0, 1, per_class=20))
    before = copy.deepcopy(driver.method.state_dict())
    with pytest.raises(LabelError, match="learned before"):
        driver.train(digits(1, 2, per_class=20))
    after = driver.method.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items() if isinstance(v, torch.Tensor))
    assert driver.method.experiences == 1


def test_the_source_asks_nobody_for_labels():
    """Its own soft labels would cost a copy of the network and a pass a step."""
    driver = driver_of("latent-replay")
    driver.train(digits(0, 1, per_class=20))
    new = digits(2, 3, per_class=20)
    driver.method.begin(new)
    driver.run(driver.method.before_learning(new))
    assert driver.method.source._teacher is None


def test_n_has_the_layers_that_are_frozen_late():
    """Images are kept for two experiences; N's own front would not fit the latents after them."""
    source = {"layer": "2", "per_class": 10, "freeze_after": 2}
    torch.manual_seed(0)
    method = ALTM(
        seed=0, replay="latent-replay", source=source, consolidation="distil", distil_steps=30
    )
    driver = Driver(method, network(), steps=30)
    for classes in ((0, 1), (2, 3), (4, 5)):
        driver.train(digits(*classes, per_class=40))
        front = [net[1].weight for net in (driver.learner, method.stable.module)]
        assert torch.equal(*front) or method.experiences < 2
    data = method.sample(30)
    images = digits(0, 2, 4, per_class=8)
    latents = method.encode_batch(images.images, images.tasks)
    stable = method.stable.module
    torch.testing.assert_close(method._logits(latents, images.tasks, stable), stable(images.images))
    assert data.images.shape == (30, 32)


def test_a_distillation_that_breaks_off_leaves_nothing():
    driver = driver_of("latent-replay", consolidation="distil")
    driver.train(digits(0, 1, per_class=20))
    new = digits(2, 3, per_class=20)
    driver.method.begin(new)
    driver.run(driver.method.before_learning(new))
    phases = driver.method.after_learning(new)
    next(phases)
    assert any(key.startswith("candidate.") for key in driver.method.state_dict())
    phases.close()
    assert not any(key.startswith("candidate.") for key in driver.method.state_dict())


@pytest.mark.parametrize(
    "replay",
    [
        StoredMemory(per_class=10),
        ClassDensity(),
        LatentReplay(layer="2", per_class=10),
        LatentReplay(layer="2", memory=ClassDensity()),
        MeRGAN(**GAN, class_inputs=10),
    ],
    ids=lambda replay: type(replay).__name__,
)
def test_any_source_of_old_inputs(replay):
    """Given as an object that stays as it is; of A-LTM's own settings for labels."""
    torch.manual_seed(0)
    driver = Driver(ALTM(seed=0, replay=replay), network(), steps=5)
    driver.train(digits(0, 1, 2, per_class=20)).train(digits(3, 4, per_class=20))
    assert set(driver.method.sample(30).labels.tolist()) == {0, 1, 2, 3, 4}
    source = driver.method.source
    assert source is not replay
    for name, value in type(source).source_settings.items():
        assert getattr(source.settings, name, getattr(source, name, value)) == value
    with pytest.raises(ConfigError, match="learned"):
        ALTM(replay=source)


def test_an_object_is_the_same_as_its_name():
    ends = []
    for settings in (
        {"replay": LatentReplay(layer="2", per_class=10)},
        {"replay": "latent-replay", "source": {"layer": "2", "per_class": 10}},
    ):
        torch.manual_seed(0)
        driver = Driver(ALTM(seed=0, **settings), network(), steps=5)
        driver.train(digits(0, 1, 2, per_class=20)).train(digits(3, 4, per_class=20))
        ends.append(driver.learner.state_dict())
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())


def test_what_cannot_be_replayed():
    for replay in (Naive(), nn.Flatten(), 3):
        with pytest.raises(ConfigError, match="cannot be replayed"):
            ALTM(replay=replay)
    with pytest.raises(ConfigError, match="when you create it"):
        ALTM(replay=ClassDensity(), source={"rank": 3})
