"""Hyper-parameters of generative adversarial networks."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.fitting import OptimizerSpec, epochs_to_steps
from avalanche_dgm.modules import AtRest
from avalanche_dgm.settings import Settings

if TYPE_CHECKING:
    from avalanche_dgm.generators.gan import GAN

#: Parts of a task in each of which the masks' scale is constant, where there are no epochs.
PIECES = 10


def _adam() -> OptimizerSpec:
    # What a constant rate ends with depends on the last steps: a falling one makes better samples.
    return OptimizerSpec("adam", 2e-3, "cosine", options={"betas": (0.5, 0.999)})


@dataclass(frozen=True, kw_only=True)
class GANSettings(Settings):
    """Settings of a generator of labelled samples and its discriminator (AC-GAN, WGAN-GP).

    Attributes:
        architecture: ``"auto"``, ``"dcgan"`` (three layers and a head), ``"resnet"`` (three
            residual blocks) or ``"dense"`` (flat samples); ``"auto"`` looks at the samples.
        width: Channels of the generator's last layer; the layers before have 2 and 4 times as many.
        discriminator_width: Channels of the discriminator's first layer.
        latent: Noise dimensions.
        value_range: Smallest and largest possible intensity; ``None`` infers it from the first
            experience if its samples look like pixels, and sets no bounds otherwise.
        generator_steps: Steps of the generator per experience.
        generator_epochs: Passes over the data instead of ``generator_steps``.
        batch_size: Samples per step when the memory is trained.
        gan_optimizer: Optimiser of the generator and of the discriminator.
        discriminator_steps: Steps of the discriminator before each of the generator.
        penalty: Weight of the gradient penalty, 0 or more.
        penalty_every: Rounds from one gradient penalty to the next, which weighs as much more (lazy
            regularisation, Karras et al. 2020, Appendix B); 1 for one in each.
        class_steps: Steps of the discriminator on classes in each round, real samples of the
            experience and generated old ones; ``None`` for one a known class (the paper). They
            serve nothing but the discriminator's answers where it is the classifier, which
            `discriminator_finetune_epochs` make better in less time.
        aux_classifier_loss: Whether the generator learns from the discriminator's answers on
            classes: ``"auto"`` if the experience has more than one class, ``"always"`` or
            ``"never"``.
        replay_per_class: Samples that are generated of each class, once an experience, to be
            replayed from then on; ``None`` for as many as the experience has of a class.
        accelerate: Whether discriminator and generator are trained in mixed precision (bfloat16)
            and with channels last, for GPUs that compute it (NVIDIA's since Ampere). Samples are
            made in float32 all the same.
    """

    deprecated: ClassVar[Mapping[str, str]] = {
        "critic_width": "discriminator_width",
        "critic_steps": "discriminator_steps",
        "classes_guide": "aux_classifier_loss",
    }

    architecture: Literal["auto", "dcgan", "resnet", "dense"] = "auto"
    width: int = 20
    discriminator_width: int = 16
    latent: int = 128
    value_range: tuple[float, float] | None = None
    generator_steps: int = 1000
    generator_epochs: int | None = None
    batch_size: int = field(default=32, metadata={"least": 2})
    gan_optimizer: OptimizerSpec = field(default_factory=_adam)
    discriminator_steps: int = 1
    penalty: float = 1.0
    penalty_every: int = 1
    class_steps: int | None = field(default=0, metadata={"least": 0})
    aux_classifier_loss: Literal["auto", "always", "never"] = "auto"
    replay_per_class: int | None = None
    accelerate: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.penalty >= 0:
            raise ConfigError(f"penalty={self.penalty} must be 0 or more.")
        if not isinstance(self.accelerate, bool):
            raise ConfigError(f"accelerate={self.accelerate!r} must be True or False.")

    def architecture_for(self, shape: tuple[int, ...]) -> str:
        """The networks' architecture for samples of a shape."""
        if self.architecture != "auto":
            return self.architecture
        return "dense" if len(shape) == 1 else "dcgan"

    def rounds(self, n_samples: int) -> int:
        """Steps of the generator on an experience of so many samples."""
        if self.generator_epochs is None:
            return self.generator_steps
        return epochs_to_steps(self.generator_epochs, n_samples, self.batch_size)

    def scale(self, number: int, rounds: int) -> float:
        """The scale s of the masks' sigmoid, of no account without masks.

        Args:
            number: Number of the round, counted from 0.
            rounds: How many there are.
        """
        return 1.0


@dataclass(frozen=True, kw_only=True)
class MaskedGANSettings(GANSettings):
    """Settings of a generator that learns masks and grows (Ostapenko et al. 2019).

    Attributes:
        masking: What a mask covers: ``"units"`` (the paper) or ``"weights"`` (the authors' later
            variant).
        placement: Where units are masked: ``"before"`` the norm (Eq. 2) or ``"after"`` the
            rectifier.
        protection: Which weights are frozen: ``"fan"``, all that come into a reserved unit (Eq. 4);
            ``"ends"``, those between two reserved units, which keeps old samples bit by bit only
            with ``placement="after"``.
        smax: Largest scale of the masks' sigmoid, above 1.
        annealing: How the scale gets there (Eq. 3): ``"epochs"``, constant within each, or
            ``"steps"``.
        compensation: What is done about the scale in the embeddings' gradients: ``"authors"``,
            ``"hat"`` (Serra et al. 2018) or ``"none"``.
        sparsity: Weight lambda_RU of the share of free units that a task takes (Eq. 6), 0 or more.
        at_rest: The type of the generator's weights between experiences, see `MaskedSpec`. It is
            trained, and makes samples, in float32 all the same.
    """

    masking: Literal["units", "weights"] = "units"
    placement: Literal["before", "after"] = "before"
    protection: Literal["fan", "ends"] = "fan"
    smax: float = 1e5
    annealing: Literal["epochs", "steps"] = "epochs"
    compensation: Literal["authors", "hat", "none"] = "authors"
    sparsity: float = 0.002
    at_rest: AtRest = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.smax > 1:
            raise ConfigError(f"smax={self.smax} must be above 1: the scale rises to it.")
        if not self.sparsity >= 0:
            raise ConfigError(f"sparsity={self.sparsity} must be 0 or more.")
        decay = self.gan_optimizer.options.get("weight_decay", 0)
        if decay:
            raise ConfigError(
                f"gan_optimizer has weight_decay={decay}, which moves weights without a gradient,"
                " and with them those that are reserved: old samples would change. Leave it out."
            )

    def scale(self, number: int, rounds: int) -> float:
        """See `GANSettings.scale` (Eq. 3)."""
        if self.annealing == "steps":
            done = number / max(rounds - 1, 1)
        else:
            pieces = min(self.generator_epochs or PIECES, rounds)
            done = (number * pieces // rounds) / pieces
        return 1 / self.smax + (self.smax - 1 / self.smax) * done


@dataclass(frozen=True, kw_only=True)
class ConditionalGANSettings(GANSettings):
    """Settings of a generator that learns all classes with the same weights.

    Attributes:
        class_inputs: Inputs of the generator that say the class: most classes there can be.
    """

    class_inputs: int = 32
    aux_classifier_loss: Literal["auto", "always", "never"] = "always"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.class_inputs >= self.latent:
            raise ConfigError(
                f"class_inputs={self.class_inputs} of latent={self.latent} inputs leave none for"
                " noise. Set latent higher, or class_inputs to the number of classes."
            )


def make_masked_gan(settings: MaskedGANSettings, **options: Any) -> GAN:
    """Makes a `MaskedGAN`, whose module is not imported before.

    Args:
        settings: Its hyper-parameters.
        **options: Further arguments of its class.
    """
    module = importlib.import_module("avalanche_dgm.generators.masked_gan")
    made: GAN = module.MaskedGAN(settings, **options)
    return made
