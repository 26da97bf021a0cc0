"""What every method promises to an adapter: one set of tests over all of them."""

import copy
import pickle
from dataclasses import replace
from functools import cache

import pytest
import torch
from driver import Driver, digits, network
from method_cases import METHODS, VARIANTS, cut_behind
from own_method import ClassMeans
from pickled_tensors import tensors_in
from torch import nn

from avalanche_dgm import load_memory, save_memory
from avalanche_dgm.data import ExperienceData, SamplePool
from avalanche_dgm.errors import (
    ConfigError,
    DataError,
    LabelError,
    RangeError,
    ShapeError,
    UnknownTaskError,
)
from avalanche_dgm.fitting import fit
from avalanche_dgm.methods import ALTM, DGDMN, DGR, DynamicMemory, LatentReplay, PseudoRehearsal
from avalanche_dgm.methods.abilities import Routing
from avalanche_dgm.methods.adversarial import GANMethod
from avalanche_dgm.methods.altm_sources import StoredReplay
from avalanche_dgm.methods.registry import kinds
from avalanche_dgm.metrics.cost import memory_bytes_of

SLOW = {*VARIANTS, "dynamic-memory-discriminator"}
#: Naive A-LTM, EWC and closed forms remember no samples, the flow has no range; the others differ
#: for adapters alone.
ELSEWHERE = {
    *("altm", "ewc", "ncm", "slda", "ranpac"),
    *("own-flow", "dgdmn-oracle", "dgdmn-sleep", "dynamic-memory-accelerated"),
}
CASES = [
    pytest.param(name, marks=pytest.mark.slow if name in SLOW else [])
    for name in METHODS
    if name not in ELSEWHERE
]
STREAM = [(0, 1), (2, 3), (4, 5), (6, 7)]


def driver_of(name, seed=1):
    kind, hyper = METHODS[name][0], cut_behind(name, "2")
    if issubclass(kind, GANMethod):
        hyper = {**hyper, "generator_steps": 2}
    return Driver(kind(seed=seed, **hyper), network(), steps=8)


@pytest.fixture(params=CASES)
def make(request):
    """Builds a driver around a fresh method."""

    def build(seed=1, torch_seed=0):
        torch.manual_seed(torch_seed)
        return driver_of(request.param, seed)

    build.name = request.param
    return build


def source_of(method, kind):
    """The method, or what A-LTM replays, if it is of a kind."""
    return next((m for m in (method, getattr(method, "source", None)) if isinstance(m, kind)), None)


def test_every_registered_method_is_tested():
    own = {kind for kind in kinds() if kind.__module__.startswith("avalanche_dgm.")}
    missing = {kind.__name__ for kind in own - {kind for kind, _ in METHODS.values()}}
    assert not missing, f"add {', '.join(missing)} to METHODS in tests/contracts/method_cases.py"


def experience(i):
    return digits(*STREAM[i], per_class=40)


def trained(make, n, **seeds):
    """A driver after n experiences: trained here if seeds are given, else a copy."""
    if not seeds:
        return copy.deepcopy(once_trained(make.name, n))
    driver = make(**seeds)
    for i in range(n):
        driver.train(experience(i))
    return driver


@cache
def once_trained(name, n):
    if n == 0:
        torch.manual_seed(0)
        return driver_of(name)
    return copy.deepcopy(once_trained(name, n - 1)).train(experience(n - 1))


def outcome(driver):
    """Everything visible: answers, samples, weights."""
    data = digits(*range(8), per_class=10)
    torch.manual_seed(99)
    replay = copy.deepcopy(driver.method).sample(24)
    weights = [v for v in driver.method.state_dict().values() if isinstance(v, torch.Tensor)]
    return [
        driver.predict(data.images),
        replay.images,
        replay.labels,
        replay.tasks,
        *driver.learner.state_dict().values(),
        *weights,
    ]


def same(one, two):
    return equal_outcomes(outcome(one), outcome(two))


def equal_outcomes(one, two):
    return len(one) == len(two) and all(
        a.shape == b.shape and torch.equal(a, b) for a, b in zip(one, two, strict=True)
    )


def test_same_seed_same_result(make):
    assert same(trained(make, 3, seed=1), trained(make, 3))
    assert not same(trained(make, 2), trained(make, 2, seed=2))


