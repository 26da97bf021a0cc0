"""A strategy's batches in a process of a Trainer, with the random numbers of reading them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from avalanche_dgm.errors import RanksDifferError
from avalanche_dgm.lightning.internals import unpack_batch
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.ranks import Ranks, differing
from avalanche_dgm.lightning.strategies.evaluation import DistributedEvaluation
from avalanche_dgm.randomness import global_state, set_global_state


class StrategyBatches:
    """The batches of a strategy's data loader, pulled where Avalanche pulls them.

    In a fit there are two random states. Shared numbers are those that a single process would
    draw, too, such as the order of samples: they are the same on any number of devices. Numbers
    for a process's shard of a batch are drawn per rank.
    """

    def __init__(
        self, trainer: pl.Trainer, strategy: Any, evaluation: DistributedEvaluation
    ) -> None:
        self.trainer, self.strategy, self.evaluation = trainer, strategy, evaluation
        self.ranks = Ranks.of(trainer)
        self._batches: Iterator[Any] | None = None
        self._other: dict[str, Any] | None = None

    def begin(self) -> None:
        """Begins to read."""
        self._batches = iter(self.strategy.dataloader)

    def pull(self) -> bool:
        """Reads the next batch; returns whether there was one."""
        if self._batches is None:
            return False
        try:
            self.strategy.mbatch = next(self._batches)
        except StopIteration:
            self._batches = None
            return False
        return True

    def leave(self) -> None:
        """Reads no more batches, as after a ``break``."""
        self._batches = None

    def end(self) -> None:
        """Asks once more, as a ``for`` loop does at its end: loaders may draw random numbers."""
        if self._batches is not None:
            next(self._batches, None)
        self._batches = None

    def shard(self, *, check: bool = False) -> float:
        """Replaces the batch by this process's shard.

        Args:
            check: Whether to check that all processes have read the same batch.

        Returns:
            The weight of the shard's mean loss in the mean over processes.

        Raises:
            RanksDifferError: They have not.
        """
        unpack_batch(self.strategy)
        if not self.ranks.is_distributed:
            return 1.0
        if check and differing(self.trainer, dict(enumerate(self.strategy.mbatch))) is not None:
            raise RanksDifferError(
                "The processes read different batches. Build the benchmark, and all that it draws"
                " at random, from the same seed in every process: call torch.manual_seed and"
                " numpy.random.seed, or Lightning's seed_everything, first. check_ranks=False"
                " goes on without this check."
            )
        return self.evaluation.shard_batch()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Surrounds the loops over batches; draws shared numbers, but for those in `per_rank`."""
        if not self.ranks.is_distributed:
            yield
            return
        shared = _cpu_state()
        with self.ranks.rank_seeded():
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
        self._switch()
        try:
            yield
        finally:
            self._switch()

    def _switch(self) -> None:
        if self._other is not None:
            current = _cpu_state()
            set_global_state(self._other)
            self._other = current


def _cpu_state() -> dict[str, Any]:
    # The generators of GPUs are left alone: only models draw from them.
    return {**global_state(), "cuda": []}
