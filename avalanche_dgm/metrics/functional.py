"""Summaries of an accuracy matrix.

``R[i, j]`` is the accuracy on test experience *j* after the *i*-th training experience was learned,
both counted from 0, and NaN where that was not measured. The last row with a measurement is *t*:
the experiences 0 to *t* are those learned, so a matrix may also be one of a stream that is not
through. Whatever was not measured is left out of the means; a mean over nothing is NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor

from avalanche_dgm.errors import ConfigError, ShapeError


def average_accuracy(matrix: Tensor) -> Tensor:
    """Mean accuracy on the learned experiences, at last (Lopez-Paz & Ranzato 2017, ACC).

    Args:
        matrix: Float tensor (T, S), accuracies.

    Returns:
        Scalar, in [0, 1] for accuracies in [0, 1]: the mean of ``R[t, j]`` over j <= t.

    Raises:
        ShapeError: It is no matrix of floating point numbers.
    """
    t = _last(matrix)
    return matrix[t, : t + 1].nanmean()


def backward_transfer(matrix: Tensor) -> Tensor:
    """What later learning changed on earlier experiences (Lopez-Paz & Ranzato 2017, BWT).

    Args:
        matrix: Float tensor (T, S), accuracies.

    Returns:
        Scalar in [-1, 1], negative for forgetting: the mean of ``R[t, j] - R[j, j]`` over j < t.

    Raises:
        ShapeError: It is no matrix of floating point numbers.
    """
    t = _last(matrix)
    learned = matrix.diagonal()[:t]
    return (matrix[t, : len(learned)] - learned).nanmean()


def forward_transfer(matrix: Tensor, baseline: Tensor | float = 0.0) -> Tensor:
    """Accuracy on experiences that come next (Lopez-Paz & Ranzato 2017, FWT).

    Args:
        matrix: Float tensor (T, S), accuracies.
        baseline: Accuracy of an untrained network, one number or one for each test experience
            (S,); 0 gives the accuracy itself.

    Returns:
        Scalar in [-1, 1]: the mean of ``R[j - 1, j] - b[j]`` over j > 0.

    Raises:
        ShapeError: It is no matrix of floating point numbers.
        ConfigError: There is not one baseline for each test experience.
    """
    _last(matrix)
    given = torch.as_tensor(baseline, dtype=matrix.dtype, device=matrix.device)
    if given.ndim > 1 or given.numel() not in (1, matrix.shape[1]):
        raise ConfigError(
            f"The baseline has shape {tuple(given.shape)}; one number is needed, or one for each of"
            f" the {matrix.shape[1]} test experiences."
        )
    before = matrix.diagonal(offset=1)
    return (before - given.expand(matrix.shape[1])[1 : 1 + len(before)]).nanmean()


def forgetting(matrix: Tensor) -> Tensor:
    """How far accuracy fell from the best it ever was (Chaudhry et al. 2018).

    Args:
        matrix: Float tensor (T, S), accuracies.

    Returns:
        Scalar in [-1, 1], below 0 if the last accuracies are the best ones: the mean of
        ``max(R[i, j] over i < t) - R[t, j]`` over j < t.

    Raises:
        ShapeError: It is no matrix of floating point numbers.
    """
    t = _last(matrix)
    earlier = matrix[:t, :t]
    if earlier.numel() == 0:
        return matrix.new_tensor(torch.nan)
    best = earlier.nan_to_num(nan=-torch.inf).amax(dim=0)
    fallen = best - matrix[t, : len(best)]
    return torch.where(best.isinf(), torch.nan, fallen).nanmean()


def retention(matrix: Tensor) -> Tensor:
    """Which part of an accuracy is left: the last one by that right after learning.

    Other than `backward_transfer` it compares tasks of unequal difficulty: 0.45 left of 0.9 and 0.2
    left of 0.4 are both one half.

    Args:
        matrix: Float tensor (T, S), accuracies.

    Returns:
        Scalar from 0 on, 1 if everything was kept, more if later learning helped: the mean of
        ``R[t, j] / R[j, j]`` over j < t. Experiences that were not learned at all, ``R[j, j]`` = 0,
        are left out.

    Raises:
        ShapeError: It is no matrix of floating point numbers.
    """
    t = _last(matrix)
    learned = matrix.diagonal()[:t]
    learned = torch.where(learned > 0, learned, torch.nan)
    return (matrix[t, : len(learned)] / learned).nanmean()


def learning_accuracy(matrix: Tensor) -> Tensor:
    """Mean accuracy on each experience right after it was learned (Riemer et al. 2019, LA).

    Args:
        matrix: Float tensor (T, S), accuracies.

    Returns:
        Scalar, in [0, 1] for accuracies in [0, 1]: the mean of ``R[j, j]`` over j <= t.

    Raises:
        ShapeError: It is no matrix of floating point numbers.
    """
    return matrix.diagonal()[: _last(matrix) + 1].nanmean()


def average_anytime_accuracy(matrix: Tensor) -> Tensor:
    """Mean of what `average_accuracy` was after every experience (Caccia et al. 2022, AAA).

    Args:
        matrix: Float tensor (T, S), accuracies.

    Returns:
        Scalar, in [0, 1] for accuracies in [0, 1]: over i <= t, the mean of the means of
        ``R[i, j]`` over j <= i.

    Raises:
        ShapeError: It is no matrix of floating point numbers.
    """
    _last(matrix)
    learned = torch.ones_like(matrix, dtype=torch.bool).tril()
    return torch.where(learned, matrix, torch.nan).nanmean(dim=1).nanmean()


def _last(matrix: Tensor) -> int:
    """The last row with a measurement, the last of all if there is none."""
    if matrix.ndim != 2 or matrix.numel() == 0 or not matrix.is_floating_point():
        raise ShapeError(
            f"An accuracy matrix is needed, not {matrix.dtype} of shape {tuple(matrix.shape)}: a"
            " row for each learned experience, a column for each test experience, floating point."
        )
    measured = matrix.isfinite().any(dim=1).nonzero()
    return int(measured[-1]) if len(measured) else len(matrix) - 1
