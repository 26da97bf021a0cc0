"""Avalanche's plugins and strategies beside ours, pair by pair: right, or refused by name."""

from __future__ import annotations

import copy
import importlib
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from avalanche import training
from avalanche.core import SupervisedPlugin
from avalanche.models import BaseModel, SCRModel, TrainEvalModel
from avalanche.models.ncm_classifier import NCMClassifier
from avalanche.models.packnet import PackNetModel, PackNetPlugin
from avalanche.models.pnn import PNN
from avalanche.training import plugins as p
from avalanche.training import supervised as s
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from avalanche.training.supervised.mer import MER
from scipy import optimize
from torch import nn

from avalanche_dgm import (
    ALTMPlugin,
    DGDMNPlugin,
    DGRPlugin,
    DynamicMemoryPlugin,
    LatentReplayPlugin,
    SLDAPlugin,
    sklearn_digits,
)
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.methods import DGR
from avalanche_dgm.methods import Naive as NoMemory
from avalanche_dgm.plugins.base import MethodPlugin
from avalanche_dgm.plugins.partners import KINDS, PARTNERS, table

from .conftest import MASKED

TINY = {"generator_steps": 2, "hidden": (8,), "latent": 2, "seed": 0}
OURS = {
    "batch": lambda: DGRPlugin(**TINY),
    "latents": lambda: LatentReplayPlugin(layer="body.2", seed=0),
    "own": lambda: DGDMNPlugin(**TINY, learner_steps=2),
    "closed": lambda: SLDAPlugin(seed=0),
}
MORE = {
    "batch": lambda: ALTMPlugin(seed=0),
    "own": lambda: DynamicMemoryPlugin(**MASKED, classifier="discriminator"),
}


@pytest.fixture(scope="module")
def tiny():
    return sklearn_digits(n_experiences=5, n_train_per_class=12, seed=0)


class Net(BaseModel, nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU())
        self.classifier = nn.Linear(24, 10)

    def get_features(self, x):
        return self.body(x)

    def forward(self, x):
        return self.classifier(self.body(x))


def options(net, plugins):
    return {
        "model": net,
        "optimizer": torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9),
        "criterion": nn.CrossEntropyLoss(),
        "train_mb_size": 12,
        "train_epochs": 1,
        "eval_mb_size": 128,
        "plugins": list(plugins),
        "evaluator": EvaluationPlugin(),
    }


def beside(make):
    """A plain strategy with ours and a plugin that is made for the net and its optimiser."""

    def build(net, ours, first):
        given = options(net, [])
        other = make(net, given["optimizer"])
        given["plugins"] = [*ours, other] if first else [other, *ours]
        return Naive(**given)

    return build


def strategy(kind, model=lambda net: net, without=(), **more):
    """A strategy of Avalanche's own."""

    def build(net, ours, first):
        given = options(model(net), ours)
        more_given = {k: v(net) if callable(v) else v for k, v in more.items()}
        return kind(**{k: v for k, v in given.items() if k not in without}, **more_given)

    return build


