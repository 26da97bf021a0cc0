"""Random numbers that all processes have in common, beside those that each draws for itself."""

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
    """What is common, and what is each process's own, in the middle of a fit.

    Common is what a single process would draw too, such as the order of the samples, so that it
    is the same on any number of devices. Own is what concerns a process's part of a batch. A
    single process has one kind of numbers only: nothing changes.

    Args:
        ranks: The process among the others.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._own: _RNGStates | None = None

    @contextmanager
    def active(self) -> Iterator[None]:
        """Makes the common numbers the usual ones, with `own` ones beside them."""
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
        # The common numbers go on where they are.
        states.swap()

    @contextmanager
    def per_rank(self) -> Iterator[None]:
        """Lets each process draw its own numbers."""
        if self._own is None:
            yield
            return
        self._own.swap()
        try:
            yield
        finally:
            self._own.swap()


class _RNGStates:
    """The states of the CPU's global random number generators, at rest while others are in use.

    Those of GPUs are left alone: only models draw from them.
    """

    def __init__(self) -> None:
        self._resting = self._current()

    @staticmethod
    def _current() -> tuple[Any, Any, Tensor]:
        return random.getstate(), np.random.get_state(), torch.get_rng_state()

    def swap(self) -> None:
        """Takes the other states into use."""
        current = self._current()
        python, numpy, state = self._resting
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(state)
        self._resting = current
