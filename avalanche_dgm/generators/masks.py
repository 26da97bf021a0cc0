"""Learned binary masks over units or weights (Ostapenko et al. 2019; Serrà et al. 2018, HAT)."""

from __future__ import annotations

from math import prod
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from avalanche_dgm.checks import one_of
from avalanche_dgm.errors import ConfigError, UnknownTaskError
from avalanche_dgm.modules import GrowingBuffers

#: How the gradient of an embedding can be compensated for the steepness of its sigmoid.
Compensation = Literal["hat", "authors", "none"]

#: Beyond, float32 has no slope of the sigmoid left, and ``cosh`` would overflow soon after.
_COSH_BOUND = 50.0


class View(NamedTuple):
    """Through which task's masks something is computed.

    Attributes:
        task: A finished task, or ``None`` for the one that is being learned.
        scale: Steepness of the learning task's masks, above 0; finished tasks need none.
    """

    task: int | None = None
    scale: float | Tensor | None = None


class Mask(GrowingBuffers):
    """A binary mask that one task after another learns, and that reserves what it uses.

    While a task is learned the mask is ``m = sigmoid(s * e)`` with a growing scale ``s``; at its
    end it becomes ``e >= 0``. The masks of finished tasks are kept with a bit per entry, in the
    shape that they had.

    Args:
        shape: ``(units,)``, or the shape of the weight that is masked.

    Attributes:
        embedding: The learning task's ``e``, of the present shape; 0 at first.
        reserved: Whether an earlier task uses an entry (Eq. 5), bool, of the present shape.
        bits: The masks of finished tasks, packed one after the other, uint8.
        shapes: The shape that the mask had in each finished task.
    """

    embedding: nn.Parameter
    reserved: Tensor
    bits: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(shape))
        self.register_buffer("reserved", torch.zeros(shape, dtype=torch.bool))
        self.register_buffer("bits", torch.zeros(0, dtype=torch.uint8))
        self.shapes: list[tuple[int, ...]] = []
        # Unpacked masks by task: derived from the bits, so neither saved nor copied.
        self._unpacked: dict[int, Tensor] = {}

    def soft(self, scale: float | Tensor) -> Tensor:
        """The learning task's mask ``sigmoid(scale * e)``, entries in 0..1."""
        return torch.sigmoid(scale * self.embedding)

    def hard(self, task: int) -> Tensor:
        """The mask of a finished task, counted from 0: a bool tensor of the shape it had then.

        Raises:
            UnknownTaskError: No such task was finished.
        """
        if not 0 <= task < len(self.shapes):
            raise UnknownTaskError(
                f"Task {task} has no mask; {len(self.shapes)} tasks were finished so far."
            )
        known = self._unpacked.get(task)
        if known is None or known.device != self.bits.device:
            known = self._unpacked[task] = self._unpack(task)
        return known

    def values(self, task: int | None, scale: float | Tensor | None) -> Tensor:
        """The hard mask of a finished task, or the soft one of the learning task; see `View`.

        Raises:
            ConfigError: The soft mask was asked for without a scale.
        """
        if task is not None:
            return self.hard(task)
        if scale is None:
            raise ConfigError("The mask of the learning task needs a scale above 0.")
        return self.soft(scale)

    @torch.no_grad()
    def reset(self) -> None:
        """Puts the embedding back to 0, for a new task."""
        self.embedding.zero_()
        self.embedding.grad = None

    @property
    def n_free(self) -> int:
        """How many entries no task uses; waits for the device."""
        return int((~self.reserved).sum())

    @torch.no_grad()
    def commit(self) -> None:
        """Finishes the task: makes its mask binary, keeps it and reserves its entries (Eq. 5)."""
        mask = self.embedding >= 0
        self.shapes.append(tuple(mask.shape))
        self.bits = torch.cat([self.bits, _pack(mask)])
        self.reserved = self.reserved | mask

    @torch.no_grad()
    def grow(self, shape: tuple[int, ...]) -> None:
        """Gives the mask a new shape; added entries are free, and the embedding is 0 again.

        Args:
            shape: As many dimensions as before, none of them shorter.
        """
        reserved = self.reserved.new_zeros(shape)
        reserved[tuple(slice(n) for n in self.reserved.shape)] = self.reserved
        self.reserved = reserved
        self.embedding = nn.Parameter(self.embedding.new_zeros(shape))

    @torch.no_grad()
    def compensate(self, scale: float | Tensor, smax: float, kind: Compensation) -> None:
        """Takes the sigmoid's steepness out of the embedding's gradient, in place.

        ``"hat"`` multiplies by ``smax / s * (cosh(s e) + 1) / (cosh(e) + 1)`` (Serrà et al. 2018,
        Sec. 2.5), which leaves ``smax * sigmoid'(e) * dL/dm`` whatever the scale; ``"authors"``
        omits ``smax / s``, as the code of Ostapenko et al. does; ``"none"`` does nothing.

        Args:
            scale: The scale ``s`` of the forward pass.
            smax: Its largest value.
            kind: Which of the three.

        Raises:
            ConfigError: ``kind`` is another.
        """
        one_of("compensation", kind, *get_args(Compensation))
        gradient = self.embedding.grad
        if kind == "none" or gradient is None:
            return
        steep = (scale * self.embedding).clamp(-_COSH_BOUND, _COSH_BOUND).cosh() + 1
        flat = self.embedding.clamp(-_COSH_BOUND, _COSH_BOUND).cosh() + 1
        gradient.mul_(steep / flat)
        if kind == "hat":
            gradient.mul_(smax / scale)

    @torch.no_grad()
    def clamp(self, limit: float = 6.0) -> None:
        """Bounds the embedding to -limit..limit, where a step can still move it (HAT)."""
        self.embedding.clamp_(-limit, limit)

    def usage(self, task: int) -> dict[str, int]:
        """What a finished task uses; waits for the device.

        Args:
            task: The task, counted from 0.

        Returns:
            ``width``, the entries that there were; ``reserved``, those that the task was the
            first to use; ``reused``, those it shares with earlier tasks; and ``free``, those
            that no task up to this one uses.
        """
        mask = self.hard(task)
        before = torch.zeros_like(mask)
        for earlier in range(task):
            before[tuple(slice(n) for n in self.shapes[earlier])] |= self.hard(earlier)
        return {
            "width": mask.numel(),
            "reserved": int((mask & ~before).sum()),
            "reused": int((mask & before).sum()),
            "free": int((~(mask | before)).sum()),
        }

    def get_extra_state(self) -> dict[str, Any]:
        """The shapes, without which the bits cannot be read."""
        return {"shapes": list(self.shapes)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Takes the shapes over."""
        self.shapes = [tuple(shape) for shape in state["shapes"]]
        self._unpacked = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_unpacked": {}}

    @torch.no_grad()
    def _unpack(self, task: int) -> Tensor:
        sizes = [prod(shape) for shape in self.shapes[: task + 1]]
        start = sum(_n_bytes(size) for size in sizes[:-1])
        # Kept for later, when gradients may pass: inference tensors would then be refused.
        with torch.inference_mode(False):
            packed = self.bits[start : start + _n_bytes(sizes[-1])]
            places = torch.arange(8, dtype=torch.uint8, device=packed.device)
            flat = (packed[:, None] >> places).bitwise_and(1).flatten()[: sizes[-1]]
            return flat.bool().view(self.shapes[task])


def _n_bytes(n_bits: int) -> int:
    return (n_bits + 7) // 8


def _pack(mask: Tensor) -> Tensor:
    """Eight entries of a bool tensor to a byte (ceil(n / 8),), the first in the lowest bit."""
    padded = mask.new_zeros(8 * _n_bytes(mask.numel()), dtype=torch.uint8)
    padded[: mask.numel()] = mask.flatten()
    places = torch.arange(8, dtype=torch.uint8, device=mask.device)
    return (padded.view(-1, 8) << places).sum(dim=1, dtype=torch.uint8)
