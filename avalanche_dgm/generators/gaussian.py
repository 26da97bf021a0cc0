"""Covariances as Cholesky factors, moments of samples that come in parts, and clusters."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from avalanche_dgm.modules import GrowingBuffers

#: Count, mean (D,) and covariance (D, D), float64 on the CPU.
Moments = tuple[int, Tensor, Tensor]
#: Most numbers that the factors of a batch may have to be gathered for one batched product.
_AT_ONCE, _AT_ONCE_ON_A_GPU = 2**19, 2**27


class Triangles(GrowingBuffers):
    """Lower Cholesky factors of K covariances (D, D), stored without their zeros.

    The full matrices are made when they are first needed; they are no part of the state.

    Attributes:
        packed: Float tensor (K, D (D + 1) / 2), the rows of each factor's lower triangle.
    """

    packed: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("packed", torch.empty(0, 0))
        self._unpacked: Tensor | None = None

    def __len__(self) -> int:
        return len(self.packed)

    @property
    def size(self) -> int:
        """D, values of a vector."""
        return (math.isqrt(8 * self.packed.shape[1] + 1) - 1) // 2

    def grow(self, n: int, size: int, device: torch.device) -> None:
        """Makes room for n factors of a size; the new ones are zero."""
        self.packed = padded(self.packed, torch.zeros(n, size * (size + 1) // 2, device=device))
        self._unpacked = None

    def put(self, row: int, covariance: Tensor) -> None:
        """Stores a covariance, a float64 tensor (D, D) on the CPU."""
        lower = torch.tril_indices(*covariance.shape)
        self.packed[row] = cholesky_factor(covariance)[lower[0], lower[1]].to(self.packed)
        self._unpacked = None

    def covariance(self, row: int) -> Tensor:
        """A covariance, float64 (D, D) on the CPU."""
        factor = torch.zeros(self.size, self.size, dtype=torch.float64)
        lower = torch.tril_indices(*factor.shape)
        factor[lower[0], lower[1]] = self.packed[row].double().cpu()
        return factor @ factor.T

    def full(self) -> Tensor:
        """The factors with their zeros (K, D, D)."""
        if self._unpacked is None or self._unpacked.device != self.packed.device:
            lower = torch.tril_indices(self.size, self.size, device=self.packed.device)
            self._unpacked = self.packed.new_zeros(len(self), self.size, self.size)
            self._unpacked[:, lower[0], lower[1]] = self.packed
        return self._unpacked

    def log_density(self, deviations: Tensor, row: int) -> Tensor:
        """The log-density (n,) of deviations (n, D) from the mean of a Gaussian, in nats."""
        factor = self.full()[row]
        white = torch.linalg.solve_triangular(factor, deviations.T, upper=False)
        constant = factor.diagonal().log().sum() + 0.5 * len(factor) * math.log(2 * math.pi)
        return -0.5 * white.square().sum(dim=0) - constant

    def multiply(self, vectors: Tensor, rows: Tensor) -> Tensor:
        """Multiplies each vector by the factor of its row.

        Args:
            vectors: Float tensor (n, D).
            rows: int64 tensor (n,).
        """
        (n, d), on_cpu = vectors.shape, vectors.device.type == "cpu"
        at_once = _AT_ONCE if on_cpu else _AT_ONCE_ON_A_GPU
        if n * d * d <= at_once:
            return torch.bmm(self.full()[rows], vectors[:, :, None]).squeeze(2)
        if not on_cpu and len(self) * d * n <= at_once:
            return self._multiply_all(vectors, rows)
        return self._multiply_by_row(vectors, rows)

    def _multiply_all(self, vectors: Tensor, rows: Tensor) -> Tensor:
        """Every factor times every vector: the host need not wait to know which rows there are."""
        (n, d), factors = vectors.shape, self.full()
        products = (factors.reshape(-1, d) @ vectors.T).view(len(factors), d, n)
        return products[rows, :, torch.arange(n, device=rows.device)]

    def _multiply_by_row(self, vectors: Tensor, rows: Tensor) -> Tensor:
        """Row by row: a factor is read once, not for each of its vectors."""
        order = torch.argsort(rows, stable=True)
        counts = torch.bincount(rows, minlength=len(self)).tolist()
        parts = zip(vectors[order].split(counts), self.full(), strict=True)
        made = torch.empty_like(vectors)
        made[order] = torch.cat([(factor @ part.T).T for part, factor in parts])
        return made

    def _load_from_state_dict(self, *args: Any) -> None:
        self._unpacked = None
        super()._load_from_state_dict(*args)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_unpacked": None}


def cholesky_factor(covariance: Tensor) -> Tensor:
    """The lower Cholesky factor of a covariance, with a ridge as large as a singular one needs.

    Args:
        covariance: Float64 tensor (D, D) on the CPU.
    """
    eye = torch.eye(len(covariance), dtype=covariance.dtype)
    size = float(covariance.diagonal().mean())
    for ridge in (1e-6, 1e-6 + 1e-9 * size, 1e-6 + 1e-6 * size):
        factor, failed = torch.linalg.cholesky_ex(covariance + ridge * eye)
        if not failed:
            return factor
    return torch.diag((covariance.diagonal() + 1e-6).sqrt())


def join_moments(one: Moments, other: Moments) -> Moments:
    """Count, mean and covariance of two sets of samples together (Chan et al. 1983)."""
    (n, mean, covariance), (m, mean2, covariance2) = one, other
    both, apart = n + m, mean2 - mean
    within = (n * covariance + m * covariance2) / both
    return (
        both,
        mean + apart * m / both,
        within + torch.outer(apart, apart) * n * m / both**2,
    )


def padded(old: Tensor, zeros: Tensor) -> Tensor:
    """The first rows of a tensor of zeros replaced by those there were; a new tensor."""
    return torch.cat([old.to(zeros), zeros[len(old) :]]) if len(old) else zeros


def main_directions(samples: Tensor, n: int) -> Tensor:
    """The directions in which samples vary most, each as long as the deviation along it.

    Args:
        samples: Float64 tensor (m, D), as deviations from their mean over sqrt(m).
        n: How many; there are no more than D and m.

    Returns:
        Float64 tensor (D, n).
    """
    from sklearn.utils.extmath import randomized_svd

    n = min(n, *samples.shape)
    _, lengths, directions = randomized_svd(samples.numpy(), n, n_iter=8, random_state=0)
    return torch.from_numpy(directions.T * lengths)


def clusters(samples: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Divides samples into clusters (k-means), without random numbers of PyTorch's.

    Args:
        samples: Float64 tensor (m, D).
        n: Clusters, at most: equal samples are never divided.

    Returns:
        Centres (c, D), c <= n, and the cluster of each sample, int64 (m,).
    """
    from sklearn.cluster import KMeans

    n = min(n, len(torch.unique(samples, dim=0)))
    nearest = torch.from_numpy(KMeans(n, n_init=3, random_state=0).fit_predict(samples.numpy()))
    centres = torch.stack([samples[nearest == i].mean(dim=0) for i in range(n)])
    return centres, nearest.long()


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
