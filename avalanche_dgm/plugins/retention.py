"""Retention, the ratio of final to initial accuracy, as Avalanche metrics."""

from __future__ import annotations

from typing import Any

from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricResult, MetricValue
from avalanche.evaluation.metric_utils import get_metric_name, stream_type
from avalanche.evaluation.metrics import Accuracy

# A stream's name and the position of an experience in it: training images may be tested, too.
_Key = tuple[str, int]


class ExperienceRetention(PluginMetric[dict[int, float]]):
    """Accuracy on an experience now divided by that right after it was learned.

    Reported for all learned experiences but the last, as `avalanche_dgm.metrics.retention` defines
    it. Experiences that were not tested right after learning, or had accuracy 0 then, have none.
    An experience that is learned again is measured from then on.
    """

    def __init__(self) -> None:
        super().__init__()
        self._learned: dict[_Key, float] = {}
        self._left: dict[int, float] = {}
        self._newest: int | None = None
        self._accuracy = Accuracy()

    def result(self, **kwargs: Any) -> dict[int, float]:
        """The retention of each experience in the last evaluation, 0 or more."""
        return dict(self._left)

    def reset(self, **kwargs: Any) -> None:
        """Resets the metric, with the accuracies right after learning."""
        self._learned, self._left, self._newest = {}, {}, None
        self._accuracy.reset()

    def before_training_exp(self, strategy: Any) -> None:
        """Records the experience that is learned."""
        self._newest = int(strategy.experience.current_experience)

    def before_eval(self, strategy: Any) -> None:
        """Resets the values of the last evaluation."""
        self._left = {}

    def before_eval_exp(self, strategy: Any) -> None:
        """Resets the accuracy."""
        self._accuracy.reset()

    def after_eval_iteration(self, strategy: Any) -> None:
        """Adds a batch."""
        self._accuracy.update(strategy.mb_output, strategy.mb_y)

    def after_eval_exp(self, strategy: Any) -> MetricResult:
        """Reports an experience that is not the newest."""
        position = int(strategy.experience.current_experience)
        key, now = (stream_type(strategy.experience), position), float(self._accuracy.result())
        if position == self._newest:
            self._learned[key] = now
        elif self._learned.get(key, 0.0) > 0:
            self._left[position] = now / self._learned[key]
            return self._of_experience(strategy, self._left[position])
        return None

    def _of_experience(self, strategy: Any, value: float) -> MetricResult:
        name = get_metric_name(self, strategy, add_experience=True)
        return [MetricValue(self, name, value, strategy.clock.train_iterations)]

    def __str__(self) -> str:
        return "ExperienceRetention"


class StreamRetention(ExperienceRetention):
    """The mean of `ExperienceRetention` over an evaluation, reported at its end."""

    def _of_experience(self, strategy: Any, value: float) -> MetricResult:
        return None

    def after_eval(self, strategy: Any) -> MetricResult:
        """Reports the mean, nothing if there is no old experience."""
        if not self._left:
            return None
        name = get_metric_name(self, strategy, add_experience=False, add_task=False)
        value = sum(self._left.values()) / len(self._left)
        return [MetricValue(self, name, value, strategy.clock.train_iterations)]

    def __str__(self) -> str:
        return "StreamRetention"


def retention_metrics(
    *, experience: bool = True, stream: bool = True
) -> list[PluginMetric[dict[int, float]]]:
    """Returns metrics of retention for an ``EvaluationPlugin``.

    Their names are like those of Avalanche's forgetting metrics, such as
    ``ExperienceRetention/eval_phase/test_stream/Task000/Exp000`` and
    ``StreamRetention/eval_phase/test_stream``. Evaluate after each experience, to measure the
    accuracy right after learning.

    Args:
        experience: Report each learned experience but the last.
        stream: Report their mean.
    """
    found: list[PluginMetric[dict[int, float]]] = []
    if experience:
        found.append(ExperienceRetention())
    if stream:
        found.append(StreamRetention())
    return found
