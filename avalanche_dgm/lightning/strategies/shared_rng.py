"""Random numbers that are common to all processes, and others that are seeded by rank."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from avalanche_dgm.lightning.ranks import Ranks
from avalanche_dgm.randomness import global_state, set_global_state


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
        self._other: dict[str, Any] | None = None

    @contextmanager
    def active(self) -> Iterator[None]:
        """Draws shared numbers by default; `per_rank` switches to the others."""
        if not self._ranks.is_distributed:
            yield
            return
        shared = _cpu_state()
        with self._ranks.rank_seeded():
            self._other = _cpu_state()
            set_global_state(shared)
            try:
                yield
            finally:
                self._other = None
                shared = _cpu_state()
        set_global_state(shared)

    @contextmanager
    def per_rank(self) -> Iterator[None]:
        """Draws numbers that are seeded by rank."""
        if self._other is None:
            yield
            return
        self._switch()
        try:
            yield
        finally:
            self._switch()

    def _switch(self) -> None:
        current = _cpu_state()
        if self._other is not None:
            set_global_state(self._other)
        self._other = current


def _cpu_state() -> dict[str, Any]:
    # The generators of GPUs are left alone: only models draw from them.
    return {**global_state(), "cuda": []}
