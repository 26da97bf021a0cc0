"""Replay drawn for many steps at once: what is fast for many samples is fast for few a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from avalanche_dgm.data import Replay

#: Most steps of a block, and most numbers of its samples: 16 MiB.
MOST_STEPS, MOST_NUMBERS = 64, 2**22

#: Draws replay of some steps of n samples each, one step after the other.
Draw = Callable[[int, int, torch.Generator], Replay]


class Blocks(nn.Module):
    """Hands out, step by step, replay that is drawn for many steps at once.

    A block is begun when the same number of samples is asked for twice in a row; any other number
    is drawn by itself. Its samples are no part of the state: they are drawn again, from the random
    numbers that they were drawn from.
    """

    def __init__(self) -> None:
        super().__init__()
        self.forget()

    def forget(self) -> None:
        """Drops the block: what it was drawn from has changed."""
        #: Samples that were asked for at last.
        self._last = 0
        #: Samples of a step, steps, and the random numbers' state before the block was drawn.
        self._drawn: tuple[int, int, Tensor] | None = None
        self._used = 0
        self._samples: Replay | None = None

    def take(self, n: int, values: int, rng: torch.Generator, draw: Draw) -> Replay:
        """Takes the samples of one step.

        Args:
            n: How many.
            values: Numbers of a sample.
            rng: Generator of random numbers on the memory's device.
            draw: Draws them.
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
        found = self._samples
        if self._used == steps:
            self._samples = None
        return Replay(found.images[part], found.labels[part], found.tasks[part])

    def get_extra_state(self) -> dict[str, Any]:
        """Where it is, for ``state_dict``."""
        return {"last": self._last, "drawn": self._drawn, "used": self._used}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Takes over what `get_extra_state` returned."""
        self._last, self._used, self._samples = state["last"], state["used"], None
        drawn = state["drawn"]
        self._drawn = None if drawn is None else (drawn[0], drawn[1], drawn[2])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_samples": None}
