"""The generator that a memory has unless it is given another one: its settings, and its making."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Literal

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.fitting import OptimizerSpec
from avalanche_dgm.generators.base import Generator
from avalanche_dgm.modules import copied
from avalanche_dgm.settings import Settings, one_of, positive

#: Generators that have a name, and where they are; none is imported before it is used.
GENERATORS = {"vae": ("avalanche_dgm.generators.vae_generator", "VAEGenerator")}


def _one_cycle() -> OptimizerSpec:
    return OptimizerSpec("adam", 1e-3, "one-cycle")


@dataclass(frozen=True, kw_only=True)
class VAESettings(Settings):
    """Settings of a variational autoencoder that remembers classes.

    The defaults are ours, not the papers'.

    Attributes:
        architecture: ``"auto"``, ``"dense"`` or ``"conv"``; ``"auto"`` looks at the images.
        hidden: Widths of the generator's dense layers, or channels of its convolutions.
        latent: Latent dimensions of the generator.
        likelihood: ``"auto"``, ``"bernoulli"`` or ``"gaussian"``.
        value_range: Smallest and largest possible intensity; ``None`` finds it out where the first
            experience's samples look like pixels, and sets no bounds to others.
        kl_weight: Weight of the divergence from the prior in the generator's training, above 0.
            The bound has 1 (the papers). Less gives sharper images, and costs nothing where codes
            are drawn from a fitted density instead of the prior.
        sampling: ``"class"`` draws codes from a Gaussian fitted to each class's posterior,
            ``"prior"`` from the standard normal (the papers).
        consolidation: How the generator keeps what it knows. ``"aligned"`` teaches it to decode
            the codes of old classes to the very images that its predecessor made of them;
            ``"rehearsal"`` trains it on generated images as if they were data (the papers).
        generator_steps: Optimiser steps of the generator an experience.
        generator_epochs: Passes over the data instead of ``generator_steps``.
        generator_optimizer: How the generator is trained.
        batch_size: New samples a step in fits of the memory; as many are replayed.
    """

    architecture: Literal["auto", "dense", "conv"] = "auto"
    hidden: tuple[int, ...] | None = None
    latent: int | None = None
    likelihood: Literal["auto", "bernoulli", "gaussian"] = "auto"
    value_range: tuple[float, float] | None = None
    kl_weight: float = 0.3
    sampling: Literal["class", "prior"] = "class"
    consolidation: Literal["aligned", "rehearsal"] = "aligned"
    generator_steps: int = 800
    generator_epochs: int | None = None
    generator_optimizer: OptimizerSpec = field(default_factory=_one_cycle)
    batch_size: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("kl_weight", self.kl_weight)
        if (self.sampling, self.consolidation) == ("prior", "aligned"):
            raise ConfigError(
                "sampling='prior' with consolidation='aligned' would tie every code to an old image"
                " and leave none for new classes. Use consolidation='rehearsal' or"
                " sampling='class'."
            )


def make_generator(generator: Generator | str, settings: VAESettings) -> Generator:
    """Makes the generator of a memory.

    Args:
        generator: A generator that has learned nothing, which is copied, or a name.
        settings: Those of the autoencoder, if it is one by name.

    Raises:
        ConfigError: There is no such name, or the generator has learned something.
    """
    if isinstance(generator, str):
        one_of("generator", generator, *GENERATORS)
        module, name = GENERATORS[generator]
        made: Generator = getattr(importlib.import_module(module), name)(settings.part(VAESettings))
        return made
    if not isinstance(generator, Generator):
        raise ConfigError(
            f"generator={generator!r} is no Generator: give an object of a class that derives from"
            f" avalanche_dgm.generators.Generator, or one of {', '.join(GENERATORS)}."
        )
    if len(generator.classes):
        raise ConfigError(
            f"The {type(generator).__name__} has learned {len(generator.classes)} classes already."
            " Give one that has learned nothing: a memory makes copies of it."
        )
    return copied(generator)
