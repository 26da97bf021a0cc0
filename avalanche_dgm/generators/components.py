"""The Gaussian components of one class during fitting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from avalanche_dgm.generators.covariances import Covariances
from avalanche_dgm.generators.gaussian import clusters, nearest_pair


@dataclass(frozen=True)
class Components:
    """A mixture of Gaussians, in float64 on the CPU.

    Attributes:
        kind: Operations on covariances.
        shares: Tensor (c,), the components' weights, of sum 1.
        centres: Tensor (c, D), their means.
        covariances: One for each component, or the within-component covariance of all.
    """

    kind: Covariances[Any]
    shares: Tensor
    centres: Tensor
    covariances: list[Any]

    @classmethod
    def of(
        cls, kind: Covariances[Any], samples: Tensor, variances: Tensor | None, n: int, *, own: bool
    ) -> Components:
        """Fits components to the at most n clusters of samples (m, D).

        ``variances`` (D,) are the samples' mean variances; with ``own``, each component has its own
        covariance.
        """
        centres, nearest = clusters(samples, n)
        shares = torch.bincount(nearest, minlength=len(centres)).double() / len(samples)
        apart = samples - centres[nearest]
        parts = [apart[nearest == i] for i in range(len(centres))] if own else [apart]
        return cls(kind, shares, centres, [kind.of(part, variances) for part in parts])

    def with_others(self, others: Components, weight: float, *, own: bool) -> Components:
        """The mixture of others, with this weight in [0, 1], and these."""
        covariances = [*others.covariances, *self.covariances]
        if not own:
            covariances = [self.kind.mix([weight, 1 - weight], covariances, self.centres[:0])]
        shares = torch.cat([weight * others.shares, (1 - weight) * self.shares])
        centres = torch.cat([others.centres, self.centres])
        return Components(self.kind, shares, centres, covariances)

    def reduced(self, n: int, *, own: bool) -> Components:
        """Merges the nearest components until there are n; mean and covariance do not change."""
        reduced = self
        while len(reduced.shares) > n:
            reduced = reduced._merge_nearest(own)
        return reduced

    def _merge_nearest(self, own: bool) -> Components:
        shares, covariances = self.shares, self.covariances
        i, j, apart = nearest_pair(shares, self.centres)
        keep = [k for k in range(len(shares)) if k not in (i, j)]
        weight = shares[[i, j]].sum()
        both = shares[[i, j]] / weight
        if own:
            between = (apart / weight.sqrt())[None]
            merged = self.kind.mix(both.tolist(), [covariances[i], covariances[j]], between)
            covariances = [*(covariances[k] for k in keep), merged]
        else:
            covariances = [self.kind.mix([1.0], covariances, apart[None])]
        centre = both @ self.centres[[i, j]]
        return Components(
            self.kind,
            torch.cat([shares[keep], weight[None]]),
            torch.cat([self.centres[keep], centre[None]]),
            covariances,
        )

    def shrunk(self, shrinkage: float) -> Components:
        """Shrinks each covariance to the within-component covariance, which does not change."""
        none = self.centres[:0]
        within = self.kind.mix(self.shares.tolist(), self.covariances, none)
        weights = [1 - shrinkage, shrinkage]
        covariances = [self.kind.mix(weights, [one, within], none) for one in self.covariances]
        return Components(self.kind, self.shares, self.centres, covariances)
