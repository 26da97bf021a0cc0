"""A method of your own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from avalanche_dgm.checks import positive
from avalanche_dgm.classes import ClassTable
from avalanche_dgm.data import ExperienceData, Replay, check_experience
from avalanche_dgm.errors import UnknownTaskError
from avalanche_dgm.methods import Method, register
from avalanche_dgm.methods.abilities import Inspectable
from avalanche_dgm.modules import GrowingBuffers
from avalanche_dgm.settings import MethodSettings


@dataclass(frozen=True, kw_only=True)
class ClassMeansSettings(MethodSettings):
    """Settings of `ClassMeans`.

    Attributes:
        noise: Standard deviation of what is replayed around the mean of its class.
    """

    noise: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("noise", self.noise)


class Means(GrowingBuffers):
    """The mean image of each class; the tensor is replaced, not written into."""

    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.classes = ClassTable()
        self.register_buffer("values", torch.empty(0))


@register("class-means", "replays noise around the mean image of each class")
class ClassMeans(Inspectable, Method):
    """Replay of noise around the mean image of each class."""

    settings_type = ClassMeansSettings

    def __init__(self, settings: ClassMeansSettings | None = None, **changes: object) -> None:
        super().__init__(settings, **changes)
        self.means = Means()

    def check(self, data: ExperienceData) -> None:
        known = len(self.means.classes)
        check_experience(data, shape=tuple(self.means.values.shape[1:]) if known else None)

    def _begin(self, data: ExperienceData) -> None:
        super()._begin(data)
        self._new_weight = 0.5 if len(self.means.classes) else 1.0

    def replay(self, n: int) -> Replay | None:
        return self.sample(n) if len(self.means.classes) else None

    def sample(self, n: int) -> Replay:
        classes = self.means.classes
        if not len(classes):
            raise UnknownTaskError("Nothing was learned yet: train on an experience first.")
        rows = classes.balanced(n, self.rng)
        means = self.means.values[rows]
        noise = torch.randn(means.shape, generator=self.rng, device=means.device)
        images = (means + self.settings.noise * noise).clamp(0, 1)
        return Replay(images, classes.labels[rows], classes.tasks[rows])

    def end(self, data: ExperienceData) -> None:
        self.means.to(data.images.device)
        rows = self.means.classes.add(data.tasks, data.labels)
        values = data.images.new_zeros(len(self.means.classes), *data.images.shape[1:])
        if len(self.means.values):
            values[: len(self.means.values)] = self.means.values
        for row in rows.unique():
            values[row] = data.images[rows == row].mean(dim=0)
        self.means.values = values
        super().end(data)
