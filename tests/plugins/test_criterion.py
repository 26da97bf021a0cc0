"""The user's criterion: replay weighs the same beside it, whatever its scale and reduction."""

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from avalanche.core import SupervisedPlugin
from avalanche.training.losses import MaskedCrossEntropy
from avalanche.training.supervised import Naive
from torch import nn

from avalanche_dgm import (
    ALTMPlugin,
    DGDMNPlugin,
    DGRPlugin,
    LatentReplayPlugin,
    MeRGANPlugin,
    PseudoRehearsalPlugin,
    maybe_load_checkpoint,
    save_checkpoint,
    sklearn_digits,
)
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.optimizers import OptimizerSpec

from .conftest import DUAL, GAN, SMALL, mlp, naive, weights

N = 20
HARD = {"labels": "hard"}
#: Unlike Adam's, its steps show the scale of a loss.
SCALED = OptimizerSpec("sgd", 0.1)
CASES = {
    "dgr": lambda: DGRPlugin(**SMALL, seed=0),
    "dgr-hard": lambda: DGRPlugin(**SMALL, **HARD, seed=0),
    "latent": lambda: LatentReplayPlugin(layer="2", seed=0),
    "latent-hard": lambda: LatentReplayPlugin(layer="2", replay_size=50, **HARD, seed=0),
    "latent-alternating": lambda: LatentReplayPlugin(
        layer="2", schedule="alternating", replay_size=50, seed=0
    ),
    "pseudo-rehearsal": lambda: PseudoRehearsalPlugin(seed=0),
    "altm": lambda: ALTMPlugin(weight=0.5, seed=0),
    "altm-stored": lambda: ALTMPlugin(weight=0.5, replay="stored", replay_size=50, seed=0),
    "dgdmn-hard": lambda: DGDMNPlugin(**DUAL, **HARD, stm_size=1, learner_optimizer=SCALED, seed=0),
    "mergan": lambda: MeRGANPlugin(**GAN, class_inputs=10),
}
#: Criterion, and what divides the learning rate for the same steps.
SCALES = {
    "eight-times": (lambda o, t: 8 * F.cross_entropy(o, t), 8),
    "sum": (nn.CrossEntropyLoss(reduction="sum"), N),
}


@pytest.fixture(scope="module")
def two():
    """Two experiences of five digits, batches of equal size."""
    return sklearn_digits(n_experiences=2, n_train_per_class=20, seed=0)


def strategy_of(plugin, criterion, divisor=1.0, template=Naive, last=None):
    torch.manual_seed(0)
    model = mlp()
    if last is not None:
        model.append(last)
    strategy = naive(
        model,
        plugin,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1 / divisor, momentum=0.9),
        template=template,
    )
    strategy._criterion, strategy.train_mb_size = criterion, N
    return strategy


def trained(stream, plugin, criterion, divisor=1.0, template=Naive, last=None):
    strategy = strategy_of(plugin, criterion, divisor, template, last)
    for experience in stream:
        strategy.train(experience)
    return plugin.learner_of(strategy)


@pytest.mark.parametrize("name", CASES)
def test_steps_are_those_of_cross_entropy(two, name):
    """With SGD, whose rate is divided by what the loss is multiplied with."""
    plain = weights(trained(two.train_stream, CASES[name](), nn.CrossEntropyLoss()))
    for criterion, divisor in SCALES.values():
        found = weights(trained(two.train_stream, CASES[name](), criterion, divisor))
        torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("altm")])
def test_log_probabilities_are_as_good_as_logits(two, name):
    """A-LTM is left out: it compares answers as they are."""
    plain = weights(trained(two.train_stream, CASES[name](), nn.CrossEntropyLoss()))
    found = trained(two.train_stream, CASES[name](), nn.NLLLoss(), last=nn.LogSoftmax(dim=1))
    torch.testing.assert_close(weights(found), plain, rtol=1e-3, atol=1e-4)


def of_probabilities(answers, labels):
    return F.nll_loss(answers.log(), labels)


