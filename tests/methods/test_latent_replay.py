"""Latent replay: what is remembered, what is frozen, and that old classes stay known."""

import copy

import pytest
import torch
from driver import Driver, added_by_replay, digits, network
from torch import nn

from avalanche_dgm.data import ExperienceData, Latents, Replay
from avalanche_dgm.errors import CapacityError, ConfigError, UnsupportedModelError
from avalanche_dgm.generators import ClassDensity, make_density
from avalanche_dgm.generators.vae_generator import VAEGenerator
from avalanche_dgm.memories import StoredLatents
from avalanche_dgm.methods import LatentReplay, Naive
from avalanche_dgm.methods.latent_replay import LatentReplaySettings
from avalanche_dgm.metrics.cost import memory_bytes_of

SMALL = {"hidden": (128,), "latent": 16, "generator_steps": 400}
FIRST, SECOND = (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)


def convolutional(seed=0):
    torch.manual_seed(seed)
    compressor = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ELU(), nn.MaxPool2d(2)
    )
    classifier = nn.Sequential(
        nn.Flatten(), nn.Linear(128, 64), nn.BatchNorm1d(64), nn.ELU(), nn.Linear(64, 10)
    )
    return nn.Sequential(compressor, classifier)


def driver_of(method=None, learner=None, steps=60, **kwargs):
    net = learner if learner is not None else convolutional()
    return Driver(method or LatentReplay(seed=0), net, steps=steps, lr=1e-2, **kwargs)


def training(classes, per_class=100):
    return digits(*classes, per_class=per_class)


def test_data(classes):
    return digits(*classes, per_class=None, skip=100)


test_data.__test__ = False


def after_both(method):
    driver = driver_of(method, steps=100)
    driver.train(training(FIRST)).train(training(SECOND))
    return driver, driver.accuracy(test_data(SECOND)), driver.accuracy(test_data(FIRST))


@pytest.fixture(scope="module")
def naive():
    """Accuracy on new and on old classes without replay: the negative of what follows."""
    _, new, old = after_both(Naive(seed=0))
    return new, old


@pytest.mark.parametrize("schedule", ["mixed", "alternating"])
def test_old_classes_stay_known(naive, schedule):
    driver, new, old = after_both(LatentReplay(seed=0, share=0.2, schedule=schedule))
    assert naive[0] > 0.94
    assert naive[1] < 0.05
    assert new > 0.93
    assert old > 0.83
    assert len(driver.method.stored) == 200


@pytest.mark.parametrize("freeze_after", [1, 2])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_soft_labels_are_what_the_classifier_answered_before(freeze_after, temperature):
    """By hand, of latents and of stored images, and whatever is learned meanwhile."""
    method = LatentReplay(
        seed=0, per_class=5, freeze_after=freeze_after, labels="soft", temperature=temperature
    )
    driver = driver_of(method, steps=10)
    driver.train(training(FIRST, per_class=30))
    driver.learner.eval()
    before = copy.deepcopy(driver.learner)
    new = training(SECOND, per_class=30)
    method.attach(driver.learner, task_aware=False)
    method.begin(new)
    driver.run(method.before_learning(new))
    with torch.no_grad():
        driver.learner[1][1].weight.add_(0.1)
    replay = method.replay(40)
    part = before[1] if freeze_after == 1 else before
    with torch.no_grad():
        logits = part(replay.images)[:, :5] / temperature
    expected = torch.cat(
        [logits.exp() / logits.exp().sum(dim=1, keepdim=True), torch.zeros(40, 5)], 1
    )
    torch.testing.assert_close(replay.targets, expected)
    answers = (
        driver.learner(replay.images) if freeze_after == 2 else driver.learner[1](replay.images)
    )
    logs = (answers / temperature).log_softmax(dim=1)
    loss = -(expected * logs).sum(dim=1).mean() * temperature**2
    torch.testing.assert_close(added_by_replay(method, replay, answers), loss)


