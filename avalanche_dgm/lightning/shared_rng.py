"""Random numbers that are common to all processes, and others that are seeded by rank."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avalanche_dgm.lightning.ranks import Ranks


class SharedRNG:
    """The shared and the per-rank random states of a process during a fit.

    Shared numbers are those that a single process would draw, too, such as the order of samples:
    they are the same on any number of devices. Numbers for a process's shard of a batch are drawn
    per rank. Does nothing in a single process.

    Args:
        ranks: The rank of this process.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._own: _RNGStates | None = None

    @contextmanager
    def active(self) -> Iterator[None]:
        """Draws shared numbers by default; `per_rank` switches to the others."""
        if not self._ranks.is_distributed:
            yield
            return
        states = _RNGStates()
        with self._ranks.rank_seeded():
            states.swap()
            self._own = states
            try:
                yield
            finally:
                self._own = None
                states.swap()
        # Keeps the shared states where they are now.
        states.swap()

    @contextmanager
    def per_rank(self) -> Iterator[None]:
        """Draws numbers that are seeded by rank."""
        if self._own is None:
            yield
            return
        self._own.swap()
        try:
            yield
        finally:
            self._own.swap()


class _RNGStates:
    """Saved states of the CPU's global generators.

    Those of GPUs are left alone: only models draw from them.
    """

    def __init__(self) -> None:
        self._saved = self._current()

    @staticmethod
    def _current() -> tuple[Any, Any, Tensor]:
        return random.getstate(), np.random.get_state(), torch.get_rng_state()

    def swap(self) -> None:
        """Swaps the saved states with the current ones."""
        current = self._current()
        python, numpy, state = self._saved
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(state)
        self._saved = current
