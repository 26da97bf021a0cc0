"""Running means on a device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Means:
    """Sums and counts by key, added to without waiting for the device.

    Attributes:
        sums: By key, the sum and the number of what was summed.
    """

    def __init__(self) -> None:
        self.sums: dict[Any, tuple[Tensor, int]] = {}

    def add(self, key: Any, total: Tensor, n: int = 1) -> None:
        """Adds values.

        Args:
            key: What they are values of.
            total: Scalar, their sum.
            n: How many they are.
        """
        before, seen = self.sums.get(key, (0.0, 0))
        self.sums[key] = (before + total.detach().float(), seen + n)

    def values(self) -> dict[Any, Tensor]:
        """The means by key."""
        return {key: total / n for key, (total, n) in self.sums.items()}

    def total(self) -> Tensor:
        """The sum of all values, which is not finite if one of them was not."""
        return torch.stack([total for total, _ in self.sums.values()]).sum()

    def set_sums(self, sums: dict[Any, tuple[Tensor, int]], device: torch.device) -> None:
        """Restores `sums` on a device."""
        self.sums = {key: (total.to(device), n) for key, (total, n) in sums.items()}