def test_hard_labels_are_the_classes():
    driver = driver_of(LatentReplay(seed=0, labels="hard"), steps=5).train(training(FIRST))
    driver.method.begin(training(SECOND))
    driver.run(driver.method.before_learning(training(SECOND)))
    assert driver.method.replay(10).targets is None


def test_what_cannot_be_copied_is_said_before_training():
    class Single(nn.Linear):
        def __deepcopy__(self, memo):
            raise RuntimeError("one of a kind")

    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), Single(32, 10))
    driver = driver_of(LatentReplay(seed=0, layer="2"), net, steps=5)
    with pytest.raises(UnsupportedModelError, match="labels='hard'"):
        driver.train(training(FIRST))
    hard = driver_of(LatentReplay(seed=0, layer="2", labels="hard"), net, steps=5)
    hard.train(training(FIRST)).train(training(SECOND))


def test_a_head_that_shrinks_is_refused():
    driver = driver_of(LatentReplay(seed=0, layer="2"), network(), steps=5).train(training(FIRST))
    driver.learner = network(4)
    with pytest.raises(ConfigError, match="has 4 outputs, but 5 were learned"):
        driver.train(training((0, 1)))


def test_soft_labels_by_task():
    """Of a head for each task: the classes of a latent's own task only."""
    torch.manual_seed(0)
    net = Heads(width=10)
    method = LatentReplay(seed=0, layer="body", per_class=5)
    driver = Driver(method, net, task_aware=True, steps=5)
    driver.train(digits(0, 1, per_class=20, task=0)).train(digits(2, 3, per_class=20, task=1))
    new = digits(4, 5, per_class=20, task=2)
    method.attach(net, task_aware=True)
    method.begin(new)
    driver.run(method.before_learning(new))
    replay = method.replay(40)
    allowed = torch.zeros(3, 10)
    allowed[0, :2] = allowed[1, 2:4] = 1
    assert ((replay.targets > 0) == (allowed[replay.tasks] > 0)).all()


def test_more_latents_keep_more(naive):
    _, _, few = after_both(LatentReplay(seed=0, per_class=1))
    _, _, many = after_both(LatentReplay(seed=0, per_class=50))
    assert naive[1] < few < many - 0.1


def test_covariances_help_where_few_are_stored(naive):
    """Two of each class, and as many points more on old classes as they are worth."""

    def both(covariance):
        method = LatentReplay(seed=0, per_class=2, covariance=covariance)
        _, new, old = after_both(method)
        return new, old, len(method.stored.moments.classes)

    (new_with, old_with, n_with), (new_without, old_without, n_without) = both(True), both(None)
    assert (n_with, n_without) == (10, 0)
    assert min(new_with, new_without) > 0.9
    assert old_with > old_without + 0.1 > naive[1] + 0.1


def test_moments_are_those_of_every_latent():
    """Not only of the stored ones, in a plain run and where the compressor is frozen late."""
    for freeze_after in (0, 1, 2):
        method = LatentReplay(seed=0, per_class=5, covariance=True, freeze_after=freeze_after)
        driver = driver_of(method, steps=3)
        for classes in ((0, 1), (2, 3), (4, 5)):
            driver.train(training(classes, 40))
        moments = method.stored.moments
        assert moments.classes.labels.tolist() == [0, 1, 2, 3, 4, 5]
        assert moments.seen.tolist() == [40] * 6
        for label in (2, 3, 4, 5):
            wanted = encoded(driver, training((label,), 40)).flatten(1).mean(dim=0)
            torch.testing.assert_close(moments.means[label], wanted, rtol=1e-4, atol=1e-5)


def test_images_are_replayed_as_they_are_and_latents_vary():
    """Until the compressor is frozen, what is stored are images."""
    driver = driver_of(LatentReplay(seed=0, per_class=5, freeze_after=2), steps=2)
    seen = torch.cat([training(c).images for c in (FIRST, SECOND)])
    stored = set()
    for classes in (FIRST, SECOND):
        driver.train(training(classes))
        stored = {tuple(x.flatten().tolist()) for x in driver.method.stored.data()[0]}
        if classes == FIRST:
            known = {tuple(x.flatten().tolist()) for x in seen}
            drawn = driver.method.sample(40).images
            assert {tuple(x.flatten().tolist()) for x in drawn} <= known & stored
    driver.train(digits(2, 3, per_class=20))
    drawn = {tuple(x.flatten().tolist()) for x in driver.method.sample(40).images}
    # Two of five that are chosen for the noise are one and the same now and then.
    assert len(drawn & stored) < 20 < len(drawn)


