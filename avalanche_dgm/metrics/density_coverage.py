"""Whether generated samples lie where real ones lie, and wherever real ones lie."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from avalanche_dgm.checks import whole
from avalanche_dgm.errors import ConfigError, ShapeError
from avalanche_dgm.metrics.plotted import PlottedMetric

#: Rows of a matrix of distances that are computed at once.
_ROWS = 512


class DensityCoverage(PlottedMetric):
    """Density and coverage of generated samples (Naeem et al. 2020, k = 5).

    Around each of N real samples lies a ball that reaches to its k-th nearest real neighbour.
    ``density`` is how many balls a generated sample lies in, by k: about 1 for samples of the same
    distribution, less for those off it. ``coverage`` is the share of balls with a generated sample
    in them: it falls if a generator has lost a part of the data. Balls are open, as in the
    authors' code, so that a copy of a real sample that is there k times more lies in no ball of it.

    Features are kept, in single precision: at most ``limit`` real and as many generated ones **of
    each process**, the first ones. Processes hand each other theirs when the values are computed,
    which takes time in proportion to N * (N + M) and memory to N + M.

    Args:
        n_features: Features F of a sample. Pixels will do for very small images only; better are
            those of a classifier, such as `Reference.features`.
        k: Neighbours, at least 1.
        limit: Most samples of each kind that a process keeps, more than ``k``.

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
                f"limit={limit} must be above k={k}: a sample is no neighbour of its own."
            )
        self.n_features, self.k, self.limit = n_features, k, limit
        self.add_state("real", [], dist_reduce_fx="cat")
        self.add_state("generated", [], dist_reduce_fx="cat")
        self._open()

    def _open(self) -> None:
        # A process without samples takes part in gathering with none: of nothing at all it would
        # not know the shape.
        for parts in (self.real, self.generated):
            parts.append(torch.empty(0, self.n_features, device=self.device))

    def reset(self) -> None:
        """Forgets all samples."""
        super().reset()
        self._open()

    def update(self, features: Tensor, real: bool) -> None:
        """Keeps the features of a batch.

        Args:
            features: Float tensor (n, F).
            real: Whether the samples are real, or generated.

        Raises:
            ShapeError: The features have another shape.
        """
        if features.ndim != 2 or features.shape[1] != self.n_features:
            raise ShapeError(
                f"Features of shape {tuple(features.shape)} are not (n, {self.n_features}), as"
                f" n_features={self.n_features} says."
            )
        parts = self.real if real else self.generated
        room = self.limit - sum(len(part) for part in parts)
        if room > 0:
            parts.append(features[:room].detach().float().clone())

    def compute(self) -> dict[str, Tensor]:
        """Returns ``density``, a scalar from 0 on, and ``coverage``, one in [0, 1].

        Both are NaN without generated samples or with fewer than k + 1 real ones.
        """
        real, generated = _joined(self.real), _joined(self.generated)
        if len(real) <= self.k or not len(generated):
            nothing = real.new_tensor(torch.nan)
            return {"density": nothing, "coverage": nothing.clone()}
        inside = real.new_zeros((), dtype=torch.int64)
        covered = inside.clone()
        for part in real.split(_ROWS):
            # The nearest of all is the sample itself.
            radii = _distances(part, real).kthvalue(self.k + 1, dim=1).values
            balls = _distances(part, generated) < radii[:, None]
            inside += balls.sum()
            covered += balls.any(dim=1).sum()
        return {"density": inside / (self.k * len(generated)), "coverage": covered / len(real)}


def _joined(parts: Tensor | list[Tensor]) -> Tensor:
    """One tensor (n, F) in double precision; after gathering it is one already."""
    return (torch.cat(parts) if isinstance(parts, list) else parts).double()


def _distances(one: Tensor, other: Tensor) -> Tensor:
    """Distances (n, m) without the rounding of matrix products: a sample is 0 from itself."""
    return torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist")
