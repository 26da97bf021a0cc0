"""Continual-learning metrics of the accuracy matrix, for Avalanche."""

from __future__ import annotations

from typing import Any

from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricResult, MetricValue
from torch import Tensor

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.metrics.summaries import summaries
from avalanche_dgm.plugins.accuracies import StreamAccuracies


class ContinualMetrics(PluginMetric[dict[str, float]]):
    """Fills an accuracy matrix and reports metrics of it; see `continual_metrics`.

    Args:
        names: The metrics to report, such as ``average_accuracy``.
        baseline: Baseline of forward transfer, ``None`` for the accuracies before training.
        stream: Name of the stream whose evaluations count.

    Raises:
        ConfigError: ``baseline`` is no accuracy.
    """

    def __init__(self, names: list[str], *, baseline: float | None, stream: str) -> None:
        super().__init__()
        if baseline is not None and not 0 <= baseline <= 1:
            raise ConfigError(f"baseline={baseline} must be an accuracy in [0, 1], or None.")
        self.names, self.baseline, self.stream = names, baseline, stream
        self.reset()

    def reset(self, **kwargs: Any) -> None:
        """Resets the matrix and the experiences learned."""
        self._accuracies = StreamAccuracies(self.stream)
        self._values: dict[str, float] = {}

    def result(self, **kwargs: Any) -> dict[str, float]:
        """The last values, by name."""
        return dict(self._values)

    def matrix(self) -> Tensor:
        """The accuracy matrix so far.

        Returns:
            Float tensor (T, S): a row for each learned experience, a column for each of the test
            stream, in its order; NaN where nothing was measured.
        """
        return self._accuracies.matrix()

    def before_training_exp(self, strategy: Any) -> None:
        """From now on, evaluations are periodic ones and are ignored."""
        self._accuracies.learned.begin(strategy.experience)

    def after_training_exp(self, strategy: Any) -> None:
        """The next evaluation fills a new row."""
        self._accuracies.learned.end(strategy.experience)

    def before_eval(self, strategy: Any) -> None:
        """Resets the counts."""
        self._accuracies.begin(strategy)

    def after_eval_iteration(self, strategy: Any) -> None:
        """Adds a batch, on the device."""
        self._accuracies.count(strategy)

    def after_eval(self, strategy: Any) -> MetricResult:
        """Fills a row of the matrix and reports; waits for the device."""
        if not self._accuracies.end():
            return None
        found = self._accuracies
        start = found.baseline() if self.baseline is None else self.baseline
        values = summaries(found.matrix(), found.columns(), baseline=start)
        self._values = {_reported(k): v for k, v in values.items() if k in self.names}
        step = strategy.clock.train_iterations
        where = f"eval_phase/{self.stream}_stream"
        return [MetricValue(self, f"{k}/{where}", v, step) for k, v in self._values.items()]

    def __str__(self) -> str:
        return "ContinualMetrics"


def _reported(name: str) -> str:
    """``StreamAverageAccuracy_M`` for ``average_accuracy``."""
    return f"Stream{name.title().replace('_', '')}_M"


def continual_metrics(
    *,
    average_accuracy: bool = True,
    average_anytime_accuracy: bool = True,
    learning_accuracy: bool = True,
    forgetting: bool = True,
    backward_transfer: bool = True,
    forward_transfer: bool = True,
    baseline: float | None = 0.0,
    stream: str = "test",
) -> list[PluginMetric[dict[str, float]]]:
    """Returns continual-learning metrics for an ``EvaluationPlugin``.

    They are those of `avalanche_dgm.metrics`, reported after each evaluation of the test stream:
    ``StreamAverageAccuracy_M/eval_phase/test_stream`` and in the same way
    ``StreamAverageAnytimeAccuracy_M``, ``StreamLearningAccuracy_M``, ``StreamForgetting_M``,
    ``StreamBackwardTransfer_M`` and ``StreamForwardTransfer_M``, so that Avalanche's metrics of
    similar names can stand beside them. What cannot be said yet is not reported. Evaluate on the
    test stream after each experience. Evaluations while an experience is learned (``eval_every``)
    and those of other streams do not count; one that is repeated replaces what was measured, and
    one of a part of the stream what was measured of it.

    Rows of the matrix are experiences in the order in which they are learned, and columns are put
    into the same order. A test experience belongs to the training experience at the same position
    or, if the streams are of other lengths, to that of the same classes, or of a part of them.
    Where several learned experiences share a test experience, as a task that comes again, average
    accuracy alone is reported; an experience that has no test of its own is left out.

    Of the same stream Avalanche's values are these:

    - ``StreamBWT`` is backward transfer; it is 0 after the first experience, when there is none.
    - ``StreamForgetting`` is minus backward transfer: it compares with the accuracy right after
      learning. ``StreamForgetting_M`` compares with the best accuracy ever (Chaudhry et al. 2018)
      and is never less.
    - ``StreamForwardTransfer`` subtracts the accuracies before anything was learned, as
      ``baseline=None`` does; ``baseline=0`` leaves the accuracies ahead themselves.
    - ``Top1_Acc_Stream`` is an average over samples of all that is tested; average accuracy is one
      over learned experiences, whatever their sizes.

    Args:
        average_accuracy: Report the mean accuracy on what was learned.
        average_anytime_accuracy: Report its mean over the experiences so far.
        learning_accuracy: Report the mean accuracy right after learning.
        forgetting: Report how far accuracies fell from the best.
        backward_transfer: Report what later learning changed.
        forward_transfer: Report accuracies on what comes next.
        baseline: Accuracy in [0, 1] that forward transfer is counted from; ``None`` for what an
            evaluation before the first experience measures (an own one, or that of
            ``eval_every``), without which none is reported.
        stream: Name of the stream whose evaluations count.

    Raises:
        ConfigError: ``baseline`` is no accuracy.
    """
    wanted = {
        "average_accuracy": average_accuracy,
        "average_anytime_accuracy": average_anytime_accuracy,
        "learning_accuracy": learning_accuracy,
        "forgetting": forgetting,
        "backward_transfer": backward_transfer,
        "forward_transfer": forward_transfer,
    }
    names = [name for name, is_wanted in wanted.items() if is_wanted]
    return [ContinualMetrics(names, baseline=baseline, stream=stream)]
