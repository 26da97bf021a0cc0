"""All summaries of an accuracy matrix at once, in whatever order its columns come."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from avalanche_dgm.metrics import functional

_OF_MATRIX: dict[str, Callable[[Tensor], Tensor]] = {
    "average_accuracy": functional.average_accuracy,
    "learning_accuracy": functional.learning_accuracy,
    "average_anytime_accuracy": functional.average_anytime_accuracy,
    "forgetting": functional.forgetting,
    "backward_transfer": functional.backward_transfer,
    "retention": functional.retention,
}
#: The names of all summaries.
SUMMARIES = (*_OF_MATRIX, "forward_transfer")


def summaries(
    matrix: Tensor, columns: Sequence[int | None], *, baseline: Tensor | float = 0.0
) -> dict[str, float]:
    """Summarises a matrix whose columns are in the order of the test stream.

    Args:
        matrix: Float tensor (T, S): accuracies on each of S test experiences after each of T
            experiences that were learned; NaN where nothing was measured.
        columns: The column of each of the T experiences, ``None`` for one without a test of its
            own, which is left out.
        baseline: What forward transfer is counted from, one number or one for each column (S,).

    Returns:
        By name, such as ``average_accuracy``, what the functions of `avalanche_dgm.metrics` say;
        what cannot be said yet is not there. Where experiences share a column, as a task that
        comes again, there is no diagonal to compare with: the average accuracy alone.
    """
    known = list(dict.fromkeys(j for j in columns if j is not None))
    if len(known) < sum(j is not None for j in columns):
        found = {"average_accuracy": matrix[-1, known].nanmean()}
    else:
        rest = [j for j in range(matrix.shape[1]) if j not in known]
        order = [*columns, *rest]
        ordered = _in_order(matrix, order)
        if isinstance(baseline, Tensor):
            baseline = _in_order(baseline[None], order)[0]
        found = {name: summary(ordered) for name, summary in _OF_MATRIX.items()}
        found["forward_transfer"] = functional.forward_transfer(ordered, baseline)
    values = {name: float(value) for name, value in found.items()}
    return {name: value for name, value in values.items() if not math.isnan(value)}


def _in_order(matrix: Tensor, order: Sequence[int | None]) -> Tensor:
    """Columns in an order, NaN for those that are not there."""
    nothing = matrix.new_full((len(matrix),), torch.nan)
    return torch.stack([nothing if j is None else matrix[:, j] for j in order], dim=1)
