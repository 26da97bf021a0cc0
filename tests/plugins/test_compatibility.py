"""Our plugins beside Avalanche's own, with growing, multi-head and normalised models."""

from __future__ import annotations

import pytest
import torch
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.training.plugins import (
    EarlyStoppingPlugin,
    EvaluationPlugin,
    EWCPlugin,
    LRSchedulerPlugin,
    LwFPlugin,
    ReplayPlugin,
    SynapticIntelligencePlugin,
)
from avalanche.training.supervised import Cumulative, Naive
from nets import Growing, MultiHead

from avalanche_dgm import memory_metrics

from .conftest import Normed, mlp, naive, weights


def test_beside_other_plugins(make_plugin, benchmark):
    """All of them at once, each of which hooks into training in its own way."""
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    strategy = naive(
        net,
        make_plugin(),
        EWCPlugin(ewc_lambda=1.0),
        ReplayPlugin(mem_size=50),
        LwFPlugin(),
        SynapticIntelligencePlugin(si_lambda=0.1),
        LRSchedulerPlugin(torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)),
        EarlyStoppingPlugin(1, "test_stream"),
        optimizer=optimizer,
        epochs=2,
        eval_every=1,
    )
    for experience in benchmark.train_stream[:3]:
        strategy.train(experience, eval_streams=[benchmark.test_stream[:3]])
    assert strategy.plugins[0].method.experiences == 3
    results = strategy.eval(benchmark.test_stream[:3])
    assert sum("Top1_Acc_Exp" in name for name in results) == 3


def test_our_plugin_last_or_first_makes_no_difference(benchmark):
    """Penalties that others add stay whole, wherever they stand in the list."""
    from avalanche_dgm import DGRPlugin

    from .conftest import SMALL

    def run(ours_first):
        torch.manual_seed(0)
        net = mlp()
        pair = [DGRPlugin(**SMALL, seed=0), EWCPlugin(ewc_lambda=100.0)]
        strategy = naive(net, *(pair if ours_first else pair[::-1]))
        for experience in benchmark.train_stream[:2]:
            strategy.train(experience)
        return weights(net)

    assert torch.allclose(run(True), run(False), atol=1e-4)


@pytest.mark.parametrize("network", [Growing, Normed])
def test_models(make_plugin, benchmark, network):
    strategy = naive(network(), make_plugin())
    for experience in benchmark.train_stream[:3]:
        strategy.train(experience)
    result = strategy.eval(benchmark.test_stream[:3])
    assert sum("Top1_Acc_Exp" in name for name in result) == 3


def test_multi_head_beside_lwf(make_plugin, task_benchmark):
    strategy = naive(MultiHead(), make_plugin(), LwFPlugin())
    for experience in task_benchmark.train_stream[:3]:
        strategy.train(experience)
    strategy.eval(task_benchmark.test_stream[:3])


@pytest.mark.parametrize("template", [Naive, Cumulative])
def test_templates(make_plugin, benchmark, template):
    strategy = naive(mlp(), make_plugin(), template=template)
    for experience in benchmark.train_stream[:2]:
        strategy.train(experience)
    assert strategy.eval(benchmark.test_stream[:2])


def _state(method):
    flat = []

    def walk(value):
        if torch.is_tensor(value):
            flat.append(value.flatten().double())
        elif isinstance(value, dict):
            for part in value.values():
                walk(part)

    walk(dict(method.state_dict()))
    return torch.cat(flat)


def test_evaluation_leaves_the_memory_as_it_is(make_plugin, benchmark):
    """Weights, statistics and random state; an evaluation in the midst of training as well."""
    plugin = make_plugin()
    strategy = naive(mlp(), plugin, eval_every=1)
    for experience in benchmark.train_stream[:2]:
        strategy.train(experience, eval_streams=[benchmark.test_stream[:2]])
    if plugin.stats.stm_occupancy:
        plugin.consolidate()
    before = _state(plugin.method)
    strategy.eval(benchmark.test_stream[:2])
    assert torch.equal(before, _state(plugin.method))


def test_metrics_report_what_the_memory_did(make_plugin, benchmark):
    evaluator = EvaluationPlugin(
        accuracy_metrics(minibatch=True, epoch=True, stream=True),
        loss_metrics(epoch=True),
        *memory_metrics(),
        loggers=[],
    )
    plugin = make_plugin()
    strategy = naive(mlp(), plugin, evaluator=evaluator)
    for experience in benchmark.train_stream[:3]:
        result = strategy.train(experience)
    record = plugin.stats
    assert result["ReplaySamples"] == record.replayed
    assert result["Sleeps"] == record.sleeps
    assert result["SleepSeconds"] == record.sleep_seconds
    assert result["STMOccupancy"] == record.stm_occupancy
    assert result["MemoryBytes"] == plugin.memory_bytes() > 0
    labels = {k: v for k, v in result.items() if k.startswith("ReplayHistogram")}
    current = {f"ReplayHistogram/Label{k:03d}": v for k, v in record.histogram.items()}
    assert {k: labels[k] for k in current} == current
