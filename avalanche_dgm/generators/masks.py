"""Learned binary masks over units or weights (Ostapenko et al. 2019; Serrà et al. 2018, HAT)."""

from __future__ import annotations

from math import prod
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn

from avalanche_dgm.checks import one_of
from avalanche_dgm.errors import ConfigError, UnknownTaskError
from avalanche_dgm.modules import GrowingBuffers

#: How an embedding's gradient is compensated for the steepness of the sigmoid.
Compensation = Literal["hat", "authors", "none"]

#: Beyond, the sigmoid's slope is 0 in float32, and ``cosh`` would soon overflow.
_COSH_BOUND = 50.0


class View(NamedTuple):
    """Selects the task whose masks are applied.

    Attributes:
        task: A finished task, or ``None`` for the current one.
        scale: Steepness of the current task's masks, above 0; not used for finished tasks.
    """

    task: int | None = None
    scale: float | Tensor | None = None


class Mask(GrowingBuffers):
    """A learned binary mask for each task; entries that finished tasks use are reserved.

    During a task the mask is ``m = sigmoid(s * e)`` with an increasing scale ``s``; at its end it
    becomes ``e >= 0``. The masks of finished tasks are stored with one bit per entry, in the shape
    at that time.

    Args:
        shape: ``(units,)``, or the shape of the masked weight.

    Attributes:
        embedding: The current task's ``e``, of the current shape; initially 0.
        reserved: Whether a finished task uses an entry (Eq. 5), bool, of the current shape.
        bits: The concatenated masks of finished tasks, packed, uint8;
            each begins with a new byte, whose lowest bit is the first entry.
        shapes: The mask's shape in each finished task.
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
        # Cache of unpacked masks by task, neither saved nor copied.
        self._unpacked: dict[int, Tensor] = {}

    def soft(self, scale: float | Tensor) -> Tensor:
        """The current task's mask ``sigmoid(scale * e)``, entries in 0..1."""
        return torch.sigmoid(scale * self.embedding)

    def hard(self, task: int) -> Tensor:
        """The mask of a finished task, counted from 0: a bool tensor of its shape at that time.

        Raises:
            UnknownTaskError: There is no such finished task.
        """
        if not 0 <= task < len(self.shapes):
            raise UnknownTaskError(
                f"Task {task} has no mask; {len(self.shapes)} tasks are finished."
            )
        known = self._unpacked.get(task)
        if known is None or known.device != self.bits.device:
            known = self._unpacked[task] = self._unpack(task)
        return known

    def values(self, task: int | None, scale: float | Tensor | None) -> Tensor:
        """The hard mask of a finished task, or the soft mask of the current one; see `View`.

        Raises:
            ConfigError: The soft mask has no scale.
        """
        if task is not None:
            return self.hard(task)
        if scale is None:
            raise ConfigError("The mask of the current task needs a scale above 0.")
        return self.soft(scale)

    @torch.no_grad()
    def reset(self) -> None:
        """Resets the embedding to 0, for a new task."""
        self.embedding.zero_()
        self.embedding.grad = None

    @property
    def n_free(self) -> int:
        """Number of entries that are not reserved; synchronises with the device."""
        return int((~self.reserved).sum())

    @torch.no_grad()
    def commit(self) -> None:
        """Finishes the task: binarises and stores its mask, and reserves its entries (Eq. 5)."""
        mask = self.embedding >= 0
        self.shapes.append(tuple(mask.shape))
        packed = torch.from_numpy(np.packbits(mask.cpu().numpy(), bitorder="little"))
        self.bits = torch.cat([self.bits, packed.to(mask.device)])
        self.reserved = self.reserved | mask

    @torch.no_grad()
    def grow(self, shape: tuple[int, ...]) -> None:
        """Extends the mask; new entries are free, and the embedding is reset to 0.

        Args:
            shape: The new shape, with the same number of dimensions, none of them smaller.
        """
        reserved = self.reserved.new_zeros(shape)
        reserved[tuple(slice(n) for n in self.reserved.shape)] = self.reserved
        self.reserved = reserved
        self.embedding = nn.Parameter(self.embedding.new_zeros(shape))

    @torch.no_grad()
    def compensate(self, scale: float | Tensor, smax: float, kind: Compensation) -> None:
        """Compensates the embedding's gradient for the sigmoid's steepness, in place.

        ``"hat"`` multiplies by ``smax / s * (cosh(s e) + 1) / (cosh(e) + 1)`` (Serrà et al. 2018,
        Sec. 2.5), which gives ``smax * sigmoid'(e) * dL/dm`` for any scale; ``"authors"`` omits
        ``smax / s``, like the code of Ostapenko et al.; ``"none"`` does nothing.

        Args:
            scale: The scale ``s`` of the forward pass.
            smax: Its largest value.
            kind: The compensation.

        Raises:
            ConfigError: ``kind`` is unknown.
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
        """Clamps the embedding to -limit..limit, where its gradients do not vanish (HAT)."""
        self.embedding.clamp_(-limit, limit)

    def usage(self, task: int) -> dict[str, int]:
        """A finished task's usage of the mask; synchronises with the device.

        Args:
            task: The task, counted from 0.

        Returns:
            ``width``, the number of entries at that time; ``reserved``, those that this task used
            first; ``reused``, those shared with earlier tasks; and ``free``, those that no task up
            to this one uses.
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
        """Shapes of the packed masks, for ``state_dict``."""
        return {"shapes": list(self.shapes)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restores the state returned by `get_extra_state`."""
        self.shapes = [tuple(shape) for shape in state["shapes"]]
        self._unpacked = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_unpacked": {}}

    @torch.no_grad()
    def _unpack(self, task: int) -> Tensor:
        sizes = [prod(shape) for shape in self.shapes[: task + 1]]
        start = sum(-(-size // 8) for size in sizes[:-1])
        # Cached for later use with autograd, which refuses inference tensors.
        with torch.inference_mode(False):
            packed = self.bits[start:].cpu().numpy()
            flat = np.unpackbits(packed, count=sizes[-1], bitorder="little")
            return torch.from_numpy(flat).to(self.bits.device).bool().view(self.shapes[task])