@pytest.mark.parametrize("name", ["dgr-hard", "latent-hard", "dgdmn-hard"])
def test_probabilities_do_for_hard_labels(two, name):
    plain = weights(trained(two.train_stream, CASES[name](), nn.CrossEntropyLoss(), 0.9))
    found = trained(two.train_stream, CASES[name](), of_probabilities, 0.9, last=nn.Softmax(dim=1))
    # The logarithm of a probability is rounded more coarsely.
    torch.testing.assert_close(weights(found), plain, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("name", ["dgr", "latent"])
def test_soft_labels_are_not_made_of_probabilities(two, name):
    strategy = strategy_of(CASES[name](), of_probabilities, last=nn.Softmax(dim=1))
    with pytest.raises(ConfigError, match="takes probabilities"):
        strategy.train(two.train_stream[0])


def test_without_its_scale_a_criterion_would_change_the_steps(two, monkeypatch):
    from avalanche_dgm.losses import CriterionScale
    from avalanche_dgm.losses import classifiers as module

    plain = weights(trained(two.train_stream, CASES["dgr"](), nn.CrossEntropyLoss()))
    monkeypatch.setattr(module, "measure_criterion", lambda *args, **kw: CriterionScale())
    for criterion, divisor in SCALES.values():
        found = weights(trained(two.train_stream, CASES["dgr"](), criterion, divisor))
        assert (found - plain).abs().max() > 1e-2


class Changing(SupervisedPlugin):
    """Changes the loss of each batch, as plugins for mixup or accumulated gradients do."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def before_backward(self, strategy, **kwargs):
        strategy.loss = self.change(strategy)


def beside(stream, plugin, other, *, first, divisor=1.0):
    """The model that a strategy with two plugins has learned."""
    strategy = strategy_of(plugin, nn.CrossEntropyLoss(), divisor)
    strategy.plugins.insert(0 if first else len(strategy.plugins), other)
    for experience in stream:
        strategy.train(experience)
    return plugin.learner_of(strategy)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("name", [name for name in CASES if name != "latent-alternating"])
def test_a_plugin_may_scale_the_loss(two, name, first):
    """Replay is scaled as well. Alternating steps on replay have a loss of their own."""
    plain = weights(trained(two.train_stream, CASES[name](), nn.CrossEntropyLoss()))
    scaled = Changing(lambda strategy: strategy.loss / 8)
    found = beside(two.train_stream, CASES[name](), scaled, first=first, divisor=1 / 8)
    torch.testing.assert_close(weights(found), plain, rtol=1e-3, atol=1e-4)


def smooth(strategy):
    return F.cross_entropy(strategy.mb_output, strategy.mb_y, label_smoothing=0.2)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_a_plugin_that_replaces_the_loss_is_refused_before_the_first_step(two, name, first):
    """It would drop replay that was added before, and subtract a criterion that is not there."""
    plugin = CASES[name]()
    strategy = strategy_of(plugin, nn.CrossEntropyLoss())
    before = weights(strategy.model).clone()
    strategy.plugins.insert(0 if first else len(strategy.plugins), Changing(smooth))
    with pytest.raises(ConfigError, match=r"replaces strategy\.loss"):
        strategy.train(two.train_stream[0])
    assert torch.equal(weights(plugin.learner_of(strategy)), before)


class Assigning(Naive):
    """A loop of its own, in which the criterion is the loss instead of a part of it."""

    def training_epoch(self, **kwargs):
        for batch in self.dataloader:
            self.mbatch = batch
            self._unpack_minibatch()
            self._before_training_iteration(**kwargs)
            self.optimizer.zero_grad()
            self._before_forward(**kwargs)
            self.mb_output = self.forward()
            self._after_forward(**kwargs)
            self.loss = self.criterion()
            self._before_backward(**kwargs)
            self.backward()
            self._after_backward(**kwargs)
            self._before_update(**kwargs)
            self.optimizer_step()
            self._after_update(**kwargs)
            self._after_training_iteration(**kwargs)


@pytest.mark.parametrize("name", ["dgr", "latent", "altm"])
def test_a_loop_may_assign_the_criterion(two, name):
    plain = weights(trained(two.train_stream, CASES[name](), nn.CrossEntropyLoss()))
    found = trained(two.train_stream, CASES[name](), nn.CrossEntropyLoss(), template=Assigning)
    assert torch.equal(weights(found), plain)


class Noted(nn.Module):
    """Class weights, and what they were asked about."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.arange(1.0, 11))
        self.asked = []

    def forward(self, logits, labels):
        self.asked.append((logits.detach().clone(), labels.clone()))
        return F.cross_entropy(logits, labels, self.weight, label_smoothing=0.1)


class Losses(Naive):
    """Notes the loss of each step."""

    def _before_backward(self, **kwargs):
        super()._before_backward(**kwargs)
        self.__dict__.setdefault("noted", []).append(self.loss.detach().clone())


@pytest.mark.parametrize("name", ["dgr-hard", "latent-hard", "pseudo-rehearsal", "mergan"])
def test_with_hard_labels_the_criterion_judges_replay(two, name):
    criterion, plugin = Noted(), CASES[name]()
    torch.manual_seed(0)
    strategy = naive(mlp(), plugin, template=Losses)
    strategy._criterion, strategy.train_mb_size = criterion, N
    strategy.train(two.train_stream[0])
    draws, draw = [], plugin.method.replay
    plugin.method.replay = lambda n: draws.append(draw(n)) or draws[-1]
    share = []
    strategy.noted.clear()
    before = plugin.method.criterion.set

    def after_that(*args, **kwargs):
        before(*args, **kwargs)
        criterion.asked.clear()

    plugin.method.criterion.set = after_that
    plugin.before_backward = _noting(plugin, share)
    strategy.train(two.train_stream[1])
    # Of each step: the batch, the batch again, the replay.
    for step, (loss, w, replay) in enumerate(zip(strategy.noted, share, draws, strict=True)):
        (new, labels), again, (old, old_labels) = criterion.asked[3 * step : 3 * step + 3]
        assert torch.equal(new, again[0])
        assert torch.equal(old_labels, replay.labels)
        expected = w * F.cross_entropy(new, labels, criterion.weight, label_smoothing=0.1)
        rest = F.cross_entropy(old, old_labels, criterion.weight, label_smoothing=0.1)
        torch.testing.assert_close(loss.squeeze(), expected + (1 - w) * rest)
    assert 0 < share[0] < 1


def _noting(plugin, share):
    original = plugin.before_backward

    def before_backward(strategy, *args, **kwargs):
        share.append(plugin.method._new_weight)
        original(strategy, *args, **kwargs)

    return before_backward


def test_class_weights_reach_sleep_with_hard_labels(two):
    """A weight of zero for a class: the long-term learner does not learn it."""
    criterion = nn.CrossEntropyLoss(torch.tensor([0.0] * 2 + [1.0] * 8))
    settings = {**DUAL, "learner_steps": 60, **HARD}
    plugin = DGDMNPlugin(**settings, stm_size=1, seed=0)
    classes = sorted(two.train_stream[0].classes_in_this_experience)
    model = trained(two.train_stream[:1], plugin, criterion)
    with torch.no_grad():
        answers = model(plugin.method.sample(200).images).argmax(dim=1)
    assert set(answers.tolist()) <= set(classes) - {0, 1}


class Doubled(Naive):
    """Overrides the criterion, as users do."""

    def criterion(self):
        return 8 * super().criterion()


class Reading(Naive):
    """Its criterion reads the images."""

    def criterion(self):
        return super().criterion() + 0 * self.mb_x.sum()


def test_a_strategy_s_own_criterion_is_the_one(two):
    plain = weights(trained(two.train_stream, CASES["latent"](), nn.CrossEntropyLoss()))
    criterion = nn.CrossEntropyLoss()
    found = trained(two.train_stream, CASES["latent"](), criterion, 8, template=Doubled)
    torch.testing.assert_close(weights(found), plain, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["dgr", "latent", "dgdmn-hard", "altm"])
@pytest.mark.parametrize(
    ("criterion", "template", "message"),
    [
        (nn.CrossEntropyLoss(reduction="none"), Naive, "not a scalar"),
        (lambda o, t: F.cross_entropy(o, t) * torch.rand(()), Naive, "different gradients"),
        (nn.CrossEntropyLoss(), Reading, "function of only logits .n, K. and labels .n,."),
    ],
    ids=["none", "random", "reading"],
)
def test_refused_before_anything_is_trained(two, name, criterion, template, message):
    torch.manual_seed(0)
    model, plugin = mlp(), CASES[name]()
    strategy = naive(model, plugin, template=template)
    strategy._criterion = criterion
    phases = []
    plugin.run_phase = lambda phase: phases.append(phase) or 0.0
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ConfigError, match=message):
        strategy.train(two.train_stream[0])
    after = model.state_dict()
    assert not phases
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_masked_criterion(two):
    """A plugin of Avalanche's: over the classes seen it judges replay, over new ones it cannot."""

    def masked(mask, **labels):
        torch.manual_seed(0)
        plugin = DGRPlugin(**SMALL, **labels, seed=0)
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        criterion = MaskedCrossEntropy(mask=mask)
        strategy = Naive(
            model=model, optimizer=optimizer, criterion=criterion, plugins=[plugin], evaluator=None
        )
        strategy.train_mb_size = N
        return strategy, plugin

    first, second = two.train_stream
    strategy, plugin = masked("seen", **HARD)
    strategy.train(first)
    strategy.train(second)
    assert plugin.method.criterion.scale[:3] == (1.0, False, frozenset(range(10)))
    strategy, _ = masked("new", **HARD)
    strategy.train(first)
    with pytest.raises(ConfigError, match="ignores the classes"):
        strategy.train(second)
    strategy, _ = masked("new")
    strategy.train(first)
    strategy.train(second)


def test_it_comes_back_with_a_checkpoint_and_stays_out_of_a_method_s_own_pickle(two):
    plugin = CASES["dgdmn-hard"]()
    criterion = nn.CrossEntropyLoss(torch.tensor([0.0] * 2 + [1.0] * 8), reduction="sum")
    strategy = strategy_of(plugin, criterion)
    strategy.train(two.train_stream[0])
    file = io.BytesIO()
    save_checkpoint(strategy, file)
    file.seek(0)
    fresh, _ = maybe_load_checkpoint(strategy_of(CASES["dgdmn-hard"](), criterion), file)
    loaded = next(p for p in fresh.plugins if isinstance(p, DGDMNPlugin)).method
    logits, labels = torch.randn(8, 10), torch.tensor([0, 1, 2, 3, 4, 5, 6, 7])
    expected = plugin.method.criterion.mean(logits, labels)
    assert torch.equal(loaded.criterion.mean(logits, labels), expected)
    strategy._criterion = lambda o, t: F.cross_entropy(o, t)
    alone = pickle.loads(pickle.dumps(plugin.method))
    assert alone.criterion.scale == plugin.method.criterion.scale
