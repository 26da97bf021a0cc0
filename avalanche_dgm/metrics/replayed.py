"""Metrics of replayed samples: correctness of labels and coverage of classes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from avalanche_dgm.checks import one_of, whole
from avalanche_dgm.errors import ConfigError, LabelError, ShapeError
from avalanche_dgm.metrics.accuracy_matrix import predicted
from avalanche_dgm.metrics.plotted import PlottedMetric


class _Counting(PlottedMetric):
    """Base of metrics that count labels; labels out of range raise an error in ``compute``."""

    is_differentiable = False
    higher_is_better: bool | None = True
    full_state_update = False

    total: Tensor

    def __init__(self, n_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        whole("n_classes", n_classes)
        self.n_classes = n_classes
        self.add_state("total", self._zeros(), dist_reduce_fx="sum")

    def _zeros(self) -> Tensor:
        return torch.zeros(self.n_classes + 1, dtype=torch.int64)

    def _count(self, labels: Tensor) -> Tensor:
        """Counts labels; returns the indices (n,) of their counts."""
        # Labels out of range are counted last: an error here would synchronise with the device.
        in_range = (labels >= 0) & (labels < self.n_classes)
        indices = torch.where(in_range, labels, self.n_classes).long()
        self.total.index_add_(0, indices, torch.ones_like(indices))
        return indices

    def _counted(self) -> Tensor:
        n_invalid = int(self.total[-1])
        if n_invalid:
            raise LabelError(
                f"{n_invalid} labels are not in 0 to {self.n_classes - 1}, the classes of"
                f" n_classes={self.n_classes}. Give the metric more classes."
            )
        return self.total[:-1]


class LabelAgreement(_Counting):
    """Fraction of replayed samples whose label equals the prediction of a reference classifier.

    With a classifier trained on real samples of all classes this is the measure of Wu et al.
    (2018), ``generated_accuracy`` of `GeneratorQuality`, for any memory. For soft labels pass
    ``targets.argmax(dim=1)``.

    Args:
        n_classes: Number of classes K.
        average: ``"micro"`` for the fraction of all samples, ``"macro"`` for the mean over replayed
            classes, ``"none"`` for each class.

    Raises:
        ConfigError: ``n_classes`` is below 1, or ``average`` is unknown.
    """

    agreed: Tensor

    def __init__(self, n_classes: int, *, average: str = "micro", **kwargs: Any) -> None:
        super().__init__(n_classes, **kwargs)
        one_of("average", average, "micro", "macro", "none")
        self.average = average
        self.add_state("agreed", self._zeros(), dist_reduce_fx="sum")

    def update(self, answers: Tensor, labels: Tensor) -> None:
        """Counts a batch.

        Args:
            answers: The reference's float logits (n, C) or predicted int64 classes (n,).
            labels: int64 tensor (n,), the labels of the replayed samples, 0 to K - 1.

        Raises:
            ShapeError: The shapes of predictions and labels do not match.
        """
        agreed = predicted(answers, labels) == labels
        self.agreed.index_add_(0, self._count(labels), agreed.long())

    def compute(self) -> Tensor:
        """Returns the fraction in [0, 1], per class for ``average="none"``; NaN without samples.

        Raises:
            LabelError: A label was out of range.
        """
        total, agreed = self._counted(), self.agreed[:-1]
        if self.average == "micro":
            return agreed.sum() / total.sum()
        fractions = agreed / total
        return fractions.nanmean() if self.average == "macro" else fractions


class ClassCoverage(_Counting):
    """Coverage and entropy of the replayed classes.

    If a generator has lost a class, the accuracy on its samples does not show it. ``coverage`` is
    the fraction of known classes with at least one replayed sample, 0 without replay. ``entropy``
    is the normalised entropy of their label histogram: 1 if all are replayed equally often, 0 if
    only one of several is, NaN without replay.

    Args:
        n_classes: Number of classes K.
        known: The learned classes, 0 to K - 1; ``None`` for all K.

    Raises:
        ConfigError: ``n_classes`` is below 1, or ``known`` is empty or out of range.
    """

    def __init__(
        self, n_classes: int, *, known: Iterable[int] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(n_classes, **kwargs)
        self.known = sorted(set(known)) if known is not None else list(range(n_classes))
        if not self.known or self.known[0] < 0 or self.known[-1] >= n_classes:
            raise ConfigError(
                f"known={self.known} must name classes from 0 to {n_classes - 1}, at least one."
            )

    def update(self, labels: Tensor) -> None:
        """Counts a batch.

        Args:
            labels: int64 tensor (n,), the labels of the replayed samples, 0 to K - 1.

        Raises:
            ShapeError: The labels are not one-dimensional.
        """
        if labels.ndim != 1:
            raise ShapeError(f"Labels must have shape (n,), not {tuple(labels.shape)}.")
        self._count(labels)

    def compute(self) -> dict[str, Tensor]:
        """Returns ``coverage`` and ``entropy``, scalars in [0, 1].

        Raises:
            LabelError: A label was out of range.
        """
        return class_coverage(self._counted()[self.known])


def class_coverage(counts: Tensor) -> dict[str, Tensor]:
    """``coverage`` and ``entropy`` for counts of known classes (K,), K at least 1.

    They are float scalars in [0, 1]; see `ClassCoverage`.
    """
    counts = counts.double()
    fractions = counts / counts.sum()
    maximum = torch.tensor(float(len(counts))).log().to(fractions)
    # For a single class 1, or NaN without samples.
    entropy = torch.special.entr(fractions).sum() / maximum if len(counts) > 1 else fractions.sum()
    return {"coverage": (counts > 0).double().mean().float(), "entropy": entropy.float()}
