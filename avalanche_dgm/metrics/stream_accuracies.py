"""The accuracies of a stream, for backends, results, reports and dashboards."""

from __future__ import annotations

import math
from typing import NamedTuple

from numpy.typing import ArrayLike

from avalanche_dgm.errors import ConfigError, ShapeError
from avalanche_dgm.metrics import functional


class StreamAccuracies:
    """Accuracies on every test experience after every training experience.

    Args:
        values: Accuracies (T, S), 0 to 1, a row for each learned experience and a column for each
            test experience, as an array, a tensor or lists; NaN or ``None`` where not measured.
        order: The column of each learned experience, ``None`` without a test experience of its own,
            optionally followed by columns of later experiences; by default 0, 1, 2 and so on.

    Attributes:
        values: The accuracies, a float64 array (T, S), NaN where not measured.
        order: The order.

    Raises:
        ShapeError: The accuracies are not a matrix.
        ConfigError: The order lacks a learned experience, or has a column out of range.
    """

    def __init__(self, values: functional.Values, order: functional.Order | None = None) -> None:
        matrix = functional.as_array(values)
        if matrix.ndim != 2 and len(matrix):
            raise ShapeError(f"Accuracies of shape {matrix.shape} are not a matrix (T, S).")
        rows, columns = matrix.shape if matrix.ndim == 2 else (0, 0)
        if order is None:
            order = [*range(columns), *[None] * (rows - columns)]
        if rows and not (len(order) >= rows and all(j is None or 0 <= j < columns for j in order)):
            raise ConfigError(
                f"The order {tuple(order)} does not match {rows} learned and {columns} test"
                " experiences: a column index or None is needed for each learned experience."
            )
        self.values, self.order = matrix.reshape(rows, columns), tuple(order)

    def __len__(self) -> int:
        return len(self.values)

    def first(self, n: int) -> StreamAccuracies:
        """The accuracies after the first n experiences."""
        return StreamAccuracies(self.values[:n], self.order)

    def learned(self, step: int = -1) -> list[int]:
        """Columns of the experiences learned up to a row, each once, in ascending order."""
        learned = self.order[: step % len(self) + 1] if len(self) else ()
        return sorted({j for j in learned if j is not None})

    def average(self, step: int = -1) -> float:
        """Mean accuracy in a row over the experiences learned up to it; NaN if not measured."""
        return functional.mean(self.values[step, self.learned(step)])

    def summaries(self, *, baseline: ArrayLike = 0.0) -> dict[str, float]:
        """All metrics that are defined, by their names in `avalanche_dgm.metrics.functional`.

        Args:
            baseline: Accuracy to subtract in forward transfer, one number or one per column.
        """
        if not self.values.size:
            return {}
        values = {
            name: summary(self.values, order=self.order)
            for name, summary in functional.SUMMARIES.items()
        }
        values["forward_transfer"] = functional.forward_transfer(
            self.values, baseline, order=self.order
        )
        return {name: value for name, value in values.items() if not math.isnan(value)}


class EpochAccuracy(NamedTuple):
    """Accuracies after an epoch (Furlanello et al. 2016, Fig. 3).

    Attributes:
        epoch: Epochs of the new task so far; 0 before the first.
        old: Accuracy on old tasks, 0 to 1.
        new: Accuracy on the new task, 0 to 1.
    """

    epoch: int
    old: float
    new: float
