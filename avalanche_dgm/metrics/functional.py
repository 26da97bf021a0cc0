"""Metrics of an accuracy matrix, each a number, and means over seeds.

Nothing else in the package computes them. All metrics take the same two arguments:

- ``matrix`` (T, S), a tensor, an array or nested lists: ``R[i, j]`` is the accuracy on test
  experience *j* after the *i*-th training experience, both counted from 0; NaN or ``None`` where
  not measured. The last row with a measurement is *t*, so the stream may be incomplete.
- ``order``: the column of the experience learned in each row, ``None`` without a test experience of
  its own, optionally followed by columns of later experiences; by default 0, 1, 2 and so on.

*l(j)* is the row in which experience *j* was last learned: *j* itself, unless experiences are
repeated. Means are over measured values; without any they are NaN. All raise `ShapeError` unless
the matrix is two-dimensional and not empty.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from avalanche_dgm.errors import ConfigError, ShapeError

#: The level of confidence intervals.
LEVEL = 0.95
#: Accuracies.
Values = ArrayLike | Sequence[Sequence["float | None"]]
#: The column learned in each row.
Order = Sequence["int | None"]


def average_accuracy(matrix: Values, *, order: Order | None = None) -> float:
    """Final mean accuracy on the learned experiences (Lopez-Paz & Ranzato 2017, ACC).

    Returns:
        The mean of ``R[t, j]``, 0 to 1.
    """
    values, learned, t = _read(matrix, order)
    return mean(values[t, list(learned)])


def average_anytime_accuracy(matrix: Values, *, order: Order | None = None) -> float:
    """Mean of `average_accuracy` over all rows so far (Caccia et al. 2022, AAA)."""
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
    """Drop of the accuracy from its best value (Chaudhry et al. 2018).

    Returns:
        The mean of ``max(R[i, j] over i < t) - R[t, j]`` over the experiences learned before the
        last one, -1 to 1; negative if the last accuracies are the best.
    """
    values, learned, t = _read(matrix, order)
    before = [j for j, i in learned.items() if i < t]
    if not before:
        return math.nan
    return mean(np.fmax.reduce(values[:t, before]) - values[t, before])


def backward_transfer(matrix: Values, *, order: Order | None = None) -> float:
    """Effect of later training on earlier experiences (Lopez-Paz & Ranzato 2017, BWT).

    Returns:
        The mean of ``R[t, j] - R[l(j), j]`` over the experiences learned before the last one, -1
        to 1; negative for forgetting.
    """
    values, learned, t = _read(matrix, order)
    return mean([values[t, j] - values[i, j] for j, i in learned.items() if i < t])


def retention(matrix: Values, *, order: Order | None = None) -> float:
    """Remaining fraction of the accuracy right after learning.

    Unlike `backward_transfer` it is comparable for tasks of different difficulty: 0.45 of 0.9 and
    0.2 of 0.4 are both one half.

    Returns:
        The mean of `retention_by_experience`, at least 0; 1 without forgetting, above 1 if later
        training improved the accuracy.
    """
    return mean(list(retention_by_experience(matrix, order=order).values()))


def retention_by_experience(matrix: Values, *, order: Order | None = None) -> dict[int, float]:
    """The retention of each experience learned before the last one.

    Returns:
        ``R[t, j] / R[l(j), j]`` by column, without experiences that were not measured or have
        ``R[l(j), j]`` = 0.
    """
    values, learned, t = _read(matrix, order)
    ratios = {j: values[t, j] / values[i, j] for j, i in learned.items() if i < t and values[i, j]}
    return {j: float(ratio) for j, ratio in ratios.items() if not math.isnan(ratio)}


def forward_transfer(
    matrix: Values, baseline: ArrayLike = 0.0, *, order: Order | None = None
) -> float:
    """Accuracy on experiences right before they are learned (Lopez-Paz & Ranzato 2017, FWT).

    Args:
        matrix: Accuracies (T, S).
        baseline: Accuracy of an untrained network, one number or one per test experience (S,); 0
            gives the accuracy itself.
        order: The column learned in each row.

    Returns:
        The mean of ``R[i - 1, j] - b[j]`` over the experiences j first learned in a row i > 0, -1
        to 1. Experiences that were not learned yet are left out.

    Raises:
        ConfigError: The baseline is neither one number nor one per test experience.
    """
    values, _, t = _read(matrix, order)
    offset = as_array(baseline)
    if offset.ndim > 1 or offset.size not in (1, values.shape[1]):
        raise ConfigError(
            f"The baseline has shape {offset.shape}; one number is needed, or one for each of the"
            f" {values.shape[1]} test experiences."
        )
    transfer = values - offset
    first: dict[int | None, int] = {}
    for i, j in enumerate(_padded(order, values)[: t + 1]):
        first.setdefault(j, i)
    return mean([transfer[i - 1, j] for j, i in first.items() if j is not None and i > 0])


def stream_accuracy(row: Sequence[float | None], sizes: Sequence[int]) -> float:
    """Accuracy over all test samples of the measured test experiences.

    It follows from the accuracy on each test experience (S,) and its number of samples.
    """
    values, counts = as_array(row), np.asarray(sizes, dtype=float)
    counts = np.where(np.isnan(values), 0, counts)
    total = counts.sum()
    return float(np.nan_to_num(values) @ counts / total) if total else math.nan


#: All metrics by name.
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
    values = as_array(matrix)
    if values.ndim != 2 or values.size == 0:
        raise ShapeError(
            f"An accuracy matrix is needed, not {type(matrix).__name__} of shape {values.shape}: a"
            " row for each learned experience, a column for each test experience."
        )
    measured = (~np.isnan(values)).any(axis=1).nonzero()[0]
    t = int(measured[-1]) if len(measured) else len(values) - 1
    learned = {j: i for i, j in enumerate(_padded(order, values)[: t + 1]) if j is not None}
    return values, learned, t


def _padded(order: Order | None, values: NDArray[np.float64]) -> list[int | None]:
    """The order, padded with ``None`` to the number of rows."""
    given = range(values.shape[1]) if order is None else order
    return [*given, *[None] * (len(values) - len(given))]


def as_array(values: Any) -> NDArray[np.float64]:
    """Numbers or a tensor as an array of double precision, with ``None`` as NaN."""
    numbers = values.detach().cpu() if hasattr(values, "detach") else values
    return np.asarray(numbers, dtype=np.float64)


def mean(values: ArrayLike | Sequence[float | None]) -> float:
    """The mean of the values that are not NaN or ``None``; NaN if there are none."""
    numbers = as_array(values)
    measured = numbers[~np.isnan(numbers)]
    return float(measured.mean()) if measured.size else math.nan


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its uncertainty.

    Attributes:
        mean: The mean.
        n: Number of seeds.
        sd: Sample standard deviation; 0 for one seed.
        half: Half the length of the 95 % t interval of the mean; ``None`` for one seed.
    """

    mean: float
    n: int
    sd: float = 0.0
    half: float | None = None


def estimate(values: Sequence[float | None]) -> Estimate | None:
    """Estimates a mean over seeds, from one value a seed; ``None`` without values.

    Values that are ``None`` or not finite are ignored.
    """
    finite = [v for v in values if v is not None and math.isfinite(v)]
    if len(finite) < 2:
        return Estimate(finite[0], 1) if finite else None
    # Takes long to import.
    from scipy.special import stdtrit

    n, sd = len(finite), stdev(finite)
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * sd / math.sqrt(n)
    return Estimate(fmean(finite), n, sd, half)
