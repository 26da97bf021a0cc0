"""The user's optimiser stays as it was made, and holds what belongs to the model only."""

import io

import pytest
import torch
from avalanche.training.plugins import LRSchedulerPlugin
from nets import Growing
from torch import nn

from avalanche_dgm import (
    ALTMPlugin,
    DGDMNPlugin,
    DGRPlugin,
    LatentReplayPlugin,
    save_checkpoint,
    sklearn_digits,
)
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.plugins.optimizers import replace_parameters

from .conftest import PLUGINS, mlp, naive, weights

TINY = {"generator_steps": 1, "hidden": (8,), "latent": 2, "batch_size": 8}
DUAL = {**TINY, "learner_steps": 1, "stm_learner_hidden": (8,)}


@pytest.fixture(scope="module")
def ten():
    """Ten experiences of a digit each."""
    return sklearn_digits(n_experiences=10, n_train_per_class=8, seed=0)


class Wrapped(torch.optim.Optimizer):
    """Has the groups of another optimiser, and that one's state beside its own (SAM, Lookahead)."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.05})
        self.base = torch.optim.SGD(self.param_groups, lr=0.05, momentum=0.9)
        self.param_groups = self.base.param_groups

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["seen"] = True
        return self.base.step()


def groups(model):
    parameters = list(model.parameters())
    decayed = {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.1}
    return torch.optim.AdamW([decayed, {"params": [p for p in parameters if p.ndim == 1]}], lr=0.01)


FORMS = {
    "groups": groups,
    "wrapped": lambda model: Wrapped(model.parameters()),
    "reversed": lambda model: torch.optim.SGD([*model.parameters()][::-1], lr=0.05, momentum=0.9),
    "foreach": lambda model: torch.optim.Adam(model.parameters(), foreach=True),
    "fused": lambda model: torch.optim.Adam(model.parameters(), fused=True),
}


def held(optimizer):
    """All that an optimiser, or the one that it wraps, refers to."""
    for one in (optimizer, getattr(optimizer, "base", optimizer)):
        for group in one.param_groups:
            yield from group["params"]
        yield from one.state


def strays(strategy):
    own = {id(p) for p in strategy.model.parameters()}
    return sum(id(p) not in own for p in held(strategy.optimizer))


def options(optimizer):
    return [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]


@pytest.mark.parametrize("form", FORMS)
def test_freed_learners_leave_the_optimiser(ten, form):
    model = mlp()
    optimizer = FORMS[form](model)
    plugin = DGDMNPlugin(**DUAL, stm_size=3, seed=0)
    strategy = naive(model, plugin, optimizer=optimizer)
    before, places = options(optimizer), [{*map(id, g["params"])} for g in optimizer.param_groups]
    for i, experience in enumerate(ten.train_stream[:7]):
        strategy.train(experience)
        assert strays(strategy) == 0
        trained = {id(p) for g in optimizer.param_groups for p in g["params"]}
        assert trained == {id(p) for p in strategy.model.parameters()}
        assert plugin.stats.stm_occupancy == (i + 1) % 3
    plugin.finish(strategy)
    assert strays(strategy) == 0
    assert options(optimizer) == before
    assert [{*map(id, g["params"])} for g in optimizer.param_groups] == places
    strategy.train(ten.train_stream[7])
    assert strays(strategy) == 0


def test_a_short_term_learner_is_trained_with_the_first_group_s_options(ten):
    """A rate of zero there: it keeps its weights."""
    model = mlp()
    first, *others = model.parameters()
    rates = [{"params": [first], "lr": 0.0}, {"params": others, "lr": 0.1}]
    plugin = DGDMNPlugin(**DUAL, stm_size=3, seed=0)
    strategy = naive(model, plugin, optimizer=torch.optim.SGD(rates))
    drawn = []
    before = plugin.before_training_epoch

    def noting(strategy, *args, **kwargs):
        drawn.append(weights(strategy.model.networks))
        before(strategy, *args, **kwargs)

    plugin.before_training_epoch = noting
    strategy.train(ten.train_stream[0])
    assert torch.equal(weights(strategy.model.networks), drawn[0])


@pytest.mark.parametrize("name", ["latent", "dgdmn"])
def test_a_head_that_grows_while_the_model_is_wrapped_or_unwrapped(ten, name):
    """Avalanche finds a parameter's successor by name, and the wrapper changes the names."""
    model = Growing()
    strategy = naive(model, epochs=1)
    strategy.train(ten.train_stream[0])
    plugin = PLUGINS[name]()
    strategy.plugins.insert(0, plugin)
    for experience in ten.train_stream[1:4]:
        strategy.train(experience)
        assert strays(strategy) == 0
    plugin.finish(strategy)
    strategy.plugins.remove(plugin)
    strategy.train(ten.train_stream[4])
    assert strays(strategy) == 0
    assert {*strategy.optimized_param_id} == {name for name, _ in model.named_parameters()}