@pytest.mark.parametrize(
    "memory",
    [
        {"memory": "vae", **SMALL},
        {"memory": "density"},
        *({"memory": "density", "covariance": c} for c in ("shared", "low-rank", "mixture")),
    ],
    ids=str,
)
def test_a_generative_memory_keeps_them_with_nothing_stored(naive, memory):
    driver, new, old = after_both(LatentReplay(seed=0, **memory))
    assert new > 0.93
    assert old > 0.83
    assert driver.method.stored is None
    data = training(FIRST)
    latents = {row.numpy().tobytes() for row in encoded(driver, data).flatten(1)}
    rows = [t for t in driver.method.state_dict().values() if torch.is_tensor(t) and t.ndim > 1]
    kept = [row for t in rows if t[0].numel() == 128 for row in t.float().flatten(1)]
    assert kept
    assert not any(row.numpy().tobytes() in latents for row in kept)


def test_generated_latents_are_told_apart_by_their_labels():
    driver = driver_of(LatentReplay(seed=0, memory="density"), steps=100)
    driver.train(training(FIRST))
    driver.learner.eval()
    replay = driver.method.sample(500)
    answers = driver.method.split.answer(replay.images, replay.tasks).argmax(1)
    assert (answers == replay.labels).float().mean() > 0.95
    assert torch.bincount(replay.labels).tolist() == [100] * 5


@pytest.mark.parametrize(("dtype", "bytes_each"), [("float16", 2), ("uint8", 1)])
def test_smaller_latents_are_nearly_as_good(dtype, bytes_each):
    full, new, old = after_both(LatentReplay(seed=0, share=0.1))
    small, new_small, old_small = after_both(LatentReplay(seed=0, share=0.1, dtype=dtype))
    assert abs(new - new_small) < 0.015
    assert abs(old - old_small) < 0.015
    saved = memory_bytes_of(full.method) - memory_bytes_of(small.method)
    assert saved == pytest.approx(100 * 128 * (4 - bytes_each), abs=8 * 2 * 4)


def encoded(driver, data):
    return driver.method.split.encode(data.images, data.tasks)


@pytest.mark.parametrize("size", [{"share": 0.3}, {"total": 30}, {"per_class": 4}])
def test_labels_stay_with_their_latents(size):
    """Every stored latent is what the compressor makes of an image with that label and task."""
    stream = [
        digits(0, 1, 2, per_class=30, task=0),
        digits(2, 3, 1, per_class=30, skip=30, task=1, key="b"),
        digits(0, 4, per_class=30, skip=60, task=0, key="c"),
    ]
    driver = driver_of(LatentReplay(seed=0, jitter=0, **size), steps=5)
    found = {}
    for data in stream:
        shuffled = data.take(torch.randperm(len(data), generator=torch.Generator().manual_seed(1)))
        driver.train(shuffled)
        for latent, label, task in zip(encoded(driver, data), data.labels, data.tasks, strict=True):
            found[latent.flatten().numpy().round(4).tobytes()] = (int(label), int(task))
    samples, labels, tasks = driver.method.stored.data()
    assert len(samples) > 10
    draws = driver.method.sample(50)
    for part in (Replay(samples, labels, tasks), draws):
        for latent, label, task in zip(part.images, part.labels, part.tasks, strict=True):
            key = latent.flatten().numpy().round(4).tobytes()
            assert found[key] == (int(label), int(task))


