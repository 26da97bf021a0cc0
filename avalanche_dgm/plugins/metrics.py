"""Base classes of the metrics for Avalanche, and metrics of memory and training time."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import Any

from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricResult, MetricValue

from avalanche_dgm.held import held_bytes
from avalanche_dgm.metrics.cost import (
    memory_parameters_of,
    seconds_by_kind,
    stored_samples_of,
)
from avalanche_dgm.plugins.base import MethodPlugin
from avalanche_dgm.plugins.learned import Learned
from avalanche_dgm.plugins.learning_time import LearningTime


def find_plugins(strategy: Any) -> list[MethodPlugin]:
    """The plugins of this package in a strategy."""
    return [plugin for plugin in strategy.plugins if isinstance(plugin, MethodPlugin)]


class ReportedValues(PluginMetric[dict[Any, Any]]):
    """Base of metrics with several values, each under its own name."""

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    @classmethod
    def of(cls, strategy: Any) -> dict[Any, Any]:
        """The latest values of the metric of this class in a strategy's evaluator."""
        return next(m for m in strategy.evaluator.metrics if isinstance(m, cls)).result()

    def result(self, **kwargs: Any) -> dict[Any, Any]:
        """The latest values, by name."""
        return dict(self._values)

    def reset(self, **kwargs: Any) -> None:
        self._values: dict[Any, Any] = {}

    def _report(self, strategy: Any, values: dict[str, float], where: str = "") -> MetricResult:
        self._values = values
        step = strategy.clock.train_iterations
        return [MetricValue(self, name + where, value, step) for name, value in values.items()]

    def __str__(self) -> str:
        return type(self).__name__


class LearningMetric(ReportedValues):
    """Base of metrics that depend on the experiences and classes ``learned`` so far.

    A subclass implements `after_experience`, or reports after evaluations.
    """

    def reset(self, **kwargs: Any) -> None:
        super().reset()
        self.learned = Learned()

    def before_training_exp(self, strategy: Any) -> MetricResult:
        """Starts an experience, or a part of one."""
        self.learned.begin(strategy.experience)
        return None

    def after_training_exp(self, strategy: Any) -> MetricResult:
        """Adds and reports an experience once all its parts were learned."""
        if not self.learned.end(strategy.experience):
            return None
        values = self.after_experience(strategy)
        return self._report(strategy, values) if values else None

    def after_experience(self, strategy: Any) -> dict[str, float]:
        """Returns the values to report after an experience, by name."""
        return {}


def memory_bytes(strategy: Any) -> int | None:
    """Bytes held by all plugins of a strategy, without its model; see `held_bytes`."""
    ours = find_plugins(strategy)
    without = [strategy.model, strategy.evaluator, strategy.clock, *ours]
    others = held_bytes(strategy, without=without)
    return None if others is None else others + sum(plugin.memory_bytes() for plugin in ours)


class MemoryMetrics(ReportedValues):
    """Memory size and replay of a strategy's plugins; see `memory_metrics`."""

    def __init__(self) -> None:
        super().__init__()
        self._peak = 0

    def before_training_exp(self, strategy: Any) -> MetricResult:
        """Starts an experience."""
        self._peak = 0
        return None

    def before_training_epoch(self, strategy: Any) -> MetricResult:
        """Updates the peak."""
        self._peak = max(self._peak, memory_bytes(strategy) or 0)
        return None

    def after_training_epoch(self, strategy: Any) -> MetricResult:
        """Updates the peak."""
        return self.before_training_epoch(strategy)

    def after_training_exp(self, strategy: Any) -> MetricResult:
        """Reports the bytes, and sums over the plugins of this package."""
        values: Counter[str] = Counter()
        for plugin in find_plugins(strategy):
            stats = plugin.stats
            values.update(
                {
                    "ReplaySamples": stats.replayed,
                    "STMOccupancy": stats.stm_occupancy,
                    "Sleeps": stats.sleeps,
                    "SleepSeconds": stats.sleep_seconds,
                    "MemoryParameters": memory_parameters_of(plugin),
                    "StoredSamples": stored_samples_of(plugin),
                }
            )
            values.update({f"ReplayHistogram/Label{k:03d}": n for k, n in stats.histogram.items()})
            self._peak = max(self._peak, stats.peak_bytes)
        held = memory_bytes(strategy)
        if held is not None:
            values["MemoryBytes"] = held
            values["PeakMemoryBytes"] = max(self._peak, held)
        return self._report(strategy, dict(values))


def memory_metrics() -> list[PluginMetric[Any]]:
    """Returns a metric of the memory for an ``EvaluationPlugin``.

    For any plugins, also Avalanche's own:

    - ``MemoryBytes``: weights, importances, copies of the model, statistics and stored samples,
      without the model; a stored image has its size in the dataset;
    - ``PeakMemoryBytes``: the maximum at the start and end of the experience and its epochs,
      including temporary copies during training.

    Both are left out if the size of stored images is not known. For this package's plugins:

    - ``ReplaySamples`` and ``ReplayHistogram/LabelNNN``: samples replayed in the experience;
    - ``STMOccupancy``: tasks in short-term memory, which await sleep;
    - ``Sleeps`` and ``SleepSeconds``: totals so far;
    - ``MemoryParameters``: parameters of the memory;
    - ``StoredSamples``: stored samples or latents.
    """
    return [MemoryMetrics()]


class Cost(ReportedValues):
    """Training seconds and samples per second; see `cost_metrics`."""

    def __init__(self) -> None:
        super().__init__()
        self._time = LearningTime()

    def before_training(self, strategy: Any) -> None:
        """Starts the clock."""
        self._time.restart()
        self._time.start()

    def before_eval(self, strategy: Any) -> None:
        """Pauses the clock."""
        self._time.pause()

    def after_eval(self, strategy: Any) -> None:
        """Resumes the clock."""
        self._time.resume()

    def after_training_iteration(self, strategy: Any) -> None:
        """Counts the samples of a batch, without replayed ones."""
        self._time.shown += len(strategy.mb_y)

    def after_training_exp(self, strategy: Any) -> MetricResult:
        """Reports the experience, or the part of one in an online stream."""
        values: defaultdict[str, float] = defaultdict(float)
        for plugin in find_plugins(strategy):
            # Reading the stats synchronises with the device, so that all work is timed.
            for kind, seconds in seconds_by_kind(plugin.stats.phase_seconds).items():
                values[f"PhaseSeconds/{kind}"] += seconds
        seconds = self._time.seconds()
        if not math.isnan(seconds):
            values["LearnSeconds"] = seconds
            if self._time.shown and seconds > 0:
                values["SamplesPerSecond"] = self._time.shown / seconds
        self._time.restart()
        return self._report(strategy, dict(values))


def cost_metrics() -> list[PluginMetric[dict[str, float]]]:
    """Returns a metric of training time for an ``EvaluationPlugin``.

    Reported after each training experience, or part of one in an online stream:

    - ``LearnSeconds``: training seconds, with all phases, without evaluations;
    - ``SamplesPerSecond``: new samples that the classifier was trained on, over all epochs, per
      second of ``LearnSeconds``; left out without samples;
    - ``PhaseSeconds/<phase>``: seconds of each phase of this package's methods, such as
      ``PhaseSeconds/generator``; names are cut at a colon: ``sleep: tasks 3, 4`` counts as
      ``sleep``.

    ``LearnSeconds`` of an experience that was resumed from a checkpoint is left out.
    """
    return [Cost()]