CASES = {
    "ReplayPlugin": beside(lambda net, optimizer: p.ReplayPlugin(mem_size=30)),
    "LwFPlugin": beside(lambda net, optimizer: p.LwFPlugin()),
    "EWCPlugin": beside(lambda net, optimizer: p.EWCPlugin(10.0)),
    "EWCPlugin(mode='online')": beside(
        lambda net, optimizer: p.EWCPlugin(10.0, mode="online", decay_factor=0.5)
    ),
    "SynapticIntelligencePlugin": beside(
        lambda net, optimizer: p.SynapticIntelligencePlugin(si_lambda=10.0)
    ),
    "LRSchedulerPlugin": beside(
        lambda net, optimizer: p.LRSchedulerPlugin(torch.optim.lr_scheduler.StepLR(optimizer, 1))
    ),
    "EarlyStoppingPlugin": beside(lambda net, optimizer: p.EarlyStoppingPlugin(9, "test_stream")),
    "AGEMPlugin": beside(lambda net, optimizer: p.AGEMPlugin(12, 12)),
    "GEMPlugin": beside(lambda net, optimizer: p.GEMPlugin(12, 0.5)),
    "MASPlugin": beside(lambda net, optimizer: p.MASPlugin()),
    "RWalkPlugin": beside(lambda net, optimizer: p.RWalkPlugin(delta_t=2)),
    "LFLPlugin": beside(lambda net, optimizer: p.LFLPlugin(1.0)),
    "MIRPlugin": beside(lambda net, optimizer: p.MIRPlugin(6, mem_size=24, subsample=12)),
    "RARPlugin": beside(lambda net, optimizer: p.RARPlugin(6, mem_size=24)),
    "FromScratchTrainingPlugin": beside(lambda net, optimizer: p.FromScratchTrainingPlugin()),
    "FeatureDistillationPlugin": beside(lambda net, optimizer: p.FeatureDistillationPlugin()),
    "GSS_greedyPlugin": beside(
        lambda net, optimizer: p.GSS_greedyPlugin(mem_size=24, input_size=[1, 8, 8])
    ),
    "GDumbPlugin": beside(lambda net, optimizer: p.GDumbPlugin(30)),
    "CWRStarPlugin": beside(lambda net, optimizer: p.CWRStarPlugin(net)),
    "BiCPlugin": beside(lambda net, optimizer: p.BiCPlugin(mem_size=30, stage_2_epochs=1)),
    "CoPEPlugin": beside(lambda net, optimizer: p.CoPEPlugin(mem_size=30, p_size=10)),
    "GenerativeReplayPlugin": beside(lambda net, optimizer: p.GenerativeReplayPlugin()),
    "TrainGeneratorAfterExpPlugin": beside(lambda net, optimizer: p.TrainGeneratorAfterExpPlugin()),
    "PackNetPlugin": beside(lambda net, optimizer: PackNetPlugin(0, 0.5)),
    "Cumulative": strategy(s.Cumulative),
    "PNN": strategy(s.PNNStrategy, model=lambda net: PNN(1, 64, 8, adapter="mlp")),
    "PackNetModule": strategy(Naive, model=PackNetModel),
    "TrainEvalModel": strategy(
        Naive, model=lambda net: TrainEvalModel(net.body, net.classifier, NCMClassifier())
    ),
    "DER": strategy(s.DER, mem_size=30, batch_size_mem=6),
    "ER_ACE": strategy(s.ER_ACE, mem_size=30),
    "ER_AML": strategy(s.ER_AML, mem_size=30, feature_extractor=lambda net: net.body),
    "FeatureReplay": strategy(s.FeatureReplay, mem_size=30),
    "SCR": strategy(
        s.SCR,
        model=lambda net: SCRModel(net.body, projection=nn.Linear(24, 8)),
        without=("criterion",),
        mem_size=30,
    ),
    "ICaRL": strategy(
        s.ICaRL,
        without=("model", "criterion"),
        feature_extractor=lambda net: net.body,
        classifier=lambda net: net.classifier,
        memory_size=30,
        buffer_transform=None,
        fixed_memory=True,
    ),
    "StreamingLDA": strategy(
        s.StreamingLDA,
        without=("model", "optimizer"),
        slda_model=lambda net: net.body,
        input_size=24,
        num_classes=10,
    ),
    "SupervisedMetaLearningTemplate": strategy(MER, mem_size=30),
    "JointTraining": strategy(s.JointTraining),
    "AETraining": strategy(s.AETraining, without=("criterion",), device="cpu"),
    "VAETraining": strategy(s.VAETraining, without=("criterion",), device="cpu"),
}
#: They need packages or weights that are not here: their names are checked only.
NOT_BUILT = {"FeatureExtractorModel", "AR1", "LearningToPrompt", "ExpertGateStrategy"}


def trained(tiny, title, ours, first, n=3):
    """Trains on a few experiences, in their order, and returns the net and the strategy."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    net = Net()
    strategy = CASES[title](net, ours, first)
    for experience in tiny.train_stream[:n]:
        strategy.train(experience, eval_streams=[tiny.test_stream[:1]], shuffle=False)
    return net, strategy


@pytest.fixture(autouse=True)
def quadratic_programme(monkeypatch):
    """GEM's, for machines without the package that Avalanche solves it with."""

    def solve(plugin, gradient):
        memories, g = plugin.G.double().numpy(), gradient.double().numpy()
        quadratic = memories @ memories.T + 1e-3 * np.eye(len(memories))
        least = np.full(len(memories), plugin.memory_strength)
        root = np.linalg.cholesky(quadratic)
        wanted = -np.linalg.solve(root, memories @ g + quadratic @ least)
        v = least + optimize.nnls(root.T, wanted)[0]
        return torch.from_numpy(v @ memories + g).float()

    monkeypatch.setattr(p.GEMPlugin, "solve_quadprog", solve)


def flat(net):
    return torch.cat([v.flatten() for v in net.state_dict().values()])


PAIRS = [
    pytest.param(partner, kind, id=f"{partner.title}-{kind}")
    for partner in PARTNERS
    if partner.title not in NOT_BUILT
    for kind in KINDS
]
RIGHT = [pair for pair in PAIRS if getattr(*pair.values) is None]
REFUSED = [pair for pair in PAIRS if getattr(*pair.values) is not None]


def test_every_partner_is_tried():
    assert {partner.title for partner in PARTNERS} == {*CASES, *NOT_BUILT}