@pytest.mark.parametrize("freeze_after", [0, 1, 2])
def test_the_compressor_is_frozen_when_it_shall_be(freeze_after):
    driver = driver_of(LatentReplay(seed=0, freeze_after=freeze_after), steps=10)
    compressor = driver.learner[0]
    for i, classes in enumerate([(0, 1, 2), (3, 4, 5), (6, 7), (8, 9)]):
        before = copy.deepcopy(compressor.state_dict())
        driver.train(training(classes, 40))
        same = all(torch.equal(before[k], v) for k, v in compressor.state_dict().items())
        assert same == (i >= freeze_after)
        assert driver.method.frozen == (i + 1 >= freeze_after)
        assert not any(m.training for m in compressor.modules()) or i < freeze_after


@pytest.mark.parametrize("freeze_after", [1, 2])
def test_the_compressor_is_frozen_as_soon_as_its_latents_are_stored(freeze_after):
    """Whatever is done with the model before the next experience begins."""
    driver = driver_of(LatentReplay(seed=0, freeze_after=freeze_after, per_class=5), steps=5)
    for i in range(freeze_after):
        driver.train(training((2 * i, 2 * i + 1), 40))
    net, before = driver.learner, copy.deepcopy(driver.learner[0].state_dict())
    stored = driver.method.stored.data()[0]
    net.train()
    net(3 * training(SECOND).images)
    assert not any(p.requires_grad for p in net[0].parameters())
    assert all(torch.equal(before[k], v) for k, v in net[0].state_dict().items())
    again = encoded(driver, training((0, 1), 40)).flatten(1)
    apart = (stored.flatten(1)[:10, None] - again[None]).abs().amax(dim=2).min(dim=1).values
    assert apart.max() < 1e-5


def test_the_layer_may_be_a_number():
    driver = driver_of(LatentReplay(seed=0, layer=0), steps=2)
    driver.train(training(FIRST, 20))
    assert driver.method.split.layer == "0"
    with pytest.raises(ConfigError, match="no layer '7'.*Its layers are: 0, 0.0"):
        driver_of(LatentReplay(layer=7)).train(training(FIRST, 20))


def test_the_classifier_goes_on_learning():
    driver = driver_of(steps=10)
    driver.train(training(FIRST))
    before = copy.deepcopy(driver.learner[1].state_dict())
    driver.train(training(SECOND))
    after = driver.learner[1].state_dict()
    assert not any(torch.equal(before[k], v) for k, v in after.items() if v.is_floating_point())


def test_images_are_kept_until_a_late_freeze_and_encoded_then():
    driver = driver_of(LatentReplay(seed=0, freeze_after=2, per_class=5), steps=10)
    stored = driver.method.stored
    driver.train(training((0, 1)))
    assert stored.shape == (1, 8, 8)
    assert driver.method.replay(4).images.shape == (4, 1, 8, 8)
    images = {tuple(x.flatten().tolist()) for x in training((0, 1)).images}
    assert all(tuple(x.flatten().tolist()) in images for x in stored.data()[0])
    driver.train(training((2, 3)))
    assert stored.shape == (8, 4, 4)
    assert sorted(stored.data()[1].tolist()) == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5
    # All latents are of one compressor: the one that is frozen from now on.
    of_images = encoded(driver, training((0, 1, 2, 3))).flatten(1)
    differences = stored.data()[0].flatten(1)[:, None] - of_images[None]
    nearest = differences.abs().amax(dim=2).min(dim=1)
    assert nearest.values.max() < 1e-3
    assert torch.equal(training((0, 1, 2, 3)).labels[nearest.indices], stored.data()[1])
    driver.train(training((4, 5)))
    assert len(stored) == 30


def test_a_new_experience_is_encoded_once():
    driver = driver_of(steps=10)
    calls = []
    driver.learner[0].register_forward_hook(lambda m, i, o: calls.append(len(o)))
    driver.learner[0][0].register_forward_hook(lambda m, i, o: calls.append(len(o)))
    driver.train(training(FIRST))
    assert len(calls) > 20
    calls.clear()
    driver.train(training(SECOND, 100))
    # Besides one image of each class on which model and cut are checked: all of them once, and
    # those stored.
    assert sorted(n for n in calls if n > len(SECOND)) == [50, 50, 500, 500]


