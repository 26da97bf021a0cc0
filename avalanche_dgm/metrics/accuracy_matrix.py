"""The accuracy matrix of a stream, and metrics computed from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from avalanche_dgm.checks import whole
from avalanche_dgm.errors import ConfigError, ShapeError
from avalanche_dgm.metrics import functional
from avalanche_dgm.metrics.plotted import PlottedMetric


def predicted(outputs: Tensor, labels: Tensor) -> Tensor:
    """The predicted classes (n,), from logits (n, K) or given as classes (n,).

    Raises a `ShapeError` if predictions and labels (n,) do not match.
    """
    logits = outputs.ndim == 2 and outputs.is_floating_point()
    if labels.ndim != 1 or outputs.shape[:1] != labels.shape or not (logits or outputs.ndim == 1):
        raise ShapeError(
            f"Predictions of shape {tuple(outputs.shape)} do not match labels of shape"
            f" {tuple(labels.shape)}; logits (n, K) or classes (n,) and labels (n,) are needed."
        )
    return outputs.argmax(dim=1) if logits else outputs


class AccuracyMatrix(PlottedMetric):
    """Accuracy on every test experience after every training experience.

    Its subclasses have the same states, so a ``MetricCollection`` updates them once.

    Args:
        n_experiences: Length T of the training stream.
        n_test: Length S of the test stream; ``None`` for T.

    Raises:
        ConfigError: A length is below 1.
    """

    is_differentiable = False
    higher_is_better: bool | None = None
    full_state_update = False

    correct: Tensor
    total: Tensor

    def __init__(self, n_experiences: int, *, n_test: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        whole("n_experiences", n_experiences)
        whole("n_test", n_test, optional=True)
        shape = (n_experiences, n_experiences if n_test is None else n_test)
        self.add_state("correct", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, answers: Tensor, labels: Tensor, *, step: int, experience: int) -> None:
        """Counts a batch.

        Args:
            answers: Float logits (n, K), or int64 classes (n,).
            labels: int64 tensor (n,).
            step: Index of the last learned experience, 0 to T - 1.
            experience: Index of the batch's test experience, 0 to S - 1.

        Raises:
            ConfigError: ``step`` or ``experience`` is out of range.
            ShapeError: The shapes of predictions and labels do not match.
        """
        steps, experiences = self.correct.shape
        if not (0 <= step < steps and 0 <= experience < experiences):
            raise ConfigError(
                f"There is no step {step} with test experience {experience}: the matrix has steps 0"
                f" to {steps - 1} and test experiences 0 to {experiences - 1}."
            )
        classes = predicted(answers, labels)
        self.correct[step, experience] += (classes == labels).sum()
        self.total[step, experience] += len(labels)

    def compute(self) -> Tensor:
        """Returns the accuracies so far (T, S), 0 to 1, NaN where not measured.

        With one experience and one test, torchmetrics returns a scalar.
        """
        return self.correct / self.total

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draws the matrix, with a row for each training experience.

        Args:
            val: A matrix from `compute`; ``None`` for the current one.
            ax: Matplotlib's axes to draw into; ``None`` for a new figure.

        Returns:
            The figure, or ``None`` with ``ax``, and the axes.
        """
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots() if ax is None else (None, ax)
        values = torch.atleast_2d(self.compute() if val is None else val)
        image = axes.imshow(values.cpu().numpy(), vmin=0, vmax=1)
        axes.set(xlabel="tested on experience", ylabel="after experience")
        axes.figure.colorbar(image, ax=axes, label="accuracy")
        return figure, axes


class Summary(AccuracyMatrix):
    """Base of metrics that reduce an accuracy matrix to a number."""

    higher_is_better = True
    plot_upper_bound = 1.0
    summary: ClassVar[Callable[..., float]]

    def compute(self) -> Tensor:
        """Returns the metric, a scalar; NaN where it is not defined yet."""
        return self.correct.new_tensor(self._value(super().compute()), dtype=torch.float32)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draws the metric; see `PlottedMetric.plot`."""
        return self._plot(val, ax)

    def _value(self, matrix: Tensor) -> float:
        return type(self).summary(matrix)


class AverageAccuracy(Summary):
    """Final mean accuracy on the learned experiences; see `functional.average_accuracy`."""

    summary = functional.average_accuracy


class BackwardTransfer(Summary):
    """Effect of later training on earlier experiences; see `functional.backward_transfer`."""

    summary = functional.backward_transfer


class Forgetting(Summary):
    """Drop of the accuracy from its best value; see `functional.forgetting`."""

    higher_is_better = False
    summary = functional.forgetting


class Retention(Summary):
    """Remaining fraction of the accuracy right after learning; see `functional.retention`."""

    summary = functional.retention


class LearningAccuracy(Summary):
    """Mean accuracy right after learning; see `functional.learning_accuracy`."""

    summary = functional.learning_accuracy


class AverageAnytimeAccuracy(Summary):
    """Average accuracy over time; see `functional.average_anytime_accuracy`."""

    summary = functional.average_anytime_accuracy


class ForwardTransfer(Summary):
    """Accuracy on experiences right before learning; see `functional.forward_transfer`.

    Args:
        n_experiences: See `AccuracyMatrix`.
        baseline: Accuracy of an untrained network, one number or one per test experience.
        **kwargs: Arguments of `AccuracyMatrix`.
    """

    def __init__(
        self, n_experiences: int, *, baseline: Tensor | float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(n_experiences, **kwargs)
        self.baseline = baseline

    def _value(self, matrix: Tensor) -> float:
        return functional.forward_transfer(matrix, self.baseline)
