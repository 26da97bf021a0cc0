"""The Gaussians of one class while they are learned: clusters, merged with what was known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from avalanche_dgm.generators.covariances import Covariances
from avalanche_dgm.generators.gaussian import clusters, nearest_pair


@dataclass(frozen=True)
class Components:
    """Gaussians, in float64 on the CPU.

    Attributes:
        kind: Computes with covariances.
        shares: Tensor (c,), their weights, of sum 1.
        centres: Tensor (c, D), their means.
        covariances: One for each, or a single one that they share, that within all of them.
    """

    kind: Covariances[Any]
    shares: Tensor
    centres: Tensor
    covariances: list[Any]

    @classmethod
    def of(
        cls, kind: Covariances[Any], samples: Tensor, variances: Tensor | None, n: int, *, own: bool
    ) -> Components:
        """The clusters of samples.

        Args:
            kind: Computes with covariances.
            samples: Tensor (m, D).
            variances: Tensor (D,), the samples' mean variances, or ``None``.
            n: How many clusters, at most.
            own: Whether each has a covariance of its own.
        """
        centres, nearest = clusters(samples, n)
        shares = torch.bincount(nearest, minlength=len(centres)).double() / len(samples)
        apart = samples - centres[nearest]
        parts = [apart[nearest == i] for i in range(len(centres))] if own else [apart]
        return cls(kind, shares, centres, [kind.of(part, variances) for part in parts])

    def with_others(self, others: Components, weight: float, *, own: bool) -> Components:
        """These and others together, whose weight of all is given."""
        found = [*others.covariances, *self.covariances]
        if not own:
            found = [self.kind.mix([weight, 1 - weight], found, self.centres[:0])]
        shares = torch.cat([weight * others.shares, (1 - weight) * self.shares])
        return Components(self.kind, shares, torch.cat([others.centres, self.centres]), found)

    def reduced(self, n: int, *, own: bool) -> Components:
        """At most n: those are joined that this moves least; mean and covariance of all stay."""
        made = self
        while len(made.shares) > n:
            made = made._join_nearest(own)
        return made

    def _join_nearest(self, own: bool) -> Components:
        shares, found = self.shares, self.covariances
        i, j, apart = nearest_pair(shares, self.centres)
        keep = [k for k in range(len(shares)) if k not in (i, j)]
        weight = shares[[i, j]].sum()
        both = shares[[i, j]] / weight
        if own:
            between = (apart / weight.sqrt())[None]
            joined = self.kind.mix(both.tolist(), [found[i], found[j]], between)
            found = [*(found[k] for k in keep), joined]
        else:
            found = [self.kind.mix([1.0], found, apart[None])]
        centre = both @ self.centres[[i, j]]
        return Components(
            self.kind,
            torch.cat([shares[keep], weight[None]]),
            torch.cat([self.centres[keep], centre[None]]),
            found,
        )

    def shrunk(self, shrinkage: float) -> Components:
        """With covariances of their own drawn to that within all; its mean stays the same."""
        none = self.centres[:0]
        within = self.kind.mix(self.shares.tolist(), self.covariances, none)
        weights = [1 - shrinkage, shrinkage]
        found = [self.kind.mix(weights, [one, within], none) for one in self.covariances]
        return Components(self.kind, self.shares, self.centres, found)
