"""Closed-form classifiers on frozen features: references for latent replay.

Nothing is trained by gradients. The user's network up to a layer computes features. The count and
mean of each class and the scatter matrix shared by all classes are kept exactly, and the classifier
is a function of these moments.

===========================================  =====================================================
nearest class mean (Mensink et al. 2013)     `NCM`
streaming LDA (Hayes and Kanan 2020)         `SLDA`
mean of each class                           `ClassMoments.means`
streaming covariance, here exact             `ClassMoments.scatter`, over the number of samples
shrinkage, linear classifier                 `SLDA._solve`
===========================================  =====================================================
"""

from __future__ import annotations

import importlib
import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from avalanche_dgm.data import MASKED_LOGIT, ExperienceData, check_values
from avalanche_dgm.errors import ConfigError, ShapeError
from avalanche_dgm.losses import UserCriterion
from avalanche_dgm.memories.class_moments import ClassMoments
from avalanche_dgm.memories.classifiers import spread
from avalanche_dgm.memories.splitting import SplitModel
from avalanche_dgm.methods.abilities import Routing
from avalanche_dgm.methods.base import Needs
from avalanche_dgm.methods.cut import CutMethod
from avalanche_dgm.methods.registry import register
from avalanche_dgm.modules import CHUNK
from avalanche_dgm.settings import MethodSettings

#: Largest dimension of features with a scatter matrix: at 16,384 it takes half a gigabyte.
LARGEST = 2**14


@dataclass(frozen=True, kw_only=True)
class ClosedFormSettings(MethodSettings):
    """Settings of a closed-form classifier.

    Attributes:
        layer: Name of the layer whose flattened output is the features, as in
            ``model.named_modules()``, or the module itself; ``None`` for the default of latent
            replay. If the model is an ``nn.Linear``, its inputs are the features.
    """

    layer: str | int | nn.Module | None = None


