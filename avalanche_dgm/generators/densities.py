"""Densities of classes whose covariance is full, shared, of low rank, or of a mixture."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from avalanche_dgm.generators.density import ClassDensity
from avalanche_dgm.generators.gaussian import (
    Moments,
    Triangles,
    clusters,
    join_moments,
    join_nearest,
    main_directions,
    padded,
)
from avalanche_dgm.modules import AtRest
from avalanche_dgm.settings import one_of, whole

#: Smallest variance of a value that a low-rank covariance adds to its factor's.
_FLOOR = 1e-6


class FullDensity(ClassDensity):
    """A Gaussian of full covariance for each class.

    Args:
        at_rest: See `ClassDensity`.

    Attributes:
        factors: The Cholesky factors of the covariances.
    """

    def __init__(self, *, at_rest: AtRest = "float32") -> None:
        super().__init__(at_rest=at_rest)
        self.factors = Triangles()

    def _grow(self, n: int, size: int, device: torch.device) -> None:
        self.factors.grow(n, size, device)

    def _place(self, row: int) -> int:
        """Where the covariance of a class is."""
        return row

    def _learn(
        self, row: int, samples: Tensor, variances: Tensor | None, n: int, before: int
    ) -> Tensor:
        mean = samples.mean(dim=0)
        centred = samples - mean
        covariance = centred.T @ centred / len(samples)
        if variances is not None:
            covariance += torch.diag(variances)
        found = n, mean, covariance
        if before:
            known = self.means[row].double().cpu(), self.factors.covariance(self._place(row))
            found = join_moments((before, *known), found)
        self._put(row, found)
        return found[1]

    def _put(self, row: int, found: Moments) -> None:
        self.factors.put(row, found[2])

    def _noise(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        return self.factors.multiply(self._normal(len(rows), rng), rows)

    def _log_density(self, flat: Tensor, row: int) -> Tensor:
        return self.factors.log_density(flat - self.means[row], self._place(row))


class SharedDensity(FullDensity):
    """A Gaussian for each class, all of one covariance: that of the samples within their classes.

    The model of linear discriminant analysis; a class adds no more than its mean to what is kept.
    """

    def _grow(self, n: int, size: int, device: torch.device) -> None:
        self.factors.grow(1, size, device)

    def _place(self, row: int) -> int:
        return 0

    def _put(self, row: int, found: Moments) -> None:
        count, _, covariance = found
        others = int(self.seen.sum() - self.seen[row])
        shared = others * self.factors.covariance(0) + count * covariance
        self.factors.put(0, shared / (others + count))

    def _noise(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        return self._normal(len(rows), rng) @ self.factors.full()[0].T


class LowRankDensity(ClassDensity):
    """A Gaussian for each class, of covariance F F^T + diag(v) with a factor F of few columns.

    The columns are the directions in which the class varies most; the variance of each value is
    exact. It needs no matrix (D, D), so samples may have any number of values.

    Args:
        rank: Columns of the factor.
        at_rest: See `ClassDensity`.

    Attributes:
        factors: Float tensor (K, D, rank), the factors F.
        scales: Float tensor (K, D), the square roots of v.

    Raises:
        ConfigError: The rank cannot work.
    """

    dense = False
    factors: Tensor
    scales: Tensor

    def __init__(self, *, rank: int = 16, at_rest: AtRest = "float32") -> None:
        super().__init__(at_rest=at_rest)
        whole("rank", rank)
        self.rank = rank
        self.register_buffer("factors", torch.empty(0, 0, rank))
        self.register_buffer("scales", torch.empty(0, 0))

    def _grow(self, n: int, size: int, device: torch.device) -> None:
        self.factors = padded(self.factors, torch.zeros(n, size, self.rank, device=device))
        self.scales = padded(self.scales, torch.zeros(n, size, device=device))

    def _learn(
        self, row: int, samples: Tensor, variances: Tensor | None, n: int, before: int
    ) -> Tensor:
        mean = samples.mean(dim=0)
        centred = (samples - mean) / math.sqrt(len(samples))
        total = centred.square().sum(dim=0)
        if variances is not None:
            total += variances
        if before:
            # The directions of both sets of samples, and that from one mean to the other.
            old, new = before / (before + n), n / (before + n)
            factor, scale = self.factors[row].double().cpu(), self.scales[row].double().cpu()
            known, apart = factor.square().sum(dim=1) + scale.square(), mean - self.means[row].cpu()
            between = (math.sqrt(old * new) * apart)[None]
            centred = torch.cat([math.sqrt(old) * factor.T, math.sqrt(new) * centred, between])
            total = old * known + new * total + between[0].square()
            mean = mean - old * apart
        factor = F.pad(main_directions(centred, self.rank), (0, self.rank))[:, : self.rank]
        rest = (total - factor.square().sum(dim=1)).clamp(min=_FLOOR)
        self.factors[row] = factor.to(self.factors)
        self.scales[row] = rest.sqrt().to(self.scales)
        return mean

    def _noise(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        shape, device = (len(rows), self.rank, 1), self.means.device
        codes = torch.randn(shape, generator=rng, device=device)
        spread = torch.bmm(self.factors[rows], codes).squeeze(2)
        return spread + self.scales[rows] * self._normal(len(rows), rng)

    def _log_density(self, flat: Tensor, row: int) -> Tensor:
        # The covariance's inverse and determinant by those of a matrix of the rank's size.
        factor, scale = self.factors[row], self.scales[row]
        white, factor = (flat - self.means[row]) / scale, factor / scale[:, None]
        inner = torch.linalg.cholesky(factor.T @ factor + torch.eye(self.rank).to(factor))
        codes = torch.linalg.solve_triangular(inner, (white @ factor).T, upper=False)
        squares = white.square().sum(dim=1) - codes.square().sum(dim=0)
        logs = scale.log().sum() + inner.diagonal().log().sum()
        return -0.5 * (squares + len(scale) * math.log(2 * math.pi)) - logs


class MixtureDensity(FullDensity):
    """A mixture of a few Gaussians for each class, which share the class's covariance.

    The components are the clusters of the class's samples (k-means). Mean and covariance of a class
    as a whole are those of its samples, also where it has come in parts.

    Args:
        components: Gaussians of a class, at most.
        at_rest: See `ClassDensity`.

    Attributes:
        factors: The Cholesky factors of the covariances within the components.
        shares: Float tensor (K, components), how much of its class each component is; 0 for those
            that are not needed.
        offsets: Float tensor (K, components, D), the components' means less the class's.

    Raises:
        ConfigError: The number of components cannot work.
    """

    shares: Tensor
    offsets: Tensor

    def __init__(self, *, components: int = 3, at_rest: AtRest = "float32") -> None:
        super().__init__(at_rest=at_rest)
        whole("components", components)
        self.components = components
        self.register_buffer("shares", torch.empty(0, components))
        self.register_buffer("offsets", torch.empty(0, components, 0))

    def _grow(self, n: int, size: int, device: torch.device) -> None:
        super()._grow(n, size, device)
        self.shares = padded(self.shares, torch.zeros(n, self.components, device=device))
        self.offsets = padded(self.offsets, torch.zeros(n, self.components, size, device=device))

    def _learn(
        self, row: int, samples: Tensor, variances: Tensor | None, n: int, before: int
    ) -> Tensor:
        centres, nearest = clusters(samples, self.components)
        shares = torch.bincount(nearest, minlength=len(centres)).double() / len(samples)
        apart = samples - centres[nearest]
        within = apart.T @ apart / len(samples)
        if variances is not None:
            within += torch.diag(variances)
        if before:
            known, new = self.shares[row].double().cpu(), n / (before + n)
            old_centres = (self.means[row] + self.offsets[row]).double().cpu()[known > 0]
            shares = torch.cat([(1 - new) * known[known > 0], new * shares])
            centres = torch.cat([old_centres, centres])
            within = (1 - new) * self.factors.covariance(row) + new * within
        while len(shares) > self.components:
            shares, centres, within = join_nearest(shares, centres, within)
        mean = shares @ centres
        missing = self.components - len(shares)
        self.shares[row] = F.pad(shares, (0, missing)).to(self.shares)
        self.offsets[row] = F.pad(centres - mean, (0, 0, 0, missing)).to(self.offsets)
        self.factors.put(row, within)
        return mean

    def _centres(self, rows: Tensor, flat: Tensor | None, rng: torch.Generator) -> Tensor:
        centres = self.means[rows, None] + self.offsets[rows]
        if flat is None:
            points = torch.rand(len(rows), 1, generator=rng, device=self.means.device)
            ends = torch.cumsum(self.shares, dim=1)[rows]
            chosen = (points >= ends / ends[:, -1:]).sum(dim=1)
        else:
            distances = (flat[:, None] - centres).square().sum(dim=2)
            chosen = distances.masked_fill(self.shares[rows] == 0, math.inf).argmin(dim=1)
        return centres[torch.arange(len(rows), device=rows.device), chosen]

    def _log_density(self, flat: Tensor, row: int) -> Tensor:
        apart = flat - self.means[row]
        parts = [self.factors.log_density(apart - offset, row) for offset in self.offsets[row]]
        return torch.logsumexp(torch.stack(parts, dim=1) + self.shares[row].log(), dim=1)


_KINDS: dict[str, type[ClassDensity]] = {
    "full": FullDensity,
    "shared": SharedDensity,
    "low-rank": LowRankDensity,
    "mixture": MixtureDensity,
}


def make_density(covariance: str, **options: Any) -> ClassDensity:
    """Makes a density of classes.

    Args:
        covariance: ``"full"``, ``"shared"``, ``"low-rank"`` or ``"mixture"``.
        **options: Arguments of the class that it names.

    Raises:
        ConfigError: The name is unknown, or an argument cannot work.
    """
    one_of("covariance", covariance, *_KINDS)
    return _KINDS[covariance](**options)
