"""A generative memory of latents, and the memories of latents by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from avalanche_dgm.classes import ClassTable
from avalanche_dgm.data import ExperienceData, Replay
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.fitting import Phase
from avalanche_dgm.generators import ClassDensity, Generator, make_density
from avalanche_dgm.memories.blocks import Blocks
from avalanche_dgm.memories.generative import DeepGenerativeMemory, MemorySettings
from avalanche_dgm.memories.stored import Encode
from avalanche_dgm.memories.stored_latents import StoredLatents, StoredLatentsSettings, check_size
from avalanche_dgm.modules import Frozen, copied
from avalanche_dgm.randomness import RandomSource


class GeneratedLatents(DeepGenerativeMemory):
    """A deep generative memory of latents, with hard labels from a class-conditional generator.

    Args:
        settings: Hyper-parameters.

    Raises:
        ConfigError: The generator is not class-conditional.
    """

    def __init__(self, settings: MemorySettings) -> None:
        super().__init__(replace(settings, labels="hard"))
        self._blocks = Blocks()
        if not self.generator.conditional:
            raise ConfigError(
                "The generator is not class-conditional, so its latents have no labels. Use"
                " sampling='class', or a class-conditional generator."
            )

    @property
    def classes(self) -> ClassTable:
        """The classes that were learned."""
        return self.generator.classes

    def check(self, labels: Tensor, tasks: Tensor) -> None:
        """See `StoredLatents.check`: samples with any labels can be learned."""

    def check_size(self, shape: tuple[int, ...], labels: Tensor, tasks: Tensor) -> None:
        """See `StoredLatents.check_size`."""
        check_size(self.generator, shape)
        trial = self
        if self.settings.memory_budget is not None and self.generator.builds and not self.shape:
            # Check a copy, as the networks are only built after the experience.
            trial = copied(self)
            with torch.random.fork_rng(devices=[]):
                trial.generator.build(torch.rand(2, prod(shape)))
        trial.check_budget((prod(shape),), labels, tasks)

    def learn_latents(
        self, latents: Callable[[], ExperienceData], random: RandomSource
    ) -> Iterator[Phase]:
        """Yields the generator's training on an experience; `end_experience` follows.

        ``latents`` returns the experience, with latents of any shape in place of images.
        """
        data = latents()
        vectors = replace(data, images=data.images.flatten(1).float())
        with random.seeded_init() if self.generator.builds else nullcontext():
            self.generator.build(vectors.images)
        previous = Frozen(self).module if self.tasks else None
        rng = random.on(vectors.images.device)
        yield from self.learn([vectors], rng, previous=previous, name="latent generator")
        self._blocks.forget()

    def end_experience(
        self,
        data: ExperienceData,
        latents: Callable[[], ExperienceData],
        rng: torch.Generator,
        *,
        encode: Encode | None,
        freezing: bool,
    ) -> None:
        """See `StoredLatents.end_experience`; its latents were learned already."""
        self._blocks.forget()

    def rehearse(self, n: int, rng: torch.Generator) -> Replay:
        """See `StoredLatents.rehearse`; densities are sampled for many steps at once."""
        if not (self.tasks and isinstance(self.generator, ClassDensity)):
            return self.sample(n, rng)
        return self._blocks.take(n, prod(self.shape or ()), rng, self._draw)

    @torch.no_grad()
    def _draw(self, steps: int, n: int, rng: torch.Generator) -> Replay:
        """Replay batches for several steps, each balanced over classes."""
        known = self.generator.classes
        rows = torch.cat([known.balanced(n, rng) for _ in range(steps)])
        return Replay(self.generator.sample(rows, rng), known.labels[rows], known.tasks[rows])


def make_memory(
    memory: Any, *, vae: MemorySettings, stored: StoredLatentsSettings
) -> StoredLatents | GeneratedLatents:
    """Makes a memory of latents.

    Args:
        memory: An untrained `StoredLatents` or `Generator`, which is copied; or ``"stored"``,
            ``"density"`` or ``"vae"``.
        vae: Settings for ``"vae"``.
        stored: Settings for ``"stored"``; covariance, its type and the budget also for
            ``"density"``.

    Raises:
        ConfigError: There is no such memory, or it cannot work.
    """
    if memory == "stored":
        return stored.make()
    if isinstance(memory, StoredLatents):
        if len(memory):
            raise ConfigError("The memory holds latents already. Give an empty one.")
        return copied(memory)
    if memory == "vae":
        return GeneratedLatents(vae)
    if memory == "density":
        covariance = stored.covariance
        if isinstance(covariance, bool):
            raise ConfigError(
                f"covariance={covariance} is for memory='stored'; a density always has one."
            )
        name = covariance if isinstance(covariance, str) else "auto"
        budget = stored.memory_budget
        memory = make_density(name, at_rest=stored.at_rest, memory_budget=budget)
    if not isinstance(memory, Generator):
        raise ConfigError(
            f"memory={memory!r} is no memory of latents. Give a StoredLatents or a Generator, or"
            " one of stored, density, vae."
        )
    return GeneratedLatents(MemorySettings(generator=memory))
