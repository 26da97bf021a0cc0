"""Metrics of a method's memory and replay for Avalanche."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricResult, MetricValue

from avalanche_dgm.metrics.cost import memory_parameters_of, stored_samples_of
from avalanche_dgm.plugins.base import MethodPlugin


def find_plugins(strategy: Any) -> list[MethodPlugin]:
    """The plugins of this package in a strategy."""
    return [plugin for plugin in strategy.plugins if isinstance(plugin, MethodPlugin)]


class MemoryMetric(PluginMetric[float]):
    """A number about the memory, reported after each training experience.

    Summed over the strategy's plugins of this package; nothing without one.

    Args:
        name: The metric's name in logs.
        read: Function from a plugin to the value.
    """

    def __init__(self, name: str, read: Callable[[MethodPlugin], float]) -> None:
        super().__init__()
        self._name, self._read, self._value = name, read, 0.0

    def result(self, **kwargs: Any) -> float:
        """The last value."""
        return self._value

    def reset(self, **kwargs: Any) -> None:
        """Resets the metric."""
        self._value = 0.0

    def after_training_exp(self, strategy: Any) -> MetricResult:
        """Reads the number."""
        plugins = find_plugins(strategy)
        if not plugins:
            return None
        self._value = float(sum(self._read(plugin) for plugin in plugins))
        step = strategy.clock.train_iterations
        return [MetricValue(self, self._name, self._value, step)]

    def __str__(self) -> str:
        return self._name


class ReplayHistogram(PluginMetric[dict[int, int]]):
    """How often each label was replayed in the experience: one value a label."""

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[int, int] = {}

    def result(self, **kwargs: Any) -> dict[int, int]:
        """The last histogram, label to count."""
        return dict(self._counts)

    def reset(self, **kwargs: Any) -> None:
        """Resets the metric."""
        self._counts = {}

    def after_training_exp(self, strategy: Any) -> MetricResult:
        """Reads the histogram."""
        self._counts = {}
        for plugin in find_plugins(strategy):
            for label, count in plugin.stats.histogram.items():
                self._counts[label] = self._counts.get(label, 0) + count
        step = strategy.clock.train_iterations
        return [
            MetricValue(self, f"{self}/Label{label:03d}", count, step)
            for label, count in sorted(self._counts.items())
        ]

    def __str__(self) -> str:
        return "ReplayHistogram"


def _replayed(plugin: MethodPlugin) -> float:
    return plugin.stats.replayed


def _occupancy(plugin: MethodPlugin) -> float:
    return plugin.stats.stm_occupancy


def _sleeps(plugin: MethodPlugin) -> float:
    return plugin.stats.sleeps


def _sleep_seconds(plugin: MethodPlugin) -> float:
    return plugin.stats.sleep_seconds


def _bytes(plugin: MethodPlugin) -> float:
    return plugin.memory_bytes()


def memory_metrics() -> list[PluginMetric[Any]]:
    """Returns all metrics of this module, for an ``EvaluationPlugin``.

    ``ReplaySamples`` (samples replayed in the experience), ``ReplayHistogram/LabelNNN``,
    ``STMOccupancy`` (tasks that wait for sleep), ``Sleeps`` and ``SleepSeconds`` (so far),
    ``MemoryBytes`` (weights, statistics and stored samples beside the model), ``MemoryParameters``
    and ``StoredSamples`` (samples, or latents of samples, that are kept as they are).
    """
    return [
        MemoryMetric("ReplaySamples", _replayed),
        ReplayHistogram(),
        MemoryMetric("STMOccupancy", _occupancy),
        MemoryMetric("Sleeps", _sleeps),
        MemoryMetric("SleepSeconds", _sleep_seconds),
        MemoryMetric("MemoryBytes", _bytes),
        MemoryMetric("MemoryParameters", memory_parameters_of),
        MemoryMetric("StoredSamples", stored_samples_of),
    ]
