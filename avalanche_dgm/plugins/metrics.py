"""The base of metrics for Avalanche; what a method's memory takes, and how long it learns."""

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


class ReportedValues(PluginMetric[dict[str, Any]]):
    """Base of the package's metrics: several values, each reported under a name of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def result(self, **kwargs: Any) -> dict[str, Any]:
        """The last values, by name."""
        return dict(self._values)

    def reset(self, **kwargs: Any) -> None:
        """Resets the metric."""
        self._values: dict[str, Any] = {}

    def _report(self, strategy: Any, values: dict[str, float], where: str = "") -> MetricResult:
        self._values = values
        step = strategy.clock.train_iterations
        return [MetricValue(self, name + where, value, step) for name, value in values.items()]

    def __str__(self) -> str:
        return type(self).__name__


class LearningMetric(ReportedValues):
    """Base of metrics that need to know what was learned so far.

    A subclass implements `after_experience`, or reports after evaluations.

    Attributes:
        learned: Experiences and classes learned so far.
    """

    def reset(self, **kwargs: Any) -> None:
        """Resets the metric and what was learned."""
        super().reset()
        self.learned = Learned()

    def before_training_exp(self, strategy: Any) -> MetricResult:
        """Notes an experience, or a part of one."""
        self.learned.begin(strategy.experience)
        return None

    def after_training_exp(self, strategy: Any) -> MetricResult:
        """Notes and reports an experience when all its parts were learned."""
        if not self.learned.end(strategy.experience):
            return None
        values = self.after_experience(strategy)
        return self._report(strategy, values) if values else None

    def after_experience(self, strategy: Any) -> dict[str, float]:
        """Returns what is reported after an experience, by name."""
        return {}


def memory_bytes(strategy: Any) -> int | None:
    """Bytes that a strategy's plugins, ours and others, hold beside its model; see `held_bytes`."""
    ours = find_plugins(strategy)
    without = [strategy.model, strategy.evaluator, strategy.clock, *ours]
    others = held_bytes(strategy, without=without)
    return None if others is None else others + sum(plugin.memory_bytes() for plugin in ours)


class MemoryMetrics(ReportedValues):
    """What a strategy's plugins hold and have replayed; see `memory_metrics`."""

    def __init__(self) -> None:
        super().__init__()
        self._peak = 0

    @classmethod
    def of(cls, strategy: Any) -> tuple[int | None, int | None]:
        """Bytes held, and the most of them, that a strategy's metric has reported last."""
        found = next(m for m in strategy.evaluator.metrics if isinstance(m, cls)).result()
        return found.get("MemoryBytes"), found.get("PeakMemoryBytes")

    def before_training_exp(self, strategy: Any) -> MetricResult:
        """Starts an experience."""
        self._peak = 0
        return None

    def before_training_epoch(self, strategy: Any) -> MetricResult:
        """Takes note of what is held while an experience is learned."""
        self._peak = max(self._peak, memory_bytes(strategy) or 0)
        return None

    def after_training_epoch(self, strategy: Any) -> MetricResult:
        """The same."""
        return self.before_training_epoch(strategy)

    def after_training_exp(self, strategy: Any) -> MetricResult:
        """Reports the bytes, and the sums over the plugins of this package."""
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

    With any plugins, Avalanche's own among them, it reports ``MemoryBytes`` (weights, importances,
    copies of the model, statistics and stored samples beside the model; an image as its data set
    stores it) and ``PeakMemoryBytes`` (the most at the beginning and end of the experience and of
    its epochs, with the copies that are kept while it is learned); neither where the size of stored
    images is not known. Of this package's plugins, also ``ReplaySamples`` (samples replayed in the
    experience), ``ReplayHistogram/LabelNNN``, ``STMOccupancy`` (tasks that wait for sleep),
    ``Sleeps`` and ``SleepSeconds`` (so far), ``MemoryParameters`` and ``StoredSamples`` (samples,
    or latents of samples, that are kept as they are).
    """
    return [MemoryMetrics()]


class Cost(ReportedValues):
    """Seconds of an experience, and samples a second; see `cost_metrics`."""

    def __init__(self) -> None:
        super().__init__()
        self._time = LearningTime()

    def before_training(self, strategy: Any) -> None:
        """Starts the clock."""
        self._time.restart()
        self._time.start()

    def before_eval(self, strategy: Any) -> None:
        """Pauses the clock: an evaluation during training does not count."""
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
            # Reading the stats waits for the device, so that all work is timed.
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

    - ``LearnSeconds``: seconds of learning it, with all phases, without evaluations;
    - ``SamplesPerSecond``: samples that the classifier was shown of it, each pass counted and
      replay not, by these seconds; nothing if it was shown none;
    - ``PhaseSeconds/<phase>``: seconds of each phase of this package's memories, such as
      ``PhaseSeconds/generator``; what follows a colon in a phase's name is left out, so that
      ``sleep: tasks 3, 4`` counts as ``sleep``.

    An experience that was interrupted and goes on from a checkpoint has no seconds in all.
    """
    return [Cost()]
