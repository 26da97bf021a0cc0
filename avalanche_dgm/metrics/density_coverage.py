"""Density and coverage of generated samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from avalanche_dgm.checks import whole
from avalanche_dgm.errors import ConfigError, ShapeError
from avalanche_dgm.metrics.plotted import PlottedMetric

#: Rows of the distance matrix that are computed at once.
_ROWS = 512


class DensityCoverage(PlottedMetric):
    """Density and coverage of generated samples (Naeem et al. 2020, k = 5).

    Each of N real samples has a ball whose radius is the distance to its k-th nearest real
    neighbour. ``density`` is the mean number of balls that contain a generated sample, divided by
    k: about 1 for samples of the real distribution, less for samples outside of it. ``coverage`` is
    the fraction of balls that contain a generated sample; it falls if a generator loses a part of
    the data. Balls are open, as in the authors' code: the ball of a sample with k duplicates is
    empty.

    Features are stored in single precision: **in each process** at most the first ``limit`` real
    and the first ``limit`` generated ones. They are gathered from all processes for the
    computation, which takes time proportional to N * (N + M) and memory proportional to N + M.

    Args:
        n_features: Features F of a sample. Pixels are suitable only for very small images; better
            are features of a classifier, such as `Reference.features`.
        k: Number of neighbours, at least 1.
        limit: Maximum number of stored samples of each kind and process, more than ``k``.

    Raises:
        ConfigError: ``n_features`` or ``k`` is below 1, or ``limit`` is not above ``k``.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    real: list[Tensor]
    generated: list[Tensor]

    def __init__(self, n_features: int, *, k: int = 5, limit: int = 10_000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        whole("n_features", n_features)
        whole("k", k)
        if limit <= k:
            raise ConfigError(
                f"limit={limit} must be above k={k}: a sample is not a neighbour of itself."
            )
        self.n_features, self.k, self.limit = n_features, k, limit
        self.add_state("real", [], dist_reduce_fx="cat")
        self.add_state("generated", [], dist_reduce_fx="cat")
        self._open()

    def _open(self) -> None:
        # Gathering needs a tensor of the right shape also in a process without samples.
        for parts in (self.real, self.generated):
            parts.append(torch.empty(0, self.n_features, device=self.device))

    def reset(self) -> None:
        """Removes all samples."""
        super().reset()
        self._open()

    def update(self, features: Tensor, real: bool) -> None:
        """Stores the features of a batch.

        Args:
            features: Float tensor (n, F).
            real: Whether the samples are real rather than generated.

        Raises:
            ShapeError: The features have another shape.
        """
        if features.ndim != 2 or features.shape[1] != self.n_features:
            raise ShapeError(
                f"Features of shape {tuple(features.shape)} are not (n, {self.n_features}), as"
                f" n_features={self.n_features} requires."
            )
        parts = self.real if real else self.generated
        room = self.limit - sum(len(part) for part in parts)
        if room > 0:
            parts.append(features[:room].detach().float().clone())

    def compute(self) -> dict[str, Tensor]:
        """Returns the scalars ``density``, at least 0, and ``coverage``, 0 to 1.

        Both are NaN without generated samples or with fewer than k + 1 real samples.
        """
        real, generated = _joined(self.real), _joined(self.generated)
        if len(real) <= self.k or not len(generated):
            nan = real.new_tensor(torch.nan)
            return {"density": nan, "coverage": nan.clone()}
        inside = real.new_zeros((), dtype=torch.int64)
        covered = inside.clone()
        for part in real.split(_ROWS):
            # The nearest sample is the sample itself.
            radii = _distances(part, real).kthvalue(self.k + 1, dim=1).values
            balls = _distances(part, generated) < radii[:, None]
            inside += balls.sum()
            covered += balls.any(dim=1).sum()
        return {"density": inside / (self.k * len(generated)), "coverage": covered / len(real)}


def _joined(parts: Tensor | list[Tensor]) -> Tensor:
    """Concatenates features (n, F) in double precision; after gathering they are one tensor."""
    return (torch.cat(parts) if isinstance(parts, list) else parts).double()


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Distances (n, m), exact enough that a sample has distance 0 from itself."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
