"""No memory at all: the plain network, which every method is compared with."""

from __future__ import annotations

from collections.abc import Iterable

from avalanche_dgm.data import Replay
from avalanche_dgm.errors import UnknownTaskError
from avalanche_dgm.losses import Criterion
from avalanche_dgm.methods.base import Method


class Naive(Method):
    """Trains the user's model on each experience and does nothing against forgetting.

    Args:
        seed: See `Method`; nothing is drawn.
    """

    def set_criterion(self, criterion: Criterion, *, width: int, classes: Iterable[int]) -> None:
        """Takes any criterion: nothing is weighed against it."""

    def sample(self, n: int) -> Replay:
        """Always fails: nothing is remembered.

        Raises:
            UnknownTaskError: In every case.
        """
        raise UnknownTaskError("The plain network remembers no samples; use another method.")
