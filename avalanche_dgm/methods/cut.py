"""Base class of methods that cut the classifier in two."""

from __future__ import annotations

from typing import Any

from torch import nn

from avalanche_dgm.data import ExperienceData, check_experience
from avalanche_dgm.errors import required
from avalanche_dgm.memories.splitting import SplitModel
from avalanche_dgm.methods.base import Method
from avalanche_dgm.settings import MethodSettings


class CutMethod(Method):
    """A method that works with the values at a cut through the classifier.

    Its settings have ``layer``, see `SplitModel`.

    Attributes:
        split: The classifier, cut in two, after `attach`.
    """

    split: SplitModel | None

    def __init__(self, settings: MethodSettings | None = None, **changes: Any) -> None:
        super().__init__(settings, **changes)
        self._hold("split", None)
        #: Shape of the images learned so far.
        self._shape: tuple[int, ...] | None = None

    def attach(self, learner: nn.Module, *, task_aware: bool) -> None:
        """See `Method.attach`.

        Raises:
            ConfigError: The learner has no such layer, or no layer can be chosen by default.
        """
        if self.split is None or self.split.model is not learner:
            self._hold("split", self._cut_learner(learner, task_aware=task_aware))
        super().attach(learner, task_aware=task_aware)

    def _place(self) -> tuple[Any, Any]:
        """``layer`` and ``classifier`` of `SplitModel`, from the settings."""
        return self.settings.layer, None

    def _cut_learner(self, learner: nn.Module, *, task_aware: bool) -> SplitModel | None:
        former = self.split
        # The former cut's names are also valid in a copy of the learner; the settings may hold
        # modules of the original.
        place = self._place() if former is None else (former.layer, former.classifier)
        return SplitModel(learner, place[0], classifier=place[1], task_aware=task_aware)

    def _cut(self) -> SplitModel:
        return required(self.split, "learner", "attach")

    def check(self, data: ExperienceData) -> None:
        """See `Method.check`.

        Raises:
            ShapeError: The images differ in shape from the learned ones.
        """
        check_experience(data, shape=self._shape)

    def _begin(self, data: ExperienceData) -> None:
        super()._begin(data)
        self._shape = tuple(data.images.shape[1:])