def test_a_seed_of_its_own_governs_alone(make):
    """Whatever state PyTorch's global generator is in, and without touching it."""
    assert same(trained(make, 3), trained(make, 3, torch_seed=5))
    driver = make()
    before = torch.get_rng_state()
    driver.train(experience(0)).train(experience(1))
    assert torch.equal(before, torch.get_rng_state())


def test_without_a_seed_torch_s_governs(make):
    def run(torch_seed):
        return trained(make, 3, seed=None, torch_seed=torch_seed)

    first = outcome(run(3))
    assert equal_outcomes(first, outcome(run(3)))
    assert not equal_outcomes(first, outcome(run(4)))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_state_dict_into_a_fresh_one_continues_equally(make, n):
    driver = trained(make, n)
    state = copy.deepcopy(driver.method.state_dict())
    fresh = make(seed=77, torch_seed=7)
    fresh.learner = network(seed=8)
    fresh.method.attach(fresh.learner, task_aware=False)
    fresh.method.load_state_dict(state)
    assert same(driver, fresh)
    assert fresh.method.stats.read().sleeps == driver.method.stats.read().sleeps
    assert memory_bytes_of(fresh.method) == memory_bytes_of(driver.method)
    for i in range(n, 4):
        driver = trained(make, i + 1)
        fresh.train(experience(i))
        assert same(driver, fresh)
        assert fresh.method.stats.read().histogram == driver.method.stats.read().histogram


@pytest.mark.parametrize("n", [1, 2])
def test_a_file_into_a_fresh_one_continues_equally(make, n, tmp_path):
    driver = trained(make, n)
    save_memory(driver.method, tmp_path / "memory")
    fresh = make(seed=77, torch_seed=7)
    fresh.learner = network(seed=8)
    load_memory(fresh.method, tmp_path / "memory", model=fresh.learner)
    assert same(driver, fresh)
    fresh.train(experience(n))
    assert same(trained(make, n + 1), fresh)


def test_a_state_needs_the_classifier(make):
    state = trained(make, 1).method.state_dict()
    with pytest.raises(ConfigError, match="Attach the classifier"):
        make().method.load_state_dict(state)


def test_a_state_of_before_the_first_experience(make):
    driver, fresh = make(), make(seed=3)
    fresh.method.attach(fresh.learner, task_aware=False)
    driver.method.attach(driver.learner, task_aware=False)
    fresh.method.load_state_dict(driver.method.state_dict())
    driver.train(experience(0))
    fresh.train(experience(0))
    assert same(driver, fresh)


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))], ids=["copy", "pickle"]
)
def test_copies_continue_equally_and_apart(make, duplicate):
    driver = trained(make, 2)
    other = duplicate(driver)
    before = [v.clone() for v in outcome(driver)]
    other.train(experience(2))
    after = outcome(driver)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    driver.train(experience(2))
    assert same(driver, other)


def bad_experiences():
    good = digits(2, 3, per_class=20)
    images, labels, tasks = good.images, good.labels, good.tasks
    nan, wrong = images.clone(), labels.clone()
    nan[3, 0, 2, 2] = float("nan")
    wrong[5] = -1
    infinite = images.clone()
    infinite[0] = float("inf")
    return {
        "shape": (ShapeError, (torch.rand(40, 1, 9, 9), labels, tasks)),
        "dimensions": (ShapeError, (images[:, 0], labels, tasks)),
        "flat": (ShapeError, (images.flatten(1), labels, tasks)),
        "nan": (RangeError, (nan, labels, tasks)),
        "infinite": (RangeError, (infinite, labels, tasks)),
        "bytes": (RangeError, ((images * 255).byte(), labels, tasks)),
        "negative": (LabelError, (images, wrong, tasks)),
        "floats": (LabelError, (images, labels.float(), tasks)),
        "one-hot": (LabelError, (images, nn.functional.one_hot(labels, 10), tasks)),
        "fewer labels": (DataError, (images, labels[:-1], tasks)),
        "fewer tasks": (DataError, (images, labels, tasks[:-1])),
        "empty": (DataError, (images[:0], labels[:0], tasks[:0])),
    }


