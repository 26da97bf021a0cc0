"""The error of reconstructed images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from avalanche_dgm.errors import ShapeError
from avalanche_dgm.metrics.plotted import PlottedMetric


class ReconstructionError(PlottedMetric):
    """Mean squared and mean absolute difference between images and their reconstructions.

    The means are over entries and samples, exact for any batch sizes and numbers of processes, in
    double precision.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    squared: Tensor
    absolute: Tensor
    n: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("squared", "absolute"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("n", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, images: Tensor, reconstructions: Tensor) -> None:
        """Adds a batch.

        Args:
            images: Float tensor (n, *shape).
            reconstructions: Float tensor (n, *shape), in the same units.

        Raises:
            ShapeError: The shapes differ, or samples have no entries.
        """
        if images.shape != reconstructions.shape or images.ndim < 2 or 0 in images.shape[1:]:
            raise ShapeError(
                f"Images of shape {tuple(images.shape)} and reconstructions of shape"
                f" {tuple(reconstructions.shape)} cannot be compared; both must be (n, *shape)."
            )
        difference = (images.detach().double() - reconstructions.detach().double()).flatten(1)
        self.squared += difference.square().mean(dim=1).sum()
        self.absolute += difference.abs().mean(dim=1).sum()
        self.n += len(images)

    def compute(self) -> dict[str, Tensor]:
        """Returns the scalars ``squared`` and ``absolute``, in squared units and units of images.

        NaN without samples.
        """
        sums = {"squared": self.squared, "absolute": self.absolute}
        return {name: (value / self.n).float() for name, value in sums.items()}