def test_encoding_on_the_way_gives_the_same():
    ends = []
    for once in (True, False, None):
        driver = driver_of(LatentReplay(seed=0, encode_once=once), steps=10)
        driver.train(training(FIRST)).train(training(SECOND))
        ends.append(driver.learner.state_dict())
    for other in ends[1:]:
        for key, value in ends[0].items():
            torch.testing.assert_close(other[key], value)


def test_augmented_samples_are_encoded_on_the_way_unless_asked_for():
    for once, expected in ((None, False), (True, True), (False, False)):
        driver = driver_of(LatentReplay(seed=0, encode_once=once), steps=2)
        driver.train(training(FIRST))
        data, method = training(SECOND), driver.method
        method.attach(driver.learner, task_aware=False)
        method.begin(data)
        driver.run(method.before_learning(data))
        prepared = method.prepare(data, augmented=lambda: True)
        assert (prepared is not data) == expected
        latents = method.encode_batch(prepared.images[:6], prepared.tasks[:6])
        torch.testing.assert_close(latents, encoded(driver, data)[:6])


def test_in_evaluation_mode_images_are_answered():
    """In the middle of an experience whose training is on latents: a validation, for example."""
    driver = driver_of(steps=2)
    driver.train(training(FIRST))
    data, method = training(SECOND), driver.method
    method.begin(data)
    driver.run(method.before_learning(data))
    latents = method.prepare(data)
    driver.learner.eval()
    expected = driver.learner(data.images)
    torch.testing.assert_close(method(data.images, data.tasks, width=10), expected)
    torch.testing.assert_close(method.predict(data.images, data.tasks), expected)
    driver.learner[0].train()
    driver.learner.training = True
    torch.testing.assert_close(method(latents.images, data.tasks, width=10), expected)


def test_new_and_old_are_weighed_by_their_classes():
    driver = driver_of(LatentReplay(seed=0, per_class=3), steps=2)
    driver.train(training((0, 1, 2)))
    data = training((3,))
    driver.method.begin(data)
    assert driver.method._new_weight == pytest.approx(1 / 4)
    assert not driver.method.alternates
    alternating = driver_of(LatentReplay(seed=0, schedule="alternating"), steps=2)
    alternating.method.attach(alternating.learner, task_aware=False)
    alternating.method.begin(training((0,)))
    assert not alternating.method.alternates
    alternating.train(training((0, 1)))
    alternating.method.begin(data)
    assert alternating.method.alternates


def test_replay_size():
    driver = driver_of(LatentReplay(seed=0, replay_size=9), steps=2).train(training((0, 1)))
    assert len(driver.method.replay(64)) == 9
    assert len(driver.method.sample(4)) == 4


def test_a_repeated_class_is_remembered_from_both_times():
    for memory in ("stored", "density"):
        sizes = {"per_class": 10} if memory == "stored" else {}
        driver = driver_of(LatentReplay(seed=0, memory=memory, **sizes), steps=5)
        driver.train(training((0, 1))).train(digits(1, 2, per_class=40, skip=100))
        labels = driver.method.sample(30).labels
        assert torch.bincount(labels).tolist() == [10, 10, 10]


class Heads(nn.Module):
    def __init__(self, width=2):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU())
        self.middle = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
        self.heads = nn.ModuleList(nn.Linear(64, width) for _ in range(3))

    def forward(self, images, tasks):
        x = self.middle(self.body(images))
        every = torch.stack([head(x) for head in self.heads], dim=1)
        return every[torch.arange(len(every)), tasks]


@pytest.mark.parametrize("memory", ["stored", "density"])
def test_multi_head(memory):
    torch.manual_seed(0)
    net = Heads()
    sizes = {"share": 0.3} if memory == "stored" else {}
    method = LatentReplay(seed=0, layer="body", memory=memory, **sizes)
    driver = driver_of(method, net, task_aware=True, width=2)
    stream = []
    for task, (a, b) in enumerate([(0, 1), (2, 3), (4, 5)]):
        data = digits(a, b, task=task, key=str(task))
        stream.append(ExperienceData(data.images, (data.labels == b).long(), data.tasks, str(task)))
        driver.train(stream[-1])
    assert min(driver.accuracy(data) for data in stream) > 0.95
    assert set(method.sample(60).tasks.tolist()) == {0, 1, 2}


