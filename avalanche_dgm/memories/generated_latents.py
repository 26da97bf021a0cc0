"""Latents that are generated, by a generator of vectors; and what remembers latents, by name."""

from __future__ import annotations

from collections.abc import Iterator
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
from avalanche_dgm.memories.stored_latents import StoredLatents, StoredLatentsSettings, check_size
from avalanche_dgm.modules import Frozen, copied
from avalanche_dgm.randomness import RandomSource


class GeneratedLatents(DeepGenerativeMemory):
    """A deep generative memory of latents; labels are the classes that they are generated for.

    Args:
        settings: Hyper-parameters.

    Raises:
        ConfigError: The generator cannot be asked for a class.
    """

    def __init__(self, settings: MemorySettings) -> None:
        super().__init__(replace(settings, labels="hard"))
        self._blocks = Blocks()
        if not self.generator.conditional:
            raise ConfigError(
                "The generator samples no given class, which leaves latents without labels. Latents"
                " are generated with sampling='class', or by a generator that samples classes."
            )

    @property
    def classes(self) -> ClassTable:
        """The classes that were learned."""
        return self.generator.classes

    def check_size(self, shape: tuple[int, ...], labels: Tensor, tasks: Tensor) -> None:
        """See `StoredLatents.check_size`."""
        check_size(self.generator, shape)
        trial = self
        if self.settings.memory_budget is not None and self.generator.builds and not self.shape:
            # Its networks are built when the first latents are learned, too late for an error.
            trial = copied(self)
            with torch.random.fork_rng(devices=[]):
                trial.generator.build(torch.rand(2, prod(shape)))
        trial.check_budget((prod(shape),), labels, tasks)

    def learn_latents(self, latents: ExperienceData, random: RandomSource) -> Iterator[Phase]:
        """Yields the generator's training on an experience; then comes `end`.

        Args:
            latents: The experience, with latents of any shape in place of images.
            random: Random numbers.
        """
        vectors = replace(latents, images=latents.images.flatten(1).float())
        with random.seeded_init() if self.generator.builds else nullcontext():
            self.generator.build(vectors.images)
        previous = Frozen(self).module if self.tasks else None
        rng = random.on(vectors.images.device)
        yield from self.learn([vectors], rng, previous=previous, name="latent generator")
        self._blocks.forget()

    def end(self, rng: torch.Generator) -> None:
        """See `DeepGenerativeMemory.end`."""
        super().end(rng)
        self._blocks.forget()

    def sample(
        self, n: int, rng: torch.Generator, *, reconstruct: bool = False, hard: bool = False
    ) -> Replay:
        """See `DeepGenerativeMemory.sample`; of densities, many steps are drawn at once."""
        if not (self.tasks and isinstance(self.generator, ClassDensity)):
            return super().sample(n, rng, reconstruct=reconstruct, hard=hard)
        return self._blocks.take(n, prod(self.shape or ()), rng, self._draw)

    @torch.no_grad()
    def _draw(self, steps: int, n: int, rng: torch.Generator) -> Replay:
        """Replay of some steps, each balanced over classes."""
        known = self.generator.classes
        rows = torch.cat([known.balanced(n, rng) for _ in range(steps)])
        return Replay(self.generator.sample(rows, rng), known.labels[rows], known.tasks[rows])


def make_memory(
    memory: Any, *, vae: MemorySettings, stored: StoredLatentsSettings
) -> StoredLatents | GeneratedLatents:
    """Makes what remembers latents.

    Args:
        memory: A `StoredLatents` or a `Generator` that has learned nothing, which is copied; or
            ``"stored"``, ``"density"`` or ``"vae"``.
        vae: Settings for ``"vae"``.
        stored: Settings for ``"stored"``; covariance, its type and the budget for
            ``"density"``, too.

    Raises:
        ConfigError: There is no such memory, or it cannot work.
    """
    if memory == "stored":
        return stored.make()
    if isinstance(memory, StoredLatents):
        if len(memory):
            raise ConfigError("The memory holds latents already. Give one that is empty.")
        return copied(memory)
    if memory == "vae":
        return GeneratedLatents(vae)
    if memory == "density":
        covariance = stored.covariance
        if isinstance(covariance, bool):
            raise ConfigError(
                f"covariance={covariance} is for memory='stored': a density has covariances."
            )
        name = covariance if isinstance(covariance, str) else "auto"
        budget = stored.memory_budget
        memory = make_density(name, at_rest=stored.at_rest, memory_budget=budget)
    if not isinstance(memory, Generator):
        raise ConfigError(
            f"memory={memory!r} remembers no latents. Give a StoredLatents or a Generator, or one"
            " of stored, density, vae."
        )
    return GeneratedLatents(MemorySettings(generator=memory))
