"""Accuracies of a strategy's evaluations and training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avalanche_dgm.metrics.stream_accuracies import StreamAccuracies
from avalanche_dgm.plugins.learned import Pairs, stream_of, tests_of
from avalanche_dgm.plugins.metrics import LearningMetric, ReportedValues


def count_correct(strategy: Any) -> Tensor | None:
    """Counts the correct predictions of a strategy's batch, on its device.

    Returns:
        int64 (2,), correct predictions and samples; ``None`` if the outputs are not logits (n, K).
    """
    logits, labels = strategy.mb_output, strategy.mb_y
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        return None
    correct = (logits.detach().argmax(dim=1) == labels).sum()
    return torch.stack([correct, correct.new_tensor(len(labels))])


class ExperienceAccuracies(ReportedValues):
    """Accuracy on each experience of a stream in the last evaluation; does not report it."""

    def __init__(self, stream: str = "test") -> None:
        super().__init__()
        self.stream = stream

    def reset(self, **kwargs: Any) -> None:
        self._counts: dict[int, Tensor] = {}

    def before_eval(self, strategy: Any) -> None:
        """Resets the counts."""
        self.reset()

    def after_eval_iteration(self, strategy: Any) -> None:
        """Adds a batch, on the device; outputs that are not logits (n, K) are ignored."""
        experience = strategy.experience
        if stream_of(experience) != self.stream:
            return
        if (batch := count_correct(strategy)) is not None:
            position = int(experience.current_experience)
            self._counts[position] = self._counts.get(position, 0) + batch

    def result(self, **kwargs: Any) -> dict[int, float]:
        """Accuracies, 0 to 1, by position in the stream; synchronises with the device."""
        if not self._counts:
            return {}
        counts = torch.stack(list(self._counts.values())).double()
        accuracies: list[float] = (counts[:, 0] / counts[:, 1]).tolist()
        return dict(zip(self._counts, accuracies, strict=True))


class TrainingAccuracy(ReportedValues):
    """Running training accuracy on new samples in the last epoch; does not report it."""

    def reset(self, **kwargs: Any) -> None:
        self._counts: Tensor | None = None
        self._epochs = 0

    def before_training_exp(self, strategy: Any) -> None:
        """Resets the counts."""
        self.reset()

    def before_training_iteration(self, strategy: Any) -> None:
        """Resets the counts at the start of an epoch."""
        done = int(strategy.clock.train_exp_epochs) + 1
        if done != self._epochs:
            self._counts, self._epochs = None, done

    def after_training_iteration(self, strategy: Any) -> None:
        """Adds a batch, on the device."""
        if (batch := count_correct(strategy)) is not None:
            self._counts = batch if self._counts is None else self._counts + batch

    def result(self, **kwargs: Any) -> dict[str, Any]:
        """Accuracy and number of epochs, by name; synchronises with the device."""
        if self._counts is None:
            return {}
        correct, n = self._counts.tolist()
        return {"train_accuracy": correct / n, "epochs": self._epochs}


class AccuracyRecorder(LearningMetric):
    """Fills an accuracy matrix from evaluations of a stream; does not report it.

    Evaluations during training and of other streams are ignored. A repeated evaluation overwrites
    the accuracies of the experiences that it includes.
    """

    def __init__(self, stream: str = "test") -> None:
        super().__init__()
        self.stream = stream
        self._evaluation = ExperienceAccuracies(stream)

    def reset(self, **kwargs: Any) -> None:
        """Resets the matrix and the learned experiences."""
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
        """Fills a row of the matrix; synchronises with the device. Returns whether it did."""
        measured = self._evaluation.result()
        self._evaluation.reset()
        after = len(self.learned.positions)
        if not after:
            self._untrained |= measured
        if not after or not measured:
            return False
        # Rows of NaN for experiences after which there was no evaluation.
        self._rows += [{} for _ in range(after - len(self._rows))]
        self._rows[-1] |= measured
        return True

    def accuracies(self) -> StreamAccuracies:
        """The accuracies so far, with one column per experience of the stream."""
        learned = self.learned.columns(self._tests)
        return StreamAccuracies([self._row(row) for row in self._rows], learned)

    def untrained(self) -> NDArray[np.float64]:
        """Accuracies before the first training (S,), NaN where not measured."""
        return self._row(self._untrained)

    def _row(self, row: dict[int, float]) -> NDArray[np.float64]:
        return np.array([row.get(j, np.nan) for j in range(len(self._tests))])
