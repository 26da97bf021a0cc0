"""What an accuracy matrix says in one number. Nothing else in the package computes these.

All functions take the same two arguments:

- ``matrix`` (T, S), a tensor, an array or nested lists: ``R[i, j]`` is the accuracy on test
  experience *j* after the *i*-th training experience, both counted from 0; NaN or ``None`` where
  that was not measured. The last row with a measurement is *t*, so a matrix may also be one of a
  stream that is not through.
- ``order``: the column of the experience that was learned in each row, ``None`` for one without a
  test of its own, perhaps followed by the columns of those to come; by default 0, 1, 2 and so on.

An experience counts from the row in which it was last learned, *l(j)*: j itself, if nothing comes
again. What was not measured is left out of the means; a mean over nothing is NaN. Of a matrix
without rows or columns, or one that is none, all raise `ShapeError`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from avalanche_dgm.errors import ConfigError, ShapeError

#: Accuracies.
Values = ArrayLike | Sequence[Sequence["float | None"]]
#: The column learned in each row.
Order = Sequence["int | None"]


def average_accuracy(matrix: Values, *, order: Order | None = None) -> float:
    """Final mean accuracy on the experiences learned (Lopez-Paz & Ranzato 2017, ACC).

    Returns:
        The mean of ``R[t, j]``, 0 to 1.
    """
    values, learned, t = _read(matrix, order)
    return mean(values[t, list(learned)])


def average_anytime_accuracy(matrix: Values, *, order: Order | None = None) -> float:
    """Mean of what `average_accuracy` was after every experience (Caccia et al. 2022, AAA)."""
    values, _, t = _read(matrix, order)
    order = _padded(order, values)
    learned = [[j for j in dict.fromkeys(order[: i + 1]) if j is not None] for i in range(t + 1)]
    return mean([mean(values[i, columns]) for i, columns in enumerate(learned)])


def learning_accuracy(matrix: Values, *, order: Order | None = None) -> float:
    """Mean accuracy on each experience right after it was learned (Riemer et al. 2019, LA).

    Returns:
        The mean of ``R[l(j), j]``, 0 to 1.
    """
    values, learned, _ = _read(matrix, order)
    return mean([values[i, j] for j, i in learned.items()])


def forgetting(matrix: Values, *, order: Order | None = None) -> float:
    """How far accuracy fell from its best value (Chaudhry et al. 2018).

    Returns:
        The mean of ``max(R[i, j] over i < t) - R[t, j]`` over the experiences learned before the
        last one, -1 to 1; below 0 if the last accuracies are the best.
    """
    values, learned, t = _read(matrix, order)
    before = [j for j, i in learned.items() if i < t]
    if not before:
        return math.nan
    return mean(np.fmax.reduce(values[:t, before]) - values[t, before])


def backward_transfer(matrix: Values, *, order: Order | None = None) -> float:
    """What later learning changed on earlier experiences (Lopez-Paz & Ranzato 2017, BWT).

    Returns:
        The mean of ``R[t, j] - R[l(j), j]`` over the experiences learned before the last one, -1
        to 1; negative for forgetting.
    """
    values, learned, t = _read(matrix, order)
    return mean([values[t, j] - values[i, j] for j, i in learned.items() if i < t])


def retention(matrix: Values, *, order: Order | None = None) -> float:
    """Share of the accuracy right after learning that is left at the end.

    Other than `backward_transfer` it compares tasks of unequal difficulty: 0.45 left of 0.9 and 0.2
    left of 0.4 are both one half.

    Returns:
        The mean of `retention_by_experience`, from 0 on; 1 if everything was kept, more if later
        learning helped.
    """
    return mean(list(retention_by_experience(matrix, order=order).values()))


def retention_by_experience(matrix: Values, *, order: Order | None = None) -> dict[int, float]:
    """The retention of each experience learned before the last one.

    Returns:
        ``R[t, j] / R[l(j), j]`` by column, without experiences that were not measured, or not
        learned at all (``R[l(j), j]`` = 0).
    """
    values, learned, t = _read(matrix, order)
    left = {j: values[t, j] / values[i, j] for j, i in learned.items() if i < t and values[i, j]}
    return {j: float(share) for j, share in left.items() if not math.isnan(share)}


def forward_transfer(
    matrix: Values, baseline: ArrayLike = 0.0, *, order: Order | None = None
) -> float:
    """Accuracy on experiences right before they are learned (Lopez-Paz & Ranzato 2017, FWT).

    Args:
        matrix: Accuracies (T, S).
        baseline: Accuracy of an untrained network, one number or one for each test experience
            (S,); 0 gives the accuracy itself.
        order: The column learned in each row.

    Returns:
        The mean of ``R[i - 1, j] - b[j]`` over the experiences j first learned in a row i > 0, -1
        to 1. One that was not learned yet does not count: perhaps it never will be.

    Raises:
        ConfigError: There is not one baseline for each test experience.
    """
    values, _, t = _read(matrix, order)
    start = as_array(baseline)
    if start.ndim > 1 or start.size not in (1, values.shape[1]):
        raise ConfigError(
            f"The baseline has shape {start.shape}; one number is needed, or one for each of the"
            f" {values.shape[1]} test experiences."
        )
    ahead = values - start
    first: dict[int | None, int] = {}
    for i, j in enumerate(_padded(order, values)[: t + 1]):
        first.setdefault(j, i)
    return mean([ahead[i - 1, j] for j, i in first.items() if j is not None and i > 0])


def stream_accuracy(row: Sequence[float | None], sizes: Sequence[int]) -> float:
    """Accuracy over all test samples.

    Args:
        row: Accuracy on each test experience (S,).
        sizes: Samples of each.

    Returns:
        0 to 1, over the experiences that were measured.
    """
    values, counts = as_array(row), np.asarray(sizes, dtype=float)
    counts = np.where(np.isnan(values), 0, counts)
    total = counts.sum()
    return float(np.nan_to_num(values) @ counts / total) if total else math.nan


#: All summaries by name.
SUMMARIES: dict[str, Callable[..., float]] = {
    "average_accuracy": average_accuracy,
    "learning_accuracy": learning_accuracy,
    "average_anytime_accuracy": average_anytime_accuracy,
    "forgetting": forgetting,
    "backward_transfer": backward_transfer,
    "retention": retention,
    "forward_transfer": forward_transfer,
}


def _read(matrix: Values, order: Order | None) -> tuple[NDArray[np.float64], dict[int, int], int]:
    """The matrix, the row in which each column was last learned, and the last measured row."""
    given = as_array(matrix)
    if given.ndim != 2 or given.size == 0:
        raise ShapeError(
            f"An accuracy matrix is needed, not {type(matrix).__name__} of shape {given.shape}: a"
            " row for each learned experience, a column for each test experience."
        )
    measured = (~np.isnan(given)).any(axis=1).nonzero()[0]
    t = int(measured[-1]) if len(measured) else len(given) - 1
    learned = {j: i for i, j in enumerate(_padded(order, given)[: t + 1]) if j is not None}
    return given, learned, t


def _padded(order: Order | None, values: NDArray[np.float64]) -> list[int | None]:
    """An entry for each row at least."""
    known = range(values.shape[1]) if order is None else order
    return [*known, *[None] * (len(values) - len(known))]


def as_array(values: Any) -> NDArray[np.float64]:
    """Numbers in double precision, ``None`` as NaN; tensors of any device."""
    found = values.detach().cpu() if hasattr(values, "detach") else values
    return np.asarray(found, dtype=np.float64)


def mean(values: ArrayLike | Sequence[float | None]) -> float:
    """The mean of the numbers that are there, NaN if none is."""
    found = as_array(values)
    known = found[~np.isnan(found)]
    return float(known.mean()) if known.size else math.nan
