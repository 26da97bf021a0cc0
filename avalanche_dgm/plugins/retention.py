"""Which part of an old accuracy is left, as Avalanche metrics."""

from __future__ import annotations

from typing import Any

from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricResult, MetricValue
from avalanche.evaluation.metric_utils import get_metric_name, stream_type
from avalanche.evaluation.metrics import Accuracy

# A stream's name and the position of an experience in it: training images may be tested, too.
_Key = tuple[str, int]


class ExperienceRetention(PluginMetric[dict[int, float]]):
    """Accuracy on an experience now by that right after it was learned, one value each.

    Reported for the learned experiences but the newest, as `avalanche_dgm.metrics.retention`
    defines it: those that were not tested when they were the newest, or of which nothing was known
    then, have none. One that is learned again counts from then on.
    """

    def __init__(self) -> None:
        super().__init__()
        self._learned: dict[_Key, float] = {}
        self._left: dict[int, float] = {}
        self._newest: int | None = None
        self._accuracy = Accuracy()

    def result(self, **kwargs: Any) -> dict[int, float]:
        """What is left of each experience, by the last evaluation: from 0 on, 1 if all is."""
        return dict(self._left)

    def reset(self, **kwargs: Any) -> None:
        """Forgets everything, also what was known right after learning."""
        self._learned, self._left, self._newest = {}, {}, None
        self._accuracy.reset()

    def before_training_exp(self, strategy: Any) -> None:
        """Takes note of what is learned."""
        self._newest = int(strategy.experience.current_experience)

    def before_eval(self, strategy: Any) -> None:
        """Begins an evaluation."""
        self._left = {}

    def before_eval_exp(self, strategy: Any) -> None:
        """Begins to count."""
        self._accuracy.reset()

    def after_eval_iteration(self, strategy: Any) -> None:
        """Counts a batch."""
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
    """Returns metrics of how much of old accuracies is left, for an ``EvaluationPlugin``.

    Named like Avalanche's metrics of forgetting, such as
    ``ExperienceRetention/eval_phase/test_stream/Task000/Exp000`` and
    ``StreamRetention/eval_phase/test_stream``. Evaluate after each experience: the accuracy right
    after learning is the one measured then.

    Args:
        experience: Report each learned experience but the newest.
        stream: Report their mean.
    """
    found: list[PluginMetric[dict[int, float]]] = []
    if experience:
        found.append(ExperienceRetention())
    if stream:
        found.append(StreamRetention())
    return found
