"""Metrics of a method's memory and replay for Avalanche."""

from __future__ import annotations

from collections import Counter
from typing import Any

from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricResult, MetricValue

from avalanche_dgm.metrics.cost import memory_parameters_of, stored_samples_of
from avalanche_dgm.plugins.base import MethodPlugin


def find_plugins(strategy: Any) -> list[MethodPlugin]:
    """The plugins of this package in a strategy."""
    return [plugin for plugin in strategy.plugins if isinstance(plugin, MethodPlugin)]


class ReportedValues(PluginMetric[dict[str, float]]):
    """Base of the package's metrics: several values, each reported under a name of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._values: dict[str, float] = {}

    def result(self, **kwargs: Any) -> dict[str, float]:
        """The last values, by name."""
        return dict(self._values)

    def reset(self, **kwargs: Any) -> None:
        """Resets the metric."""
        self._values = {}

    def _report(self, strategy: Any, values: dict[str, float], where: str = "") -> MetricResult:
        self._values = values
        step = strategy.clock.train_iterations
        return [MetricValue(self, name + where, value, step) for name, value in values.items()]

    def __str__(self) -> str:
        return type(self).__name__


class MemoryMetrics(ReportedValues):
    """What the strategy's plugins of this package hold and have replayed; see `memory_metrics`."""

    def after_training_exp(self, strategy: Any) -> MetricResult:
        """Reports the sum over the plugins; nothing without one."""
        plugins = find_plugins(strategy)
        if not plugins:
            return None
        values: Counter[str] = Counter()
        for plugin in plugins:
            stats = plugin.stats
            values.update(
                {
                    "ReplaySamples": stats.replayed,
                    "STMOccupancy": stats.stm_occupancy,
                    "Sleeps": stats.sleeps,
                    "SleepSeconds": stats.sleep_seconds,
                    "MemoryBytes": plugin.memory_bytes(),
                    "MemoryParameters": memory_parameters_of(plugin),
                    "StoredSamples": stored_samples_of(plugin),
                }
            )
            values.update({f"ReplayHistogram/Label{k:03d}": n for k, n in stats.histogram.items()})
        return self._report(strategy, dict(values))


def memory_metrics() -> list[PluginMetric[Any]]:
    """Returns a metric of the memory for an ``EvaluationPlugin``.

    It reports ``ReplaySamples`` (samples replayed in the experience), ``ReplayHistogram/LabelNNN``,
    ``STMOccupancy`` (tasks that wait for sleep), ``Sleeps`` and ``SleepSeconds`` (so far),
    ``MemoryBytes`` (weights, statistics and stored samples beside the model), ``MemoryParameters``
    and ``StoredSamples`` (samples, or latents of samples, that are kept as they are).
    """
    return [MemoryMetrics()]
