"""Densities of classes whose covariance is shared, of low rank, or of a mixture."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from avalanche_dgm.generators.density import ClassDensity, FullDensity, log_normal, moments
from avalanche_dgm.generators.gaussian import Triangles, join_moments
from avalanche_dgm.settings import one_of, whole

#: Smallest variance of a value that a low-rank covariance adds to its factor's.
_FLOOR = 1e-6


class SharedDensity(ClassDensity):
    """A Gaussian for each class, all of one covariance: that of the samples within their classes.

    The model of linear discriminant analysis; a class adds no more than its mean to what is kept.

    Attributes:
        factor: The Cholesky factor of the covariance.
    """

    def __init__(self) -> None:
        super().__init__()
        self.factor = Triangles()

    def _grow(self, n: int, size: int, device: torch.device) -> None:
        self.factor.grow(1, size, device)

    def _learn(
        self, row: int, samples: Tensor, variances: Tensor | None, n: int, before: int
    ) -> Tensor:
        shared = self.factor.covariance(0)
        count, mean, covariance = moments(samples, variances, n)
        if before:
            known = before, self.means[row].double().cpu(), shared
            count, mean, covariance = join_moments(known, (count, mean, covariance))
        others = int(self.seen.sum() - self.seen[row])
        self.factor.put(0, (others * shared + count * covariance) / (others + count))
        return mean

    def _deviations(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        return self._noise(len(rows), rng) @ self.factor.full()[0].T

    def _log_density(self, flat: Tensor, row: int) -> Tensor:
        return log_normal(flat - self.means[row], self.factor.full()[0])


class LowRankDensity(ClassDensity):
    """A Gaussian for each class, of covariance F F^T + diag(v) with a factor F of few columns.

    The columns are the directions in which the class varies most; the variance of each value is
    exact. It needs no matrix (D, D), so samples may have any number of values.

    Args:
        rank: Columns of the factor.

    Attributes:
        factors: Float tensor (K, D, rank), the factors F.
        scales: Float tensor (K, D), the square roots of v.

    Raises:
        ConfigError: The rank cannot work.
    """

    dense = False
    factors: Tensor
    scales: Tensor

    def __init__(self, *, rank: int = 16) -> None:
        super().__init__()
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

    def _deviations(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        shape, device = (len(rows), self.rank, 1), self.means.device
        codes = torch.randn(shape, generator=rng, device=device)
        spread = torch.bmm(self.factors[rows], codes).squeeze(2)
        return spread + self.scales[rows] * self._noise(len(rows), rng)

    def _log_density(self, flat: Tensor, row: int) -> Tensor:
        # The covariance's inverse and determinant by those of a matrix of the rank's size.
        factor, scale = self.factors[row], self.scales[row]
        white, factor = (flat - self.means[row]) / scale, factor / scale[:, None]
        inner = torch.linalg.cholesky(factor.T @ factor + torch.eye(self.rank).to(factor))
        codes = torch.linalg.solve_triangular(inner, (white @ factor).T, upper=False)
        squares = white.square().sum(dim=1) - codes.square().sum(dim=0)
        logs = scale.log().sum() + inner.diagonal().log().sum()
        return -0.5 * (squares + len(scale) * math.log(2 * math.pi)) - logs


class MixtureDensity(ClassDensity):
    """A mixture of a few Gaussians for each class, which share the class's covariance.

    The components are the clusters of the class's samples (k-means). Mean and covariance of a class
    as a whole are those of its samples, also where it has come in parts.

    Args:
        components: Gaussians of a class, at most.

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

    def __init__(self, *, components: int = 3) -> None:
        super().__init__()
        whole("components", components)
        self.components = components
        self.factors = Triangles()
        self.register_buffer("shares", torch.empty(0, components))
        self.register_buffer("offsets", torch.empty(0, components, 0))

    def _grow(self, n: int, size: int, device: torch.device) -> None:
        self.factors.grow(n, size, device)
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

    def _deviations(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        points = torch.rand(len(rows), 1, generator=rng, device=self.means.device)
        ends = torch.cumsum(self.shares, dim=1)[rows]
        chosen = (points >= ends / ends[:, -1:]).sum(dim=1)
        noise = self.factors.multiply(self._noise(len(rows), rng), rows)
        return self.offsets[rows, chosen] + noise

    def _around(self, flat: Tensor, rows: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        centres = self.means[rows, None] + self.offsets[rows]
        distances = (flat[:, None] - centres).square().sum(dim=2)
        nearest = distances.masked_fill(self.shares[rows] == 0, math.inf).argmin(dim=1)
        noise = self.factors.multiply(self._noise(len(rows), rng), rows)
        return centres[torch.arange(len(rows), device=rows.device), nearest], noise

    def _log_density(self, flat: Tensor, row: int) -> Tensor:
        factor, apart = self.factors.full()[row], flat - self.means[row]
        parts = [log_normal(apart - offset, factor) for offset in self.offsets[row]]
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


def padded(old: Tensor, zeros: Tensor) -> Tensor:
    """The first rows of a tensor of zeros replaced by those there were; a new tensor."""
    return torch.cat([old.to(zeros), zeros[len(old) :]]) if len(old) else zeros


def main_directions(samples: Tensor, n: int) -> Tensor:
    """The directions in which samples vary most, each as long as the deviation along it.

    Subspace iteration (Halko et al. 2011), from a fixed start.

    Args:
        samples: Float64 tensor (m, D), as deviations from their mean over sqrt(m).
        n: How many; there are no more than D and m.

    Returns:
        Float64 tensor (D, n).
    """
    fixed = torch.Generator().manual_seed(0)
    size = min(n + 8, *samples.shape)
    basis = torch.randn(samples.shape[1], size, generator=fixed, dtype=samples.dtype)
    for _ in range(8):
        basis = torch.linalg.qr(samples.T @ (samples @ basis))[0]
    _, lengths, turn = torch.linalg.svd(samples @ basis, full_matrices=False)
    return (basis @ turn.T * lengths)[:, :n]


def clusters(samples: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Divides samples into clusters (k-means), without random numbers.

    Starts from parts that are halved across their main direction, the widest first (PCA-Part, Su
    & Dy 2004).

    Args:
        samples: Float64 tensor (m, D).
        n: Clusters, at most.

    Returns:
        Centres (c, D), c <= n, and the cluster of each sample, int64 (m,).
    """
    parts = [samples]
    while len(parts) < n:
        scatters = [float((part - part.mean(dim=0)).square().sum()) for part in parts]
        widest = parts.pop(max(range(len(parts)), key=scatters.__getitem__))
        centred = widest - widest.mean(dim=0)
        above = (centred @ main_directions(centred, 1))[:, 0] > 0
        halves = [half for half in (widest[above], widest[~above]) if len(half)]
        parts += halves
        if len(halves) == 1:
            break
    centres = torch.stack([part.mean(dim=0) for part in parts])
    for _ in range(10):
        # A cluster may lose its last sample.
        _, nearest = torch.cdist(samples, centres).argmin(dim=1).unique(return_inverse=True)
        count = int(nearest.max()) + 1
        centres = torch.stack([samples[nearest == i].mean(dim=0) for i in range(count)])
    return centres, nearest


def join_nearest(shares: Tensor, centres: Tensor, within: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Joins the two components of a mixture that this moves least; its moments stay the same.

    Args:
        shares: Float64 tensor (c,).
        centres: Float64 tensor (c, D).
        within: Float64 tensor (D, D), the covariance that the components share.
    """
    weights = shares[:, None] * shares / (shares[:, None] + shares)
    costs = weights * torch.cdist(centres, centres).square()
    costs.fill_diagonal_(math.inf)
    i, j = divmod(int(costs.argmin()), len(shares))
    apart = centres[j] - centres[i]
    within = within + weights[i, j] * torch.outer(apart, apart)
    both = shares[i] + shares[j]
    centre = centres[i] + apart * shares[j] / both
    keep = torch.ones(len(shares), dtype=torch.bool)
    keep[[i, j]] = False
    return (
        torch.cat([shares[keep], both[None]]),
        torch.cat([centres[keep], centre[None]]),
        within,
    )
