"""RanPAC (McDonnell et al. 2023): ridge regression on random features of a frozen network.

===========================================  =====================================================
RanPAC, phase 2                              `RanPAC`; the network stays as it is
random projection and ReLU                   `RandomFeatures`
Gram matrix G, class sums C                  `ClassMoments.gram`, `ClassMoments.totals`
ridge regression of the classes              `RanPAC._solve`
ridge by held-out samples of an experience   `RanPAC._choose_ridge`
===========================================  =====================================================
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.memories.class_moments import ClassMoments, RandomFeatures
from avalanche_dgm.methods.closed_form import LARGEST, ClosedForm, ClosedFormSettings
from avalanche_dgm.methods.registry import register
from avalanche_dgm.modules import CHUNK
from avalanche_dgm.settings import MethodSettings

#: Candidates for the ridge.
RIDGES = tuple(10.0**power for power in range(6))


@dataclass(frozen=True, kw_only=True)
class RanPACSettings(ClosedFormSettings):
    """Settings of random projections with ridge regression.

    Attributes:
        projections: Number of random features. Memory grows with their square.
        ridge: Value added to the diagonal of the Gram matrix, in units of the mean square of the
            random features, i.e. a number of samples. ``None`` chooses it in each experience.
        held_out: Fraction of an experience for choosing the ridge, above 0 and below 1; these
            samples are learned afterwards.
    """

    projections: int = field(default=2000, metadata={"most": LARGEST})
    ridge: float | None = field(default=None, metadata={"above": 0})
    held_out: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.held_out < 1:
            raise ConfigError(f"held_out={self.held_out} must be above 0 and below 1.")


@register(
    "ranpac",
    "ridge regression on random projections of frozen features: reference",
    fast={"projections": 200},
)
class RanPAC(ClosedForm):
    """RanPAC: ridge regression on random ReLU projections of the features of a frozen network.

    Attributes:
        lifting: The random projection, fixed from the first experience on.
        ridge: The ridge in use, float64 scalar; see `RanPACSettings`.
    """

    settings_type: ClassVar[type[MethodSettings]] = RanPACSettings
    _smaller = "Give more, or fewer projections."
    ridge: Tensor

    def __init__(self, settings: RanPACSettings | None = None, **changes: Any) -> None:
        super().__init__(settings, **changes)
        self.lifting = RandomFeatures()
        ridge = self.settings.ridge or 100.0
        self.register_buffer("ridge", torch.tensor(ridge, dtype=torch.float64))

    @property
    def feature_size(self) -> int:
        return len(self.lifting.weight)

    def _check_size(self, size: int) -> None:
        """The size of the moments does not depend on that of the features."""

    def _bytes_of(self, n_classes: int, size: int) -> int:
        m = self.settings.projections
        return 8 + 4 * m * size + self.moments.bytes_of(n_classes, m)

    def _lift(self, features: Tensor) -> Tensor:
        return self.lifting(features)

    def _learn(self, features: Tensor, tasks: Tensor, labels: Tensor) -> None:
        if not self.feature_size:
            self.lifting.draw(features.shape[1], self.settings.projections, self.rng)
        order = torch.randperm(len(labels), generator=self.rng, device=labels.device)
        held, rest = order.tensor_split([int(self.settings.held_out * len(order))])
        if self.settings.ridge is None and len(held):
            self._choose_ridge(features, labels, rest, held)
        super()._learn(features, tasks, labels)

    def _choose_ridge(self, features: Tensor, labels: Tensor, rest: Tensor, held: Tensor) -> None:
        """Chooses the ridge with the smallest error on held-out samples of the experience.

        Only samples of this experience are used. With the moments of old classes the ridge would
        become too large, as all held-out samples are of new classes.
        """
        _, labels = torch.unique(labels, return_inverse=True)
        own, tasks = ClassMoments(scatter=True).to(labels.device), torch.zeros_like(labels)
        own.add(map(self._lift, features[rest].split(CHUNK)), tasks[rest], labels[rest])
        rows = own.classes.find(tasks[held], labels[held])
        # All zeros for a class without a sample in the rest.
        targets = F.one_hot(rows + 1, len(own.classes) + 1)[:, 1:].to(features)
        inputs = torch.cat([self._lift(part) for part in features[held].split(CHUNK)])
        errors = [(inputs @ _regress(own, r).to(inputs) - targets).square().mean() for r in RIDGES]
        self.ridge = self.ridge.new_tensor(RIDGES)[torch.stack(errors).argmin()]

    def _solve(self) -> tuple[Tensor, Tensor]:
        weights = _regress(self.moments, self.ridge)
        return weights, weights.new_zeros(weights.shape[1])


def _regress(moments: ClassMoments, ridge: float | Tensor) -> Tensor:
    """Ridge regression (D, K), float64, from vectors, given by their moments, to their classes.

    The ridge is in units of the mean square of the vectors, i.e. a number of samples.
    """
    gram = moments.gram()
    square = gram.diagonal().mean() / moments.counts.sum()
    ridge = ridge * square.clamp(min=torch.finfo(torch.float32).tiny)
    failed = 1
    while failed:
        damped = gram + torch.diag(ridge.expand(len(gram)))
        factor, info = torch.linalg.cholesky_ex(damped)
        # Rounding of the float32 moments may need a larger ridge.
        failed, ridge = int(info), 10 * ridge
    return torch.cholesky_solve(moments.totals().T, factor)
