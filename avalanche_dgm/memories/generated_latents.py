"""Latents that are generated, by a generator of vectors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace

from avalanche_dgm.data import ExperienceData
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.fitting import Phase
from avalanche_dgm.memories.generative import DeepGenerativeMemory, MemorySettings
from avalanche_dgm.memories.stored_latents import check_size
from avalanche_dgm.modules import Frozen
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
        if not self.generator.conditional:
            raise ConfigError(
                "The generator samples no given class, which leaves latents without labels. Latents"
                " are generated with sampling='class', or by a generator that samples classes."
            )

    def check_size(self, shape: tuple[int, ...]) -> None:
        """See `StoredLatents.check_size`."""
        check_size(self.generator, shape)

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
