"""When the training of an experience ends: by what was learned, not by a number of epochs."""

from __future__ import annotations

import math
from typing import Any

from avalanche_dgm.checks import number


class TrainingTarget:
    """Ends an experience once enough of its training samples are answered rightly.

    What is compared is the running accuracy of an epoch, which costs no pass of its own.

    Args:
        accuracy: The accuracy that is enough, above 0 and at most 1.
        settle: Let the learning rate fall to 0, on half a cosine, before the end: over half as many
            epochs as the target took. How much a classifier knows of old and of new classes swings
            from step to step as long as the steps are large.

    Attributes:
        limit: Most epochs of the experience.
        reached: Epochs after which the target was reached, or after which the rest of the limit is
            needed to settle; ``None`` until then.

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
        self._look(0, 0.0)

    def end_epoch(self, done: int, accuracy: float) -> None:
        """Takes note of an epoch.

        Args:
            done: Epochs of the experience so far.
            accuracy: Its running accuracy, 0 to 1.
        """
        if self.reached is None:
            self._look(done, accuracy)

    def _look(self, done: int, accuracy: float) -> None:
        following = done + 1
        if accuracy >= self.accuracy or following + self._tail(following) > self.limit:
            self.reached = done

    def _tail(self, epochs: int) -> int:
        return math.ceil(epochs / 2) if self.settle else 0

    @property
    def last(self) -> int:
        """Epochs after which training ends, as far as is known."""
        if self.reached is None:
            return self.limit
        return min(max(1, self.reached + self._tail(self.reached)), self.limit)

    def factor(self, epoch: int, batch: int, batches: int) -> float:
        """What the learning rate is multiplied by, from 1 down to 0.

        Args:
            epoch: The current epoch, from 0.
            batch: The batch in it, from 0.
            batches: Batches of an epoch.
        """
        if not self.settle or self.reached is None:
            return 1.0
        done = (epoch - self.reached) * batches + batch
        steps = (self.last - self.reached) * batches
        return 0.5 * (1 + math.cos(math.pi * min(done, steps) / max(1, steps)))

    def state(self) -> dict[str, Any]:
        """Where it is in an experience, for `set_state`."""
        return {"limit": self.limit, "reached": self.reached}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores what `state` returned."""
        self.limit, self.reached = state["limit"], state["reached"]
