"""Samples in fewer bytes than their values have."""

from __future__ import annotations

import torch
from torch import Tensor

from avalanche_dgm.modules import GrowingBuffers
from avalanche_dgm.settings import one_of

DTYPES = {"float32": torch.float32, "float16": torch.float16, "uint8": torch.uint8}


class CompactSamples(GrowingBuffers):
    """Samples of one shape, written and read as float32.

    Args:
        dtype: How they are kept: ``"float32"``, ``"float16"``, or ``"uint8"``, which is 256 steps
            from the smallest to the largest value of each channel (dimension 1).

    Raises:
        ConfigError: The ``dtype`` is unknown.

    Attributes:
        values: Tensor (N, *shape) of the kept type.
        zero: Float tensor (1, C, 1, ...), each channel's smallest value; empty but for uint8.
        scale: Float tensor like ``zero``, the size of a step.
    """

    values: Tensor
    zero: Tensor
    scale: Tensor

    def __init__(self, dtype: str = "float32") -> None:
        super().__init__()
        one_of("dtype", dtype, *DTYPES)
        self.dtype = DTYPES[dtype]
        self.register_buffer("values", torch.empty(0, dtype=self.dtype))
        self.register_buffer("zero", torch.empty(0))
        self.register_buffer("scale", torch.empty(0))

    def __len__(self) -> int:
        return len(self.values)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Shape of one sample, or ``None`` while there is none."""
        return tuple(self.values.shape[1:]) if len(self) else None

    def read(self, index: Tensor) -> Tensor:
        """The samples at positions (n,): a float32 tensor (n, *shape)."""
        return self._decode(self.values[index])

    def replace(self, kept: Tensor, new: Tensor) -> None:
        """Drops all samples but some, and puts new ones behind these.

        Args:
            kept: int64 tensor (n,), positions of those that stay.
            new: Float32 tensor (m, *shape).
        """
        if self.dtype == torch.uint8:
            self._replace_steps(kept, new)
            return
        largest = torch.finfo(self.dtype).max
        old = self.values[kept] if len(self) else new[:0].to(self.dtype)
        self.values = torch.cat([old, new.clamp(-largest, largest).to(self.dtype)])

    def arrange(self, order: Tensor) -> None:
        """Puts the samples into another order, given as positions (N,)."""
        self.values = self.values[order]

    def clear(self) -> None:
        """Drops all samples; the next may have another shape."""
        self.values = self.values[:0]

    def _replace_steps(self, kept: Tensor, new: Tensor) -> None:
        others = [d for d in range(new.ndim) if d != 1]
        low, high = new.amin(others, keepdim=True), new.amax(others, keepdim=True)
        if len(self):
            ends = self.zero, self.zero + 255 * self.scale
            if bool(((low >= ends[0]) & (high <= ends[1])).all()):
                self.values = torch.cat([self.values[kept], self._encode(new)])
                return
            low, high = torch.minimum(low, ends[0]), torch.maximum(high, ends[1])
            new = torch.cat([self.read(kept), new])
        self.zero = low
        # A channel that is constant needs no steps.
        self.scale = torch.where(high > low, (high - low) / 255, torch.ones_like(low))
        self.values = self._encode(new)

    def _encode(self, samples: Tensor) -> Tensor:
        steps = torch.round((samples - self.zero) / self.scale)
        return steps.clamp(0, 255).to(torch.uint8)

    def _decode(self, values: Tensor) -> Tensor:
        if self.dtype == torch.uint8:
            return values.float() * self.scale + self.zero
        return values.float()
