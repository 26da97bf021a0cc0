"""What a plugin does to a strategy, and what it leaves alone."""

from __future__ import annotations

import copy
import inspect
import warnings

import pytest
import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.supervised import EWC, Naive
from torch import nn

from avalanche_dgm import (
    DGDMN,
    DGR,
    DGDMNPlugin,
    DGRPlugin,
    LatentReplay,
    PseudoRehearsal,
    sklearn_digits,
)
from avalanche_dgm.errors import (
    ConfigError,
    DataError,
    DivergenceError,
    LabelError,
    RangeError,
    ShapeError,
    UnknownTaskError,
    UnsupportedModelError,
)
from avalanche_dgm.methods.adversarial import GANMethod
from avalanche_dgm.optimizers import OptimizerSpec
from avalanche_dgm.plugins.wrapped import WrappedModel
from avalanche_dgm.streams.tensors import LabelledImages, Task, build_benchmark

from .conftest import DUAL, PLUGINS, SMALL, mlp, naive, weights

FIRST_TWO = slice(0, 2)


class Spy(SupervisedPlugin):
    """Notes what other plugins would see of each iteration."""

    def __init__(self):
        super().__init__()
        self.sizes, self.losses, self.types = [], [], set()

    def before_backward(self, strategy, **kwargs):
        self.sizes.append((len(strategy.mb_x), len(strategy.mb_y), len(strategy.mb_output)))
        self.types.add((strategy.mb_y.dtype, strategy.mb_task_id.dtype))
        self.losses.append(strategy.loss.detach().clone())


def test_other_plugins_see_the_new_samples_only(make_plugin, benchmark):
    spy = Spy()
    strategy = naive(mlp(), make_plugin(), spy)
    for experience in benchmark.train_stream[FIRST_TWO]:
        strategy.train(experience)
    assert all(size[0] == size[1] == size[2] <= 64 for size in spy.sizes)
    assert spy.types <= {(torch.int64, torch.int64)}


def test_loss_is_the_weighted_mean_of_new_and_replayed(benchmark):
    """Against the sum written out: w * CE(new) + (1 - w) * T^2 * CE(soft targets)."""
    plugin = DGRPlugin(**SMALL, seed=0)
    seen = []

    class Before(SupervisedPlugin):
        def after_forward(self, strategy, **kwargs):
            if len(strategy.clock.__dict__) and plugin.method.experiences == 1:
                seen.append((strategy.mb_output.detach().clone(), strategy.mb_y.clone()))

        def before_forward(self, strategy, **kwargs):
            self.batch = [t.clone() for t in strategy.mbatch]

    before, spy = Before(), Spy()
    # One plugin looks before ours, one after.
    strategy = naive(mlp(), before, plugin, spy)
    strategy.train(benchmark.train_stream[0])
    spy.losses.clear()
    replays = []
    draw = plugin.method.replay
    plugin.method.replay = lambda n: replays.append(draw(n)) or replays[-1]
    strategy.train(benchmark.train_stream[1])
    logits, labels = seen[0]
    replay = replays[0]
    n_new = len(logits) - len(replay)
    new = nn.functional.cross_entropy(logits[:n_new], labels[:n_new])
    log_p = (logits[n_new:] / 2.0).log_softmax(dim=1)
    old = -(replay.targets * log_p).sum(dim=1).mean() * 4.0
    assert torch.allclose(spy.losses[0], 0.5 * new + 0.5 * old, atol=1e-5)
    assert torch.equal(replay.targets[:, 2:].sum(dim=1), torch.zeros(len(replay)))


