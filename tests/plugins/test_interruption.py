"""Ctrl-C in the strategy's own epochs, then an evaluation, a checkpoint, the next experience."""

from __future__ import annotations

import copy

import pytest
import torch
from avalanche.benchmarks import split_online_stream
from avalanche.core import SupervisedPlugin

from avalanche_dgm import ALTMPlugin, DGDMNPlugin, maybe_load_checkpoint, save_checkpoint

from .conftest import DUAL, PLUGINS, mlp, naive

KINDS = {
    **{name: PLUGINS[name] for name in ("dgr", "latent", "dgdmn", "dynamic-memory")},
    "pseudo": PLUGINS["pseudo-rehearsal"],
    "altm": lambda: ALTMPlugin(seed=0),
    "altm-latents": lambda: ALTMPlugin(seed=0, replay="latent-replay", source={"layer": "2"}),
}


class CtrlC(SupervisedPlugin):
    """Interrupts a training in one of its iterations, once."""

    def __init__(self):
        super().__init__()
        self.left = None

    def before_backward(self, strategy, **kwargs):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = None
                raise KeyboardInterrupt


def started(make, benchmark, n=2):
    """A strategy that has learned two experiences; without momentum, which the net keeps."""
    torch.manual_seed(0)
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    strategy = naive(net, make(), CtrlC(), epochs=2, optimizer=optimizer)
    for experience in benchmark.train_stream[:n]:
        strategy.train(experience, shuffle=False)
    return strategy


def interrupted(strategy, experience):
    """Interrupts it in the second of two epochs."""
    batches = -(-len(experience.dataset) // 64)
    strategy.plugins[1].left = batches + batches // 2
    with pytest.raises(KeyboardInterrupt):
        strategy.train(experience, shuffle=False)
    return strategy


def state(strategy):
    """Weights of the net and of all that the method remembers."""
    plugin = strategy.plugins[0]
    tensors = {f"net {k}": v for k, v in plugin.learner_of(strategy).state_dict().items()}
    method = plugin.method.state_dict().items()
    return {**tensors, **{k: v for k, v in method if torch.is_tensor(v)}}


def same(one, two):
    one, two = state(one), state(two)
    return one.keys() == two.keys() and all(torch.equal(v, two[k]) for k, v in one.items())


@pytest.mark.parametrize("evaluated", [True, False])
@pytest.mark.parametrize("name", sorted(KINDS))
def test_going_on_is_as_if_the_experience_had_not_been(benchmark, name, evaluated):
    strategy = started(KINDS[name], benchmark)
    skipped = copy.deepcopy(strategy)
    skipped.train(benchmark.train_stream[3], shuffle=False)
    interrupted(strategy, benchmark.train_stream[2])
    if evaluated:
        strategy.eval(benchmark.test_stream[:2])
        assert strategy.plugins[0].method.experiences == 2
    if name == "dgdmn":
        strategy.train(benchmark.train_stream[3], shuffle=False)
    else:
        with pytest.warns(UserWarning, match="was interrupted"):
            strategy.train(benchmark.train_stream[3], shuffle=False)
    assert same(strategy, skipped)


def test_dual_memory_answers_without_what_was_interrupted(benchmark):
    """Through an evaluation, through the model, and after a sleep."""
    strategy = started(KINDS["dgdmn"], benchmark, n=3)
    plugin, images = strategy.plugins[0], torch.rand(20, 1, 8, 8)
    strategy.model.eval()
    before = strategy.model(images)
    for ask in (lambda: strategy.eval(benchmark.test_stream[:1]), lambda: None):
        interrupted(strategy, benchmark.train_stream[3])
        ask()
        strategy.model.eval()
        assert torch.equal(strategy.model(images), before)
    interrupted(strategy, benchmark.train_stream[3])
    plugin.consolidate()
    assert len(plugin.method.dual.ltm.tasks) == 3


def test_a_checkpoint_after_an_interruption(benchmark, tmp_path):
    strategy = started(KINDS["dgdmn"], benchmark)
    skipped = copy.deepcopy(strategy)
    skipped.train(benchmark.train_stream[3], shuffle=False)
    interrupted(strategy, benchmark.train_stream[2])
    save_checkpoint(strategy, tmp_path / "strategy.pt")
    fresh, _ = maybe_load_checkpoint(
        started(KINDS["dgdmn"], benchmark, n=0), tmp_path / "strategy.pt"
    )
    fresh.train(benchmark.train_stream[3], shuffle=False)
    assert same(fresh, skipped)


def test_an_evaluation_between_the_parts_of_a_task_interrupts_nothing(benchmark):
    parts = list(split_online_stream(benchmark.train_stream[:1], 40, access_task_boundaries=True))
    plugin = DGDMNPlugin(**DUAL, seed=0)
    strategy = naive(mlp(), plugin)
    for part in parts:
        strategy.train(part)
        strategy.eval(benchmark.test_stream[:1])
    assert plugin.method.experiences == 1
    assert len(plugin.method.dual.sttms()) == 1


def test_an_error_in_a_phase_leaves_everything_as_it_was(benchmark):
    strategy = started(KINDS["dgr"], benchmark)
    before = {k: v.clone() for k, v in state(strategy).items()}
    plugin = strategy.plugins[0]
    plugin.run_phase = None
    with pytest.raises(TypeError):
        strategy.train(benchmark.train_stream[2])
    del plugin.run_phase
    after = state(strategy)
    assert all(torch.equal(v, after[k]) for k, v in before.items())
