"""Short-term memories of single tasks, and stored tasks (Kamra et al. 2017, Section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from avalanche_dgm.data import ExperienceData, Replay
from avalanche_dgm.generators.base import Generator
from avalanche_dgm.memories.generative import DeepGenerativeMemory, MemorySettings
from avalanche_dgm.modules import GrowingBuffers
from avalanche_dgm.networks import build_encoder

#: Difference between a task learner's smallest logit and its logits of other tasks' classes.
MARGIN = 10.0


class TaskLearner(nn.Module):
    """A small classifier for the classes of one task.

    Args:
        classes: The task's classes.
        shape: Shape of one sample, (C, H, W) or (D,).
        low: Smallest value of each channel, or of each feature.
        high: Largest value of each channel, or of each feature.
        architecture: ``"dense"`` or ``"conv"``.
        hidden: Widths of the dense layers, or channels of the convolutions.
    """

    centre: Tensor
    scale: Tensor
    columns: Tensor

    def __init__(
        self,
        classes: tuple[int, ...],
        *,
        shape: tuple[int, ...],
        low: Sequence[float],
        high: Sequence[float],
        architecture: str,
        hidden: Sequence[int],
    ) -> None:
        super().__init__()
        self.classes = classes
        self.network = build_encoder(
            shape, architecture=architecture, hidden=hidden, n_outputs=len(classes)
        )
        # Inputs are centred and scaled, as users' ranges differ.
        ranks = (-1, 1, 1) if len(shape) == 3 else (-1,)
        bottom, top = torch.tensor(low), torch.tensor(high)
        self.register_buffer("centre", ((bottom + top) / 2).view(ranks), persistent=False)
        self.register_buffer("scale", ((top - bottom) / 2).view(ranks), persistent=False)
        self.register_buffer("columns", torch.tensor(classes), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits over all classes up to the task's largest.

        Args:
            images: Float tensor (n, *shape), in the user's range, of any floating-point type.

        Returns:
            Tensor (n, max(classes) + 1); classes of other tasks lie `MARGIN` below the smallest.
        """
        local = self.network((images.to(self.centre) - self.centre) / self.scale)
        floor = local.detach().amin(dim=1, keepdim=True) - MARGIN
        wide = floor.expand(-1, max(self.classes) + 1)
        return wide.index_copy(1, self.columns, local.to(wide))


class ShortTermTaskMemory(DeepGenerativeMemory):
    """One short-term memory (STTM): a deep generative memory of a single task.

    Args:
        settings: Hyper-parameters of the dual memory.
        generator: Its untrained generator.
        key: The task key.
        number: Number of short-term memories before this one.

    Attributes:
        task_learner: Its learner, after `take_learner`.
        n_seen: Number of learned samples.
    """

    task_learner: TaskLearner

    def __init__(
        self, settings: MemorySettings, generator: Generator, key: str, number: int
    ) -> None:
        super().__init__(settings, generator)
        self.key, self.number, self.n_seen = key, number, 0

    def take_learner(self, learner: TaskLearner) -> None:
        """Sets the learner."""
        self.task_learner = learner
        self.attach(learner)

    @property
    def classes(self) -> tuple[int, ...]:
        """The task's classes."""
        return self.task_learner.classes


class StoredTask(GrowingBuffers):
    """The real samples of one task, kept until sleep (the variant without STM, Sec. 5.1).

    Args:
        data: The samples.
    """

    images: Tensor
    labels: Tensor
    tasks: Tensor

    def __init__(self, data: ExperienceData) -> None:
        super().__init__()
        self.key = data.key
        for name in ("images", "labels", "tasks"):
            self.register_buffer(name, getattr(data, name).clone())

    def sample(self, n: int, rng: torch.Generator) -> Replay:
        """Draws n samples uniformly."""
        return Replay(self.images, self.labels, self.tasks).draw(n, rng)

    def data(self) -> ExperienceData:
        """The samples."""
        return ExperienceData(self.images, self.labels, self.tasks, self.key, self.key)


def widen(logits: Tensor, width: int) -> Tensor:
    """Pads logits (n, J) to (n, width) with values `MARGIN` below each row's smallest."""
    missing = width - logits.shape[1]
    if missing <= 0:
        return logits
    floor = logits.detach().amin(dim=1, keepdim=True) - MARGIN
    return torch.cat([logits, floor.expand(-1, missing)], dim=1)