def test_the_user_gets_the_same_model_back(benchmark):
    net = mlp()
    plugin = DGDMNPlugin(**DUAL)
    strategy = naive(net, plugin)
    before = weights(net).clone()
    strategy.train(benchmark.train_stream[0])
    assert isinstance(strategy.model, WrappedModel)
    assert torch.equal(weights(net), before), "the long-term learner learns in sleep only"
    strategy.train(benchmark.train_stream[1])
    assert plugin.stats.sleeps == 1
    assert not torch.equal(weights(net), before)
    strategy.train(benchmark.train_stream[2])
    assert plugin.stats.stm_occupancy == 1
    assert plugin.finish(strategy) is net
    assert strategy.model is net
    assert plugin.stats.stm_occupancy == 0
    strategy.eval(benchmark.test_stream)


def test_only_learners_reach_the_optimiser(benchmark):
    plugin = DGDMNPlugin(**DUAL)
    net = mlp()
    strategy = naive(net, plugin)
    strategy.train(benchmark.train_stream[0])
    optimised = {id(p) for group in strategy.optimizer.param_groups for p in group["params"]}
    dual = plugin.method.dual
    assert not optimised & {id(p) for p in dual.ltm.generator.parameters()}
    assert {id(p) for p in dual.sttms()[0].task_learner.parameters()} <= optimised


def test_same_seed_same_weights(make_plugin, benchmark):
    def run():
        torch.manual_seed(3)
        strategy = naive(mlp(), make_plugin(seed=None), epochs=2)
        for experience in benchmark.train_stream[:3]:
            strategy.train(experience)
        return weights(strategy.model), strategy.eval(benchmark.test_stream)

    first, second = run(), run()
    assert torch.equal(first[0], second[0])
    assert first[1] == second[1]


def test_replay_is_balanced_and_of_learned_classes(benchmark):
    plugin = DGRPlugin(**SMALL, seed=0)
    strategy = naive(mlp(), plugin)
    for experience in benchmark.train_stream[:3]:
        strategy.train(experience)
    histogram = plugin.stats.histogram
    known = set(range(4))
    assert set(histogram) == known
    assert max(histogram.values()) - min(histogram.values()) < 0.05 * plugin.stats.replayed
    assert sum(histogram.values()) == plugin.stats.replayed


def test_same_experience_twice(make_plugin, benchmark):
    strategy = naive(mlp(), make_plugin())
    for experience in benchmark.train_stream[FIRST_TWO]:
        strategy.train(experience)
        if isinstance(strategy.plugins[0].method, GANMethod):
            # What makes the images of a class is frozen.
            with pytest.raises(LabelError, match="learned before"):
                strategy.train(experience)
            continue
        strategy.train(experience)
    result = strategy.eval(benchmark.test_stream[:2])
    assert len(result) > 0


def test_repeated_task_uses_its_own_memory(benchmark):
    plugin = DGDMNPlugin(**DUAL, stm_size=3)
    strategy = naive(mlp(), plugin)
    strategy.train(benchmark.train_stream[0])
    memory = plugin.method.dual.sttms()[0]
    strategy.train(benchmark.train_stream[0])
    assert plugin.method.dual.sttms() == [memory]
    assert memory.tasks.total() == 2
    assert plugin.stats.replayed > 0, "its own samples help"


def test_a_list_of_experiences(make_plugin, benchmark):
    strategy = naive(mlp(), make_plugin())
    strategy.train(benchmark.train_stream[:3])
    assert strategy.plugins[0].method.experiences == 3


@pytest.mark.parametrize("kind", [DGR, DGDMN, PseudoRehearsal])
def test_ready_strategies(kind, benchmark):
    net = mlp()
    strategy = kind(
        model=net,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.1),
        train_mb_size=64,
        evaluator=None,
        seed=1,
        **({} if kind is PseudoRehearsal else SMALL),
    )
    strategy.train(benchmark.train_stream[0])
    assert strategy.replay_plugin in strategy.plugins
    assert strategy.replay_plugin.method.experiences == 1


