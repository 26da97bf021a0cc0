"""Storage of a few vectors for each class, in floating point or quantised."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from avalanche_dgm.generators.gaussian import padded
from avalanche_dgm.modules import GrowingBuffers


def pack(codes: Tensor, bits: int) -> Tensor:
    """Packs integers (..., D), from 0 to 2^bits - 1, into bytes (..., D bits / 8, rounded up).

    There are 4 or 8 bits per integer.
    """
    codes = codes.to(torch.uint8)
    if bits == 4:
        codes = F.pad(codes, (0, codes.shape[-1] % 2))
        codes = codes[..., ::2] + 16 * codes[..., 1::2]
    return codes


def unpack(packed: Tensor, bits: int, size: int) -> Tensor:
    """Unpacks integers (..., size), uint8; see `pack`."""
    if bits == 4:
        packed = torch.stack([packed % 16, packed // 16], dim=-1).flatten(-2)
    return packed[..., :size]


class Vectors(GrowingBuffers):
    """A few vectors (D,) for each of K classes.

    Args:
        per_class: Number of vectors of a class.
        dtype: Type of the stored values.

    Attributes:
        kept: The values, (K, per_class, D).
    """

    kept: Tensor

    def __init__(self, per_class: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.register_buffer("kept", torch.empty(0, per_class, 0, dtype=dtype))

    @property
    def values(self) -> Tensor:
        """Float tensor (K, per_class, D)."""
        return self.kept

    def grow(self, n: int, size: int, device: torch.device) -> None:
        """Extends to n classes of vectors (size,); new ones are zero."""
        per_class = self.kept.shape[1]
        self.kept = padded(self.kept, torch.zeros(n, per_class, size, device=device))

    def put(self, row: int, vectors: Tensor) -> None:
        """Stores the vectors (per_class, D) of a class."""
        self.kept[row] = vectors.to(self.kept)

    def bytes_of(self, d: int, width: int) -> int:
        """Bytes of a vector with d values, with ``width`` bytes per floating-point number."""
        return d * width


class QuantizedVectors(Vectors):
    """Quantised vectors: the smallest value plus integer multiples of a step size.

    Args:
        per_class: Number of vectors of a class.
        bits: Bits per value, 4 or 8.

    Attributes:
        kept: uint8 tensor (K, per_class, D bits / 8, rounded up), the multiples.
        ranges: Float tensor (K, per_class, 2), smallest value and step size of each vector, rounded
            to float16.
    """

    ranges: Tensor

    def __init__(self, per_class: int, bits: int) -> None:
        super().__init__(per_class, torch.uint8)
        self.bits, self.size = bits, 0
        self.register_buffer("ranges", torch.empty(0, per_class, 2))
        #: Cache of `values`, not part of the state.
        self._read: Tensor | None = None

    @property
    def values(self) -> Tensor:
        """Float32 tensor (K, per_class, D)."""
        if self._read is None or self._read.device != self.kept.device:
            low, step = self.ranges.float().split(1, dim=-1)
            self._read = low + step * unpack(self.kept, self.bits, self.size)
        return self._read

    def grow(self, n: int, size: int, device: torch.device) -> None:
        per_class, self.size = self.kept.shape[1], size
        codes = torch.zeros(
            n, per_class, -(-size * self.bits // 8), dtype=torch.uint8, device=device
        )
        self.kept = padded(self.kept, codes)
        self.ranges = padded(self.ranges, torch.zeros(n, per_class, 2, device=device))
        self._read = None

    def put(self, row: int, vectors: Tensor) -> None:
        # Rounded to float16, the smallest stored type, so that it is not rounded again.
        low, high = vectors.amin(dim=1, keepdim=True), vectors.amax(dim=1, keepdim=True)
        low = low.clamp(-65504, 65504).half().double()
        most = 2**self.bits - 1
        step = ((high - low) / most).clamp(0, 65504).half().double()
        multiples = torch.where(step > 0, (vectors - low) / step, torch.zeros_like(vectors))
        codes = pack(multiples.round().clamp(0, most), self.bits)
        self.kept[row] = codes.to(self.kept)
        self.ranges[row] = torch.cat([low, step], dim=1).to(self.ranges)
        self._read = None

    def bytes_of(self, d: int, width: int) -> int:
        return -(-d * self.bits // 8) + 2 * width

    def get_extra_state(self) -> dict[str, Any]:
        """The dimension of a vector, for ``state_dict``."""
        return {"size": self.size}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restores the state returned by `get_extra_state`."""
        self.size, self._read = state["size"], None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_read": None}
