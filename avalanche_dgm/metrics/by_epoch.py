"""Accuracies on an old and on a new task, over the epochs of the new one."""

from __future__ import annotations

from typing import NamedTuple


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