@pytest.mark.parametrize("kind", [DGR, DGDMN, PseudoRehearsal, LatentReplay])
def test_ready_strategies_take_arguments_by_position_as_avalanche_s_do(kind):
    net, criterion = mlp(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    more = {"layer": "2"} if kind is LatentReplay else {}
    with pytest.warns(UserWarning, match="named"):
        strategy = kind(net, optimizer, criterion, 7, 3, evaluator=None, seed=1, **more)
    theirs = EWC(net, optimizer, criterion, 1.0, evaluator=None)
    for name in ("model", "optimizer", "_criterion"):
        assert getattr(strategy, name) is getattr(theirs, name)
    assert (strategy.train_mb_size, strategy.train_epochs) == (7, 3)
    assert "replay_plugin" not in inspect.signature(kind).parameters
    with pytest.raises(TypeError, match="kapa"):
        kind(net, optimizer, kapa=1)


def test_oracle_routing_asks_for_the_task(benchmark):
    plugin = DGDMNPlugin(**DUAL, stm_size=4, routing="oracle")
    strategy = naive(mlp(), plugin, epochs=8)
    for experience in benchmark.train_stream[:3]:
        strategy.train(experience)
    result = strategy.eval(benchmark.test_stream[:3])
    scores = [v for k, v in result.items() if "Top1_Acc_Exp" in k]
    # Each short-term learner has to tell two digits apart only.
    assert min(scores) > 0.7


def test_unknown_task_is_an_error_if_asked_for(benchmark):
    plugin = DGDMNPlugin(**DUAL, routing="oracle", unknown_task="error")
    strategy = naive(mlp(), plugin)
    strategy.train(benchmark.train_stream[0])
    with pytest.raises(UnknownTaskError, match="never learned"):
        strategy.eval(benchmark.test_stream)


def test_unknown_task_warns_by_default(benchmark):
    strategy = naive(mlp(), DGDMNPlugin(**DUAL, routing="oracle"))
    strategy.train(benchmark.train_stream[0])
    with pytest.warns(UserWarning, match="never learned"):
        strategy.eval(benchmark.test_stream)


def test_sleep_routing_consolidates_before_evaluation(benchmark):
    plugin = DGDMNPlugin(**DUAL, stm_size=4, routing="sleep")
    strategy = naive(mlp(), plugin)
    strategy.train(benchmark.train_stream[0])
    assert plugin.stats.stm_occupancy == 1
    strategy.eval(benchmark.test_stream[:1])
    assert (plugin.stats.stm_occupancy, plugin.stats.sleeps) == (0, 1)


def test_domain_incremental_experiences_are_different_tasks():
    """Same classes and task label in every experience: told apart by the stream's names."""
    labels = torch.arange(40) % 4
    tasks = [
        Task(LabelledImages(torch.rand(40, 1, 8, 8) * 0.5 + shift, labels), 0, str(shift))
        for shift in (0.0, 0.3)
    ]
    stream = build_benchmark(tasks, tasks, n_classes=4)
    plugin = DGDMNPlugin(**DUAL, stm_size=3, value_range=(0.0, 1.0))
    strategy = naive(mlp(), plugin)
    for experience in stream.train_stream:
        strategy.train(experience)
    assert [m.key for m in plugin.method.dual.sttms()] == ["0.0", "0.3"]


@pytest.mark.parametrize("size", [64, 72])
def test_online_stream_is_one_task_an_experience(benchmark, size):
    """Also when the parts divide an experience without a remainder (4 * 72 = 288)."""
    from avalanche.benchmarks.scenarios.online import split_online_stream

    stream = split_online_stream(
        benchmark.train_stream[FIRST_TWO], experience_size=size, access_task_boundaries=True
    )
    plugin = DGRPlugin(**SMALL)
    strategy = naive(mlp(), plugin)
    for experience in stream:
        strategy.train(experience, eval_streams=[])
    assert plugin.method.experiences == 2
    assert len(plugin.method.ltm.tasks) == 2


def _experience(images=None, labels=None):
    """An experience of any images and labels."""
    x = torch.rand(30, 1, 8, 8) if images is None else images
    y = torch.arange(len(x)) % 2 if labels is None else labels
    task = [Task(LabelledImages(x, y), 0, "odd")]
    return build_benchmark(task, task, n_classes=int(y.max()) + 1).train_stream[0]


@pytest.mark.parametrize(
    ("images", "labels", "error", "text"),
    [
        (torch.full((30, 1, 8, 8), float("nan")), None, RangeError, "NaN"),
        (torch.rand(30, 1, 10, 10), None, ShapeError, "learned before|Resize"),
        (torch.rand(30, 1, 8, 8) * 255, None, RangeError, "value_range"),
        (None, torch.arange(30) % 30 + 5, LabelError, "outputs"),
        (torch.rand(30, 8, 8), None, ShapeError, "channels"),
        (torch.randint(255, (30, 1, 8, 8)), None, DataError, "floating point"),
    ],
    ids=["nan", "other-shape", "bytes-scale", "label", "no-channel", "integers"],
)
def test_bad_data_is_refused_and_nothing_is_lost(benchmark, images, labels, error, text):
    for plugin in (DGRPlugin(**SMALL, seed=0), DGDMNPlugin(**DUAL, seed=0)):
        net = mlp()
        strategy = naive(net, plugin)
        strategy.train(benchmark.train_stream[0])
        generator = plugin.method.ltm.generator if isinstance(plugin, DGRPlugin) else None
        before = weights(net).clone()
        kept = weights(generator).clone() if generator is not None else None
        with pytest.raises(error, match=text):
            strategy.train(_experience(images, labels))
        assert torch.equal(weights(net), before)
        if kept is not None:
            assert torch.equal(weights(generator), kept)
        strategy.train(benchmark.train_stream[1])
        assert plugin.method.sample(4).images.shape == (4, 1, 8, 8)


def test_models_that_answer_otherwise_are_refused(benchmark):
    class Tuple(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()

        def forward(self, x):
            return self.net(x), x

    for plugin in (DGRPlugin(**SMALL), DGDMNPlugin(**DUAL)):
        with pytest.raises(UnsupportedModelError, match="logits"):
            naive(Tuple(), plugin).train(benchmark.train_stream[0])


class Scaling(Naive):
    scale = 2.0

    def forward(self):
        return self.model(self.scale * self.mb_x)


def test_a_forward_that_returns_something_else_than_the_model_is_refused(make_plugin, benchmark):
    strategy = naive(mlp(), make_plugin(), template=Scaling)
    before = weights(strategy.model)
    with pytest.raises(ConfigError, match="Scaling.forward"):
        strategy.train(benchmark.train_stream[0])
    assert torch.equal(weights(strategy.model), before)
    strategy.scale = 1.0
    strategy.train(benchmark.train_stream[0])


def test_a_forward_is_compared_up_to_rounding(benchmark):
    """Kernels of a GPU may round differently in two calls; other kinds of outputs are refused."""
    strategy = naive(mlp(), DGRPlugin(**SMALL), template=Scaling)
    strategy.scale = 1 + 1e-6
    strategy.train(benchmark.train_stream[0])
    with pytest.raises(ConfigError, match="Pairing.forward"):
        naive(mlp(), DGRPlugin(**SMALL), template=Pairing).train(benchmark.train_stream[0])


class Pairing(Naive):
    def forward(self):
        return super().forward(), self.mb_x


class Normalising(Naive):
    def _unpack_minibatch(self):
        super()._unpack_minibatch()
        self.mbatch[0] = (self.mbatch[0] - 0.5) / 0.25


class Renumbering(Naive):
    """Numbers the classes of each experience from 0."""

    def _unpack_minibatch(self):
        super()._unpack_minibatch()
        self.mbatch[1] = self.mbatch[1] % 2


@pytest.mark.parametrize("name", ["dgr", "latent"])
def test_labels_that_the_memory_has_not_read_are_warned_of(name, benchmark):
    strategy = naive(mlp(), PLUGINS[name](), template=Renumbering)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*has not read")
        # Classes 0 and 1 keep their numbers.
        strategy.train(benchmark.train_stream[0])
    if name == "latent":
        strategy = naive(mlp(), PLUGINS[name](), template=Renumbering)
    with pytest.warns(UserWarning, match="the labels 0, 1, which the memory has not read"):
        strategy.train(benchmark.train_stream[1])


@pytest.mark.parametrize("name", ["dgr", "dgdmn", "latent"])
def test_batches_unlike_what_the_memory_has_read_are_warned_of(name, benchmark):
    strategy = naive(mlp(), PLUGINS[name](), template=Normalising)
    with pytest.warns(UserWarning, match="does not resemble the batches") as caught:
        strategy.train(benchmark.train_stream[0])
    assert sum("resemble" in str(w.message) for w in caught) == 1
    strategy = naive(mlp(), PLUGINS[name](), epochs=2)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*resemble")
        for experience in benchmark.train_stream[FIRST_TWO]:
            strategy.train(experience)


def test_divergence_keeps_the_last_good_generator(benchmark):
    plugin = DGRPlugin(**{**SMALL, "generator_steps": 60}, likelihood="gaussian")
    net = mlp()
    strategy = naive(net, plugin)
    strategy.train(benchmark.train_stream[0])
    good = copy.deepcopy(plugin.method.ltm.generator.network.state_dict())
    settings = plugin.method.ltm.generator.settings
    object.__setattr__(settings, "generator_optimizer", OptimizerSpec("sgd", 1e12))
    with pytest.raises(DivergenceError, match="learning rate"):
        strategy.train(benchmark.train_stream[1])
    now = plugin.method.ltm.generator.network.state_dict()
    assert all(torch.equal(good[k], now[k]) for k in good)
    object.__setattr__(settings, "generator_optimizer", OptimizerSpec("adam", 1e-3))
    strategy.train(benchmark.train_stream[1])
    assert plugin.method.experiences == 2


def test_unknown_hyper_parameters_list_the_known():
    with pytest.raises(ConfigError, match=r"stm_sise.*stm_size"):
        DGDMNPlugin(stm_sise=3)
    with pytest.raises(ConfigError, match="oracle"):
        DGRPlugin(oracle="none")


def test_images_of_any_range_and_shape():
    """Colour images, normalised, with convolutions; and flat vectors."""
    for shape in [(3, 16, 16), (2, 9, 7), (20,)]:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(40, *shape, generator=generator) * 3 + 1
        stream = [_experience(images, torch.arange(40) % 2 + 2 * i) for i in range(2)]
        n = images[0].numel()
        for plugin in (
            DGRPlugin(generator_steps=5),
            DGDMNPlugin(generator_steps=5, learner_steps=5),
        ):
            net = nn.Sequential(nn.Flatten(), nn.Linear(n, 10))
            strategy = naive(net, plugin)
            for experience in stream:
                strategy.train(experience)
            assert plugin.method.sample(6).images.shape == (6, *shape)


def test_default_plugin_needs_no_argument():
    stream = sklearn_digits(n_experiences=10, seed=0)
    strategy = naive(mlp(), DGDMNPlugin())
    strategy.train(stream.train_stream[0])
    assert strategy.eval(stream.test_stream[:1])


def test_tasks_are_named_by_their_classes(benchmark, task_benchmark):
    from types import SimpleNamespace

    from avalanche_dgm.plugins.experiences import by_classes

    assert [by_classes(e) for e in benchmark.train_stream[:2]] == ["0/1", "2/3"]
    assert by_classes(task_benchmark.train_stream[1]).startswith("1:")
    many = SimpleNamespace(task_labels=[0], classes_in_this_experience=[12, 3, 10, 11, 4, 7])
    assert by_classes(many) == "3/4/7/10-12"
