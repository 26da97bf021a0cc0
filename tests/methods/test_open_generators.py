"""Memories on a generator that is none of the package's: a mixture of Gaussians, written here."""

import copy
import io
from dataclasses import replace

import pytest
import torch
from avalanche.training.supervised import Naive
from driver import Driver, MultiHead, digits, network
from sklearn.mixture import GaussianMixture
from torch import nn

from avalanche_dgm import DGDMNPlugin, DGRPlugin, load_memory, save_memory, sklearn_digits
from avalanche_dgm.errors import ConfigError, UnsupportedModelError
from avalanche_dgm.fitting import Phase
from avalanche_dgm.generators import Generator, make_density
from avalanche_dgm.generators.conditional_gan import ConditionalGAN, ConditionalGANSettings
from avalanche_dgm.methods import DGDMN, DGR
from avalanche_dgm.optimizers import OptimizerSpec


class Mixture(Generator):
    """A mixture of spheres for each class, fitted by scikit-learn when it is asked to learn."""

    def __init__(self, n_components=6):
        super().__init__()
        self.n_components = n_components
        self.register_buffer("means", torch.empty(0))
        self.register_buffer("deviations", torch.empty(0))
        self.register_buffer("weights", torch.empty(0))

    def fit(self, samples, rows, rng):
        mixtures = []
        for row in range(int(rows.max()) + 1):
            mine = samples[rows == row].flatten(1).double().numpy()
            n = min(self.n_components, len(mine))
            mixture = GaussianMixture(n, covariance_type="spherical", random_state=0).fit(mine)
            missing = self.n_components - n
            means = torch.as_tensor(mixture.means_)
            deviations = torch.as_tensor(mixture.covariances_).sqrt()
            weights = torch.as_tensor(mixture.weights_)
            mixtures.append(
                (
                    torch.cat([means, means[:1].expand(missing, -1)]),
                    torch.cat([deviations, deviations[:1].expand(missing)]),
                    torch.cat([weights, torch.zeros(missing)]),
                )
            )
        parts = (torch.stack(part).float() for part in zip(*mixtures, strict=True))
        self.means, self.deviations, self.weights = parts
        yield from ()

    def sample(self, rows, rng):
        part = torch.multinomial(self.weights[rows], 1, generator=rng)[:, 0]
        noise = torch.randn(len(rows), self.means.shape[2], generator=rng)
        made = self.means[rows, part] + self.deviations[rows, part, None] * noise
        return made.view(-1, 1, 8, 8)


class ScoredMixture(Mixture):
    """One that also says how well it explains samples."""

    def score(self, samples):
        flat = samples.flatten(1)
        apart = (flat[:, None, None] - self.means[None]).square().sum(dim=3)
        d = flat.shape[1]
        logs = self.weights.log() - 0.5 * apart / self.deviations**2 - d * self.deviations.log()
        return -torch.logsumexp(logs.flatten(1), dim=1)


class Unlabelled(Mixture):
    """One that cannot be asked for a class."""

    conditional = False

    def __init__(self):
        super().__init__(40)

    def fit(self, samples, rows, rng):
        yield from super().fit(samples, torch.zeros_like(rows), rng)

    def sample(self, rows, rng):
        return super().sample(torch.zeros_like(rows), rng)


class Trained(Generator):
    """A mean for each class that is trained by a phase, in a network that is built late."""

    def __init__(self):
        super().__init__()
        self.table = None

    def fit(self, samples, rows, rng):
        self.table = nn.Embedding(len(self.classes), 64)

        def loss(batch, rng):
            images, mine = batch
            return (self.table(mine) - images.flatten(1)).square().mean()

        adam = OptimizerSpec(lr=0.1)
        yield Phase("table", self.table, loss, adam, 60, 64, (samples, rows))

    def sample(self, rows, rng):
        with torch.no_grad():
            made = self.table(rows)
        return (made + 0.1 * torch.randn(made.shape, generator=rng)).view(-1, 1, 8, 8)

    def get_extra_state(self):
        return {**super().get_extra_state(), "n": len(self.classes)}

    def set_extra_state(self, state):
        super().set_extra_state(state)
        self.table = nn.Embedding(state["n"], 64) if state["n"] else None


PAIRS = [(0, 1), (2, 3), (4, 5)]
STREAM = [digits(*pair, per_class=120) for pair in PAIRS]
TEST = digits(*range(6), per_class=40, skip=120)
SLEEP = {"learner_steps": 200, "stm_size": 2}


def driver_of(kind, *, learner=None, task_aware=False, steps=120, **settings):
    torch.manual_seed(0)
    method = kind(seed=1, **settings)
    return Driver(method, learner or network(), task_aware=task_aware, steps=steps)


