"""Early stopping of an experience at a target accuracy."""

from __future__ import annotations

import math
from typing import Any

from avalanche_dgm.checks import number


class TrainingTarget:
    """Ends an experience once the running training accuracy of an epoch reaches a target.

    Args:
        accuracy: The target accuracy, above 0 and at most 1.
        settle: Whether to decay the learning rate to 0 afterwards, by half a cosine, over half as
            many epochs as the target took. With a large learning rate the accuracies on old and new
            classes fluctuate from step to step.

    Attributes:
        limit: Maximum number of epochs of the experience.
        reached: Epochs after which the target was reached, or after which the decay must start to
            end within the limit; ``None`` until then.

    Raises:
        ConfigError: The accuracy is out of range.
    """

    def __init__(self, accuracy: float, *, settle: bool = False) -> None:
        number("until", accuracy, above=0, most=1)
        self.accuracy, self.settle = accuracy, settle
        self.limit = 1
        self.reached: int | None = None

    def begin(self, limit: int) -> None:
        """Starts an experience of at most ``limit`` epochs."""
        self.limit, self.reached = limit, None
        self._check(0, 0.0)

    def end_epoch(self, done: int, accuracy: float) -> None:
        """Records the running accuracy of an epoch, the one numbered ``done`` from 1."""
        if self.reached is None:
            self._check(done, accuracy)

    def _check(self, done: int, accuracy: float) -> None:
        following = done + 1
        if accuracy >= self.accuracy or following + self._tail(following) > self.limit:
            self.reached = done

    def _tail(self, epochs: int) -> int:
        return math.ceil(epochs / 2) if self.settle else 0

    @property
    def last(self) -> int:
        """Number of epochs after which training ends, currently."""
        if self.reached is None:
            return self.limit
        return min(max(1, self.reached + self._tail(self.reached)), self.limit)

    def factor(self, epoch: int, batch: int, batches: int) -> float:
        """Factor of the learning rate, from 1 down to 0, in a batch of an epoch, both from 0."""
        if not self.settle or self.reached is None:
            return 1.0
        done = (epoch - self.reached) * batches + batch
        steps = (self.last - self.reached) * batches
        return 0.5 * (1 + math.cos(math.pi * min(done, steps) / max(1, steps)))

    def state(self) -> dict[str, Any]:
        """State within an experience, for `set_state`."""
        return {"limit": self.limit, "reached": self.reached}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores what `state` returned."""
        self.limit, self.reached = state["limit"], state["reached"]
