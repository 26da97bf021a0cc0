"""Full and low-rank covariances: estimation, merging, sampling, and compact storage."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from avalanche_dgm.generators.gaussian import cholesky_factor, main_directions, multiply, padded
from avalanche_dgm.generators.vectors import pack, unpack
from avalanche_dgm.modules import GrowingBuffers

#: A covariance during estimation, in float64 on the CPU.
S = TypeVar("S")

#: Smallest residual variance beside a low-rank factor.
_FLOOR = 1e-6


class Covariances(GrowingBuffers, ABC, Generic[S]):
    """P covariances (D, D)."""

    def __init__(self) -> None:
        super().__init__()
        #: Cache of `_prepare`, not part of the state.
        self._drawn_from: Tensor | None = None

    @abstractmethod
    def grow(self, n: int, size: int, device: torch.device) -> None:
        """Extends to n covariances (size, size); new ones are zero."""

    @abstractmethod
    def of(self, deviations: Tensor, variances: Tensor | None) -> S:
        """Estimates the covariance of vectors minus their mean (m, D), float64 on the CPU.

        The ``variances`` (D,), if there are any, are added to the diagonal.
        """

    @abstractmethod
    def mix(self, weights: Sequence[float], covariances: Sequence[S], apart: Tensor) -> S:
        """A weighted sum of covariances, plus a^T a for the vectors ``apart`` (k, D)."""

    @abstractmethod
    def put(self, place: int, covariance: S) -> None:
        """Stores a covariance."""

    @abstractmethod
    def get(self, place: int) -> S:
        """Returns a stored covariance."""

    @abstractmethod
    def noise(self, places: Tensor, rng: torch.Generator) -> Tensor:
        """Draws vectors (n, D) with mean zero and the covariances at indices (n,)."""

    @abstractmethod
    def log_density(self, deviations: Tensor, place: int) -> Tensor:
        """The log-density (n,) of deviations (n, D) from a Gaussian's mean, in nats."""

    @abstractmethod
    def dense(self, place: int) -> Tensor:
        """A covariance as a matrix, float64 (D, D) on the CPU."""

    @abstractmethod
    def _prepare(self) -> Tensor:
        """Factors (P, D, q) in float32, by which standard normal vectors are multiplied."""

    def _factors(self) -> Tensor:
        device = next(self.buffers()).device
        if self._drawn_from is None or self._drawn_from.device != device:
            self._drawn_from = self._prepare()
        return self._drawn_from

    def _load_from_state_dict(self, *args: Any) -> None:
        self._drawn_from = None
        super()._load_from_state_dict(*args)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_drawn_from": None}