@pytest.mark.parametrize("generator", [Mixture(), Unlabelled(), Trained()], ids=lambda g: type(g))
def test_dgr_remembers(generator):
    driver = driver_of(DGR, generator=generator).train_all(STREAM)
    assert driver.accuracy(TEST) > 0.75
    assert not len(generator.classes), "the memory's is a copy"
    labels = driver.method.sample(60).labels.bincount(minlength=10)
    assert (labels > 0).tolist() == [True] * 6 + [False] * 4


def test_without_replay_it_forgets():
    class Silent(DGR):
        def replay(self, n):
            return None

    driver = driver_of(Silent, generator=Mixture()).train_all(STREAM)
    assert driver.accuracy(TEST) < 0.4


@pytest.mark.parametrize("generator", [ScoredMixture(), Mixture(), Trained()], ids=type)
@pytest.mark.parametrize("n_max", [None, 300])
def test_dgdmn_remembers(generator, n_max):
    driver = driver_of(DGDMN, generator=generator, n_max=n_max, **SLEEP).train_all(STREAM)
    method = driver.method
    assert method.dual.sleeps == 1
    assert method.dual.routing == ("elbo" if isinstance(generator, ScoredMixture) else "sleep")
    driver.run(method.before_predicting())
    assert driver.accuracy(TEST) > 0.75
    assert method.dual.sleeps == (1 if method.dual.routing == "elbo" else 2)


def test_without_what_was_known_a_sleep_erases_the_last():
    driver = driver_of(DGDMN, generator=Mixture(), short_term=False, **SLEEP)
    for data in [*STREAM, digits(6, 7, per_class=120)]:
        driver.train(data)
        ltm = driver.method.dual.ltm
        ltm.tasks.clear()
        ltm.generator = Mixture()
    old = digits(0, 1, 2, 3, per_class=40, skip=120)
    assert (driver.learner(old.images).argmax(1) == old.labels).float().mean() < 0.3


@pytest.mark.parametrize("n_max", [None, 90])
def test_the_replay_rule_holds(n_max):
    seen = []

    class Watched(Mixture):
        def fit(self, samples, rows, rng):
            seen.append(torch.bincount(rows).tolist())
            yield from super().fit(samples, rows, rng)

    settings = {"generator": Watched(), "n_max": n_max, "count": "tasks"}
    driver_of(DGR, steps=1, **settings).train_all([digits(c, per_class=60) for c in range(3)])
    # One new class of as many samples as each old one, unless they have less room than that.
    each = 60 if n_max is None else 30
    assert seen == [[60], [min(60, 45 if n_max else 60)] * 2, [each] * 3]


def test_a_repeated_task_is_learned_again():
    driver = driver_of(DGDMN, generator=ScoredMixture(), steps=60, **{**SLEEP, "stm_size": 3})
    driver.train(STREAM[0]).train(STREAM[0])
    assert driver.method.dual.occupancy == 1
    assert driver.method.dual.find("0,1").tasks["0,1"] == 2
    assert driver.accuracy(digits(0, 1, per_class=40, skip=120)) > 0.9


@pytest.mark.parametrize("generator", [ScoredMixture(), Trained()], ids=type)
@pytest.mark.parametrize("kind", [DGR, DGDMN])
def test_state(kind, generator):
    settings = SLEEP if kind is DGDMN else {}
    driver = driver_of(kind, generator=generator, steps=20, **settings).train_all(STREAM)
    fresh = driver_of(kind, learner=network(seed=5), generator=generator, **settings)
    fresh.method.attach(fresh.learner, task_aware=False)
    fresh.method.load_state_dict(driver.method.state_dict())
    saved, loaded = io.BytesIO(), kind(generator=generator, seed=9, **settings)
    save_memory(driver.method, saved)
    saved.seek(0)
    load_memory(loaded, saved, model=network(seed=7))
    one = driver.method.sample(24)
    answers = driver.predict(TEST.images)
    for other in (fresh.method, loaded):
        assert torch.equal(one.images, other.sample(24).images)
        with torch.no_grad():
            assert torch.equal(answers, other.predict(TEST.images, TEST.tasks))


def test_undo_takes_back_what_the_generator_learned():
    driver = driver_of(DGR, generator=Mixture(), steps=1).train(STREAM[0])
    method, before = driver.method, copy.deepcopy(driver.method.state_dict())
    method.begin(STREAM[1])
    driver.run(method.before_learning(STREAM[1]))
    assert len(method.ltm.generator.classes) == 4
    method.undo()
    after = method.state_dict()
    assert len(method.ltm.generator.classes) == 2
    for name, value in before.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, after[name]), name
    driver.train(STREAM[1])
    assert len(method.ltm.generator.classes) == 4