def test_flat_vectors():
    driver = driver_of(LatentReplay(seed=0, layer="1"), network(), steps=5)
    for classes in ((0, 1), (2, 3)):
        data = training(classes)
        driver.train(ExperienceData(data.images.flatten(1), data.labels, data.tasks, str(classes)))
    assert driver.method.sample(3).images.shape == (3, 32)


def test_a_share_too_small_is_refused_before_anything():
    driver = driver_of(LatentReplay(seed=0, share=0.005), steps=5)
    before = copy.deepcopy(driver.learner.state_dict())
    with pytest.raises(CapacityError, match="share=0.005 of 500 samples"):
        driver.train(training(FIRST))
    assert all(torch.equal(before[k], v) for k, v in driver.learner.state_dict().items())
    assert driver.method.experiences == 0


def test_layers_that_cannot_be():
    with pytest.raises(ConfigError, match=r"no layer 'features'.*0\.0, 0\.1"):
        driver_of(LatentReplay(layer="features")).train(training(FIRST))
    net = nn.Sequential(nn.Identity(), nn.Conv2d(1, 10, 8), nn.Flatten())
    with pytest.raises(ConfigError, match="Pass layer=<name>"):
        driver_of(LatentReplay(), net).train(training(FIRST))
    with pytest.raises(UnsupportedModelError, match="No parameters remain to train"):
        driver_of(LatentReplay(layer="1.4")).train(training(FIRST))


def test_an_ordinary_network_goes_on_learning_by_its_last_layer_alone(naive):
    _, old_alone = naive
    torch.manual_seed(0)
    method = LatentReplay(seed=0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    driver = driver_of(method, net, steps=100).train(training(FIRST))
    assert {n for n, p in net.named_parameters() if p.requires_grad} == {"3.weight", "3.bias"}
    assert method.sample(4).images.shape == (4, 64)
    driver.train(training(SECOND))
    assert driver.accuracy(test_data(FIRST)) > old_alone + 0.3
    # One layer, over features of other classes.
    assert driver.accuracy(test_data(SECOND)) > 0.5


def test_a_classifier_that_does_not_fit_its_compressor():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential(nn.Flatten(), nn.Linear(100, 10)))
    with pytest.raises(UnsupportedModelError, match=r"latents .*have shape \(4, 6, 6\)"):
        driver_of(LatentReplay(), net).train(training(FIRST))


def large():
    return nn.Sequential(nn.Conv2d(1, 40, 1), nn.Sequential(nn.Flatten(), nn.Linear(2560, 10)))


@pytest.mark.parametrize("memory", [{"memory": "density"}, {"per_class": 2}], ids=str)
@pytest.mark.parametrize("covariance", ["full", "shared", "mixture"])
def test_latents_too_large_for_a_covariance(memory, covariance):
    net = large()
    before = copy.deepcopy(net.state_dict())
    method = LatentReplay(covariance=covariance, **memory)
    with pytest.raises(ConfigError, match="2560 dimensions.*covariance='low-rank'"):
        driver_of(method, net, steps=1).train(training(FIRST))
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


