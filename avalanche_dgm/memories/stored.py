"""A memory of stored samples: images, or latents of any shape."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from avalanche_dgm.checks import number, read_bytes, whole
from avalanche_dgm.classes import ClassTable
from avalanche_dgm.data import Replay, check_values, split_budget
from avalanche_dgm.errors import CapacityError, ConfigError, DataError, ShapeError, UnknownTaskError
from avalanche_dgm.memories.compact import CompactSamples
from avalanche_dgm.modules import GrowingBuffers

#: Function from samples (n, *shape) and their task labels (n,) to encoded samples.
Encode = Callable[[Tensor, Tensor], Tensor]


class StoredMemory(GrowingBuffers):
    """A random, class-balanced selection of the samples that are added.

    A *class* is a pair of label and task label, as in `ClassTable`.

    At most one size is given; the default is ``default_size``. With ``share`` and
    ``per_experience``, stored samples are kept for ever. With ``per_class``, ``total`` and
    ``memory_budget``, or a ``share`` that does not grow, the size is limited, and the samples of
    each class are a uniform selection of all that were added of it (reservoir sampling).

    Args:
        share: Fraction of the samples of each `add`, in (0, 1].
        per_class: Number of samples of each class.
        per_experience: Number of samples of each `add`.
        total: Total number of samples. New classes replace samples of the largest classes.
        least: With ``share``, minimum number of samples of each class, if it has as many; with 0, a
            share that stores no sample of some class is an error.
        grows: With ``share``, whether further samples of a class increase the number stored of it;
            otherwise that number is the largest of a single `add`.
        dtype: Type of the stored samples, see `CompactSamples`.
        memory_budget: Maximum bytes, as a number or text such as ``"1MB"``: like ``total``, with as
            many samples as fit.

    Raises:
        ConfigError: Several sizes, or one that cannot work, or an unknown ``dtype``.

    Attributes:
        default_size: ``share``, ``least`` and ``grows`` if no size is given.
        samples: The N samples, sorted by class.
        members: int32 tensor (N,), each sample's row in ``classes``, ascending.
        classes: The K classes.
        counts: int64 tensor (K,), stored samples of each class.
        seen: int64 tensor (K,), samples added of each class, stored or not.
    """

    default_size: ClassVar[tuple[float, int, bool]] = (0.1, 0, False)
    members: Tensor
    counts: Tensor
    seen: Tensor

    def __init__(
        self,
        *,
        share: float | None = None,
        per_class: int | None = None,
        per_experience: int | None = None,
        total: int | None = None,
        least: int = 0,
        grows: bool = True,
        dtype: str = "float32",
        memory_budget: int | str | None = None,
    ) -> None:
        super().__init__()
        self.memory_budget = read_bytes("memory_budget", memory_budget)
        counts = {"per_class": per_class, "per_experience": per_experience, "total": total}
        sizes = {"share": share, **counts, "memory_budget": memory_budget}
        given = [name for name, n in sizes.items() if n is not None]
        if len(given) > 1:
            raise ConfigError(
                "Give one of share, per_class, per_experience, total and memory_budget, not"
                f" {' and '.join(given)}."
            )
        for name, count in counts.items():
            whole(name, count, optional=True)
        number("share", share, above=0, most=1, optional=True)
        if share is None and (least or not grows):
            raise ConfigError("least and grows are only for share=.")
        if not given:
            share, least, grows = self.default_size
        self.share, self.per_class = share, per_class
        self.per_experience, self.total = per_experience, total
        self.least, self.grows = least, grows
        self.samples, self.classes = CompactSamples(dtype), ClassTable()
        self.register_buffer("members", torch.empty(0, dtype=torch.int32))
        self.register_buffer("counts", torch.empty(0, dtype=torch.int64))
        self.register_buffer("seen", torch.empty(0, dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Shape of one sample, or ``None`` while the memory is empty."""
        return tuple(self.samples.values.shape[1:]) if len(self) else None

    def check(self, labels: Tensor, tasks: Tensor) -> None:
        """Checks that samples with these labels could be added; changes nothing.

        Args:
            labels: int64 tensor (N,).
            tasks: int64 tensor (N,), task labels.

        Raises:
            CapacityError: No sample of some class would be stored.
        """
        if len(labels) == 0 or len(tasks) != len(labels):
            raise DataError(
                f"{len(labels)} labels and {len(tasks)} task labels cannot be stored; each sample"
                " needs one of each, and there must be samples."
            )
        classes, rows = self._classes_with(labels, tasks)
        n, k = len(labels), len(torch.unique(rows))
        advice = ", or use per_class, which stores every class"
        if self.share is not None and not self.least and round(self.share * n) < k:
            raise CapacityError(
                f"share={self.share} of {n} samples is {round(self.share * n)}, fewer than their"
                f" {k} classes, so no sample of some class would be stored. Use a share of at"
                f" least {math.ceil(1e4 * k / n) / 1e4:g}{advice}."
            )
        if self.per_experience is not None and self.per_experience < k:
            raise CapacityError(
                f"per_experience={self.per_experience} is less than the experience's {k} classes,"
                f" so no sample of some class would be stored. Raise it to {k} or more{advice}."
            )
        if self.total is not None and self.total < len(classes):
            raise CapacityError(
                f"total={self.total} is less than the {len(classes)} classes up to now, so no"
                f" sample of some class would be stored. Raise it to {len(classes)} or"
                f" more{advice}."
            )

    def check_size(self, shape: tuple[int, ...], labels: Tensor, tasks: Tensor) -> None:
        """Checks that samples of a shape can be stored; changes nothing.

        Args:
            shape: Shape of one sample.
            labels: int64 tensor (N,), new labels.
            tasks: int64 tensor (N,), their task labels.

        Raises:
            CapacityError: The budget has no room for one sample of each class.
        """
        self._number(len(self._classes_with(labels, tasks)[0]), shape)

    def _classes_with(self, labels: Tensor, tasks: Tensor) -> tuple[ClassTable, Tensor]:
        """The classes once these samples are added, and each sample's row (N,)."""
        classes = copy.deepcopy(self.classes)
        return classes, classes.add(tasks.to(classes.rows), labels.to(classes.rows))

    @torch.no_grad()
    def add(
        self,
        samples: Tensor,
        labels: Tensor,
        tasks: Tensor,
        rng: torch.Generator,
        *,
        encode: Encode | None = None,
    ) -> None:
        """Stores some of the samples, and removes old ones if the memory is full.

        After an error, nothing was changed.

        Args:
            samples: Float tensor (N, *shape), finite.
            labels: int64 tensor (N,).
            tasks: int64 tensor (N,), task labels.
            rng: Generator on the memory's device.
            encode: Encodes the samples to store.

        Raises:
            CapacityError: No sample of some class would be stored.
            DataError: There is not one label and one task label for each sample.
            ShapeError: Samples of another shape are stored already.
            RangeError: A value is NaN or infinite.
        """
        self.check(labels, tasks)
        if len(samples) != len(labels):
            raise DataError(f"{len(samples)} samples have {len(labels)} labels.")
        if encode is None:
            self._check_samples(samples)
        classes, arriving = self._classes_with(labels, tasks)
        total = self.total
        if self.memory_budget is not None:
            shape = tuple(samples.shape[1:]) if encode is None else self.shape
            if shape is None and encode is not None:
                shape = tuple(
                    encode(samples[:1].to(arriving.device), tasks[:1].to(arriving)).shape[1:]
                )
            total = self._number(len(classes), shape or ())
        device, stored = arriving.device, self.members.long()
        arrived = torch.bincount(arriving, minlength=len(classes))
        missing = self.seen.new_zeros(len(classes) - len(self.seen))
        counts, seen = torch.cat([self.counts, missing]), torch.cat([self.seen, missing])
        kept, taken = self._quotas(counts.tolist(), arrived.tolist(), seen.tolist(), total, rng)
        old = _choose(stored, kept, rng)
        new = _choose(arriving, taken, rng)
        samples = samples[new.to(samples.device)].to(device)
        if encode is not None:
            samples = encode(samples, tasks.to(device)[new])
            self._check_samples(samples)
        if len(self):
            samples = torch.cat([self.samples.read(old), samples])
        members = torch.cat([stored[old], arriving[new]])
        order = torch.argsort(members, stable=True)
        self.samples.write(samples[order])
        self.members, self.classes = members[order].to(torch.int32), classes
        self.counts = torch.bincount(members, minlength=len(classes))
        self.seen = seen + arrived

    def _number(self, n_classes: int, shape: tuple[int, ...]) -> int:
        """Number of samples of a shape that fit into the budget beside the data of classes.

        Raises:
            CapacityError: Fewer than classes.
        """
        budget = self.memory_budget
        if budget is None:
            return 0
        # Each class has a row in the table and two counters.
        beside = n_classes * (24 + 8 + 8) + self._beside(n_classes, shape)
        if self.samples.dtype == torch.uint8:
            # Smallest value and step of each channel.
            beside += 8 * shape[0]
        each = math.prod(shape) * self.samples.values.element_size() + 4
        room = (budget - beside) // each
        if room < n_classes:
            raise CapacityError(
                f"memory_budget={budget} has room for {max(0, room)} samples of {each} bytes,"
                f" fewer than the {n_classes} classes. Give {beside + n_classes * each} or more, or"
                " use dtype='uint8'."
            )
        return room

    def _beside(self, n_classes: int, shape: tuple[int, ...]) -> int:
        """Bytes of a subclass's further data of classes."""
        return 0

    @torch.no_grad()
    def convert(self, encode: Encode) -> None:
        """Encodes all stored samples.

        Args:
            encode: From samples (n, *shape) and their task labels (n,) to others (n, *new shape).
        """
        if not len(self):
            return
        samples, _, tasks = self.data()
        encoded = encode(samples, tasks)
        check_values(encoded)
        self.samples.values = self.samples.values[:0]
        self.samples.write(encoded)

    def _check_samples(self, samples: Tensor) -> None:
        if self.shape is not None and tuple(samples.shape[1:]) != self.shape:
            raise ShapeError(
                f"Samples of shape {tuple(samples.shape[1:])} cannot be stored beside those of"
                f" shape {self.shape}. One memory holds one shape."
            )
        check_values(samples)

    def _quotas(
        self,
        stored: list[int],
        arriving: list[int],
        seen: list[int],
        total: int | None,
        rng: torch.Generator,
    ) -> tuple[list[int], list[int]]:
        """Numbers of old samples to keep and of new samples to store, for each class."""
        together = [a + b for a, b in zip(stored, arriving, strict=True)]
        if self.share is not None or self.per_experience is not None:
            size = self.per_experience or round((self.share or 0.0) * sum(arriving))
            least = self.least * sum(n > 0 for n in arriving)
            places = split_budget(max(size, least), arriving)
            if self.grows:
                return stored, places
            room = [max(pair) for pair in zip(stored, places, strict=True)]
        elif self.per_class is not None:
            room = [min(n, self.per_class) for n in together]
        else:
            room = split_budget(total or 0, together)
        kept, taken = [], []
        for size, old, before, n in zip(room, stored, seen, arriving, strict=True):
            stays = old
            if self.grows or (old and n):
                # Reservoir sampling: all samples ever added are equally likely to be stored.
                order = torch.randperm(before + n, generator=rng, device=rng.device)
                stays = min(int((order[:size] < before).sum()), old)
            kept.append(max(stays, size - n))
            taken.append(size - kept[-1])
        return kept, taken

    @torch.no_grad()
    def draw(self, n: int, rng: torch.Generator, *, jitter: float = 0.0) -> Replay:
        """Draws stored samples, balanced over classes.

        Samples are drawn without replacement until all are drawn. The counts of classes differ by
        at most one, unless a class has fewer samples.

        Args:
            n: Number of samples.
            rng: Generator on the memory's device.
            jitter: Standard deviation of noise, relative to that of the class, 0 or more. The noise
                is the difference of two random samples of the class, so that it has the class's
                covariance without storing one (a smoothed bootstrap).

        Raises:
            UnknownTaskError: The memory is empty.
        """
        if not len(self):
            raise UnknownTaskError("Nothing is stored yet: train on an experience first.")
        order, rank = _shuffle(self.members, self.counts, rng)
        # The first of every class in random order, then the second of every class, and so on.
        turn = torch.rand(len(self.counts), generator=rng, device=rng.device, dtype=torch.float64)
        order = order[torch.argsort(rank + turn[self.members[order].long()])]
        index = order.repeat(-(-n // len(order)))[:n]
        rows = self.members[index].long()
        samples = self.samples.read(index)
        if jitter:
            # Two samples of the same class, with replacement.
            starts = torch.cumsum(self.counts, dim=0) - self.counts
            shares = torch.rand(2, n, generator=rng, device=rng.device, dtype=torch.float64)
            one, other = (starts[rows] + (shares * self.counts[rows]).long()).unbind()
            difference = self.samples.read(one) - self.samples.read(other)
            samples += jitter / math.sqrt(2) * difference
        return Replay(samples, self.classes.labels[rows], self.classes.tasks[rows])

    @torch.no_grad()
    def data(self) -> tuple[Tensor, Tensor, Tensor]:
        """All stored samples.

        Returns:
            Samples, float32 (N, *shape); labels and task labels, int64 (N,).
        """
        rows = self.members.long()
        samples = self.samples.read(torch.arange(len(self), device=rows.device))
        return samples, self.classes.labels[rows], self.classes.tasks[rows]


def _shuffle(members: Tensor, counts: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Orders samples of the classes ``members`` (N,) by class, and randomly within each class.

    There are ``counts`` (K,) samples of the classes. Returns indices (N,), and the rank of each
    sample within its class (N,).
    """
    noise = torch.rand(len(members), generator=rng, device=members.device, dtype=torch.float64)
    order = torch.argsort(members + noise)
    starts = torch.cumsum(counts, dim=0) - counts
    rank = torch.arange(len(members), device=members.device) - starts[members[order].long()]
    return order, rank


def _choose(members: Tensor, quotas: list[int], rng: torch.Generator) -> Tensor:
    """Random indices of samples of the classes ``members`` (N,), a given number of each class."""
    counts = torch.bincount(members, minlength=len(quotas))
    order, rank = _shuffle(members, counts, rng)
    limits = torch.tensor(quotas, device=members.device)
    return order[rank < limits[members[order]]]