def test_bad_data_changes_nothing(make):
    driver, untouched = trained(make, 1), outcome(trained(make, 1))
    for case, (error, tensors) in bad_experiences().items():
        with pytest.raises(error, match="bad") as raised:
            driver.train(ExperienceData(*tensors, "bad", "bad"))
        assert isinstance(raised.value, DataError), case
        assert isinstance(raised.value, ValueError), case
        assert equal_outcomes(outcome(driver), untouched), case
    assert same(driver.train(experience(1)), trained(make, 2))


def test_another_scale_is_refused_by_what_cannot_produce_it(make):
    driver, untouched = trained(make, 1), trained(make, 1)
    data = experience(1)
    loud = ExperienceData(255 * data.images, data.labels, data.tasks, "loud")
    if source_of(driver.method, (PseudoRehearsal, LatentReplay, StoredReplay, ClassMeans)):
        driver.train(loud)
        return
    with pytest.raises(RangeError, match="value_range"):
        driver.train(loud)
    assert same(driver, untouched)


def test_bad_data_at_first_leaves_a_usable_method(make):
    driver = make()
    with pytest.raises(DataError):
        driver.train(
            ExperienceData(torch.rand(4, 8, 8), torch.zeros(4).long(), torch.zeros(4).long(), "x")
        )
    driver.train(experience(0)).train(experience(1))
    assert same(driver, trained(make, 2))


def test_replay(make):
    """Types, ranges, devices; from the second time a task is known."""
    driver = trained(make, 2)
    method = driver.method
    repeated = experience(1)
    method.attach(driver.learner, task_aware=False)
    if isinstance(method, Routing):
        driver.run(method.make_room(repeated.key))
    gan = source_of(method, GANMethod)
    if source_of(method, DynamicMemory):
        untouched = copy.deepcopy(driver)
        with pytest.raises(LabelError, match="learned before"):
            method.begin(repeated)
        assert same(driver, untouched), "what makes a class is frozen: it comes once"
        repeated = experience(2)
    method.begin(repeated)
    if gan:
        driver.run(method.before_learning(repeated))
    assert 0 < method._new_weight <= 1
    replays = [method.sample(25), method.replay(25)]
    if isinstance(method, DGDMN) and not method.settings.short_term:
        assert replays.pop() is None
    elif isinstance(method, GANMethod) and method.routes:
        assert replays.pop() is None, "nothing learns by batches"
    elif not isinstance(method, ALTM):  # It adds to the new samples' loss.
        assert method._new_weight < 1
    for replay in replays:
        n = len(replay)
        assert n >= 25
        latents = source_of(method, LatentReplay)
        assert replay.images.shape == ((n, 32) if latents else (n, 1, 8, 8))
        assert replay.images.dtype == torch.float32
        assert replay.labels.shape == replay.tasks.shape == (n,)
        assert replay.labels.dtype == replay.tasks.dtype == torch.int64
        assert set(replay.labels.tolist()) <= set(range(10))
        assert latents or (replay.images.min() >= 0 and replay.images.max() <= 1)
        assert not replay.images.requires_grad
        if replay.targets is not None:
            assert replay.targets.shape[0] == n
            assert not replay.targets.requires_grad
            torch.testing.assert_close(replay.targets.sum(1), torch.ones(n))


def test_nothing_is_replayed_at_first(make):
    driver = make()
    driver.method.attach(driver.learner, task_aware=False)
    driver.method.begin(experience(0))
    assert driver.method.replay(8) is None
    assert driver.method._new_weight == 1.0


def test_nothing_can_be_sampled_before_anything_is_learned(make):
    driver = make()
    driver.method.attach(driver.learner, task_aware=False)
    with pytest.raises(UnknownTaskError, match="train on an experience first"):
        driver.method.sample(3)


def test_sampling_shows_and_changes_nothing(make):
    driver = make()
    torch.manual_seed(0)
    driver.learner = nn.Sequential(nn.Flatten(1), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))
    for i in range(2):
        driver.train(experience(i))
    driver.learner.train()
    before = copy.deepcopy(
        {k: v for k, v in driver.method.state_dict().items() if isinstance(v, torch.Tensor)}
    )
    driver.method.sample(30)
    after = driver.method.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert driver.learner.training


