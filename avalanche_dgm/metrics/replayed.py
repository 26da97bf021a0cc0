"""What is replayed: whether its labels are right, and whether all classes are among it."""

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
    """Counts labels; what lies outside the range is counted, too, and refused at the end."""

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
        """Counts labels; returns the places (n,) at which they count."""
        # Looking whether one lies outside would wait for the device: they have a place of their
        # own, the last one.
        inside = (labels >= 0) & (labels < self.n_classes)
        places = torch.where(inside, labels, self.n_classes).long()
        self.total.index_add_(0, places, torch.ones_like(places))
        return places

    def _counted(self) -> Tensor:
        outside = int(self.total[-1])
        if outside:
            raise LabelError(
                f"{outside} labels lie outside 0 to {self.n_classes - 1}, the classes that"
                f" n_classes={self.n_classes} promises. Give the metric more classes."
            )
        return self.total[:-1]


class LabelAgreement(_Counting):
    """Share of replayed samples whose label a reference classifier agrees with.

    With a classifier that learned real samples of all classes this is the measure of Wu et
    al. (2018), ``generated_accuracy`` of `GeneratorQuality`, for what any memory replays. Soft
    labels are judged by their largest entry: give ``targets.argmax(dim=1)``.

    Args:
        n_classes: Number of classes K.
        average: ``"micro"`` for the share of all samples, ``"macro"`` for the mean over the classes
            that were replayed, ``"none"`` for each class.

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
            answers: The reference's logits (n, C) of floating point, a column a label, or the
                int64 classes (n,) that it takes the samples for.
            labels: int64 tensor (n,), the labels that they were replayed with, 0 to K - 1.

        Raises:
            ShapeError: There is not one answer for each label.
        """
        agreed = predicted(answers, labels) == labels
        self.agreed.index_add_(0, self._count(labels), agreed.long())

    def compute(self) -> Tensor:
        """Returns the share in [0, 1], for ``average="none"`` that of each class; NaN of nothing.

        Raises:
            LabelError: A label was outside the range.
        """
        total, agreed = self._counted(), self.agreed[:-1]
        if self.average == "micro":
            return agreed.sum() / total.sum()
        shares = agreed / total
        return shares.nanmean() if self.average == "macro" else shares


class ClassCoverage(_Counting):
    """Which of the known classes the replay contained, and how evenly.

    A generator that has lost a class replays nothing of it, which no accuracy on the replay itself
    shows. ``coverage`` is the share of known classes with at least one replayed sample, 0 if
    nothing was replayed. ``entropy`` is that of the histogram of their labels by its largest value:
    1 if all are replayed equally often, 0 if one of several is replayed alone, NaN without replay.

    Args:
        n_classes: Number of classes K.
        known: The classes that there are to replay, 0 to K - 1; ``None`` for all K.

    Raises:
        ConfigError: ``n_classes`` is below 1, or no or another class is known.
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
            labels: int64 tensor (n,), the labels that samples were replayed with, 0 to K - 1.

        Raises:
            ShapeError: It is no vector.
        """
        if labels.ndim != 1:
            raise ShapeError(f"Labels (n,) are needed, not of shape {tuple(labels.shape)}.")
        self._count(labels)

    def compute(self) -> dict[str, Tensor]:
        """Returns ``coverage`` and ``entropy``, scalars in [0, 1].

        Raises:
            LabelError: A label was outside the range.
        """
        return class_coverage(self._counted()[self.known])


def class_coverage(counts: Tensor) -> dict[str, Tensor]:
    """Which classes there are samples of, and how evenly; see `ClassCoverage`.

    Args:
        counts: Samples of each of the known classes (K,), K at least 1.

    Returns:
        ``coverage`` and ``entropy``, float scalars in [0, 1].
    """
    counts = counts.double()
    shares = counts / counts.sum()
    evenly = torch.tensor(float(len(counts))).log().to(shares)
    # Of a single class it is evenly, if there are samples at all.
    entropy = torch.special.entr(shares).sum() / evenly if len(counts) > 1 else shares.sum()
    return {"coverage": (counts > 0).double().mean().float(), "entropy": entropy.float()}
