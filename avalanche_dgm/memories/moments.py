"""Mean and covariance of each class, and noise that keeps them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from avalanche_dgm.buffers import GrowingBuffers
from avalanche_dgm.data import Replay
from avalanche_dgm.errors import ShapeError


class ClassMoments(GrowingBuffers):
    """Mean and covariance of each class, over all samples that were ever shown.

    A *class* is one label of one task label.

    Attributes:
        classes: int64 tensor (K, 2): task label, label.
        seen: int64 tensor (K,), samples of each class.
        means: Float tensor (K, D), of flattened samples.
        factors: Float tensor (K, D (D + 1) / 2), rows of the lower Cholesky factors of the
            covariances.
    """

    classes: Tensor
    seen: Tensor
    means: Tensor
    factors: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("classes", torch.empty(0, 2, dtype=torch.int64))
        self.register_buffer("seen", torch.empty(0, dtype=torch.int64))
        self.register_buffer("means", torch.empty(0, 0))
        self.register_buffer("factors", torch.empty(0, 0))

    def __len__(self) -> int:
        return len(self.classes)

    @torch.no_grad()
    def add(self, samples: Tensor, labels: Tensor, tasks: Tensor) -> None:
        """Takes samples in; those of classes that are known are joined to what is known of them.

        Args:
            samples: Float tensor (N, *shape), finite.
            labels: int64 tensor (N,).
            tasks: int64 tensor (N,), task labels.

        Raises:
            ShapeError: Samples of another size were shown before.
        """
        device = self.classes.device
        flat = samples.flatten(1).to(device)
        d = flat.shape[1]
        if len(self) and self.means.shape[1] != d:
            raise ShapeError(f"Samples of {d} values came, but {self.means.shape[1]} are known.")
        pairs = torch.stack([tasks, labels], dim=1).to(device)
        known = {tuple(pair): row for row, pair in enumerate(self.classes.tolist())}
        groups, member = torch.unique(pairs, dim=0, return_inverse=True)
        made = dict(zip(known, self._rows(), strict=True))
        for row, pair in enumerate(groups.tolist()):
            # Float64 on the CPU: once a class, and Cholesky is not offered on every device.
            mine = flat[member == row].double().cpu()
            new = (len(mine), mine.mean(dim=0), torch.cov(mine.T, correction=0).reshape(d, d))
            old = made.get(tuple(pair))
            made[tuple(pair)] = new if old is None else _joined(old, new)
        order = sorted(made)
        index = torch.tril_indices(d, d)
        tiny = 1e-6 * torch.eye(d, dtype=torch.float64)
        factors = [torch.linalg.cholesky(made[p][2] + tiny)[index[0], index[1]] for p in order]
        self.classes = torch.tensor(order, dtype=torch.int64, device=device)
        self.seen = torch.tensor([made[p][0] for p in order], device=device)
        self.means = torch.stack([made[p][1] for p in order]).float().to(device)
        self.factors = torch.stack(factors).float().to(device)

    def _rows(self) -> list[tuple[int, Tensor, Tensor]]:
        """Count, mean (D,) and covariance (D, D) of each class, float64 on the CPU."""
        factors = self._unpacked().double().cpu()
        means = self.means.double().cpu()
        return list(zip(self.seen.tolist(), means, factors @ factors.mT, strict=True))

    def _unpacked(self) -> Tensor:
        """The Cholesky factors (K, D, D)."""
        d = self.means.shape[1]
        rows, columns = torch.tril_indices(d, d, device=self.means.device)
        factors = self.factors.new_zeros(len(self), d, d)
        factors[:, rows, columns] = self.factors
        return factors

    @torch.no_grad()
    def jitter(self, replay: Replay, strength: float, rng: torch.Generator) -> Replay:
        """Exchanges a part of how samples differ from their class's mean for noise.

        A sample x of a class of mean m and covariance C becomes m + sqrt(1 - strength^2) (x - m) +
        strength e, with e normal of covariance C. So mean and covariance of a class stay what they
        are (the shrunk smoothed bootstrap; Silverman & Young 1987).

        Args:
            replay: Samples of classes that were shown.
            strength: From 0, the samples as they are, to 1, noise alone.
            rng: Generator on the samples' device.
        """
        flat = replay.images.flatten(1)
        pairs = torch.stack([replay.tasks, replay.labels], dim=1)
        rows = (pairs[:, None] == self.classes[None]).all(dim=2).int().argmax(dim=1)
        noise = torch.randn(flat.shape, generator=rng, device=flat.device)
        means = self.means[rows]
        noise = torch.bmm(self._unpacked()[rows], noise[:, :, None]).squeeze(2)
        made = means + math.sqrt(1 - strength**2) * (flat - means) + strength * noise
        return Replay(made.view_as(replay.images), replay.labels, replay.tasks)


def _joined(
    one: tuple[int, Tensor, Tensor], other: tuple[int, Tensor, Tensor]
) -> tuple[int, Tensor, Tensor]:
    """Count, mean and covariance of two sets of samples together (Chan et al. 1983)."""
    (n, mean, covariance), (m, mean2, covariance2) = one, other
    both, apart = n + m, mean2 - mean
    within = (n * covariance + m * covariance2) / both
    return (
        both,
        mean + apart * m / both,
        within + torch.outer(apart, apart) * n * m / both**2,
    )
