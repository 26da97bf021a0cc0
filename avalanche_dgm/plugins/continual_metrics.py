"""Continual-learning metrics of the accuracy matrix, for Avalanche."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from typing import Any

import torch
from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricResult, MetricValue
from torch import Tensor

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.metrics.functional import retention_by_experience
from avalanche_dgm.plugins.accuracies import AccuracyRecorder
from avalanche_dgm.plugins.learned import tested_of
from avalanche_dgm.plugins.samples import task_labels_of

#: Reported name of each metric. Avalanche's own metrics have other definitions.
REPORTED = {
    "average_accuracy": "StreamAverageAccuracy_M",
    "average_anytime_accuracy": "StreamAverageAnytimeAccuracy_M",
    "learning_accuracy": "StreamLearningAccuracy_M",
    "forgetting": "StreamForgetting_M",
    "backward_transfer": "StreamBackwardTransfer_M",
    "forward_transfer": "StreamForwardTransfer_M",
    "retention": "StreamRetention",
}


class ContinualMetrics(AccuracyRecorder):
    """Reports metrics of the accuracy matrix; see `continual_metrics`.

    Raises:
        ConfigError: ``baseline`` is not in [0, 1].
    """

    def __init__(
        self,
        names: Collection[str],
        *,
        baseline: float | None = 0.0,
        stream: str = "test",
        by_experience: bool = False,
    ) -> None:
        super().__init__(stream)
        if baseline is not None and not 0 <= baseline <= 1:
            raise ConfigError(f"baseline={baseline} must be an accuracy in [0, 1], or None.")
        self.names, self.baseline, self.by_experience = names, baseline, by_experience

    def matrix(self) -> Tensor:
        """The accuracies so far, a float tensor (T, S) with one row per learned experience."""
        return torch.from_numpy(self.accuracies().values)

    def after_eval(self, strategy: Any) -> MetricResult:
        """Fills a row of the matrix and reports; synchronises with the device."""
        if not self.end():
            return None
        matrix = self.accuracies()
        baseline = self.untrained() if self.baseline is None else self.baseline
        summaries = matrix.summaries(baseline=baseline)
        where = f"/eval_phase/{self.stream}_stream"
        values = {REPORTED[name]: v for name, v in summaries.items() if name in self.names}
        reported = self._report(strategy, values, where)
        if self.by_experience:
            step = strategy.clock.train_iterations
            tested = {int(e.current_experience): e for e in tested_of(strategy, self.stream)}
            for j, retention in retention_by_experience(matrix.values, order=matrix.order).items():
                if j in tested:
                    name = f"ExperienceRetention{where}{_suffix(tested[j])}"
                    reported.append(MetricValue(self, name, retention, step))
        return reported


def _suffix(experience: Any) -> str:
    """Avalanche's suffix for the names of an experience's metrics."""
    tasks = task_labels_of(experience)
    task = f"/Task{next(iter(tasks)):03d}" if len(tasks) == 1 else ""
    return f"{task}/Exp{int(experience.current_experience):03d}"


def continual_metrics(
    *,
    average_accuracy: bool = True,
    average_anytime_accuracy: bool = True,
    learning_accuracy: bool = True,
    forgetting: bool = True,
    backward_transfer: bool = True,
    forward_transfer: bool = True,
    retention: bool = True,
    experience_retention: bool = False,
    baseline: float | None = 0.0,
    stream: str = "test",
) -> list[PluginMetric[dict[str, float]]]:
    """Returns continual-learning metrics for an ``EvaluationPlugin``.

    The functions of `avalanche_dgm.metrics.functional`, reported after each evaluation of the test
    stream: ``StreamAverageAccuracy_M/eval_phase/test_stream``, ``StreamAverageAnytimeAccuracy_M``,
    ``StreamLearningAccuracy_M``, ``StreamForgetting_M``, ``StreamBackwardTransfer_M``,
    ``StreamForwardTransfer_M`` and ``StreamRetention``. The suffix distinguishes them from
    Avalanche's metrics. Values that are not defined yet are not reported. Evaluate on the test
    stream after each experience; periodic evaluations (``eval_every``) and evaluations of other
    streams are ignored.

    Rows and columns of the matrix are experiences in the order of learning. For streams of equal
    lengths, the test experience of a training experience is at the same position; otherwise it has
    the same classes, or a superset of them. If several learned experiences share a test experience,
    as with a repeated task, it counts once, from the last of them; experiences without a test are
    left out.

    Avalanche's values differ:

    - ``StreamBWT`` is backward transfer, and 0 after the first experience, where it is undefined.
    - ``StreamForgetting`` is minus backward transfer: it compares with the accuracy right after
      learning. ``StreamForgetting_M`` compares with the best accuracy so far and is never smaller.
    - ``StreamForwardTransfer`` subtracts the accuracies before training, as ``baseline=None``
      does; ``baseline=0`` subtracts nothing. It includes the next experience immediately,
      ``StreamForwardTransfer_M`` only once that has been learned.
    - ``Top1_Acc_Stream`` is the mean over all tested samples; average accuracy is the mean over
      learned experiences.

    Args:
        average_accuracy: Report the mean accuracy on learned experiences.
        average_anytime_accuracy: Report its mean over time.
        learning_accuracy: Report the mean accuracy right after learning.
        forgetting: Report the drop from the best accuracy.
        backward_transfer: Report the change since each experience was learned.
        forward_transfer: Report accuracies right before learning.
        retention: Report the remaining fraction of the accuracies.
        experience_retention: Report the retention for each experience but the last, as
            ``ExperienceRetention/eval_phase/test_stream/Task000/Exp000``.
        baseline: Accuracy in [0, 1] to subtract in forward transfer; ``None`` for that of an
            evaluation before the first experience (your own, or of ``eval_every``), without which
            forward transfer is not reported.
        stream: Name of the evaluated stream.

    Raises:
        ConfigError: ``baseline`` is not in [0, 1].
    """
    reported = {
        "average_accuracy": average_accuracy,
        "average_anytime_accuracy": average_anytime_accuracy,
        "learning_accuracy": learning_accuracy,
        "forgetting": forgetting,
        "backward_transfer": backward_transfer,
        "forward_transfer": forward_transfer,
        "retention": retention,
    }
    names = [name for name, is_reported in reported.items() if is_reported]
    return [
        ContinualMetrics(
            names, baseline=baseline, stream=stream, by_experience=experience_retention
        )
    ]


def retention_metrics(
    *, experience: bool = True, stream: bool = True
) -> list[PluginMetric[dict[str, float]]]:
    """Deprecated; use `continual_metrics`. Reports only the retention.

    Args:
        experience: Report each learned experience but the last.
        stream: Report their mean.
    """
    warnings.warn(
        "avalanche_dgm.retention_metrics is deprecated; use avalanche_dgm.continual_metrics, which"
        " reports StreamRetention and, with experience_retention=True, ExperienceRetention.",
        FutureWarning,
        stacklevel=2,
    )
    return [ContinualMetrics(["retention"] if stream else [], by_experience=experience)]