def test_an_optimiser_that_computes_the_loss_itself_is_refused_by_name(ten):
    model = mlp()
    plugin = DGRPlugin(**TINY, seed=0)
    strategy = naive(model, plugin, optimizer=torch.optim.LBFGS(model.parameters()))
    with pytest.raises(ConfigError, match="LBFGS needs closure"):
        strategy.train(ten.train_stream[0])
    assert plugin.method.ltm.generator.network is None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    strategy = naive(model, plugin, LRSchedulerPlugin(scheduler), optimizer=optimizer)
    strategy.train(ten.train_stream[0])


def test_a_step_on_replay_alone_is_the_strategy_s_own(ten):
    """What a strategy does to gradients holds for it as well."""
    from avalanche.training.supervised import Naive

    class Frozen(Naive):
        def backward(self):
            super().backward()
            for parameter in self.model.parameters():
                parameter.grad = None

    plugin = LatentReplayPlugin(layer="2", schedule="alternating", seed=0)
    model = mlp()
    before = weights(model).clone()
    strategy = naive(model, plugin, template=Frozen)
    for experience in ten.train_stream[:3]:
        strategy.train(experience)
    assert plugin.stats.replayed
    assert torch.equal(weights(model), before)


def test_exchange():
    a, b, c, d, e = (nn.Parameter(torch.zeros(1)) for _ in range(5))
    optimizer = torch.optim.SGD([{"params": [c, a]}, {"params": [b], "lr": 7.0}], lr=1.0)
    for parameter in (a, b, c):
        optimizer.state[parameter]["momentum"] = parameter
    # "left" was never in it; "b" has a successor; "c" is gone; "new" is new.
    left = nn.Parameter(torch.zeros(1))
    before = {"a": a, "b": b, "c": c, "left": left}
    now = {"left": left, "new": d, "a": a, "b": e}
    replace_parameters(optimizer, before, now, lambda parameter: 1)
    assert [[id(p) for p in g["params"]] for g in optimizer.param_groups] == [
        [id(a)],
        [id(d), id(e)],
    ]
    assert [g["lr"] for g in optimizer.param_groups] == [1.0, 7.0]
    assert [id(p) for p in optimizer.state] == [id(a)]


LASTING = {
    "dgdmn": lambda: DGDMNPlugin(**DUAL, stm_size=2, seed=0),
    "dgdmn-no-stm": lambda: DGDMNPlugin(**DUAL, stm_size=2, short_term=False, seed=0),
    "dgr": lambda: DGRPlugin(**TINY, seed=0),
    "latent": lambda: LatentReplayPlugin(layer="2", seed=0),
    "latent-vae": lambda: LatentReplayPlugin(layer="2", memory="vae", **TINY, seed=0),
    "altm-stored": lambda: ALTMPlugin(replay="stored", seed=0),
}


def bytes_of(strategy, plugin):
    sizes = []
    for save in (
        lambda file: save_checkpoint(strategy, file),
        lambda file: torch.save(strategy.optimizer.state_dict(), file),
        lambda file: torch.save(plugin.method.state_dict(), file),
    ):
        file = io.BytesIO()
        save(file)
        sizes.append(file.tell())
    return [*sizes, plugin.memory_bytes(), plugin.method.stored_samples()]


LASTING_CASES = [
    pytest.param(name, order, marks=[] if name in ("dgdmn", "latent") else pytest.mark.slow)
    for name in LASTING
    for order in ("in-turn", "at-random")
]


@pytest.mark.parametrize(("name", "order"), LASTING_CASES)
def test_nothing_grows_once_all_classes_were_met(ten, name, order):
    plugin = LASTING[name]()
    strategy = naive(mlp(), plugin)
    turns = [*range(10), *range(10), *range(10)]
    if order == "at-random":
        more = torch.randint(10, (20,), generator=torch.Generator().manual_seed(0))
        turns = [*range(10), *more.tolist()]
    sizes = []
    for turn in turns:
        strategy.train(ten.train_stream[turn])
        if plugin.stats.stm_occupancy == 0:
            sizes.append(bytes_of(strategy, plugin))
    grown, settled = sizes[-1], next(size for size in sizes if size[-2:] == sizes[-1][-2:])
    # Counters take a digit or two more in a pickle.
    assert all(abs(a - b) <= 200 for a, b in zip(grown, settled, strict=True))
    assert sizes.index(settled) <= 9
