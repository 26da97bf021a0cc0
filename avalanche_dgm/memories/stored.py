"""A few samples kept as they are: images, or latents of any shape."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from avalanche_dgm.data import Replay, check_values
from avalanche_dgm.errors import (
    CapacityError,
    ConfigError,
    DataError,
    ShapeError,
    UnknownTaskError,
)
from avalanche_dgm.memories.balance import choose_members, fill, shuffle
from avalanche_dgm.modules import GrowingBuffers, size_in_bytes

#: From samples (n, *shape) and their task labels (n,) to other samples.
Encode = Callable[[Tensor, Tensor], Tensor]
DTYPES = {"float32": torch.float32, "float16": torch.float16, "uint8": torch.uint8}


class StoredMemory(GrowingBuffers):
    """A random, class-balanced choice of the samples that it was shown.

    A *class* is one label of one task label: where several tasks use the same labels, each of them
    has its own. Every sample is kept together with the number of its class, so that labels and
    task labels cannot come apart from the samples.

    Exactly one size is given. With ``share`` and ``per_experience``, what is kept is kept for
    ever. With ``per_class`` and ``total``, or a ``share`` that does not grow, the memory has a
    largest size, and each class is a uniform choice of all of its samples that were shown, however
    often it came (a reservoir).

    Args:
        share: Share of the samples of each `add`, in (0, 1].
        per_class: Samples of each class.
        per_experience: Samples of each `add`.
        total: Samples in all. Room for new classes comes from the largest.
        least: With ``share``, samples that are kept of each class at least, or all that it has; 0
            refuses a share that keeps none of some class.
        grows: With ``share``, whether a class that comes again adds to what is kept of it;
            otherwise as many are kept as of the `add` that brought most.
        dtype: How the samples are kept: ``"float32"``, ``"float16"``, or ``"uint8"``, which is 256
            steps from the smallest to the largest value of each channel (dimension 1).

    Raises:
        ConfigError: Not one size, or one that cannot work, or an unknown ``dtype``.

    Attributes:
        samples: Tensor (N, *shape) of the stored type.
        members: int32 tensor (N,), each sample's row in ``classes``, ascending.
        classes: int64 tensor (K, 2): task label, label.
        counts: int64 tensor (K,), samples stored of each class.
        seen: int64 tensor (K,), samples shown of each class.
        zero: Float tensor (1, C, 1, ...), each channel's smallest value; empty but for uint8.
        scale: Float tensor like ``zero``, the size of a step.
    """

    samples: Tensor
    members: Tensor
    classes: Tensor
    counts: Tensor
    seen: Tensor
    zero: Tensor
    scale: Tensor

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
    ) -> None:
        super().__init__()
        check_size(share=share, per_class=per_class, per_experience=per_experience, total=total)
        if least and share is None:
            raise ConfigError("least is for a memory of some share.")
        if not grows and share is None:
            raise ConfigError("grows=False is for a memory of some share.")
        if dtype not in DTYPES:
            raise ConfigError(f"dtype={dtype!r} is not known; use one of {', '.join(DTYPES)}.")
        self.share, self.per_class = share, per_class
        self.per_experience, self.total = per_experience, total
        self.least, self.grows, self.dtype = least, grows, dtype
        whole = torch.int64
        self.register_buffer("samples", torch.empty(0, dtype=DTYPES[dtype]))
        self.register_buffer("members", torch.empty(0, dtype=torch.int32))
        self.register_buffer("classes", torch.empty(0, 2, dtype=whole))
        self.register_buffer("counts", torch.empty(0, dtype=whole))
        self.register_buffer("seen", torch.empty(0, dtype=whole))
        self.register_buffer("zero", torch.empty(0))
        self.register_buffer("scale", torch.empty(0))

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Shape of one sample, or ``None`` while the memory is empty."""
        return tuple(self.samples.shape[1:]) if len(self) else None

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
        pairs = torch.stack([tasks, labels], dim=1).to(self.classes)
        n, k = len(labels), len(torch.unique(pairs, dim=0))
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
        if self.total is not None:
            every = len(torch.unique(torch.cat([self.classes, pairs]), dim=0))
            if self.total < every:
                raise CapacityError(
                    f"total={self.total} is less than the {every} classes up to now, so no sample"
                    f" of some class would be stored. Raise it to {every} or more{advice}."
                )

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
        device = self.classes.device
        samples, labels, tasks = samples.to(device), labels.to(device), tasks.to(device)
        pairs = torch.stack([tasks, labels], dim=1)
        k = len(self.classes)
        classes, rows = torch.unique(torch.cat([self.classes, pairs]), dim=0, return_inverse=True)
        stored, arriving = rows[:k][self.members.long()], rows[k:]
        seen = torch.zeros(len(classes), dtype=torch.int64, device=device)
        seen[rows[:k]] = self.seen
        kept, taken = self._quotas(
            torch.bincount(stored, minlength=len(classes)).tolist(),
            torch.bincount(arriving, minlength=len(classes)).tolist(),
            seen.tolist(),
            rng,
        )
        old = choose_members(stored, kept, rng)
        new = choose_members(arriving, taken, rng)
        kept_new = samples[new]
        if encode is not None:
            kept_new = encode(kept_new, tasks[new])
            self._check_samples(kept_new)
        self._put(old, kept_new.float())
        # By class, so that those of one lie together: see `_random_pairs`.
        members = torch.cat([stored[old], arriving[new]])
        order = torch.argsort(members, stable=True)
        self.samples, self.members = self.samples[order], members[order].to(torch.int32)
        self.classes = classes
        self.counts = torch.bincount(self.members.long(), minlength=len(classes))
        self.seen = seen + torch.bincount(arriving, minlength=len(classes))

    @torch.no_grad()
    def convert(self, encode: Encode) -> None:
        """Replaces every sample by what is made of it.

        Args:
            encode: From samples (n, *shape) and their task labels (n,) to others (n, *new shape).
        """
        if not len(self):
            return
        samples, _, tasks = self.data()
        made = encode(samples, tasks).float()
        check_values(made)
        self.samples = self.samples[:0]
        self._put(self.members[:0].long(), made)

    def _check_samples(self, samples: Tensor) -> None:
        if self.shape is not None and tuple(samples.shape[1:]) != self.shape:
            raise ShapeError(
                f"Samples of shape {tuple(samples.shape[1:])} cannot be stored beside those of"
                f" shape {self.shape}. One memory holds one shape."
            )
        check_values(samples)

    def _quotas(
        self, stored: list[int], arriving: list[int], seen: list[int], rng: torch.Generator
    ) -> tuple[list[int], list[int]]:
        """How many stored samples stay and how many arriving ones are taken, for each class."""
        together = [a + b for a, b in zip(stored, arriving, strict=True)]
        if self.share is not None or self.per_experience is not None:
            size = self.per_experience or round((self.share or 0.0) * sum(arriving))
            places = fill(arriving, max(size, self.least * sum(n > 0 for n in arriving)))
            if self.grows:
                return stored, places
            room = [max(pair) for pair in zip(stored, places, strict=True)]
        elif self.per_class is not None:
            room = [min(n, self.per_class) for n in together]
        else:
            room = fill(together, self.total or 0)
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

    def _put(self, old: Tensor, new: Tensor) -> None:
        """Stores some of the samples again, and new ones (n, *shape) behind them."""
        if self.dtype == "uint8":
            self._put_steps(old, new)
            return
        kind = DTYPES[self.dtype]
        largest = torch.finfo(kind).max
        kept = self.samples[old] if len(self) else new[:0].to(kind)
        self.samples = torch.cat([kept, new.clamp(-largest, largest).to(kind)])

    def _put_steps(self, old: Tensor, new: Tensor) -> None:
        others = [d for d in range(new.ndim) if d != 1]
        low, high = new.amin(others, keepdim=True), new.amax(others, keepdim=True)
        if len(self):
            ends = self.zero, self.zero + 255 * self.scale
            if bool(((low >= ends[0]) & (high <= ends[1])).all()):
                self.samples = torch.cat([self.samples[old], self._encode(new)])
                return
            low, high = torch.minimum(low, ends[0]), torch.maximum(high, ends[1])
            new = torch.cat([self._decode(self.samples[old]), new])
        self.zero = low
        # A channel that is constant needs no steps.
        self.scale = torch.where(high > low, (high - low) / 255, torch.ones_like(low))
        self.samples = self._encode(new)

    def _encode(self, samples: Tensor) -> Tensor:
        steps = torch.round((samples - self.zero) / self.scale)
        return steps.clamp(0, 255).to(torch.uint8)

    def _decode(self, stored: Tensor) -> Tensor:
        if self.dtype == "uint8":
            return stored.float() * self.scale + self.zero
        return stored.float()

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
        order, rank = shuffle(self.members, self.counts, rng)
        # The first of every class in random order, then the second of every class, and so on.
        turn = torch.rand(len(self.counts), generator=rng, device=rng.device, dtype=torch.float64)
        order = order[torch.argsort(rank + turn[self.members[order].long()])]
        index = order.repeat(-(-n // len(order)))[:n]
        members = self.members[index].long()
        samples = self._decode(self.samples[index])
        if jitter:
            pairs = self._random_pairs(members, rng)
            one, other = (self._decode(self.samples[i]) for i in pairs)
            samples += jitter / math.sqrt(2) * (one - other)
        task, label = self.classes[members].unbind(dim=1)
        return Replay(samples, label, task)

    def _random_pairs(self, members: Tensor, rng: torch.Generator) -> Tensor:
        """Draws two stored samples of each of the classes (n,), with replacement: (2, n)."""
        starts = torch.cumsum(self.counts, dim=0) - self.counts
        shares = torch.rand(2, len(members), generator=rng, device=rng.device, dtype=torch.float64)
        return starts[members] + (shares * self.counts[members]).long()

    @torch.no_grad()
    def data(self) -> tuple[Tensor, Tensor, Tensor]:
        """Everything stored.

        Returns:
            Samples, float32 (N, *shape); labels and task labels, int64 (N,).
        """
        task, label = self.classes[self.members.long()].unbind(dim=1)
        return self._decode(self.samples), label, task


def check_size(
    *,
    share: float | None,
    per_class: int | None,
    per_experience: int | None,
    total: int | None,
) -> None:
    """Checks that a memory's size is given once and can be; see `StoredMemory`.

    Raises:
        ConfigError: It is not.
    """
    counts = {"per_class": per_class, "per_experience": per_experience, "total": total}
    given = [name for name, n in {"share": share, **counts}.items() if n is not None]
    if len(given) != 1:
        found = " and ".join(given) or "none of them"
        raise ConfigError(
            f"One of share, per_class, per_experience and total is needed, and {found} is given."
        )
    number = isinstance(share, (int, float)) and not isinstance(share, bool)
    if share is not None and not (number and 0 < share <= 1):
        raise ConfigError(f"share={share!r} must be above 0 and at most 1.")
    for name, count in counts.items():
        whole = isinstance(count, int) and not isinstance(count, bool)
        if count is not None and not (whole and count >= 1):
            raise ConfigError(f"{name}={count!r} must be a whole number of at least 1.")