class Full(Covariances[Tensor]):
    """Full covariances, as packed lower Cholesky factors.

    Attributes:
        packed: Float tensor (P, D (D + 1) / 2), the rows of each factor's lower triangle.
    """

    packed: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("packed", torch.empty(0, 0))

    def __len__(self) -> int:
        return len(self.packed)

    @property
    def size(self) -> int:
        """The dimension D."""
        return (math.isqrt(8 * self.packed.shape[1] + 1) - 1) // 2

    def grow(self, n: int, size: int, device: torch.device) -> None:
        self.packed = padded(self.packed, torch.zeros(n, size * (size + 1) // 2, device=device))
        self._drawn_from = None

    def of(self, deviations: Tensor, variances: Tensor | None) -> Tensor:
        covariance = deviations.T @ deviations / len(deviations)
        return covariance if variances is None else covariance + torch.diag(variances)

    def mix(self, weights: Sequence[float], covariances: Sequence[Tensor], apart: Tensor) -> Tensor:
        parts = zip(weights, covariances, strict=True)
        return sum((w * covariance for w, covariance in parts), apart.T @ apart)

    def put(self, place: int, covariance: Tensor) -> None:
        lower = torch.tril_indices(*covariance.shape)
        self.packed[place] = cholesky_factor(covariance)[lower[0], lower[1]].to(self.packed)
        self._drawn_from = None

    def get(self, place: int) -> Tensor:
        factor = self.factor(place)
        return factor @ factor.T

    def factor(self, place: int) -> Tensor:
        """A Cholesky factor, float64 (D, D) on the CPU."""
        factor = torch.zeros(self.size, self.size, dtype=torch.float64)
        lower = torch.tril_indices(*factor.shape)
        factor[lower[0], lower[1]] = self.packed[place].double().cpu()
        return factor

    def dense(self, place: int) -> Tensor:
        return self.get(place)

    def _prepare(self) -> Tensor:
        lower = torch.tril_indices(self.size, self.size, device=self.packed.device)
        factors = self.packed.new_zeros(len(self), self.size, self.size, dtype=torch.float32)
        factors[:, lower[0], lower[1]] = self.packed.float()
        return factors

    def noise(self, places: Tensor, rng: torch.Generator) -> Tensor:
        normal = torch.randn(len(places), self.size, generator=rng, device=self.packed.device)
        return multiply(self._factors(), normal, places)

    def log_density(self, deviations: Tensor, place: int) -> Tensor:
        factor = self._factors()[place]
        white = torch.linalg.solve_triangular(factor, deviations.T, upper=False)
        constant = factor.diagonal().log().sum() + 0.5 * len(factor) * math.log(2 * math.pi)
        return -0.5 * white.square().sum(dim=0) - constant


#: Vectors A (k, D) with covariance A^T A, and the variances (D,).
Directions = tuple[Tensor, Tensor]


class LowRank(Covariances[Directions]):
    """Covariances F F^T + diag(v) with a factor F with few columns; without any, diagonal ones.

    The columns are the principal directions in descending order; the variance of each value is
    exact. There is no matrix (D, D), so D may be large.

    Args:
        rank: Columns of each factor.

    Attributes:
        factors: Float tensor (P, D, rank), the factors F.
        scales: Float tensor (P, D), the square roots of v.
    """

    factors: Tensor
    scales: Tensor

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.register_buffer("factors", torch.empty(0, 0, rank))
        self.register_buffer("scales", torch.empty(0, 0))

    def __len__(self) -> int:
        return len(self.scales)

    @property
    def rank(self) -> int:
        """Columns of each factor."""
        return self.factors.shape[2]

    def grow(self, n: int, size: int, device: torch.device) -> None:
        self.factors = padded(self.factors, torch.zeros(n, size, self.rank, device=device))
        self.scales = padded(self.scales, torch.zeros(n, size, device=device))
        self._drawn_from = None

    def column_bytes(self, d: int, width: int) -> int:
        """Bytes of a column with d values, with ``width`` bytes per floating-point number."""
        return d * width

    def truncate(self, rank: int) -> None:
        """Removes the last columns of each factor; their variances are added to v."""
        for place in range(len(self)):
            lost = self._read(place)[:, rank:].square().sum(dim=1)
            scale = (self.scales[place].double().cpu().square() + lost).sqrt()
            self.scales[place] = scale.to(self.scales)
        self._cut(rank)
        self._drawn_from = None

    def _cut(self, rank: int) -> None:
        """Removes the last columns of each factor."""
        self.factors = self.factors[..., :rank].clone()

    def _read(self, place: int) -> Tensor:
        """A stored factor, float64 (D, rank) on the CPU."""
        return self.factors[place].double().cpu()

    def _write(self, place: int, factor: Tensor, total: Tensor) -> None:
        """Stores a factor, float64 (D, rank) on the CPU; ``total`` (D,) are the variances."""
        self.factors[place] = factor.to(self.factors)

    def approximate(self, full: Full) -> None:
        """Approximates full covariances by their variances and principal directions."""
        self.grow(len(full), full.size, full.packed.device)
        for place in range(len(full)):
            factor = full.factor(place)
            self.put(place, (factor.T, factor.square().sum(dim=1)))

    def of(self, deviations: Tensor, variances: Tensor | None) -> Directions:
        rows = deviations / math.sqrt(len(deviations))
        total = rows.square().sum(dim=0)
        return rows, total if variances is None else total + variances

    def mix(
        self, weights: Sequence[float], covariances: Sequence[Directions], apart: Tensor
    ) -> Directions:
        rows, total = [apart], apart.square().sum(dim=0)
        for w, (directions, variances) in zip(weights, covariances, strict=True):
            rows.append(math.sqrt(w) * directions)
            total = total + w * variances
        return torch.cat(rows), total

    def put(self, place: int, covariance: Directions) -> None:
        rows, total = covariance
        factor = main_directions(rows, self.rank) if self.rank else rows[:0].T
        self._write(place, F.pad(factor, (0, self.rank - factor.shape[1])), total)
        # From the stored, rounded factor, so that variances are exact.
        rest = (total - self._read(place).square().sum(dim=1)).clamp(min=_FLOOR)
        self.scales[place] = rest.sqrt().to(self.scales)
        self._drawn_from = None

    def get(self, place: int) -> Directions:
        factor, scale = self._read(place), self.scales[place].double().cpu()
        return factor.T, factor.square().sum(dim=1) + scale.square()

    def dense(self, place: int) -> Tensor:
        factor = self._read(place)
        return factor @ factor.T + torch.diag(self.scales[place].double().cpu().square())

    def _prepare(self) -> Tensor:
        return self.factors.float()

    def noise(self, places: Tensor, rng: torch.Generator) -> Tensor:
        shape, device = (len(places), self.rank), self.scales.device
        noise = torch.randn(len(places), self.scales.shape[1], generator=rng, device=device)
        noise *= self.scales[places].float()
        if self.rank:
            codes = torch.randn(shape, generator=rng, device=device)
            noise += multiply(self._factors(), codes, places)
        return noise

    def log_density(self, deviations: Tensor, place: int) -> Tensor:
        # Inverse and determinant by those of a (rank, rank) matrix (Woodbury identity).
        scale = self.scales[place].float()
        white, factor = deviations / scale, self._factors()[place] / scale[:, None]
        inner = torch.linalg.cholesky(factor.T @ factor + torch.eye(self.rank).to(factor))
        codes = torch.linalg.solve_triangular(inner, (white @ factor).T, upper=False)
        squares = white.square().sum(dim=1) - codes.square().sum(dim=0)
        logs = scale.log().sum() + inner.diagonal().log().sum()
        return -0.5 * (squares + len(scale) * math.log(2 * math.pi)) - logs


class QuantizedLowRank(LowRank):
    """Low-rank covariances with quantised factors.

    Each column is stored as integer multiples of its step size.

    Args:
        rank: Columns of each factor.
        bits: Bits per value, 4 or 8.

    Attributes:
        codes: uint8 tensor (P, rank, D bits / 8, rounded up), the multiples; with 4 bits, two per
            byte.
        steps: Float tensor (P, rank), the step sizes, rounded to float16.
    """

    codes: Tensor
    steps: Tensor

    def __init__(self, rank: int, bits: int) -> None:
        super().__init__(0)
        self.bits = bits
        self.register_buffer("factors", None)
        self.register_buffer("codes", torch.empty(0, rank, 0, dtype=torch.uint8))
        self.register_buffer("steps", torch.empty(0, rank))

    @property
    def rank(self) -> int:
        """Columns of each factor."""
        return self.codes.shape[1]

    @property
    def _zero(self) -> int:
        """The code of zero; the largest multiple is one less."""
        return int(2 ** (self.bits - 1))

    def grow(self, n: int, size: int, device: torch.device) -> None:
        width = -(-size * self.bits // 8)
        codes = torch.zeros(n, self.rank, width, dtype=torch.uint8, device=device)
        self.codes = padded(self.codes, codes)
        self.steps = padded(self.steps, torch.zeros(n, self.rank, device=device))
        self.scales = padded(self.scales, torch.zeros(n, size, device=device))
        self._drawn_from = None

    def column_bytes(self, d: int, width: int) -> int:
        return -(-d * self.bits // 8) + width

    def _cut(self, rank: int) -> None:
        self.codes, self.steps = self.codes[:, :rank].clone(), self.steps[:, :rank].clone()

    def _write(self, place: int, factor: Tensor, total: Tensor) -> None:
        # Rounded to float16, the smallest stored type, so that it is not rounded again.
        steps = (factor.abs().amax(dim=0) / (self._zero - 1)).clamp(max=65504).half().double()
        multiples = torch.where(steps > 0, factor / steps, torch.zeros_like(factor))
        multiples = multiples.clamp(1 - self._zero, self._zero - 1)
        # Rounded to nearest, but towards zero where that would exceed the value's variance.
        more = (multiples.round() * steps).square().sum(dim=1) > total
        multiples = torch.where(more[:, None], multiples.trunc(), multiples.round())
        codes = pack((multiples + self._zero).T, self.bits)
        self.codes[place], self.steps[place] = codes.to(self.codes), steps.to(self.steps)

    def _values(self, codes: Tensor, steps: Tensor) -> Tensor:
        """Factors (..., D, rank) of codes (..., rank, D bits / 8)."""
        multiples = unpack(codes, self.bits, self.scales.shape[1]).to(steps) - self._zero
        values = multiples * steps[..., None]
        return values.transpose(-1, -2)

    def _read(self, place: int) -> Tensor:
        return self._values(self.codes[place].cpu(), self.steps[place].double().cpu())

    def _prepare(self) -> Tensor:
        return self._values(self.codes, self.steps.float()).contiguous()
