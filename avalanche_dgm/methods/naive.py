"""No memory at all: the plain network, which every method is compared with."""

from __future__ import annotations

from typing import Any

from avalanche_dgm.losses import UserCriterion
from avalanche_dgm.methods.base import Method
from avalanche_dgm.settings import MethodSettings


class Naive(Method):
    """Trains the user's model on each experience and does nothing against forgetting.

    Args:
        settings: See `Method`; nothing is drawn.
        **changes: See `Method`.
    """

    def __init__(self, settings: MethodSettings | None = None, **changes: Any) -> None:
        super().__init__(settings, **changes)
        self.criterion = UserCriterion(weighed=False)