class ClosedForm(Routing, CutMethod):
    """A linear classifier that is a function of moments of frozen features.

    The moments are exact: they do not depend on the order of samples and classes. The user's model
    is never trained, and its epochs are skipped.

    Attributes:
        split: See `CutMethod`; ``None`` if the inputs are the features.
        moments: The moments of the features.
    """

    settings_type: ClassVar[type[MethodSettings]] = ClosedFormSettings
    needs = Needs(learner=False)
    #: Whether the scatter is needed.
    scatter: ClassVar[bool] = True
    #: How to need fewer bytes, for an error message.
    _smaller: ClassVar[str] = (
        "Give more, or use NCM, or replay from densities of classes (generator='low-rank')."
    )

    def __init__(self, settings: ClosedFormSettings | None = None, **changes: Any) -> None:
        super().__init__(settings, **changes)
        self.criterion = UserCriterion(weighed=False)
        self.moments = ClassMoments(scatter=self.scatter)
        #: Weights (D, K) and biases (K,), computed when they are first needed.
        self._linear: tuple[Tensor, Tensor] | None = None

    @abstractmethod
    def _solve(self) -> tuple[Tensor, Tensor]:
        """Weights (D, K) and biases (K,), float64, for the output of `_lift`."""

    def _lift(self, features: Tensor) -> Tensor:
        """Maps features (n, D) to the vectors whose moments are kept; by default the identity."""
        return features

    @property
    def routes(self) -> bool:
        return True

    @property
    def active(self) -> nn.Module | None:
        """See `Method.active`: none."""
        return None

    def _cut_learner(self, learner: nn.Module, *, task_aware: bool) -> SplitModel | None:
        if self.settings.layer is None and isinstance(learner, nn.Linear):
            return None
        return super()._cut_learner(learner, task_aware=task_aware)

    def features(self, images: Tensor, tasks: Tensor) -> Tensor:
        """The features (n, D), float32 or float64, of images (n, *shape) with tasks (n,)."""
        encoded = images if self.split is None else self.split.encode(images, tasks)
        return encoded.as_subclass(Tensor).detach().flatten(1).float()

    @property
    def feature_size(self) -> int:
        """Dimension of the learned features; 0 before the first experience."""
        return self.moments.means.shape[1]

    def check(self, data: ExperienceData) -> None:
        """See `Method.check`.

        Raises:
            ShapeError: The features differ in dimension from the learned ones.
            CapacityError: The moments do not fit into ``memory_budget``.
        """
        super().check(data)
        size = self.features(data.images[:1], data.tasks[:1]).shape[1]
        if self.feature_size not in (0, size):
            raise ShapeError(
                f"The features have {size} dimensions, but {self.feature_size} were learned."
            )
        self._check_size(size)
        n_classes = self.moments.classes.count_with(self._tasks(data.tasks), data.labels)
        self._check_budget(self._bytes_of(n_classes, size), self._smaller)

    def _bytes_of(self, n_classes: int, size: int) -> int:
        """Size of the memory in bytes, for a number of classes and a dimension of features."""
        return self.moments.bytes_of(n_classes, size)

    def _check_size(self, size: int) -> None:
        """Checks that the scatter matrix of features of a dimension can be kept."""
        if self.scatter and size > LARGEST:
            raise ConfigError(
                f"{type(self).__name__} keeps a scatter matrix of the features:"
                f" {size * (size + 1) * 2 / 1e9:.1f} GB for {size} dimensions. Name a layer"
                f" with at most {LARGEST}: layer=<name>."
            )

    def end(self, data: ExperienceData) -> None:
        """Adds the experience to the moments."""
        features = self.features(data.images, data.tasks)
        check_values(features)
        self._learn(features, self._tasks(data.tasks), data.labels)
        self._linear = None
        super().end(data)

    def _learn(self, features: Tensor, tasks: Tensor, labels: Tensor) -> None:
        self.moments.add(map(self._lift, features.split(CHUNK)), tasks, labels)

    def _tasks(self, tasks: Tensor) -> Tensor:
        """Task labels that distinguish classes: all 0 for a model without heads."""
        return tasks if self.task_aware else torch.zeros_like(tasks)

    @torch.no_grad()
    def predict(self, images: Tensor, tasks: Tensor, *, key: str | None = None) -> Tensor:
        """See `Method.predict`: log-probabilities (n, K), K outputs of the learner.

        They are the log-softmax of the scores; for Gaussians, the log-posterior. Unknown classes
        and, for a model with heads, classes of other tasks have `MASKED_LOGIT`.
        """
        classes = self.moments.classes
        if not len(classes):
            return super().predict(images, tasks, key=key)
        weights, biases = self._classifier()
        scores = self._lift(self.features(images, tasks)) @ weights + biases
        if self.task_aware:
            scores = scores.masked_fill(tasks[:, None] != classes.tasks, -math.inf)
        # Known classes must stay above MASKED_LOGIT.
        logits = scores.log_softmax(dim=1).clamp(min=MASKED_LOGIT / 2)
        width = self._width(images, tasks)
        return spread(logits, classes.rows, tasks, width, by_task=self.task_aware)

    def _classifier(self) -> tuple[Tensor, Tensor]:
        means = self.moments.means
        if self._linear is None or self._linear[0].device != means.device:
            weights, biases = self._solve()
            # Subtracting the mean over classes changes no prediction and improves precision.
            weights, biases = weights - weights.mean(dim=1, keepdim=True), biases - biases.mean()
            self._linear = weights.to(means), biases.to(means)
        return self._linear

    def _load_from_state_dict(self, *args: Any) -> None:
        self._linear = None
        super()._load_from_state_dict(*args)

    def __getstate__(self) -> dict[str, Any]:
        """Without the cached classifier."""
        return {**super().__getstate__(), "_linear": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores a pickle, also an older one, in which ``split`` is named ``_split``."""
        state = dict(state)
        if "_split" in state:
            state["split"] = state.pop("_split")
        super().__setstate__(state)

    def get_extra_state(self) -> dict[str, Any]:
        return {**super().get_extra_state(), "shape": self._shape}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        super().set_extra_state(state)
        self._shape = state["shape"]


def _gaussian(means: Tensor, covariance: Tensor | None) -> tuple[Tensor, Tensor]:
    """The linear classifier for Gaussians with means (K, D), one covariance and equal priors.

    The covariance is (D, D), or ``None`` for the identity.
    """
    weights = means.T
    if covariance is not None:
        weights = torch.cholesky_solve(weights, torch.linalg.cholesky(covariance))
    return weights, -0.5 * (means.T * weights).sum(dim=0)


@register("ncm", "nearest class mean of frozen features, nothing is trained: reference")
class NCM(ClosedForm):
    """Nearest class mean on the features of a frozen network."""

    scatter = False
    _smaller = "It keeps the mean of each class: give more, or a smaller layer (layer=)."

    def _solve(self) -> tuple[Tensor, Tensor]:
        return _gaussian(self.moments.means.double(), None)


@dataclass(frozen=True, kw_only=True)
class SLDASettings(ClosedFormSettings):
    """Settings of streaming linear discriminant analysis.

    Attributes:
        shrinkage: Weight of the identity matrix in the covariance, above 0 and at most 1.
    """

    shrinkage: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.shrinkage <= 1:
            raise ConfigError(f"shrinkage={self.shrinkage} must be above 0 and at most 1.")


@register("slda", "streaming LDA of frozen features, nothing is trained: reference")
class SLDA(ClosedForm):
    """Streaming linear discriminant analysis (SLDA) on the features of a frozen network."""

    settings_type: ClassVar[type[MethodSettings]] = SLDASettings

    def _solve(self) -> tuple[Tensor, Tensor]:
        moments, share = self.moments, self.settings.shrinkage
        covariance = moments.scatter() * ((1 - share) / moments.counts.sum())
        covariance.diagonal().add_(share)
        return _gaussian(moments.means.double(), covariance)


def __getattr__(name: str) -> Any:
    """Older pickles look for RanPAC in this module."""
    if name not in ("RanPAC", "RanPACSettings"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("avalanche_dgm.methods.ranpac"), name)