@pytest.mark.parametrize("partner", PARTNERS, ids=lambda partner: partner.title)
def test_the_names_are_of_classes_of_avalanche(partner):
    modules = [p, s, training, *map(importlib.import_module, (
        "avalanche.models", "avalanche.models.packnet", "avalanche.models.pnn",
        "avalanche.training.templates", "avalanche.models.dynamic_modules",
    ))]  # fmt: skip
    found = [getattr(m, partner.name) for m in modules if hasattr(m, partner.name)]
    assert found
    given = dict.fromkeys(getattr(found[0], "__abstractmethods__", ()))
    bare = object.__new__(type("Mine", (found[0],), {**given, "__init__": lambda self: None}))
    if partner.setting is not None:
        assert not partner.matches(bare)
        object.__setattr__(bare, *partner.setting)
    assert partner.matches(bare), "subclasses are meant, too"


@pytest.mark.parametrize(("partner", "kind"), REFUSED)
def test_what_does_not_work_is_refused_by_name_before_anything_changes(tiny, partner, kind):
    for make in (OURS[kind], *filter(None, [MORE.get(kind)])):
        plugin = make()
        torch.manual_seed(0)
        strategy = CASES[partner.title](Net(), [plugin], True)
        before = copy.deepcopy(strategy.model.state_dict())
        with pytest.raises(ConfigError, match=partner.name) as raised:
            strategy.train(tiny.train_stream[0])
        assert type(plugin).__name__ in str(raised.value)
        assert getattr(partner, kind) in str(raised.value)
        after = strategy.model.state_dict()
        assert all(torch.equal(value, after[name]) for name, value in before.items())
        assert plugin.method.learner is None


@pytest.mark.parametrize(("partner", "kind"), RIGHT)
def test_what_works_does_so_in_either_order(tiny, partner, kind):
    for first in (True, False):
        plugin = OURS[kind]()
        _, strategy = trained(tiny, partner.title, [plugin], first)
        assert plugin.method.experiences == 3
        assert strategy.eval(tiny.test_stream[:2]) is not None


@pytest.mark.slow
@pytest.mark.parametrize(("partner", "kind"), [pair for pair in RIGHT if pair.values[1] in MORE])
def test_what_works_does_so_with_others_of_the_kind(tiny, partner, kind):
    for first in (True, False):
        plugin = MORE[kind]()
        trained(tiny, partner.title, [plugin], first)
        assert plugin.method.experiences == 3


class Weightless(DGR):
    """Replays, and gives what it replays no weight."""

    def _begin(self, data):
        super()._begin(data)
        self._new_weight = 1.0


@pytest.mark.parametrize(
    "partner", [pair.values[0] for pair in RIGHT if pair.values[1] == "batch"],
    ids=lambda partner: partner.title,
)  # fmt: skip
@pytest.mark.parametrize("first", [True, False])
def test_replay_in_the_batch_leaves_a_partner_s_numbers_alone(tiny, partner, first):
    """Replay without weight changes nothing at all, wherever ours stands among the plugins."""
    plugin = DGRPlugin(**TINY)
    plugin.method = Weightless(**TINY)
    found, _ = trained(tiny, partner.title, [plugin], first)
    # It reads the data as ours does, which draws from the global generators.
    expected, _ = trained(tiny, partner.title, [MethodPlugin(NoMemory())], first)
    assert sum(plugin.stats.histogram.values()) > 0
    torch.testing.assert_close(flat(found), flat(expected))


@pytest.mark.parametrize("title", ["LwFPlugin", "EWCPlugin", "SynapticIntelligencePlugin"])
@pytest.mark.parametrize("first", [True, False])
def test_penalties_change_nothing_where_each_task_has_a_learner_of_its_own(tiny, title, first):
    """Not even the user's model, which they would hold at its weights from before a sleep."""
    plugin, alone = (DGDMNPlugin(**TINY, learner_steps=20) for _ in range(2))
    net, _ = trained(tiny, title, [plugin], first, n=5)
    torch.manual_seed(0)
    other = Net()
    strategy = Naive(**options(other, [alone]))
    for experience in tiny.train_stream:
        strategy.train(experience, eval_streams=[tiny.test_stream[:1]], shuffle=False)
    torch.testing.assert_close(flat(net), flat(other))
    found, expected = plugin.method.dual.sttms(), alone.method.dual.sttms()
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(flat(one.task_learner), flat(two.task_learner))


