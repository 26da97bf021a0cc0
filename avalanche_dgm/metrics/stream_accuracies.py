"""Accuracies as values, which backends, results, reports and dashboards share."""

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
        order: The column of each learned experience, ``None`` for one without a test of its own,
            perhaps followed by those to come; by default 0, 1, 2 and so on.

    Attributes:
        values: The accuracies, a float64 array (T, S), NaN where not measured.
        order: The order.

    Raises:
        ShapeError: It is no matrix.
        ConfigError: A learned experience has no entry in the order, or a column is not there.
    """

    def __init__(self, values: functional.Values, order: functional.Order | None = None) -> None:
        found = functional.as_array(values)
        if found.ndim != 2 and len(found):
            raise ShapeError(f"Accuracies of shape {found.shape} are no matrix (T, S).")
        rows, columns = found.shape if found.ndim == 2 else (0, 0)
        if order is None:
            order = [*range(columns), *[None] * (rows - columns)]
        if rows and not (len(order) >= rows and all(j is None or 0 <= j < columns for j in order)):
            raise ConfigError(
                f"The order {tuple(order)} does not fit {rows} learned and {columns} test"
                " experiences: a column from 0 on, or None, is needed for each learned one."
            )
        self.values, self.order = found.reshape(rows, columns), tuple(order)

    def __len__(self) -> int:
        return len(self.values)

    def first(self, n: int) -> StreamAccuracies:
        """What was known after the first n experiences."""
        return StreamAccuracies(self.values[:n], self.order)

    def learned(self, step: int = -1) -> list[int]:
        """Columns of what was learned up to a row, each once, in ascending order."""
        known = self.order[: step % len(self) + 1] if len(self) else ()
        return sorted({j for j in known if j is not None})

    def average(self, step: int = -1) -> float:
        """Mean accuracy in a row over what was learned up to it; NaN if nothing was measured."""
        return functional.mean(self.values[step, self.learned(step)])

    def summaries(self, *, baseline: ArrayLike = 0.0) -> dict[str, float]:
        """All that can be said by now, by the names of `avalanche_dgm.metrics.functional`.

        Args:
            baseline: What forward transfer is counted from, one number or one for each column.
        """
        if not self.values.size:
            return {}
        found = {
            name: summary(self.values, order=self.order)
            for name, summary in functional.SUMMARIES.items()
        }
        found["forward_transfer"] = functional.forward_transfer(
            self.values, baseline, order=self.order
        )
        return {name: value for name, value in found.items() if not math.isnan(value)}


class EpochAccuracy(NamedTuple):
    """What was known after an epoch (Furlanello et al. 2016, Fig. 3).

    Attributes:
        epoch: Epochs of the new task so far; 0 before the first.
        old: Accuracy on what was learned before, 0 to 1.
        new: Accuracy on what is learned, 0 to 1.
    """

    epoch: int
    old: float
    new: float