@pytest.mark.parametrize("memory", [{"memory": "density"}, {"per_class": 2}], ids=str)
def test_large_latents_with_a_covariance_of_low_rank(memory):
    driver = driver_of(LatentReplay(covariance="low-rank", **memory), large(), steps=1)
    driver.train(training(FIRST, per_class=5))
    assert driver.method.sample(8).images.shape == (8, 40, 8, 8)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"memory": "disk"}, "memory='disk'"),
        ({"schedule": "random"}, "schedule='random'"),
        ({"dtype": "int8"}, "dtype='int8'"),
        ({"freeze_after": -1}, "freeze_after=-1"),
        ({"freeze_after": True}, "freeze_after=True"),
        ({"replay_size": 0}, "replay_size=0"),
        ({"jitter": -0.1}, "jitter=-0.1"),
        ({"jitter": 1.5}, "jitter=1.5"),
        ({"jitter": "half"}, "jitter='half'"),
        ({"covariance": 3}, "covariance=3"),
        ({"covariance": "spherical"}, "covariance='spherical'"),
        ({"labels": "fuzzy"}, "labels='fuzzy'"),
        ({"temperature": 0}, "temperature=0"),
        ({"memory": "density", "jitter": 0.5}, "jitter is for memory='stored'"),
        ({"memory": "vae", "covariance": True}, "covariance is for memory='stored'"),
        ({"memory": "density", "covariance": False}, "covariance=False is for memory='stored'"),
        ({"memory": "density", "covariance": "spherical"}, "covariance='spherical' is not known"),
        ({"share": 0.1, "total": 9}, "share and total"),
        ({"memory": "density", "share": 0.1}, "share is for memory='stored'"),
        ({"memory": "vae", "dtype": "uint8"}, "dtype is for memory='stored'"),
        ({"memory": "density", "freeze_after": 2}, "freeze_after=2"),
        ({"memory": "vae", "sampling": "prior", "consolidation": "rehearsal"}, "sampling='class'"),
        ({"generator_steps": 5}, "generator_steps is for memory='vae'"),
        ({"sharee": 0.1}, "Unknown hyper-parameter sharee"),
        ({"memory": "vae", "generator_stepz": 5}, "Unknown hyper-parameter generator_stepz"),
    ],
    ids=str,
)
def test_bad_settings(wrong, message):
    with pytest.raises(ConfigError, match=message):
        LatentReplay(**wrong)


@pytest.mark.parametrize(
    "memory",
    [
        StoredLatents(per_class=20, jitter=0),
        ClassDensity(),
        make_density("low-rank", rank=8),
        VAEGenerator(likelihood="gaussian", kl_weight=0.1, **SMALL),
    ],
    ids=lambda memory: type(memory).__name__,
)
def test_any_memory_of_latents(naive, memory):
    """Given as an object, of which a copy learns."""
    driver, new, old = after_both(LatentReplay(seed=0, memory=memory))
    assert new > 0.93
    assert old > 0.83
    method = driver.method
    kept = method.stored or method.latent_memory.generator
    assert isinstance(kept, type(memory))
    assert not len(memory.classes)
    replay = method.sample(20)
    assert type(replay.images) is Latents
    assert replay.images.shape == (20, 8, 4, 4)
    # What is saved is plain, for loading with weights_only.
    state = {k: v for k, v in method.state_dict().items() if torch.is_tensor(v)}
    assert not any(isinstance(value, Latents) for value in state.values())


def test_a_memory_by_name_is_the_object():
    """The same numbers."""
    named = after_both(LatentReplay(seed=0, memory="density"))
    given = after_both(LatentReplay(seed=0, memory=ClassDensity(covariance="auto")))
    assert named[1:] == given[1:]


def test_the_very_layers_may_be_given():
    ends = []
    for place in ("layer", "compressor"):
        net = convolutional()
        method = LatentReplay(seed=0, classifier=net[1], **{place: net[0]})
        driver = driver_of(method, net, steps=3).train(training(FIRST, 20))
        assert (method.split.layer, method.split.classifier) == ("0", "1")
        # A copy finds them in its own network.
        other = copy.deepcopy(driver)
        assert other.method.split.model is other.learner
        other.train(training(SECOND, 20))
        ends.append(other.learner.state_dict())
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())
    with pytest.raises(ConfigError, match="compressor is not a module of the model"):
        driver_of(LatentReplay(compressor=nn.Flatten())).train(training(FIRST, 20))
    with pytest.raises(ConfigError, match="layer or compressor, not both"):
        LatentReplay(layer="0", compressor=nn.Flatten())


