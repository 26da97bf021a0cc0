"""Scaling and padding of samples for adversarial networks."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from avalanche_dgm.generators.base import SampleSpec

#: Sides of images are padded to a multiple of this, as three layers halve or double them.
SIDE = 8


@dataclass(frozen=True)
class Scaler(SampleSpec):
    """Samples scaled to [-1, 1], and images padded to sides that are multiples of 8.

    Attributes:
        low: Smallest intensity for each channel, in the user's units; for (D,) one for all, or one
            for each feature.
        high: Largest intensity for each channel, above ``low``.
        bounded: Whether ``low`` and ``high`` are bounds. Otherwise they are only a scale, and
            scaled samples may lie outside [-1, 1].
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    bounded: bool = True

    @property
    def padded(self) -> tuple[int, ...]:
        """Shape of a scaled and padded sample."""
        if len(self.shape) == 1:
            return self.shape
        return self.shape[0], *(-(-side // SIDE) * SIDE for side in self.shape[1:])

    def transform(self, samples: Tensor, *, clip: bool = True) -> Tensor:
        """Scales and pads.

        Args:
            samples: Float tensor (n, *shape), in the user's units, of any floating-point type.
            clip: Whether to clip at the bounds, which generated samples do not exceed either.
                Without, a classifier sees noisy images as they are.

        Returns:
            float32 tensor (n, *padded), in [-1, 1] if bounded and clipped; the padding is -1.
        """
        samples = samples.float()
        low, high = self._ends(samples)
        scaled = 2 * (samples - low) / (high - low) - 1
        if self.bounded and clip:
            scaled = scaled.clamp(-1, 1)
        if self.padded == self.shape:
            return scaled
        top, bottom, left, right = self._margins()
        return F.pad(scaled, (left, right, top, bottom), value=-1.0)

    def inverse_transform(self, samples: Tensor) -> Tensor:
        """Crops and scales back.

        Args:
            samples: Float tensor (n, *padded), in [-1, 1] if bounded.

        Returns:
            Float tensor (n, *shape), in the user's units.
        """
        if self.padded != self.shape:
            top, _, left, _ = self._margins()
            height, width = self.shape[1:]
            samples = samples[:, :, top : top + height, left : left + width]
        low, high = self._ends(samples)
        return low + (samples + 1) / 2 * (high - low)

    def _margins(self) -> tuple[int, int, int, int]:
        """Rows and columns of padding: top, bottom, left, right."""
        height, width = (p - s for p, s in zip(self.padded[1:], self.shape[1:], strict=True))
        return height // 2, height - height // 2, width // 2, width - width // 2

    def _ends(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        ranks = (-1,) + (1,) * (len(self.shape) - 1)
        return samples.new_tensor(self.low).view(ranks), samples.new_tensor(self.high).view(ranks)
