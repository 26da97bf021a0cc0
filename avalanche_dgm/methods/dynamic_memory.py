"""Dynamic generative memory (Ostapenko et al. 2019, "Learning to remember", Section 4)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.fitting import OptimizerSpec
from avalanche_dgm.memories.adversarial import noise_with_class
from avalanche_dgm.memories.adversarial_settings import DynamicMemorySettings
from avalanche_dgm.memories.masked import DynamicGenerativeMemory
from avalanche_dgm.methods.adversarial import FAST, GANMethod
from avalanche_dgm.methods.games import AdversarialTrainer
from avalanche_dgm.methods.registry import register
from avalanche_dgm.signatures import takes_arguments_of

#: What all of the authors' configurations share: the discriminator answers, nothing comes after the
#: GAN.
_AUTHORS: dict[str, Any] = {
    "classifier": "discriminator",
    "batch_size": 64,
    "discriminator_width": 32,
    "class_steps": None,
    "discriminator_finetune_epochs": 0,
    "own_fake_fraction": 0.0,
    "shift": 0.0,
}


def _adam(lr: float) -> OptimizerSpec:
    return OptimizerSpec("adam", lr, options={"betas": (0.5, 0.999)})


_MNIST = {**_AUTHORS, "generator_epochs": 101, "gan_optimizer": _adam(2e-3)}
_WEIGHTS = {"masking": "weights", "width": 6, "smax": 1e4}

#: The configurations in the authors' code, by data set and variant; those of the paper's CIFAR-10
#: are lost, and for it the residual network with the settings of the nearest one stands in.
PAPER: dict[str, dict[str, Any]] = {
    "mnist": {**_MNIST, "smax": 1e5, "sparsity": 0.01},
    "mnist-weights": {**_MNIST, **_WEIGHTS, "sparsity": 0.08},
    "svhn-weights": {
        **_AUTHORS,
        **_WEIGHTS,
        "generator_epochs": 151,
        "gan_optimizer": _adam(5e-4),
        "sparsity": 0.001,
    },
    "cifar10": {
        **_AUTHORS,
        "architecture": "resnet",
        "width": 64,
        "generator_epochs": 101,
        "gan_optimizer": _adam(2e-4),
        "smax": 1e4,
        "sparsity": 0.001,
        "penalty": 0.6,
        "aux_classifier_loss": "always",
    },
}


def paper_hyper(name: str) -> dict[str, Any]:
    """Hyper-parameters of `DynamicMemory` as the authors had them.

    Args:
        name: ``"mnist"``, ``"mnist-weights"``, ``"svhn-weights"`` or ``"cifar10"``.

    Raises:
        ConfigError: There is no such configuration.
    """
    if name not in PAPER:
        raise ConfigError(f"There is no configuration {name!r}; there are {', '.join(PAPER)}.")
    return dict(PAPER[name])


@register(
    "dynamic-memory-weights",
    "the same with masks over weights in place of units",
    defaults={"classifier": "discriminator", "smax": 1e4, "width": 6, "sparsity": 0.08},
    fixed={"masking": "weights"},
    fast=FAST,
)
@register(
    "dynamic-memory-paper",
    "the same with the authors' settings (101 epochs a class), --set configuration=...",
    fixed={"classifier": "discriminator"},
    fast={**FAST, "generator_epochs": None, "discriminator_finetune_epochs": 0},
    configurations=PAPER,
)
@register(
    "dynamic-memory-discriminator",
    "the same as in its paper, where the GAN's discriminator answers",
    fixed={"classifier": "discriminator"},
    fast=FAST,
)
@register(
    "dynamic-memory", "a GAN that grows and freezes by masks, replayed to the network", fast=FAST
)
@takes_arguments_of(DynamicMemorySettings)
class DynamicMemory(GANMethod[DynamicGenerativeMemory]):
    """An AC-GAN that learns masks and grows, and replays old classes to a classifier.

    Args:
        classifier: See `GANMethod`.
        replay_size: See `GANMethod`.
        seed: See `Method`.
        **hyper: Fields of `DynamicMemorySettings`.
    """

    settings: DynamicMemorySettings
    memory_kind = DynamicGenerativeMemory
    settings_kind = DynamicMemorySettings

    def _trainer(self, rows: Tensor, old: Tensor, old_rows: Tensor) -> AdversarialTrainer:
        """The experience alone: what makes old classes is reserved (Sec. 4)."""
        memory, s = self.generative, self.settings
        generator, first = memory.built, memory.learned
        rounds, n_classes = s.rounds(len(rows)), len(memory.entries) - first
        weight = s.sparsity * generator.capacity_ratio

        def make(mine: Tensor, rng: torch.Generator, number: int) -> Tensor:
            noise = noise_with_class(mine - first, n_classes, s.latent, rng)
            return generator(noise, scale=s.scale(number, rounds))

        def sparsity(rng: torch.Generator, number: int) -> Tensor:
            """How much of what is free is taken (Eq. 6), weighed by how much there is."""
            return weight * generator.sparsity(s.scale(number, rounds))

        def protect(number: int) -> None:
            """Stops the gradients of what is reserved (Eq. 4)."""
            scale = s.scale(number, rounds)
            generator.protect(scale=scale, smax=s.smax, compensation=s.compensation)

        return AdversarialTrainer(
            discriminator=self._discriminator,
            generator=generator,
            settings=s,
            rounds=rounds,
            first=self._first_class(),
            aux_loss=self._has_aux_loss(),
            make=make,
            shown=lambda batch, rng: [(batch[0], batch[1], 1.0, True)],
            extra=sparsity,
            protect=protect,
        )
