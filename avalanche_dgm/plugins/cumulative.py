"""Avalanche's strategy that goes on with all experiences so far, as the command line makes it."""

from __future__ import annotations

from typing import Any

from avalanche.training.supervised import Cumulative
from torch import nn


class CumulativeStrategy(Cumulative):
    """Trains one network on more and more: what was learned before is where it begins.

    Args:
        **strategy: Arguments of Avalanche's ``SupervisedTemplate``; the criterion is the
            cross-entropy unless it is given.
    """

    def __init__(self, **strategy: Any) -> None:
        super().__init__(**{"criterion": nn.CrossEntropyLoss(), **strategy})