def stored_tensors(method):
    """All that a method keeps, in its state or in any attribute of any part."""
    for part in method.modules():
        yield from part.parameters(recurse=False)
        yield from part.buffers(recurse=False)
        for value in vars(part).values():
            if isinstance(value, torch.Tensor):
                yield value
            elif isinstance(value, (list, tuple)):
                yield from (v for v in value if isinstance(v, torch.Tensor))
            elif isinstance(value, ExperienceData):
                yield value.images
            elif isinstance(value, SamplePool):
                yield value.samples


def raw_images_in(method, images):
    forms = [images.flatten(1)]
    gan = source_of(method, GANMethod)
    if gan:
        # As its networks see them: scaled, and perhaps padded; and scaled back.
        scaler = gan.generator.scaler
        placed = scaler.transform(images)
        forms += [placed.flatten(1), scaler.inverse_transform(placed).flatten(1)]
    wanted = {image.numpy().tobytes() for form in forms for image in form}
    sizes = {form.shape[1] for form in forms}
    found = 0
    for tensor in stored_tensors(method):
        values = tensor.detach()
        if (
            values.ndim >= 2
            and len(values)
            and values[0].numel() in sizes
            and values.dtype == torch.float32
        ):
            found += sum(row.numpy().tobytes() in wanted for row in values.flatten(1))
    return found


def test_an_image_that_is_stored_would_be_found(make):
    method, images = trained(make, 1).method, experience(0).images
    method.kept = images[:3]
    assert raw_images_in(method, images) >= 3
    gan = source_of(method, GANMethod)
    if gan:
        before = raw_images_in(method, images)
        scaler = gan.generator.scaler
        placed = scaler.transform(images[:5])
        for stored in (placed, scaler.inverse_transform(placed)):
            gan._pool = SamplePool(stored, torch.arange(5), torch.ones(5))
            assert raw_images_in(method, images) == before + 5


@pytest.mark.parametrize("n", [1, 2, 3])
def test_no_image_is_stored_but_in_the_variant_that_says_so(make, n):
    driver = trained(make, n)
    images = torch.cat([experience(i).images for i in range(n)])
    found = raw_images_in(driver.method, images)
    if isinstance(driver.method, DGDMN) and not driver.method.settings.short_term:
        assert found == 80 * (n % 2)
    elif source_of(driver.method, StoredReplay):
        assert found == 2 * 8 * n, "eight of each class"
    elif getattr(driver.method.settings, "freeze_after", 0) > n:
        assert found == 10 * n, "until the compressor is frozen"
    else:
        assert found == 0


def test_memory_bytes(make):
    driver = trained(make, 1)
    first = memory_bytes_of(driver.method)
    assert first > 0
    # All that a pickle of it holds but the user's classifier, and the counts of replayed labels.
    classifier = {t.data_ptr() for t in driver.learner.state_dict().values()}
    found = [t for t in tensors_in(driver.method) if t.data_ptr() not in classifier]
    counts = driver.method.stats.counts
    assert first == sum(t.nbytes for t in found) - (0 if counts is None else counts.nbytes)
    assert driver.method.stats.peak_bytes >= first


def test_the_user_s_classifier_is_the_very_object(make):
    driver = make()
    learner = driver.learner
    for i in range(3):
        driver.train(experience(i))
    parameters = {id(p) for p in learner.parameters()}
    assert parameters <= {id(p) for p in driver.method.parameters()}
    frozen = source_of(driver.method, LatentReplay) is not None
    assert [p.requires_grad for p in learner.parameters()] == [not frozen] * 2 + [True] * 2


def test_counters(make):
    driver = trained(make, 3)
    assert driver.method.experiences == 3
    record = driver.method.stats.read()
    assert record.replayed == sum(record.histogram.values())
    state = driver.method.state_dict()
    assert any(key.endswith("_extra_state") for key in state)


@pytest.mark.parametrize("seed", [-1, 1.5, "1", True, 2**64])
def test_bad_seeds(make, seed):
    with pytest.raises(ConfigError, match="seed"):
        make(seed=seed)


def test_unknown_hyper_parameters():
    for kind in (DGR, DGDMN):
        with pytest.raises(ConfigError, match="kapa"):
            kind(kapa=0.1)


