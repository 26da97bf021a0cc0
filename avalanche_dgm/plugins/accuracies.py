"""Accuracies on test experiences, as a strategy measures them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from avalanche.evaluation import PluginMetric
from numpy.typing import NDArray
from torch import Tensor

from avalanche_dgm.metrics.stream_accuracies import StreamAccuracies
from avalanche_dgm.plugins.learned import Pairs, stream_of, tests_of
from avalanche_dgm.plugins.metrics import LearningMetric


def right_answers(strategy: Any) -> Tensor | None:
    """Counts the right answers of a strategy's batch, on its device.

    Returns:
        int64 (2,), right answers and samples; ``None`` if the answers are no logits (n, K).
    """
    answers, labels = strategy.mb_output, strategy.mb_y
    if not isinstance(answers, Tensor) or answers.ndim != 2:
        return None
    right = (answers.detach().argmax(dim=1) == labels).sum()
    return torch.stack([right, right.new_tensor(len(labels))])


class ExperienceAccuracies(PluginMetric[dict[int, float]]):
    """Accuracy on each experience of a stream in the last evaluation; reports nothing itself."""

    def __init__(self, stream: str = "test") -> None:
        super().__init__()
        self.stream = stream
        self._counts: dict[int, Tensor] = {}

    @classmethod
    def of(cls, strategy: Any) -> dict[int, float]:
        """The accuracies of a strategy's last evaluation that such a metric has counted."""
        return next(m for m in strategy.evaluator.metrics if isinstance(m, cls)).result()

    def before_eval(self, strategy: Any) -> None:
        """Forgets the former evaluation."""
        self._counts = {}

    def after_eval_iteration(self, strategy: Any) -> None:
        """Adds a batch, on the device; answers that are no logits (n, K) do not count."""
        experience = strategy.experience
        if stream_of(experience) != self.stream:
            return
        if (batch := right_answers(strategy)) is not None:
            position = int(experience.current_experience)
            self._counts[position] = self._counts.get(position, 0) + batch

    def result(self, **kwargs: Any) -> dict[int, float]:
        """Accuracies, 0 to 1, by position in the stream; waits for the device."""
        if not self._counts:
            return {}
        counts = torch.stack(list(self._counts.values())).double()
        accuracies: list[float] = (counts[:, 0] / counts[:, 1]).tolist()
        return dict(zip(self._counts, accuracies, strict=True))

    def reset(self, **kwargs: Any) -> None:
        """Resets the metric."""
        self._counts = {}

    def __str__(self) -> str:
        return "ExperienceAccuracies"


class TrainingAccuracy(PluginMetric[dict[str, Any]]):
    """Running accuracy on new samples in the last epoch of training; reports nothing itself."""

    def __init__(self) -> None:
        super().__init__()
        self._counts: Tensor | None = None
        self._epochs = 0

    @classmethod
    def of(cls, strategy: Any) -> dict[str, Any]:
        """What such a metric of a strategy has counted in its last training."""
        return next(m for m in strategy.evaluator.metrics if isinstance(m, cls)).result()

    def before_training_exp(self, strategy: Any) -> None:
        """Forgets the former experience."""
        self.reset()

    def before_training_iteration(self, strategy: Any) -> None:
        """Forgets the former epoch when the next one begins."""
        done = int(strategy.clock.train_exp_epochs) + 1
        if done != self._epochs:
            self._counts, self._epochs = None, done

    def after_training_iteration(self, strategy: Any) -> None:
        """Adds a batch, on the device."""
        if (batch := right_answers(strategy)) is not None:
            self._counts = batch if self._counts is None else self._counts + batch

    def result(self, **kwargs: Any) -> dict[str, Any]:
        """Accuracy and number of epochs by their names in `Step`; waits for the device."""
        if self._counts is None:
            return {}
        right, n = self._counts.tolist()
        return {"train_accuracy": right / n, "epochs": self._epochs}

    def reset(self, **kwargs: Any) -> None:
        """Resets the metric."""
        self._counts, self._epochs = None, 0

    def __str__(self) -> str:
        return "TrainingAccuracy"


class AccuracyRecorder(LearningMetric):
    """Fills an accuracy matrix from evaluations; reports nothing itself.

    Evaluations while an experience is learned do not count, nor those of other streams. One that is
    repeated replaces what was measured, and one of a part of the stream what was measured of it.

    Args:
        stream: Name of the stream whose evaluations count.
    """

    def __init__(self, stream: str = "test") -> None:
        super().__init__()
        self.stream = stream
        self._evaluation = ExperienceAccuracies(stream)

    def reset(self, **kwargs: Any) -> None:
        """Resets the matrix and what was learned."""
        super().reset()
        self._tests: list[Pairs] = []
        self._rows: list[dict[int, float]] = []
        self._untrained: dict[int, float] = {}

    def before_eval(self, strategy: Any) -> None:
        """Starts an evaluation."""
        self._evaluation.before_eval(strategy)
        self._tests = self._tests or tests_of(strategy, self.stream)

    def after_eval_iteration(self, strategy: Any) -> None:
        """Adds a batch, on the device."""
        if not self.learned.learning:
            self._evaluation.after_eval_iteration(strategy)

    def end(self) -> bool:
        """Fills a row; waits for the device. Returns whether a row was filled."""
        measured = self._evaluation.result()
        self._evaluation.reset()
        after = len(self.learned.positions)
        if not after:
            self._untrained |= measured
        if not after or not measured:
            return False
        # Experiences that were learned without a test have a row of NaN.
        self._rows += [{} for _ in range(after - len(self._rows))]
        self._rows[-1] |= measured
        return True

    def accuracies(self) -> StreamAccuracies:
        """The accuracies so far, a column for each experience of the stream, in its order."""
        learned = self.learned.columns(self._tests)
        return StreamAccuracies([self._row(row) for row in self._rows], learned)

    def untrained(self) -> NDArray[np.float64]:
        """Accuracies before anything was learned (S,), NaN where not measured."""
        return self._row(self._untrained)

    def _row(self, row: dict[int, float]) -> NDArray[np.float64]:
        return np.array([row.get(j, np.nan) for j in range(len(self._tests))])
