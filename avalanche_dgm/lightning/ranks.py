"""Distributed training on one stream: shards of batches, and random numbers per rank.

Every process reads the same batches and uses its shard of each, so that a step has the same samples
on any number of devices. Outside of training all processes have the same random states, so that
their results are equal; during training each rank draws its own random numbers.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avalanche_dgm.errors import AvalancheDGMError, RanksDifferError
from avalanche_dgm.files import lock
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.methods import Method
from avalanche_dgm.randomness import RandomSource, global_state, seed_globally, set_global_state


@dataclass(frozen=True)
class Ranks:
    """This process's rank, from 0, in a distributed run, and the number of processes."""

    rank: int = 0
    world: int = 1

    @classmethod
    def of(cls, trainer: pl.Trainer) -> Ranks:
        """The rank and world size of a Trainer, after its processes were started."""
        return cls(trainer.global_rank, trainer.world_size)

    @property
    def is_distributed(self) -> bool:
        """Whether there is more than one process."""
        return self.world > 1

    def can_shard(self, n: int) -> bool:
        """Whether a batch of ``n`` is split: BatchNorm needs two samples per shard."""
        return n >= 2 * self.world

    def shard(self, n: int) -> slice:
        """This process's samples of a batch of ``n``; all samples if it is too small to split."""
        if not self.can_shard(n):
            return slice(0, n)
        return slice(self.rank * n // self.world, (self.rank + 1) * n // self.world)

    def loss_weight(self, n: int, *, sums: bool = False) -> float:
        """The factor of this shard's loss that makes the mean over processes exact.

        The full batch has ``n`` samples. With ``sums`` the loss is their sum, not their mean.
        """
        if not self.can_shard(n):
            return 1.0
        part = self.shard(n)
        return float(self.world) if sums else (part.stop - part.start) * self.world / n

    def gather(self, trainer: pl.Trainer, part: Tensor, n: int) -> Tensor:
        """Gathers the shards of a batch of ``n``.

        Returns:
            Tensor (n, ...) in the batch's order, without gradient, the same in every process.
        """
        if not self.is_distributed or not self.can_shard(n):
            return part
        largest = -(-n // self.world)
        padding = [0, 0] * (part.ndim - 1) + [0, largest - len(part)]
        gathered = trainer.strategy.all_gather(F.pad(part.detach(), padding))
        shards = [Ranks(r, self.world).shard(n) for r in range(self.world)]
        return torch.cat([gathered[r, : s.stop - s.start] for r, s in enumerate(shards)])

    @contextmanager
    def rank_seeded(self, *sources: RandomSource) -> Iterator[None]:
        """Seeds the generators by rank within the context; does nothing in a single process.

        Afterwards all processes have the same states again.
        """
        if not self.is_distributed:
            yield
            return
        before = global_state()
        seed = int(torch.randint(2**62, ()).item())
        after = global_state()
        with ExitStack() as stack:
            for source in sources:
                stack.enter_context(source.rank_seeded(self.rank))
            seed_globally(seed + self.rank)
            try:
                yield
            except BaseException:
                set_global_state(before)
                raise
            set_global_state(after)


def broadcast_buffers(trainer: pl.Trainer, module: nn.Module) -> None:
    """Broadcasts buffers, such as BatchNorm's statistics of each shard, from rank 0."""
    _broadcast(trainer, dict(module.named_buffers()))


def broadcast_state(trainer: pl.Trainer, module: nn.Module, *sources: RandomSource) -> None:
    """Broadcasts weights, buffers and random states from rank 0, before training."""
    if trainer.world_size == 1:
        return
    strategy = trainer.strategy
    set_global_state(strategy.broadcast(global_state()))
    for source in sources:
        source.set_state(strategy.broadcast(source.get_state()))
    _broadcast(trainer, {k: v for k, v in module.state_dict().items() if isinstance(v, Tensor)})


def _broadcast(trainer: pl.Trainer, tensors: Mapping[str, Tensor]) -> None:
    if trainer.world_size == 1:
        return
    first = trainer.strategy.broadcast({n: tensor.detach().cpu() for n, tensor in tensors.items()})
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(first[name])


def reduce_counts(trainer: pl.Trainer, method: Method) -> None:
    """Sums a method's counts of replayed samples over processes, once per experience."""
    counts = method.stats.counts
    if trainer.world_size > 1 and counts is not None:
        method.stats.counts = trainer.strategy.reduce(counts.clone(), reduce_op="sum")


@contextmanager
def lock_folder(trainer: pl.Trainer, folder: Path | None) -> Iterator[None]:
    """Locks a folder against other runs; rank 0 holds the lock.

    Raises:
        ConfigError: Another run uses the folder; raised in every process.
        StorageError: The folder cannot be written; raised in every process.
    """
    if folder is None:
        yield
        return
    refused: AvalancheDGMError | None = None
    with ExitStack() as stack:
        if trainer.is_global_zero:
            try:
                stack.enter_context(lock(folder))
            except AvalancheDGMError as error:
                refused = error
        refused = trainer.strategy.broadcast(refused)
        if refused is not None:
            raise refused
        yield


def check_identical(trainer: pl.Trainer, module: nn.Module, *, when: str) -> None:
    """Checks that a module's state is equal in every process, bit by bit.

    Raises:
        RanksDifferError: Some entries differ; the message names them.
    """
    if trainer.world_size == 1:
        return
    names = differing(trainer, module.state_dict())
    if names is None:
        return
    found = ", ".join(names[:5]) + (" and more" if len(names) > 5 else "")
    where = f"Process {trainer.global_rank} differs in {found}." if names else ""
    raise RanksDifferError(
        f"The processes' states differ {when}. {where} Possible causes are a module that draws"
        " random numbers or updates statistics outside of training steps, and devices of different"
        " types. check_ranks=False turns this check off."
    )


def differing(trainer: pl.Trainer, state: Mapping[Any, Any]) -> list[str] | None:
    """Names of entries that differ from rank 0's; ``None`` if no process has any."""
    own = dict(_fingerprints(state, ""))
    first = trainer.strategy.broadcast(own)
    found = sorted(k for k in own.keys() | first.keys() if own.get(k) != first.get(k))
    # All processes must raise, or the others would wait forever.
    return found if any_rank(trainer, bool(found)) else None


def any_rank(trainer: pl.Trainer, flag: bool) -> bool:
    """Whether a flag is set in any process."""
    return bool(trainer.strategy.reduce_boolean_decision(flag, all=False))


def _fingerprints(value: Any, name: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if str(key).endswith("seconds"):
                continue  # Times differ between processes.
            yield from _fingerprints(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, Tensor):
        content = value.detach().cpu().contiguous()
        data = content.view(torch.uint8) if content.ndim else content[None].view(torch.uint8)
        yield name, (tuple(value.shape), str(value.dtype), zlib.crc32(data.numpy().tobytes()))
    else:
        yield name, (zlib.crc32(repr(value).encode()),)
