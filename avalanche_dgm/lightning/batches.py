"""Batches of one experience, in a reproducible order that does not depend on the devices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from avalanche_dgm import checks
from avalanche_dgm.data import ExperienceData
from avalanche_dgm.errors import ConfigError, DataError
from avalanche_dgm.lightning.ranks import Ranks
from avalanche_dgm.plugins.samples import collate_of, columns_of, split_batch

#: A batch: images (n, *shape) float32, labels (n,) int64, task labels (n,) int64.
Batch = tuple[Tensor, Tensor, Tensor]


def batch_indices(
    n: int,
    *,
    batch_size: int,
    rng: torch.Generator | None = None,
    tasks: Tensor | None = None,
    drop_last: bool = False,
) -> list[Tensor]:
    """Splits sample indices into the batches of one epoch.

    Args:
        n: Number of samples.
        batch_size: Samples per batch; the last batch may be smaller.
        rng: Generator for shuffling; ``None`` keeps the samples' order. When shuffling, a last
            batch of one sample is dropped, as BatchNorm cannot train on it.
        tasks: int64 tensor (n,) of task labels, to balance each batch over tasks as Avalanche does,
            repeating samples of smaller tasks; ``None`` does not balance.
        drop_last: Whether to drop a smaller last batch.

    Returns:
        int64 tensors of indices, one per batch.
    """
    groups = [] if tasks is None else [(tasks == t).nonzero().flatten() for t in tasks.unique()]
    if len(groups) > 1:
        return _balanced(groups, batch_size, rng, drop_last)
    positions = torch.arange(n) if rng is None else torch.randperm(n, generator=rng)
    batches = list(positions.split(batch_size))
    too_small = batch_size if drop_last else 2 if rng is not None else 1
    if len(batches[-1]) < min(too_small, batch_size) and (drop_last or len(batches) > 1):
        batches.pop()
    return batches


def _balanced(
    groups: list[Tensor], batch_size: int, rng: torch.Generator | None, drop_last: bool
) -> list[Tensor]:
    if batch_size < len(groups):
        raise ConfigError(
            f"The experience has {len(groups)} task labels, and every batch must have samples of"
            f" each: batch_size={batch_size} is too small."
        )
    share, rest = divmod(batch_size, len(groups))

    def passes(group: Tensor, size: int) -> Iterator[list[Tensor]]:
        while True:
            order = group if rng is None else group[torch.randperm(len(group), generator=rng)]
            parts = list(order.split(size))
            yield parts[:-1] if drop_last and len(parts[-1]) < size else parts

    columns = []
    for i, group in enumerate(groups):
        source = passes(group, share + (i < rest))
        columns.append((next(source), source))
    longest = max(len(first) for first, _ in columns)
    for first, source in columns:
        while first and len(first) < longest:
            first += next(source)
    return [torch.cat([first[step] for first, _ in columns if first]) for step in range(longest)]


class Batches(ABC):
    """Base of the loaders of one experience; an iteration is one epoch.

    They are not a ``DataLoader``, so that Lightning does not change their order. Lightning calls
    `set_epoch`; other callers must call it themselves.

    Args:
        n: Number of samples.
        batch_size: Batch size, over all devices.
        shuffle: Whether to shuffle in each epoch.
        seed: Seed of the order, which depends only on it, ``experience`` and the epoch.
        experience: Index of the experience.
        epoch: The first epoch.
        start: Index of the first batch of that epoch, to resume within it.
        ranks: Rank and world size; ``None`` for a single process.
        whole: Yield full batches in each process, not its shards; see `shard`.
        drop_last: Whether to drop a smaller last batch.
        tasks: See `batch_indices`.
        exact: Whether shards must be disjoint, for evaluation: a last batch too small to split
            is joined to the previous one.

    Attributes:
        epoch: The next epoch.
        start: Index of its first batch.
        stop: Number of batches after which an epoch ends; ``None`` for all.

    Raises:
        DataError: There are no samples.
        ConfigError: There are no batches.
    """

    #: Lightning looks for ``set_epoch`` here and in `sampler`.
    batch_sampler = None

    def __init__(
        self,
        n: int,
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        experience: int = 0,
        epoch: int = 0,
        start: int = 0,
        ranks: Ranks | None = None,
        whole: bool = False,
        drop_last: bool = False,
        tasks: Tensor | None = None,
        exact: bool = False,
    ) -> None:
        if n == 0:
            raise DataError(f"Experience {experience} holds no samples. Remove it from the stream.")
        checks.whole("batch_size", batch_size)
        self.n, self.batch_size, self.shuffle = n, batch_size, shuffle
        self.seed, self.experience = seed, experience
        self.epoch, self.start = epoch, start
        self.stop: int | None = None
        self.ranks, self.whole = ranks or Ranks(), whole
        self.drop_last, self.exact = drop_last, exact
        self._tasks = None if tasks is None else tasks.cpu()
        self._sizes = [len(batch) for batch in self._order()]
        if not self._sizes:
            raise ConfigError(
                f"Experience {experience} has {n} samples, fewer than batch_size={batch_size}, and"
                " drop_last=True leaves nothing to learn. Use a smaller batch or drop_last=False."
            )

    @property
    def sampler(self) -> Batches:
        """Itself, as Lightning calls ``set_epoch`` on a loader's sampler."""
        return self

    @property
    def sizes(self) -> list[int]:
        """Sizes of the batches of the next epoch, over all devices."""
        return self._sizes[self.start : self.stop]

    def __len__(self) -> int:
        return len(self.sizes)

    @abstractmethod
    def __iter__(self) -> Iterator[Batch]:
        """Yields the batches of the epoch from `start`, the same each time."""

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch; a new epoch starts at its first batch."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def _rng(self, *more: int) -> torch.Generator:
        """A generator seeded by seed, experience and epoch."""
        entropy = (self.seed, self.experience, self.epoch, *more)
        mixed = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(mixed) % 2**63)

    def _order(self) -> list[Tensor]:
        order = batch_indices(
            self.n,
            batch_size=self.batch_size,
            rng=self._rng() if self.shuffle else None,
            tasks=self._tasks,
            drop_last=self.drop_last,
        )
        shared = self.ranks.is_distributed and not self.whole
        alone = not self.exact or not shared or len(order) < 2
        if not alone and not self.ranks.can_shard(len(order[-1])):
            last = order.pop()
            order[-1] = torch.cat([order[-1], last])
        return order

    def _parts(self) -> list[Tensor]:
        """Sample indices for this process, for each batch of the next epoch."""
        batches = self._order()[self.start : self.stop]
        return batches if self.whole else [b[self.ranks.shard(len(b))] for b in batches]

    def shard(self, batch: Sequence[Tensor], n: int) -> list[Tensor]:
        """This process's shard of a yielded batch, whose size over all devices is ``n``."""
        return [column[self.ranks.shard(n)] if self.whole else column for column in batch]