def test_settings_are_an_object():
    settings = LatentReplaySettings(per_class=3, labels="hard")
    assert (
        len(
            driver_of(LatentReplay(settings, seed=1), steps=2).train(training((0, 1))).method.stored
        )
        == 6
    )
    memory, tasks = StoredLatents(per_class=1), torch.zeros(2, dtype=torch.int64)
    memory.add(torch.rand(2, 3), torch.tensor([0, 1]), tasks, torch.Generator())
    with pytest.raises(ConfigError, match="holds latents already"):
        LatentReplaySettings(memory=memory)
    with pytest.raises(ConfigError, match="memory=.*is no memory of latents"):
        LatentReplaySettings(memory=nn.Flatten())
    with pytest.raises(ConfigError, match="as memory="):
        LatentReplaySettings(generator=ClassDensity())
    with pytest.raises(ConfigError, match="kl_weight is for memory='vae'"):
        LatentReplaySettings(memory=ClassDensity(), kl_weight=1.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_networks_of_another_type(dtype):
    """Latents are stored in float32 or bytes, whatever the network works in."""
    net = convolutional().to(dtype)
    method = LatentReplay(seed=0, per_class=5, dtype="uint8")
    driver = driver_of(method, net, steps=3)
    driver.train(training((0, 1), 20)).train(training((2, 3), 20))
    data = training((0, 2), 5)
    latents = method.encode_batch(data.images, data.tasks)
    assert (type(latents), latents.dtype) == (Latents, dtype)
    assert method.predict(latents, data.tasks).shape == (10, 10)
    assert driver.learner(data.images.to(dtype)).dtype == dtype


def test_images_of_the_latents_shape_are_told_apart():
    """By their type alone, in whichever mode the network is."""
    torch.manual_seed(0)
    same = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1), nn.ELU())
    net = nn.Sequential(same, nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    driver = driver_of(LatentReplay(seed=0, per_class=5), net, steps=3)
    driver.train(training((0, 1), 20))
    method, data = driver.method, training((2, 3), 5)
    latents = method.encode_batch(data.images, data.tasks)
    assert latents.shape == data.images.shape
    for mode in (True, False):
        net.train(mode)
        images = method(data.images, data.tasks, width=10)
        torch.testing.assert_close(method(latents, data.tasks, width=10), images)
        torch.testing.assert_close(images, net[1](same(data.images)))
    assert method.encode_batch(latents, data.tasks) is latents


BUDGETS = [
    {},
    {"covariance": "diagonal"},
    {"memory": "density"},
    {"memory": "density", "covariance": "low-rank"},
    {"memory": "vae", "generator_steps": 5, "hidden": (16,), "latent": 4},
]


@pytest.mark.parametrize("options", BUDGETS, ids=str)
def test_every_memory_keeps_to_its_budget(options):
    method = LatentReplay(seed=0, memory_budget="40kB", **options)
    driver = driver_of(method, steps=2)
    driver.train(training(FIRST))
    driver.train(training(SECOND))
    assert 0 < memory_bytes_of(method) <= 40_000


@pytest.mark.parametrize("options", BUDGETS[1:], ids=str)
def test_a_budget_too_small_is_told_before_anything_is_trained(options):
    model = convolutional()
    before = copy.deepcopy(model.state_dict())
    method = LatentReplay(seed=0, memory_budget=300, **options)
    with pytest.raises(CapacityError, match="memory_budget=300"):
        driver_of(method, model, steps=2).train(training(FIRST))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_density_keeps_a_tenth_of_the_latents():
    method = LatentReplay(seed=0, memory="density")
    driver = driver_of(method, steps=2)
    for labels in (FIRST, SECOND):
        driver.train(training(labels))
        values = method.sample(1).images.numel()
        assert memory_bytes_of(method) <= 0.1 * 4 * values * int(
            method.latent_memory.generator.seen.sum()
        )


def test_a_budget_is_that_of_the_memory():
    with pytest.raises(ConfigError, match="memory_budget to the memory"):
        LatentReplay(memory=ClassDensity(), memory_budget="1MB")
