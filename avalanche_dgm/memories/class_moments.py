"""Counts and means of classes and their common scatter, for closed-form classifiers."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from avalanche_dgm.classes import ClassTable
from avalanche_dgm.generators.gaussian import padded
from avalanche_dgm.modules import GrowingBuffers, at_least_single


class ClassMoments(GrowingBuffers):
    """Moments of labelled vectors, updated incrementally.

    Up to rounding, they do not depend on the order of vectors (Chan et al. 1983). Tensors are
    replaced, not modified in place.

    Args:
        scatter: Whether the scatter within classes is kept, too.

    Attributes:
        classes: The classes.
        counts: int64 tensor (K,), vectors of each class.
        means: float32 tensor (K, D).
        packed: float32 tensor (D (D + 1) / 2,), the lower triangle, row by row, of the sum over all
            vectors of (x - m)(x - m)^T with m the mean of the vector's class; empty without
            ``scatter``.
    """

    counts: Tensor
    means: Tensor
    packed: Tensor

    def __init__(self, *, scatter: bool) -> None:
        super().__init__()
        self._keeps_scatter = scatter
        self.classes = ClassTable()
        self.register_buffer("counts", torch.empty(0, dtype=torch.int64))
        self.register_buffer("means", torch.empty(0, 0))
        self.register_buffer("packed", torch.empty(0))

    def bytes_of(self, n_classes: int, d: int) -> int:
        """Bytes of the moments of ``n_classes`` classes of vectors with d dimensions."""
        scatter = 2 * d * (d + 1) if self._keeps_scatter else 0
        return n_classes * (32 + 4 * d) + scatter

    @torch.no_grad()
    def add(self, parts: Iterable[Tensor], tasks: Tensor, labels: Tensor) -> None:
        """Adds vectors, in batches (n, D), with task labels and labels (N,) of them all."""
        rows = self.classes.add(tasks, labels)
        sums: _Sums | None = None
        for part in map(at_least_single, parts):
            if sums is None:
                sums = _Sums(self, part)
            sums.add(part, rows[: len(part)])
            rows = rows[len(part) :]
        if sums is not None:
            self.counts, self.means = sums.counts.long(), sums.means.float()
            if sums.scatter is not None:
                lower = torch.tril_indices(*sums.scatter.shape, device=sums.scatter.device)
                self.packed = sums.scatter[lower[0], lower[1]].float()

    def scatter(self) -> Tensor:
        """The scatter within classes, float64 (D, D)."""
        d = self.means.shape[1]
        full = self.means.new_zeros(d, d, dtype=torch.float64)
        if len(self.packed):
            lower = torch.tril_indices(d, d, device=full.device)
            full[lower[0], lower[1]] = full[lower[1], lower[0]] = self.packed.double()
        return full

    def totals(self) -> Tensor:
        """The sum of the vectors of each class, float64 (K, D)."""
        return self.means.double() * self.counts[:, None]

    def gram(self) -> Tensor:
        """The sum over all vectors of x x^T, float64 (D, D)."""
        return self.scatter() + self.totals().T @ self.means.double()


class _Sums:
    """Accumulates moments in float64."""

    def __init__(self, moments: ClassMoments, part: Tensor) -> None:
        k, d = len(moments.classes), part.shape[1]
        zeros = part.new_zeros(k, d, dtype=torch.float64)
        self.counts = padded(moments.counts.double(), zeros[:, 0].clone())
        self.means = padded(moments.means, zeros)
        self.scatter = None
        if moments._keeps_scatter:
            self.scatter = moments.scatter() if len(moments.means) else zeros.new_zeros(d, d)

    def add(self, part: Tensor, rows: Tensor) -> None:
        """Adds vectors (n, D) with the rows (n,) of their classes."""
        present, at = torch.unique(rows, return_inverse=True)
        zeros = self.means.new_zeros(len(present), part.shape[1])
        new = zeros[:, 0].index_add(0, at, zeros.new_ones(len(at)))
        own = zeros.index_add(0, at, part.double()) / new[:, None]
        old, difference = self.counts[present], own - self.means[present]
        total = old + new
        if self.scatter is not None:
            within = part - own.to(part.dtype)[at]
            self.scatter += within.T @ within
            self.scatter += (difference * (old * new / total)[:, None]).T @ difference
        self.means[present] += difference * (new / total)[:, None]
        self.counts[present] = total


class RandomFeatures(GrowingBuffers):
    """Fixed random projections of vectors, followed by ReLU.

    Attributes:
        weight: float32 tensor (D, M); empty before `draw`.
    """

    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.empty(0, 0))

    def draw(self, size: int, n: int, rng: torch.Generator) -> None:
        """Draws n projections of vectors (size,) from the standard normal distribution."""
        self.weight = torch.randn(size, n, generator=rng, device=rng.device)

    def forward(self, vectors: Tensor) -> Tensor:
        """The random features (n, M), 0 or more, of vectors (n, D)."""
        return torch.relu(vectors @ self.weight)
