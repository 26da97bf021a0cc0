"""What a short-term memory is made of: small memories of one task each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from avalanche_dgm.data import ExperienceData, Replay
from avalanche_dgm.generators import VAESpec
from avalanche_dgm.memories.generative import DeepGenerativeMemory
from avalanche_dgm.memories.settings import DualMemorySettings
from avalanche_dgm.modules import GrowingBuffers
from avalanche_dgm.networks import build_encoder

#: How far below its smallest logit a task's learner rates the classes of other tasks.
MARGIN = 10.0


class TaskLearner(nn.Module):
    """A small classifier for the classes of one task.

    Args:
        spec: The short-term generator's specification, for the shape and the architecture.
        classes: The task's classes.
        hidden: Widths of its dense layers.
    """

    centre: Tensor
    scale: Tensor
    columns: Tensor

    def __init__(self, spec: VAESpec, *, classes: tuple[int, ...], hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.classes = classes
        conv = spec.architecture == "conv"
        self.network = build_encoder(
            spec.shape,
            architecture=spec.architecture,
            hidden=spec.hidden if conv else hidden,
            n_outputs=len(classes),
        )
        # Centred intensities: raw ranges differ from user to user.
        ranks = (-1, 1, 1) if len(spec.shape) == 3 else (-1,)
        low, high = torch.tensor(spec.low), torch.tensor(spec.high)
        self.register_buffer("centre", ((low + high) / 2).view(ranks), persistent=False)
        self.register_buffer("scale", ((high - low) / 2).view(ranks), persistent=False)
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
        spec: Specification of its generator.
        key: The task.
        classes: The task's classes.
        number: Short-term memories that there were before.
    """

    def __init__(
        self,
        settings: DualMemorySettings,
        spec: VAESpec,
        *,
        key: str,
        classes: tuple[int, ...],
        number: int = 0,
    ) -> None:
        super().__init__(settings)
        self.key, self.n_seen, self.number = key, 0, number
        self._build(spec, "cpu")
        self.task_learner = TaskLearner(spec, classes=classes, hidden=settings.stm_learner_hidden)
        self.attach(self.task_learner)

    @property
    def classes(self) -> tuple[int, ...]:
        """The task's classes."""
        return self.task_learner.classes

    def describe(self) -> dict[str, Any]:
        """What is needed to build the memory again, in plain values."""
        spec = self.built()[0].spec
        return {
            "key": self.key,
            "n_seen": self.n_seen,
            "number": self.number,
            "spec": spec.to_dict(),
            "classes": list(self.classes),
        }

    @classmethod
    def rebuild(
        cls, settings: DualMemorySettings, description: dict[str, Any]
    ) -> ShortTermTaskMemory:
        """Builds the memory that `describe` described, with fresh weights."""
        spec = VAESpec.from_dict(description["spec"])
        classes = tuple(description["classes"])
        memory = cls(settings, spec, key=description["key"], classes=classes)
        memory.n_seen, memory.number = description["n_seen"], description["number"]
        return memory


def short_term_spec(settings: DualMemorySettings, spec: VAESpec) -> VAESpec:
    """Sizes of a short-term generator, from the long-term one's."""
    hidden = settings.stm_hidden or tuple(max(16, width // 2) for width in spec.hidden)
    return replace(spec, hidden=hidden, latent=settings.stm_latent or spec.latent)


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

    def draw(self, n: int, rng: torch.Generator) -> Replay:
        """Draws some of the samples, each as likely as any other.

        Args:
            n: How many.
            rng: Generator on the samples' device.
        """
        index = torch.randint(len(self.images), (n,), generator=rng, device=self.images.device)
        return Replay(self.images[index], self.labels[index], self.tasks[index])

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
