"""A few samples kept as they are: images, or latents of any shape."""

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
from avalanche_dgm.modules import GrowingBuffers, size_in_bytes

#: From samples (n, *shape) and their task labels (n,) to other samples.
Encode = Callable[[Tensor, Tensor], Tensor]


class StoredMemory(GrowingBuffers):
    """A random, class-balanced choice of the samples that it was shown.

    A *class* is one label of one task label, as in `ClassTable`. Every sample is kept together with
    its class, so that labels and task labels cannot come apart from the samples.

    One size is given at most; without any it is ``default_size``. With ``share`` and
    ``per_experience``, what is kept is kept for ever. With ``per_class``, ``total`` and bytes, or a
    ``share`` that does not grow, the memory has a largest size, and each class is a uniform choice
    of all of its samples that were shown, however often it came (a reservoir).

    Args:
        share: Share of the samples of each `add`, in (0, 1].
        per_class: Samples of each class.
        per_experience: Samples of each `add`.
        total: Samples in all. Room for new classes comes from the largest.
        least: With ``share``, samples that are kept of each class at least, or all that it has; 0
            refuses a share that keeps none of some class.
        grows: With ``share``, whether a class that comes again adds to what is kept of it;
            otherwise as many are kept as of the `add` that brought most.
        dtype: How the samples are kept, see `CompactSamples`.
        memory_budget: Bytes of all that is kept, as a number or a text such as ``"1MB"``: as
            ``total``, with as many samples as fit.

    Raises:
        ConfigError: Several sizes, or one that cannot work, or an unknown ``dtype``.

    Attributes:
        default_size: ``share``, ``least`` and ``grows`` if no size is given.
        samples: The N samples, those of a class one after the other.
        members: int32 tensor (N,), each sample's row in ``classes``, ascending.
        classes: The K classes.
        counts: int64 tensor (K,), samples stored of each class.
        seen: int64 tensor (K,), samples shown of each class.
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
                "One of share, per_class, per_experience, total and memory_budget says how much is"
                " stored, and"
                f" {' and '.join(given)} are given."
            )
        for name, count in counts.items():
            whole(name, count, optional=True)
        number("share", share, above=0, most=1, optional=True)
        if share is None and (least or not grows):
            raise ConfigError("least and grows are for a memory of some share.")
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

    @property
    def bytes(self) -> int:
        """Bytes of everything kept: samples, classes, counters and scales."""
        return size_in_bytes(self)

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
                f"{len(labels)} labels and {len(tasks)} task ids cannot be stored; each sample"
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
        """Checks that samples of a shape can be remembered; changes nothing.

        Args:
            shape: Shape of one sample.
            labels: int64 tensor (N,), those that are to be learned.
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
        """Keeps some of the samples, and makes room for them if it must.

        Args:
            samples: Float tensor (N, *shape), finite.
            labels: int64 tensor (N,).
            tasks: int64 tensor (N,), task labels.
            rng: Generator on the memory's device.
            encode: From samples (n, *shape) and their task labels (n,) to what is stored of them;
                shown those only that are kept.

        Raises:
            CapacityError: No sample of some class would be stored. Nothing was changed, as after
                the other errors.
            DataError: There is not one label and one task label for each sample.
            ShapeError: Samples of another shape are stored already.
            RangeError: A value is NaN or infinite.
        """
        self.check(labels, tasks)
        if len(samples) != len(labels):
            raise DataError(f"{len(samples)} samples came with {len(labels)} labels.")
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
        """How many samples of a shape fit into the budget beside what is kept of classes.

        Raises:
            CapacityError: Fewer than there are classes.
        """
        budget = self.memory_budget
        if budget is None:
            return 0
        # Of a class its number in the table, how many are stored and were seen; a sample's row.
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
                " keep them as dtype='uint8'."
            )
        return room

    def _beside(self, n_classes: int, shape: tuple[int, ...]) -> int:
        """Bytes of what else a subclass keeps of classes."""
        return 0

    @torch.no_grad()
    def convert(self, encode: Encode) -> None:
        """Replaces every sample by what is made of it.

        Args:
            encode: From samples (n, *shape) and their task labels (n,) to others (n, *new shape).
        """
        if not len(self):
            return
        samples, _, tasks = self.data()
        made = encode(samples, tasks)
        check_values(made)
        self.samples.values = self.samples.values[:0]
        self.samples.write(made)

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
        """How many stored samples stay and how many arriving ones are taken, for each class."""
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
                # Any sample that was ever shown is as likely as any other to be among those kept.
                order = torch.randperm(before + n, generator=rng, device=rng.device)
                stays = min(int((order[:size] < before).sum()), old)
            kept.append(max(stays, size - n))
            taken.append(size - kept[-1])
        return kept, taken

    @torch.no_grad()
    def draw(self, n: int, rng: torch.Generator, *, jitter: float = 0.0) -> Replay:
        """Draws stored samples, balanced over classes.

        No sample comes twice before all have come. Each class has the same count as the others,
        one more or less, unless it has fewer samples.

        Args:
            n: How many.
            rng: Generator on the memory's device.
            jitter: Standard deviation of noise that is added to them, as a share of their class's,
                0 or more. It is the difference of two other samples of the class, and so has the
                class's covariance without one being kept (a smoothed bootstrap).

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
            # Two samples of each one's class, with replacement.
            starts = torch.cumsum(self.counts, dim=0) - self.counts
            shares = torch.rand(2, n, generator=rng, device=rng.device, dtype=torch.float64)
            one, other = (starts[rows] + (shares * self.counts[rows]).long()).unbind()
            difference = self.samples.read(one) - self.samples.read(other)
            samples += jitter / math.sqrt(2) * difference
        return Replay(samples, self.classes.labels[rows], self.classes.tasks[rows])

    @torch.no_grad()
    def data(self) -> tuple[Tensor, Tensor, Tensor]:
        """Everything stored.

        Returns:
            Samples, float32 (N, *shape); labels and task labels, int64 (N,).
        """
        rows = self.members.long()
        samples = self.samples.read(torch.arange(len(self), device=rows.device))
        return samples, self.classes.labels[rows], self.classes.tasks[rows]


def _shuffle(members: Tensor, counts: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Orders samples by class, and randomly within each.

    Args:
        members: Tensor (N,), each sample's class.
        counts: int64 tensor (K,), samples of each class.
        rng: Generator on their device.

    Returns:
        Positions (N,), and how many of its class come before each (N,).
    """
    noise = torch.rand(len(members), generator=rng, device=members.device, dtype=torch.float64)
    order = torch.argsort(members + noise)
    starts = torch.cumsum(counts, dim=0) - counts
    rank = torch.arange(len(members), device=members.device) - starts[members[order].long()]
    return order, rank


def _choose(members: Tensor, quotas: list[int], rng: torch.Generator) -> Tensor:
    """Positions of a random choice of samples, so many of each class.

    Args:
        members: int64 tensor (N,), each sample's class.
        quotas: How many of each class are wanted.
        rng: Generator on the samples' device.
    """
    counts = torch.bincount(members, minlength=len(quotas))
    order, rank = _shuffle(members, counts, rng)
    limits = torch.tensor(quotas, device=members.device)
    return order[rank < limits[members[order]]]