class Labels(SupervisedPlugin):
    """Notes what the model learns from."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def before_backward(self, strategy, **kwargs):
        self.seen += strategy.mb_y.tolist()


def test_a_task_s_own_learner_is_shown_its_own_task_only(tiny):
    """It has no outputs for others, whose samples would push all of its outputs down."""
    labels = Labels()
    trained(tiny, "ReplayPlugin", [DGDMNPlugin(**TINY, stm_size=3), labels], first=True, n=2)
    assert set(labels.seen[: len(tiny.train_stream[0].dataset)]) == {0, 1}
    assert set(labels.seen[len(tiny.train_stream[0].dataset) :]) == {2, 3}


def test_a_batch_of_other_tasks_is_no_step_of_a_task_s_own_learner(tiny):
    """Unshuffled, `Cumulative` has whole batches of older tasks before those of the experience."""
    both = []
    for title in ("Cumulative", "EWCPlugin"):
        plugin = DGDMNPlugin(**TINY, stm_size=3)
        trained(tiny, title, [plugin], first=True, n=2)
        both.append([flat(memory.task_learner) for memory in plugin.method.dual.sttms()])
    for one, two in zip(*both, strict=True):
        torch.testing.assert_close(one, two)


def test_the_documentation_prints_the_table():
    page = Path(__file__).parents[2] / "docs" / "partners.md"
    assert table() in page.read_text(encoding="utf-8")


# Plugins of the user's own


class Rehearsing(SupervisedPlugin):
    """Appends samples of the batch before to a batch, as Avalanche's strategies with buffers do."""

    kept = None

    def before_forward(self, strategy, **kwargs):
        batch = [column.clone() for column in strategy.mbatch]
        # Images of before do not fit the latents of a later experience.
        if self.kept is not None and self.kept[0].shape[1:] == batch[0].shape[1:]:
            pairs = zip(batch, self.kept, strict=True)
            strategy.mbatch = [torch.cat([column, old]) for column, old in pairs]
        self.kept = [column[:3] for column in batch]


@pytest.mark.parametrize("kind", ["batch", "latents"])
def test_samples_may_be_appended_before_replay_and_not_behind_it(tiny, kind):
    """Behind it, they would take the places of replayed samples and the targets of these."""
    for first in (True, False):
        plugin = OURS[kind]()
        plugins = [plugin, Rehearsing()] if first else [Rehearsing(), plugin]
        strategy = Naive(**options(Net(), plugins))
        strategy.train(tiny.train_stream[0])
        if not first:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", message=".*has not read")
                strategy.train(tiny.train_stream[1])
            assert plugin.method.experiences == 2
            continue
        with pytest.raises(ConfigError, match="Place it before"):
            strategy.train(tiny.train_stream[1])


class Softening(SupervisedPlugin):
    """Replaces classes by probabilities, as mixup does."""

    def before_training_iteration(self, strategy, **kwargs):
        images, labels, *more = strategy.mbatch
        strategy.mbatch = [images, nn.functional.one_hot(labels, 10).float(), *more]


@pytest.mark.parametrize("kind", ["batch", "latents"])
@pytest.mark.parametrize("first", [True, False])
def test_labels_that_are_probabilities_are_refused_before_the_first_step(tiny, kind, first):
    net = Net()
    before = copy.deepcopy(net.state_dict())
    plugins = [OURS[kind](), Softening()] if first else [Softening(), OURS[kind]()]
    with pytest.raises(ConfigError, match="one int64 class index"):
        Naive(**options(net, plugins)).train(tiny.train_stream[0])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


# Our plugins among themselves


def test_one_plugin_of_ours_in_a_strategy(tiny):
    plugin = DGRPlugin(**TINY)
    for pair in ([plugin, plugin], [DGRPlugin(**TINY), OURS["own"]()]):
        net = Net()
        strategy = Naive(**options(net, pair))
        with pytest.raises(ConfigError, match=r"DGRPlugin and .*Plugin.* once"):
            strategy.train(tiny.train_stream[0])
        assert pair[0].method.learner is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_plugin_belongs_to_a_model(tiny, kind):
    """Another strategy may go on with the same model; another model needs another plugin."""
    plugin, net = OURS[kind](), Net()
    Naive(**options(net, [plugin])).train(tiny.train_stream[0])
    with pytest.raises(ConfigError, match="trained with another model"):
        Naive(**options(Net(), [plugin])).train(tiny.train_stream[1])
    Naive(**options(net, [plugin])).train(tiny.train_stream[1])
    assert plugin.method.experiences == 2


def test_a_model_that_another_plugin_wraps(tiny):
    first, net = OURS["own"](), Net()
    strategy = Naive(**options(net, [first]))
    strategy.train(tiny.train_stream[0])
    with pytest.raises(TypeError, match=r"other plugin.*finish"):
        Naive(**options(strategy.model, [DGRPlugin(**TINY)])).train(tiny.train_stream[1])
    Naive(**options(first.finish(strategy), [DGRPlugin(**TINY)])).train(tiny.train_stream[1])
