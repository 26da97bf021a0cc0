"""How long learning takes, as Avalanche metrics."""

from __future__ import annotations

import time
from typing import Any

from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricResult, MetricValue

from avalanche_dgm.metrics.cost import family_of
from avalanche_dgm.plugins.metrics import find_plugins


class CostMetric(PluginMetric[dict[str, float]]):
    """Seconds of an experience, in all and of each phase, and samples a second."""

    def __init__(self) -> None:
        super().__init__()
        self._values: dict[str, float] = {}
        self._started: float | None = None
        self._paused: float | None = None
        self._shown = 0

    def result(self, **kwargs: Any) -> dict[str, float]:
        """The values reported last, by name."""
        return dict(self._values)

    def reset(self, **kwargs: Any) -> None:
        """Forgets them."""
        self._values = {}

    def before_training(self, strategy: Any) -> None:
        """Starts the watch."""
        self._started, self._shown = time.perf_counter(), 0

    def before_eval(self, strategy: Any) -> None:
        """Stops the watch: an evaluation in the midst of training is no learning."""
        self._paused = time.perf_counter()

    def after_eval(self, strategy: Any) -> None:
        """Goes on."""
        if self._started is not None and self._paused is not None:
            self._started += time.perf_counter() - self._paused
        self._paused = None

    def after_training_iteration(self, strategy: Any) -> None:
        """Counts the samples of a batch, replayed ones not among them."""
        self._shown += len(strategy.mb_y)

    def after_training_exp(self, strategy: Any) -> MetricResult:
        """Reports the experience, or the part of one in an online stream."""
        values: dict[str, float] = {}
        for plugin in find_plugins(strategy):
            # Reading the record waits for the device: what was begun is done when time is taken.
            for name, seconds in plugin.record.phase_seconds.items():
                key = f"PhaseSeconds/{family_of(name)}"
                values[key] = values.get(key, 0.0) + seconds
        now = time.perf_counter()
        if self._started is not None:
            seconds = now - self._started
            values["LearnSeconds"] = seconds
            if self._shown and seconds > 0:
                values["SamplesPerSecond"] = self._shown / seconds
        self._started, self._shown = time.perf_counter(), 0
        self._values = values
        step = strategy.clock.train_iterations
        return [MetricValue(self, name, value, step) for name, value in values.items()]

    def __getstate__(self) -> dict[str, Any]:
        # Another process, or another day, has another clock.
        return {**self.__dict__, "_started": None, "_paused": None, "_shown": 0}

    def __str__(self) -> str:
        return "Cost"


def cost_metrics() -> list[PluginMetric[dict[str, float]]]:
    """Returns a metric of the time that learning takes, for an ``EvaluationPlugin``.

    Reported after each training experience, or part of one in an online stream:

    - ``LearnSeconds``: seconds of learning it, with all phases, without evaluations;
    - ``SamplesPerSecond``: samples that the classifier was shown of it, each pass counted and
      replay not, by these seconds; nothing if it was shown none;
    - ``PhaseSeconds/<phase>``: seconds of each phase of this package's memories, such as
      ``PhaseSeconds/generator``; what follows a colon in a phase's name is left out, so that
      ``sleep: tasks 3, 4`` counts as ``sleep``.

    An experience that was interrupted and goes on from a checkpoint has no seconds in all.
    """
    return [CostMetric()]
