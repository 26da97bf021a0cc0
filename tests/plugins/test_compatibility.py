"""Our plugins beside several of Avalanche's own at once, and under its metrics."""

from __future__ import annotations

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

from avalanche_dgm import memory_metrics

from .conftest import mlp, naive


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