class TensorBatches(Batches):
    """Batches of an experience in memory, made by indexing on its device; see `Batches`."""

    def __init__(self, data: ExperienceData, **choices: Any) -> None:
        self.data = data
        super().__init__(len(data), **choices)

    def __iter__(self) -> Iterator[Batch]:
        images, labels, tasks = self.data.images, self.data.labels, self.data.tasks
        parts = self._parts()
        if not parts:
            return
        # One copy to the device per epoch.
        everything = torch.cat(parts).to(images.device)
        for index in everything.split([len(part) for part in parts]):
            yield images[index], labels[index], tasks[index]


class LazyBatches(Batches):
    """Batches of an experience that is read from its dataset, with random augmentations.

    Each process reads only its shard. Augmentations draw from the global generators; those of
    worker processes are seeded by seed, experience, epoch and rank. For ``task_column`` see
    `avalanche_dgm.plugins.samples.task_column`, for the other arguments `Batches`.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        num_workers: int = 0,
        task_column: int | None = -1,
        **choices: Any,
    ) -> None:
        self._dataset = dataset
        self.num_workers, self.task_column = num_workers, task_column
        super().__init__(len(dataset), **choices)

    def __iter__(self) -> Iterator[Batch]:
        batches: Sequence[list[int]] = [part.tolist() for part in self._parts()]
        loader = DataLoader(
            self._dataset,
            batch_sampler=batches,
            num_workers=self.num_workers,
            collate_fn=collate_of(self._dataset),
            # Without this argument a DataLoader draws from the global generator.
            generator=self._rng(1 + self.ranks.rank),
        )
        for columns in loader:
            images, labels, tasks = split_batch(columns_of(columns), self.task_column)
            yield images.float(), labels.to(torch.int64), tasks.to(torch.int64)
