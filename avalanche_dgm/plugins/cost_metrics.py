"""Metrics of training time for Avalanche."""

from __future__ import annotations

import math
from typing import Any

from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricResult

from avalanche_dgm.metrics.cost import phase_kind
from avalanche_dgm.plugins.learning_time import LearningTime
from avalanche_dgm.plugins.metrics import ReportedValues, find_plugins


class Cost(ReportedValues):
    """Seconds of an experience, in all and of each phase, and samples a second."""

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
        values: dict[str, float] = {}
        for plugin in find_plugins(strategy):
            # Reading the stats waits for the device, so that all work is timed.
            for name, seconds in plugin.stats.phase_seconds.items():
                key = f"PhaseSeconds/{phase_kind(name)}"
                values[key] = values.get(key, 0.0) + seconds
        seconds = self._time.seconds()
        if not math.isnan(seconds):
            values["LearnSeconds"] = seconds
            if self._time.shown and seconds > 0:
                values["SamplesPerSecond"] = self._time.shown / seconds
        self._time.restart()
        return self._report(strategy, values)


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
