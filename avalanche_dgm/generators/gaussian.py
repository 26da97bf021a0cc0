"""Factors of covariances, principal directions of samples, and clusters."""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Largest number of clusters for which k-means is run several times.
FEW_CLUSTERS = 16
#: Largest number of values of a batch's factors for one batched product.
_AT_ONCE, _AT_ONCE_ON_A_GPU = 2**19, 2**27


def multiply(factors: Tensor, vectors: Tensor, rows: Tensor) -> Tensor:
    """Multiplies each vector (n, q) by the factor (P, D, q) of its row (n,); returns (n, D)."""
    (n_factors, d, q), n, on_cpu = factors.shape, len(vectors), vectors.device.type == "cpu"
    if n_factors == 1:
        return vectors @ factors[0].T
    at_once = _AT_ONCE if on_cpu else _AT_ONCE_ON_A_GPU
    if n * d * q <= at_once:
        return torch.bmm(factors[rows], vectors[:, :, None]).squeeze(2)
    if not on_cpu and n_factors * d * n <= at_once:
        return _multiply_all(factors, vectors, rows)
    return _multiply_by_row(factors, vectors, rows)


def _multiply_all(factors: Tensor, vectors: Tensor, rows: Tensor) -> Tensor:
    """Multiplies all factors by all vectors, which needs no synchronisation with the device."""
    n_factors, d, q = factors.shape
    products = (factors.reshape(-1, q) @ vectors.T).view(n_factors, d, len(vectors))
    return products[rows, :, torch.arange(len(vectors), device=rows.device)]


def _multiply_by_row(factors: Tensor, vectors: Tensor, rows: Tensor) -> Tensor:
    """Multiplies row by row, so that each factor is read only once."""
    order = torch.argsort(rows, stable=True)
    counts = torch.bincount(rows, minlength=len(factors)).tolist()
    parts = zip(vectors[order].split(counts), factors, strict=True)
    products = vectors.new_empty(len(vectors), factors.shape[1])
    products[order] = torch.cat([part @ factor.T for part, factor in parts if len(part)])
    return products


def cholesky_factor(covariance: Tensor) -> Tensor:
    """The lower Cholesky factor of a covariance (D, D), with the smallest ridge that works.

    It is float64 and on the CPU.
    """
    eye = torch.eye(len(covariance), dtype=covariance.dtype)
    size = float(covariance.diagonal().mean())
    for ridge in (1e-6, 1e-6 + 1e-9 * size, 1e-6 + 1e-6 * size):
        factor, failed = torch.linalg.cholesky_ex(covariance + ridge * eye)
        if not failed:
            return factor
    return torch.diag((covariance.diagonal() + 1e-6).sqrt())


def padded(old: Tensor, zeros: Tensor) -> Tensor:
    """A copy of ``zeros`` whose first rows are those of ``old``."""
    return torch.cat([old.to(zeros), zeros[len(old) :]]) if len(old) else zeros


def main_directions(samples: Tensor, n: int) -> Tensor:
    """The principal directions of samples, scaled by the standard deviation along each.

    Args:
        samples: Float64 tensor (m, D), deviations from their mean over sqrt(m).
        n: Maximum number of directions.

    Returns:
        Float64 tensor (D, min(n, D, m)).
    """
    from sklearn.utils.extmath import randomized_svd

    n = min(n, *samples.shape)
    _, lengths, directions = randomized_svd(samples.numpy(), n, n_iter=8, random_state=0)
    return torch.from_numpy(directions.T * lengths)


def clusters(samples: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Divides samples (m, D), float64, into clusters (k-means), deterministically.

    There are at most n clusters, and no more than distinct samples. Returns their centres (c, D)
    and the cluster of each sample, int64 (m,).
    """
    from sklearn.cluster import KMeans

    if n == 1:
        return samples.mean(dim=0, keepdim=True), torch.zeros(len(samples), dtype=torch.int64)
    n = min(n, len(torch.unique(samples, dim=0)))
    # With many clusters several runs give no better result.
    runs = 3 if n <= FEW_CLUSTERS else 1
    nearest = torch.from_numpy(KMeans(n, n_init=runs, random_state=0).fit_predict(samples.numpy()))
    centres = torch.stack([samples[nearest == i].mean(dim=0) for i in range(n)])
    return centres, nearest.long()


def nearest_pair(shares: Tensor, centres: Tensor) -> tuple[int, int, Tensor]:
    """The two components of a mixture whose merging increases the variance least (Ward 1963).

    For shares (c,) and centres (c, D), float64. Returns their indices, and the vector a (D,) with
    a a^T the increase of the within-component covariance.
    """
    weights = shares[:, None] * shares / (shares[:, None] + shares)
    costs = weights * torch.cdist(centres, centres).square()
    costs.fill_diagonal_(math.inf)
    i, j = divmod(int(costs.argmin()), len(shares))
    return i, j, weights[i, j].sqrt() * (centres[j] - centres[i])
