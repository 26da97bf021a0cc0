"""Compact storage of samples."""

from __future__ import annotations

import torch
from torch import Tensor

from avalanche_dgm.checks import one_of
from avalanche_dgm.modules import GrowingBuffers, rounded

DTYPES = {"float32": torch.float32, "float16": torch.float16, "uint8": torch.uint8}


class CompactSamples(GrowingBuffers):
    """Samples of one shape, stored in a smaller type; written and read as float32.

    Args:
        dtype: Type of the stored values: ``"float32"``, ``"float16"``, or ``"uint8"``, which is 256
            steps from the smallest to the largest value of each channel (dimension 1).

    Raises:
        ConfigError: The ``dtype`` is unknown.

    Attributes:
        values: Tensor (N, *shape) of the stored type.
        zero: Float tensor (1, C, 1, ...), each channel's smallest value; empty unless uint8.
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

    def read(self, index: Tensor) -> Tensor:
        """The samples at positions (n,): a float32 tensor (n, *shape)."""
        values = self.values[index].float()
        return values * self.scale + self.zero if self.dtype == torch.uint8 else values

    def write(self, samples: Tensor) -> None:
        """Replaces the stored samples by these (N, *shape).

        With uint8, the range of values only widens, so that samples are not changed by being read
        and written again.
        """
        samples = samples.float()
        if self.dtype == torch.uint8:
            self._widen(samples)
            samples = torch.round((samples - self.zero) / self.scale).clamp(0, 255)
            self.values = samples.to(torch.uint8)
        else:
            self.values = rounded(samples, self.dtype)

    def _widen(self, samples: Tensor) -> None:
        others = [d for d in range(samples.ndim) if d != 1]
        low, high = samples.amin(others, keepdim=True), samples.amax(others, keepdim=True)
        if len(self):
            ends = self.zero, self.zero + 255 * self.scale
            if bool(((low >= ends[0]) & (high <= ends[1])).all()):
                return
            low, high = torch.minimum(low, ends[0]), torch.maximum(high, ends[1])
        self.zero = low
        # Avoids a step of 0 for a constant channel.
        self.scale = torch.where(high > low, (high - low) / 255, torch.ones_like(low))
