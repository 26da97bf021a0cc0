"""Balanced fine-tuning: what it trains, for how long, and that few steps of the user's suffice."""

import copy
import math
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from driver import Driver, digits, network

from avalanche_dgm import DGRPlugin, sklearn_digits
from avalanche_dgm.data import Replay
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.generators import ClassDensity
from avalanche_dgm.methods import DGR, GANReplay, LatentReplay
from avalanche_dgm.methods.finetuning import FinetunedMethod, FinetuningSettings
from avalanche_dgm.optimizers import OptimizerSpec
from avalanche_dgm.settings import MethodSettings

pytestmark = pytest.mark.finetuned


@dataclass(frozen=True, kw_only=True)
class Both(FinetuningSettings, MethodSettings):
    pass


class Constant(FinetunedMethod):
    """Replays the same samples at every step, which weigh two thirds."""

    settings_type = Both
    old = Replay(
        digits(0, 1, per_class=8).images, digits(0, 1, per_class=8).labels, torch.zeros(16)
    )

    def _begin(self, data):
        super()._begin(data)
        self._new_weight = 1 / 3

    def replay(self, n):
        return replace(self.old, tasks=self.old.tasks.long())

    sample = replay


def begun(method, learner, data, *, steps=0):
    method.attach(learner, task_aware=False)
    method.begin(data)
    method.stats.steps = steps
    return method


@pytest.mark.parametrize(
    ("setting", "done", "expected"),
    [(None, 60, 340), (None, 400, 100), (None, 900, 100), (7, 900, 7), (0, 9, 0)],
)
def test_number_of_steps(setting, done, expected):
    data = digits(2)
    method = begun(Constant(finetune_steps=setting), network(), data, steps=done)
    assert sum(phase.steps for phase in method.after_learning(data)) == expected


def test_parts_of_an_online_stream_have_none():
    data = replace(digits(2), partial=True)
    assert not [*begun(Constant(finetune_steps=None), network(), data).after_learning(data)]


def test_it_is_said_what_is_trained():
    data = digits(2, 3)
    (phase,) = begun(Constant(finetune_steps=4), network(), data).after_learning(data)
    assert phase.name == "fine-tuning: 2,3, balanced"


def test_steps_are_those_of_the_weighed_loss():
    """Against a loop of its own: Adam on a cosine, a third for new samples, the rest for old."""
    data, n, learner = digits(2, per_class=40), 6, network()
    other, old = copy.deepcopy(learner), Constant.old
    driver = Driver(Constant(finetune_steps=n, seed=0), learner, steps=0).train(data)

    optimizer = torch.optim.Adam(other.parameters(), lr=1e-3)
    for step in range(n):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * 0.5 * (1 + math.cos(math.pi * step / n))
        # Forty samples are one batch, whatever their order.
        new = F.cross_entropy(other(data.images), data.labels)
        loss = new / 3 + F.cross_entropy(other(old.images), old.labels) * 2 / 3
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for mine, theirs in zip(learner.parameters(), other.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)
    # The learning rate matters: constant, the weights are others.
    spec = OptimizerSpec("adam", 1e-3)
    constant = network()
    Driver(Constant(finetune_steps=n, seed=0, finetune_optimizer=spec), constant, steps=0).train(
        data
    )
    assert not torch.allclose(constant[1].weight, other[1].weight, atol=1e-5)
    assert driver.method.stats.read().histogram == {0: 8 * n, 1: 8 * n}


def test_what_the_learning_lacks_is_made_up_for():
    """Ten steps of the user's leave classes behind; with fine-tuning none is."""
    stream = [digits(*pair, per_class=120) for pair in [(0, 1), (2, 3), (4, 5)]]
    test = digits(*range(6), per_class=40, skip=120)
    found = []
    for steps in (None, 0):
        sizes = {"hidden": (64,), "generator_steps": 250, "batch_size": 64}
        method = DGR(seed=1, finetune_steps=steps, **sizes)
        found.append(Driver(method, network(), steps=10).train_all(stream).accuracy(test))
    assert found[0] > 0.85
    assert found[1] < 0.7


def test_the_users_optimiser_stays_as_it_is():
    states, weights = [], []
    for steps in (0, 3):
        torch.manual_seed(0)
        net = network()
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        plugin = DGRPlugin(seed=0, hidden=(16,), generator_steps=1, finetune_steps=steps)
        strategy = Naive(
            model=net,
            optimizer=optimizer,
            train_mb_size=50,
            plugins=[plugin],
            evaluator=EvaluationPlugin(loggers=[]),
        )
        experience = sklearn_digits(n_train_per_class=50).train_stream[0]
        strategy.train(experience, shuffle=False)
        states.append(strategy.optimizer.state_dict())
        weights.append(net[1].weight)
    one, other = ([*state["state"].values()] for state in states)
    assert all(torch.equal(a[k], b[k]) for a, b in zip(one, other, strict=True) for k in a)
    assert states[0]["param_groups"] == states[1]["param_groups"]
    assert not torch.equal(*weights)


@pytest.mark.parametrize("kind", [LatentReplay, GANReplay])
def test_off_unless_asked_for(kind):
    assert kind().settings.finetune_steps == 0


def test_bad_number_of_steps():
    with pytest.raises(ConfigError, match="finetune_steps"):
        DGR(finetune_steps=-1)


def latents():
    density = ClassDensity(covariance="low-rank", tied="all", components=8, rank=8)
    options = {"layer": "0", "freeze_after": 0, "memory": density}
    return lambda **settings: LatentReplay(**options, **settings)


@pytest.mark.parametrize(
    "make",
    [
        partial(DGR, generator="low-rank"),
        partial(DGR, generator_steps=300, finetune_optimizer=OptimizerSpec("adam", 5e-3, "cosine")),
        latents(),
    ],
)
def test_on_generated_samples_of_all_classes(make):
    """No real sample is seen in it, but for the first experience, of which nothing is generated."""
    method, seen = make(finetune_data="generated", finetune_steps=150, seed=0), []
    sample = method.sample
    method.sample = lambda n: seen.append(sample(n)) or seen[-1]
    driver = Driver(method, network(), steps=5).train(digits(0, 1, 2))
    assert not seen
    driver.train(digits(3, 4))
    # Latent replay draws its replay of old classes in the same way, before.
    last = seen[-150:]
    assert len(last) == 150
    assert all(set(one.labels.tolist()) == set(range(5)) for one in last)
    assert all(one.targets is None for one in last)
    assert driver.accuracy(digits(0, 1, 2, 3, 4, per_class=40, skip=120)) > 0.85


@pytest.mark.parametrize(
    ("make", "words"),
    [(GANReplay, "GANReplay generates no"), (LatentReplay, "memory='density'")],
)
def test_what_generates_nothing_for_it(make, words):
    with pytest.raises(ConfigError, match=words):
        make(finetune_data="generated")