@pytest.mark.parametrize(
    ("kind", "settings"), [(DGRPlugin, {}), (DGDMNPlugin, {"learner_steps": 200})]
)
def test_as_a_plugin(kind, settings):
    torch.manual_seed(0)
    net = network()
    plugin = kind(generator=Mixture(), seed=0, **settings)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    strategy = Naive(
        model=net, optimizer=optimizer, train_mb_size=32, train_epochs=8, plugins=[plugin]
    )
    benchmark = sklearn_digits(n_experiences=5, seed=0)
    for experience in list(benchmark.train_stream)[:3]:
        strategy.train(experience)
    results = strategy.eval(list(benchmark.test_stream)[:3])
    found = [value for name, value in results.items() if name.startswith("Top1_Acc_Stream")]
    assert found[0] > 0.7


@pytest.mark.parametrize(("kind", "settings"), [(DGR, {}), (DGDMN, {"learner_steps": 10})])
def test_the_package_s_gan_is_a_generator_like_any_other(kind, settings):
    """Also in a state and in what is drawn from it, with networks that are built late."""
    small = {"generator_steps": 12, "width": 4, "discriminator_width": 4, "class_inputs": 10}
    gan = ConditionalGAN(ConditionalGANSettings(**small, latent=16, batch_size=16))
    driver = driver_of(kind, steps=5, generator=gan, **settings).train_all(STREAM)
    assert driver.method.sample(60).labels.unique().tolist() == [0, 1, 2, 3, 4, 5]
    fresh = driver_of(kind, generator=gan, **settings).method
    fresh.attach(network(seed=5), task_aware=False)
    fresh.load_state_dict(driver.method.state_dict())
    assert torch.equal(driver.method.sample(12).images, fresh.sample(12).images)


def test_multi_head_models():
    settings = {"generator": Mixture(), "learner": MultiHead(2, 10), "task_aware": True}
    driver = driver_of(DGR, steps=10, **settings)
    for task, data in enumerate([digits(0, 1, task=0), digits(0, 1, key="again", task=1)]):
        driver.train(data)
        assert set(driver.method.sample(40).tasks.tolist()) == set(range(task + 1))
    with pytest.raises(UnsupportedModelError, match="class-conditional generator"):
        driver_of(DGR, **{**settings, "generator": Unlabelled()}).train(digits(0))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"generator": Mixture(), "hidden": (8,)}, "hidden is for generator='vae'"),
        ({"generator": Mixture(), "generator_steps": 5}, "generator_steps is for"),
        ({"generator": "gmm"}, "generator='gmm' is not known; use one of vae"),
        ({"generator": nn.Linear(2, 2)}, "is no Generator"),
    ],
)
@pytest.mark.parametrize("kind", [DGR, DGDMN])
def test_generators_that_are_refused(kind, settings, match):
    with pytest.raises(ConfigError, match=match):
        kind(**settings)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"routing": "elbo"}, "Mixture has none. Give Mixture a method score"),
        ({"reconstruct": True}, "Mixture does not"),
        ({"stm_hidden": (8,)}, "stm_hidden is for"),
    ],
)
def test_what_a_generator_cannot_do_for_a_dual_memory(settings, match):
    with pytest.raises(ConfigError, match=match):
        DGDMN(generator=Mixture(), **settings)


def test_a_generator_that_has_learned_is_refused():
    generator = Mixture()
    list(generator.learn(digits(0), torch.Generator()))
    with pytest.raises(ConfigError, match="has learned 1 classes already"):
        DGR(generator=generator)


@pytest.mark.parametrize("kind", [DGR, DGDMN])
def test_a_density_by_name_is_the_object(kind):
    """On vectors, as features are; the same numbers, and old classes are known."""
    ends = []
    for generator in ("low-rank", make_density("low-rank")):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        driver = Driver(kind(seed=0, generator=generator), net, steps=60, lr=1e-2)
        for classes in ((0, 1), (2, 3)):
            data = digits(*classes, per_class=60)
            driver.train(replace(data, images=2 * data.images.flatten(1) - 5))
        ends.append(driver)
    old = digits(0, 1, skip=60, per_class=60)
    old = replace(old, images=2 * old.images.flatten(1) - 5)
    assert ends[0].accuracy(old) == ends[1].accuracy(old) > 0.7


def test_a_name_that_is_no_generator():
    with pytest.raises(ConfigError, match="generator='lowrank'.*vae.*low-rank"):
        DGR(generator="lowrank")
