"""Mean and covariance of each class, and noise that keeps them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from avalanche_dgm.data import Replay
from avalanche_dgm.errors import ShapeError
from avalanche_dgm.generators.density import Moments, cholesky_factor, join_moments
from avalanche_dgm.memories.stored import check_finite
from avalanche_dgm.modules import GrowingBuffers

#: Most numbers that a batch's matrices may have for one batched product.
_AT_ONCE, _AT_ONCE_ON_A_GPU = 2**19, 2**27


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
        self._unpacked: Tensor | None = None

    def __len__(self) -> int:
        return len(self.classes)

    @torch.no_grad()
    def add(self, samples: Tensor, labels: Tensor, tasks: Tensor) -> None:
        """Takes samples in; those of classes that are known are joined to what is known of them.

        Args:
            samples: Float tensor (N, *shape).
            labels: int64 tensor (N,).
            tasks: int64 tensor (N,), task labels.

        Raises:
            ShapeError: Samples of another size were shown before. Nothing was changed, as after the
                other error.
            RangeError: A value is NaN or infinite.
        """
        device = self.classes.device
        flat = samples.flatten(1)
        d = flat.shape[1]
        if len(self) and self.means.shape[1] != d:
            raise ShapeError(f"Samples of {d} values came, but {self.means.shape[1]} are known.")
        check_finite(flat)
        groups, member = torch.unique(torch.stack([tasks, labels], 1), dim=0, return_inverse=True)
        known = {tuple(pair): row for row, pair in enumerate(self.classes.tolist())}
        kept = zip(self.seen.tolist(), self.means, self.factors, strict=True)
        rows = dict(zip(known, kept, strict=True))
        index = torch.tril_indices(d, d)
        for number, pair in enumerate(map(tuple, groups.tolist())):
            # Float64 on the CPU: once a class, and Cholesky is not offered on every device.
            mine = flat[member == number].cpu().double()
            one = (len(mine), mine.mean(dim=0), torch.cov(mine.T, correction=0).reshape(d, d))
            if pair in known:
                one = join_moments(self._moments(known[pair]), one)
            factor = cholesky_factor(one[2])[index[0], index[1]]
            rows[pair] = (one[0], one[1].float().to(device), factor.float().to(device))
        order = sorted(rows)
        self.classes = torch.tensor(order, dtype=torch.int64, device=device)
        self.seen = torch.tensor([rows[pair][0] for pair in order], device=device)
        self.means = torch.stack([rows[pair][1] for pair in order])
        self.factors = torch.stack([rows[pair][2] for pair in order])
        self._unpacked = None

    def _moments(self, row: int) -> Moments:
        """Count, mean (D,) and covariance (D, D) of a class, float64 on the CPU."""
        factor = self._triangles()[row].cpu().double()
        return int(self.seen[row]), self.means[row].cpu().double(), factor @ factor.T

    def _triangles(self) -> Tensor:
        """The Cholesky factors (K, D, D)."""
        if self._unpacked is None or self._unpacked.device != self.factors.device:
            d = self.means.shape[1]
            rows, columns = torch.tril_indices(d, d, device=self.means.device)
            self._unpacked = self.factors.new_zeros(len(self), d, d)
            self._unpacked[:, rows, columns] = self.factors
        return self._unpacked

    @torch.no_grad()
    def jitter(self, replay: Replay, strength: float, rng: torch.Generator) -> Replay:
        """Exchanges a part of how samples differ from their class's mean for noise.

        A sample x of a class of mean m and covariance C becomes m + sqrt(1 - strength^2) (x - m) +
        strength e, with e normal of covariance C. So mean and covariance of a class stay what they
        are (the shrunk smoothed bootstrap; Silverman & Young 1987).

        Args:
            replay: Samples; those of classes that were never shown are left as they are.
            strength: From 0, the samples as they are, to 1, noise alone.
            rng: Generator on the samples' device.
        """
        flat = replay.images.flatten(1)
        pairs = torch.stack([replay.tasks, replay.labels], dim=1)
        found = (pairs[:, None] == self.classes[None]).all(dim=2)
        rows = found.int().argmax(dim=1)
        noise = torch.randn(flat.shape, generator=rng, device=flat.device)
        noise = self._spread(noise, rows)
        means = self.means[rows]
        made = means + math.sqrt(1 - strength**2) * (flat - means) + strength * noise
        made = torch.where(found.any(dim=1)[:, None], made, flat)
        return Replay(made.view_as(replay.images), replay.labels, replay.tasks)

    def _spread(self, noise: Tensor, rows: Tensor) -> Tensor:
        """Gives standard normal noise (n, D) the covariances of classes (n,)."""
        triangles = self._triangles()
        n, d = noise.shape
        if n * d * d <= _AT_ONCE or (noise.is_cuda and n * d * d <= _AT_ONCE_ON_A_GPU):
            return torch.bmm(triangles[rows], noise[:, :, None]).squeeze(2)
        # Class by class a matrix is read once, not for each sample; but the device is waited for.
        made = torch.empty_like(noise)
        for row in torch.unique(rows).tolist():
            mine = rows == row
            made[mine] = noise[mine] @ triangles[row].T
        return made

    def _load_from_state_dict(self, *args: Any) -> None:
        self._unpacked = None
        super()._load_from_state_dict(*args)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_unpacked": None}