class Moments:
    """Lets a driver train, and interrupts it at one of its steps.

    Attributes:
        names: What each step so far belonged to: a phase's name, or ``learner``.
    """

    def __init__(self, driver, at=None):
        self.driver, self.at, self.names = driver, at, []
        driver.run, driver._step = self.run, self.learn

    def step(self, name):
        if len(self.names) == self.at:
            raise KeyboardInterrupt
        self.names.append(name)

    def run(self, phases):
        for phase in phases:
            fit(self.watched(phase), self.driver.method.rng)

    def watched(self, phase):
        def watch(loss):
            def watched(*arguments):
                self.step(phase.name)
                return loss(*arguments)

            return watched

        if callable(phase.loss):
            return replace(phase, loss=watch(phase.loss))
        return replace(phase, loss=[replace(step, loss=watch(step.loss)) for step in phase.loss])

    def learn(self, optimizer, loss):
        self.step("learner")
        Driver._step(self.driver, optimizer, loss)

    def train(self, data):
        try:
            self.driver.train(data)
        finally:
            del self.driver.run, self.driver._step


def everything(method):
    """All that a method remembers, but for the learner, in plain values."""
    own = {id(t) for t in method.learner.state_dict(keep_vars=True).values()}
    state = method.state_dict(keep_vars=True)
    mine = {name: value for name, value in state.items() if id(value) not in own}
    return {k: v.clone() if isinstance(v, torch.Tensor) else repr(v) for k, v in mine.items()}


def equal(one, two):
    return one.keys() == two.keys() and all(
        torch.equal(v, two[k]) if isinstance(v, torch.Tensor) else v == two[k]
        for k, v in one.items()
    )


def moments_of(driver, data):
    """The first and the middle step of each phase, and of the learner's training."""
    moments = Moments(copy.deepcopy(driver))
    moments.train(data)
    names = moments.names
    for name in dict.fromkeys(names):
        first, n = names.index(name), names.count(name)
        yield from {(first, name), (first + n // 2, name)}


def test_an_interrupted_experience_leaves_nothing(make):
    """Going on with the next one is as if it had not been, wherever it was interrupted."""
    driver = trained(make, 2)
    skipped = copy.deepcopy(driver)
    skipped.train(experience(3))
    before = everything(driver.method)
    for at, name in moments_of(driver, experience(2)):
        broken = copy.deepcopy(driver)
        moments = Moments(broken, at)
        with pytest.raises(KeyboardInterrupt):
            moments.train(experience(2))
        # As an adapter does before an evaluation; a next experience needs no such call.
        evaluated = copy.deepcopy(broken)
        evaluated.method.undo()
        assert equal(everything(evaluated.method), before), name
        broken.train(experience(3))
        if "learner" not in moments.names or isinstance(broken.method, DGDMN):
            assert same(broken, skipped), name
        else:
            # The classifier is the user's, and keeps what it has learned.
            assert not set(broken.method.sample(60).labels.tolist()) & {4, 5}, name


@pytest.mark.parametrize("name", ["dgdmn", "dgdmn-no-stm"])
def test_an_interrupted_sleep_loses_nothing(name):
    torch.manual_seed(0)
    driver = driver_of(name)
    for i in range(3):
        driver.train(experience(i))
    moments = [m for m in moments_of(driver, experience(3)) if m[1].startswith("sleep")]
    assert len(moments) == 4
    for at, _ in moments:
        broken = copy.deepcopy(driver)
        ltm, model = (
            copy.deepcopy(m.state_dict()) for m in (broken.method.dual.ltm, broken.learner)
        )
        with pytest.raises(KeyboardInterrupt):
            Moments(broken, at).train(experience(3))
        broken.method.undo()
        assert broken.method.dual.occupancy == 2, "both tasks wait"
        found = broken.method.dual.ltm.state_dict(), broken.learner.state_dict()
        for was, now in zip((ltm, model), found, strict=True):
            assert all(torch.equal(v, now[k]) for k, v in was.items() if torch.is_tensor(v))
        broken.run(broken.method.consolidate())
        assert broken.method.dual.occupancy == 0
        assert set(broken.method.sample(200).labels.tolist()) == set(range(8))
