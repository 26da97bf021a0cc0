"""Avalanche's cumulative strategy, with defaults for the command line."""

from __future__ import annotations

from typing import Any

from avalanche.training.supervised import Cumulative
from torch import nn


class CumulativeStrategy(Cumulative):
    """Continues training one network on all experiences so far.

    Args:
        **strategy: Arguments of Avalanche's ``SupervisedTemplate``; the criterion is the
            cross-entropy by default.
    """

    def __init__(self, **strategy: Any) -> None:
        super().__init__(**{"criterion": nn.CrossEntropyLoss(), **strategy})
