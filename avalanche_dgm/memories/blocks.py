"""Replay batches drawn for many steps at once, which is faster than one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from avalanche_dgm.data import Replay

#: Maximum steps of a block, and maximum values of its samples: 16 MiB.
MOST_STEPS, MOST_NUMBERS = 64, 2**22

#: Draws the concatenated replay batches of several steps, n samples each.
Draw = Callable[[int, int, torch.Generator], Replay]


class Blocks(nn.Module):
    """Returns replay batches one by one from a block that is drawn for many steps at once.

    A block is drawn when the batch size is the same twice in a row; other batches are drawn
    directly. The state has the random state of the block, from which its samples are drawn again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.forget()

    def forget(self) -> None:
        """Drops the block, as the generator has changed."""
        #: Size of the last batch.
        self._last = 0
        #: Batch size, number of steps, and the random state before the block was drawn.
        self._drawn: tuple[int, int, Tensor] | None = None
        self._used = 0
        self._samples: Replay | None = None

    def take(self, n: int, values: int, rng: torch.Generator, draw: Draw) -> Replay:
        """Returns the replay batch of one step.

        Args:
            n: Batch size.
            values: Number of values of a sample.
            rng: Generator on the memory's device.
            draw: Draws the samples.
        """
        again, self._last = n == self._last, n
        if self._drawn is not None and self._drawn[0] == n and self._used < self._drawn[1]:
            return self._next(rng, draw)
        steps = min(MOST_STEPS, MOST_NUMBERS // max(n * values, 1))
        if not again or steps < 2:
            return draw(1, n, rng)
        self._drawn, self._used = (n, steps, rng.get_state()), 0
        self._samples = draw(steps, n, rng)
        return self._next(rng, draw)

    def _next(self, rng: torch.Generator, draw: Draw) -> Replay:
        n, steps, state = self._drawn or (0, 0, torch.empty(0))
        if self._samples is None or self._samples.images.device != rng.device:
            own = torch.Generator(rng.device)
            own.set_state(state)
            self._samples = draw(steps, n, own)
        part = slice(self._used * n, (self._used + 1) * n)
        self._used += 1
        block = self._samples
        if self._used == steps:
            self._samples = None
        return Replay(block.images[part], block.labels[part], block.tasks[part])

    def get_extra_state(self) -> dict[str, Any]:
        """Position in the block and its random state, for ``state_dict``."""
        return {"last": self._last, "drawn": self._drawn, "used": self._used}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restores the state returned by `get_extra_state`."""
        self._last, self._used, self._samples = state["last"], state["used"], None
        drawn = state["drawn"]
        self._drawn = None if drawn is None else (drawn[0], drawn[1], drawn[2])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_samples": None}
