"""Dynamic generative memory (Ostapenko et al. 2019, "Learning to remember").

| paper | code |
|---|---|
| generator with a mask, norms and a head for each task (Sec. 3) | `MaskedGenerator`, `MaskedGAN` |
| mask of a layer, Eq. 2; steepness of its sigmoid, Eq. 3 | `Mask.soft`, `MaskedGANSettings.scale` |
| stopped gradients of reserved weights, Eq. 4 | `MaskedLayer.protect` |
| cumulative mask, Eq. 5 | `Mask.commit` |
| sparsity of the masks, Eq. 6 | `MaskedGenerator.sparsity` |
| growth by the reserved capacity (Sec. 4.2) | `MaskedGenerator.begin_task` |
| adversarial losses, auxiliary classifier | `GAN.discriminator_loss`, `GAN.generator_loss` |
| discriminator that classifies (Sec. 4.1) | ``classifier="discriminator"``, ``class_steps`` |
| replay of old classes | `GANMethod.before_learning` |

The networks are in `avalanche_dgm.generators.masked_gan`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.generators.gan_settings import MaskedGANSettings
from avalanche_dgm.generators.masked_gan import MaskedGAN
from avalanche_dgm.methods.adversarial import FAST, GANMethod, GANMethodSettings
from avalanche_dgm.methods.base import Needs
from avalanche_dgm.methods.registry import register
from avalanche_dgm.optimizers import OptimizerSpec

#: Settings of all the authors' configurations: the discriminator is the classifier, and it is not
#: finetuned after the GAN.
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

#: The configurations in the authors' code, by data set and variant. Two are missing there: that of
#: CIFAR-10, replaced by the residual network with the settings of the nearest configuration; and
#: SVHN with masks over units, replaced by the networks of MNIST, as in the paper, and the training
#: settings of SVHN with masks over weights.
PAPER: dict[str, dict[str, Any]] = {
    "mnist": {**_MNIST, "smax": 1e5, "sparsity": 0.01},
    "mnist-weights": {**_MNIST, **_WEIGHTS, "sparsity": 0.08},
    "svhn": {
        **_AUTHORS,
        "generator_epochs": 151,
        "gan_optimizer": _adam(5e-4),
        "smax": 1e5,
        "sparsity": 0.01,
    },
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


def paper_hyper(data: str = "mnist") -> dict[str, Any]:
    """The authors' hyper-parameters of `DynamicMemory`.

    Args:
        data: ``"mnist"``, ``"mnist-weights"``, ``"svhn"``, ``"svhn-weights"`` or ``"cifar10"``.

    Raises:
        ConfigError: There is no such configuration.
    """
    if data not in PAPER:
        raise ConfigError(f"Unknown configuration {data!r}. Available: {', '.join(PAPER)}.")
    return dict(PAPER[data])


@dataclass(frozen=True, kw_only=True)
class DynamicMemorySettings(GANMethodSettings, MaskedGANSettings):
    """Settings of dynamic generative memory (Ostapenko et al. 2019)."""


@register(
    "dynamic-memory-weights",
    "dynamic memory with masks over weights in place of units",
    defaults={"classifier": "discriminator", "smax": 1e4, "width": 6, "sparsity": 0.08},
    fixed={"masking": "weights"},
    fast=FAST,
)
@register(
    "dynamic-memory-paper",
    "dynamic memory with the authors' settings (101 epochs a class), --set configuration=...",
    fixed={"classifier": "discriminator"},
    fast={**FAST, "generator_epochs": None, "discriminator_finetune_epochs": 0},
    configurations=PAPER,
)
@register(
    "dynamic-memory-discriminator",
    "dynamic memory with the GAN's discriminator as the classifier, as in the paper",
    fixed={"classifier": "discriminator"},
    fast=FAST,
)
@register(
    "dynamic-memory", "replay from a GAN that grows and is frozen by learned masks", fast=FAST
)
class DynamicMemory(GANMethod):
    """Dynamic generative memory: an AC-GAN that grows by learned masks and replays old classes."""

    settings_type: ClassVar[type[DynamicMemorySettings]] = DynamicMemorySettings
    # All samples of a class must be in one task.
    needs = Needs(tasks=True)

    paper = staticmethod(paper_hyper)

    def _make_generator(self) -> MaskedGAN:
        return MaskedGAN(self.settings, all_classes=self.routes)
