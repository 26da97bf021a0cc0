"""A strategy's batches and random states in a process of a Trainer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from avalanche_dgm.data import Replay
from avalanche_dgm.errors import RanksDifferError
from avalanche_dgm.lightning.internals import unpack_batch
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.ranks import Ranks, differing
from avalanche_dgm.plugins.base import MethodPlugin
from avalanche_dgm.randomness import global_state, set_global_state


class StrategyBatches:
    """The batches of a strategy's data loader, read where Avalanche's loop reads them.

    A fit has two random states. The shared state is that of a single process and is the same in
    all processes, for example for the order of samples. The rank's state is for work on a shard.

    Attributes:
        full: The batch of which the strategy holds a shard, or ``None``.
        training: Whether that is a batch of training.
    """

    def __init__(self, trainer: pl.Trainer, strategy: Any) -> None:
        self.trainer, self.strategy, self.ranks = trainer, strategy, Ranks.of(trainer)
        self.full: list[Tensor] | None = None
        self.training = False
        self._batches: Iterator[Any] | None = None
        self._inactive_state: dict[str, Any] | None = None

    def begin(self) -> None:
        """Starts iterating over the strategy's data loader."""
        self._batches = iter(self.strategy.dataloader)

    def read_next(self) -> bool:
        """Sets the strategy's batch to the next one; returns False if there is none."""
        if self._batches is None:
            return False
        try:
            self.strategy.mbatch = next(self._batches)
        except StopIteration:
            self._batches = None
            return False
        return True

    def leave(self) -> None:
        """Stops iterating, as ``break`` does."""
        self._batches = None

    def end(self) -> None:
        """Ends the iteration as a ``for`` loop does, as loaders may draw random numbers there."""
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
            RanksDifferError: The processes have read different batches.
        """
        strategy, ranks = self.strategy, self.ranks
        unpack_batch(strategy)
        if not ranks.is_distributed:
            return 1.0
        full, self.training = strategy.mbatch, strategy.is_training
        if check and differing(self.trainer, dict(enumerate(full))) is not None:
            raise RanksDifferError(
                "The processes read different batches. Build the benchmark from the same seed in"
                " every process: call torch.manual_seed and numpy.random.seed, or Lightning's"
                " seed_everything, first. check_ranks=False turns this check off."
            )
        self.full, n = full, len(full[0])
        strategy.mbatch = [entry[ranks.shard(n)] for entry in full]
        return ranks.loss_weight(n)

    def sample_replay(self, plugin: MethodPlugin, n: int) -> Replay | None:
        """Samples the same replay in every process and returns this process's shard of it."""
        if self.full is None:
            return plugin.method.replay(n)
        replay = plugin.method.replay(len(self.full[0]))
        return None if replay is None else replay[self.ranks.shard(len(replay))]

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Context of a loop over batches, with the shared random state except in `per_rank`."""
        if not self.ranks.is_distributed:
            yield
            return
        shared = _cpu_state()
        with self.ranks.rank_seeded():
            self._inactive_state = _cpu_state()
            set_global_state(shared)
            try:
                yield
            finally:
                self._inactive_state = None
                shared = _cpu_state()
        set_global_state(shared)

    @contextmanager
    def per_rank(self) -> Iterator[None]:
        """Switches to the rank's random state within the context."""
        self._switch_state()
        try:
            yield
        finally:
            self._switch_state()

    def _switch_state(self) -> None:
        if self._inactive_state is not None:
            current = _cpu_state()
            set_global_state(self._inactive_state)
            self._inactive_state = current


def _cpu_state() -> dict[str, Any]:
    # Not the generators of GPUs: only models draw from them.
    return {**global_state(), "cuda": []}
