"""Generative memories of latents: nothing is stored but what they were fitted to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from avalanche_dgm.data import ExperienceData, Replay
from avalanche_dgm.errors import ConfigError, ShapeError, UnknownTaskError
from avalanche_dgm.fitting import Phase
from avalanche_dgm.generators import ClassDensity, FullDensity, Generator
from avalanche_dgm.memories.generative import DeepGenerativeMemory
from avalanche_dgm.memories.settings import MemorySettings

#: Most values of a latent that a full covariance is fitted to: 16 MiB a class.
LARGEST_COVARIANCE = 2048


class GenerativeLatents(nn.Module, ABC):
    """Remembers classes of latents by generating them.

    Attributes:
        shape: Shape of one latent, or ``None`` before the first experience.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shape: tuple[int, ...] | None = None

    @property
    @abstractmethod
    def density(self) -> Generator | None:
        """What knows the classes, or ``None`` before the first experience."""

    def check(self, shape: tuple[int, ...]) -> None:
        """Checks that latents of a shape can be learned; changes nothing.

        Args:
            shape: Of one latent.

        Raises:
            ConfigError: They cannot.
            ShapeError: Latents of another shape were learned before.
        """
        if self.shape is not None and shape != self.shape:
            raise ShapeError(f"Latents of shape {shape} came, but {self.shape} were learned.")

    def learning(self, data: ExperienceData, rng: torch.Generator) -> Iterator[Phase]:
        """Yields what has to be trained to learn an experience, before `absorb`.

        Args:
            data: Its latents (N, *shape), as images.
            rng: Generator on their device.
        """
        yield from ()

    @abstractmethod
    def absorb(self, data: ExperienceData, rng: torch.Generator) -> None:
        """Learns an experience, or what is left to learn of it after `learning`.

        Args:
            data: Its latents (N, *shape), as images.
            rng: Generator on their device.
        """

    @abstractmethod
    def _flat(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws latents (n, D), and the group, task label and label (n, 3) of each."""

    def __len__(self) -> int:
        """Classes known; one label of two task labels is two classes."""
        return len(self.density.classes) if self.density is not None else 0

    @torch.no_grad()
    def draw(self, n: int, rng: torch.Generator) -> Replay:
        """Draws labelled latents, balanced over classes.

        Args:
            n: How many.
            rng: Generator on the memory's device.

        Raises:
            UnknownTaskError: Nothing was learned yet.
        """
        if not len(self) or self.shape is None:
            raise UnknownTaskError("Nothing was learned yet: train on an experience first.")
        latents, entries = self._flat(n, rng)
        return Replay(latents.view(n, *self.shape), entries[:, 2], entries[:, 1])

    def _flatten(self, data: ExperienceData) -> ExperienceData:
        self.shape = tuple(data.images.shape[1:])
        flat = data.images.flatten(1).float()
        return ExperienceData(flat, data.labels, data.tasks, data.key, data.name, data.times)

    def parts(self) -> list[nn.Module]:
        """What takes the memory's bytes."""
        return [self]

    def get_extra_state(self) -> dict[str, Any]:
        """The latents' shape, for ``state_dict``."""
        return {"shape": self.shape}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Takes over what `get_extra_state` returned."""
        self.shape = state["shape"]


def check_covariance(shape: tuple[int, ...], instead: str) -> None:
    """Checks that latents of a shape can have a full covariance.

    Args:
        shape: Of one latent.
        instead: A setting that does without.

    Raises:
        ConfigError: They cannot.
    """
    if prod(shape) > LARGEST_COVARIANCE:
        raise ConfigError(
            f"A latent has {prod(shape)} values, too many for a full covariance"
            f" (at most {LARGEST_COVARIANCE}). Cut behind a later layer, or use {instead}."
        )


class LatentDensity(GenerativeLatents):
    """One full-covariance Gaussian for each class of each experience."""

    def __init__(self) -> None:
        super().__init__()
        self._density = FullDensity(by_experience=True)

    @property
    def density(self) -> ClassDensity | None:
        """The Gaussians."""
        return self._density

    def check(self, shape: tuple[int, ...]) -> None:
        """See `GenerativeLatents.check`."""
        super().check(shape)
        check_covariance(shape, "memory='vae'")

    def absorb(self, data: ExperienceData, rng: torch.Generator) -> None:
        """See `GenerativeLatents.absorb`."""
        flat = self._flatten(data)
        for _ in self._density.learn(flat, rng):
            pass

    def _flat(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = self._density.classes.balanced(n, rng)
        return self._density.sample(rows, rng), self._density.classes.rows[rows]


class LatentVAE(GenerativeLatents):
    """A variational autoencoder of latents with a density over its codes.

    Args:
        settings: Hyper-parameters of the deep generative memory.
    """

    def __init__(self, settings: MemorySettings) -> None:
        super().__init__()
        if settings.sampling != "class":
            raise ConfigError(
                f"sampling={settings.sampling!r} leaves latents without labels. Latents are drawn"
                " with sampling='class'."
            )
        self.ltm = DeepGenerativeMemory(replace(settings, labels="hard"))

    @property
    def density(self) -> Generator | None:
        """The generator."""
        return self.ltm.generator

    def build(self, latents: Tensor) -> None:
        """Builds the autoencoder for the first latents (N, *shape); draws its weights."""
        self.ltm.build(latents.flatten(1).float())

    def learning(self, data: ExperienceData, rng: torch.Generator) -> Iterator[Phase]:
        """See `GenerativeLatents.learning`."""
        flat = self._flatten(data)
        previous = self.ltm.snapshot().module if self.ltm.tasks else None
        yield from self.ltm.learn([flat], rng, previous=previous, name="latent generator")

    def absorb(self, data: ExperienceData, rng: torch.Generator) -> None:
        """See `GenerativeLatents.absorb`."""
        self.ltm.end(rng)

    def _flat(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        replay = self.ltm.sample(n, rng)
        return replay.images, torch.stack([replay.tasks, replay.tasks, replay.labels], dim=1)

    def parts(self) -> list[nn.Module]:
        """The autoencoder and its density."""
        return [self.ltm.generator]
