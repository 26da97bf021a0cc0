"""Hyper-parameters of generative adversarial networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from avalanche_dgm.errors import ConfigError, ShapeError
from avalanche_dgm.fitting import epochs_to_steps
from avalanche_dgm.modules import AtRest
from avalanche_dgm.optimizers import OptimizerSpec
from avalanche_dgm.settings import Settings

#: Parts of a task with a constant scale of the masks, if the number of epochs is not given.
PIECES = 10


@dataclass(frozen=True, kw_only=True)
class GANSettings(Settings):
    """Settings of a class-conditional generator and its discriminator (AC-GAN, WGAN-GP).

    Attributes:
        architecture: ``"auto"``, ``"dcgan"`` (three layers and a head), ``"resnet"`` (three
            residual blocks) or ``"dense"`` (flat samples); ``"auto"`` chooses by the samples.
        width: Channels of the generator's last layer; the layers before have 2 and 4 times as many.
        discriminator_width: Channels of the discriminator's first layer.
        latent: Noise dimensions.
        value_range: Smallest and largest possible intensity; ``None`` infers it from the first
            experience if its samples look like pixels, and sets no bounds otherwise.
        generator_steps: Steps of the generator per experience.
        generator_epochs: Epochs instead of ``generator_steps``.
        batch_size: Samples per step when the memory is trained.
        gan_optimizer: Optimiser of the generator and of the discriminator.
        discriminator_steps: Steps of the discriminator before each of the generator.
        penalty: Weight of the gradient penalty, 0 or more.
        penalty_every: Interval in rounds of the gradient penalty, whose weight is multiplied by it
            (lazy regularisation, Karras et al. 2020, Appendix B).
        class_steps: Classification steps of the discriminator in each round, on real samples of
            the experience and generated old ones; ``None`` for one per known class (the paper).
            They only matter if the discriminator is the classifier, where
            `discriminator_finetune_epochs` gives better results in less time.
        aux_classifier_loss: Whether the generator learns from the discriminator's class head:
            ``"auto"`` if the experience has more than one class, ``"always"`` or ``"never"``.
        replay_per_class: Samples of each class that are generated once per experience for replay;
            ``None`` for as many as the experience has per class.
        accelerate: Whether discriminator and generator are trained in mixed precision (bfloat16)
            and with channels last, for GPUs that support it (NVIDIA's since Ampere). Samples are
            generated in float32.
    """

    deprecated: ClassVar[Mapping[str, str]] = {
        "critic_width": "discriminator_width",
        "critic_steps": "discriminator_steps",
        "classes_guide": "aux_classifier_loss",
    }

    # Not annotated, as they are settings of `MaskedGANSettings` only.
    masking = "none"
    placement = "before"
    protection = "fan"
    at_rest = "float32"

    architecture: Literal["auto", "dcgan", "resnet", "dense"] = "auto"
    width: int = 20
    discriminator_width: int = 16
    latent: int = 128
    value_range: tuple[float, float] | None = None
    generator_steps: int = 1000
    generator_epochs: int | None = None
    batch_size: int = field(default=32, metadata={"least": 2})
    # A decaying learning rate gives better samples than a constant one.
    gan_optimizer: OptimizerSpec = OptimizerSpec(
        "adam", 2e-3, "cosine", options={"betas": (0.5, 0.999)}
    )
    discriminator_steps: int = 1
    penalty: float = field(default=1.0, metadata={"least": 0})
    penalty_every: int = 1
    class_steps: int | None = field(default=0, metadata={"least": 0})
    aux_classifier_loss: Literal["auto", "always", "never"] = "auto"
    replay_per_class: int | None = None
    accelerate: bool = False

    def architecture_for(self, shape: tuple[int, ...]) -> str:
        """The networks' architecture for samples of a shape.

        Raises:
            ShapeError: The given one cannot generate such samples.
        """
        flat = len(shape) == 1
        if self.architecture == "auto":
            return "dense" if flat else "dcgan"
        if (self.architecture == "dense") != flat:
            needed = "images (channels, height, width)" if flat else "flat samples (features,)"
            raise ShapeError(
                f"architecture={self.architecture!r} generates {needed}, but the samples have shape"
                f" {shape}. Use architecture='auto'."
            )
        return self.architecture

    def rounds(self, n_samples: int) -> int:
        """Steps of the generator on an experience with ``n_samples`` samples."""
        epochs, steps = self.generator_epochs, self.generator_steps
        return epochs_to_steps(epochs, n_samples, self.batch_size, otherwise=steps)

    def scale(self, number: int, rounds: int) -> float:
        """The scale s of the masks' sigmoid in a round, from 0; not used without masks."""
        return 1.0


@dataclass(frozen=True, kw_only=True)
class MaskedGANSettings(GANSettings):
    """Settings of a generator that learns masks and grows (Ostapenko et al. 2019).

    With ``placement="before"``, an unused unit still outputs the constant ``ReLU(shift)`` of its
    normalisation. With ``protection="ends"``, weights from such units to reserved ones may change.
    With both, which is what the authors' code does, images of earlier tasks drift; with all other
    combinations they do not change.

    Attributes:
        masking: What a mask covers: ``"units"`` (the paper), one entry per output channel, or
            ``"weights"`` (the authors' later variant), one per weight. The next two settings are
            for units.
        placement: Where units are masked: ``"before"`` the normalisation (``y = m * (W x)``, Eq. 2)
            or ``"after"`` the activation.
        protection: Which weights of earlier tasks are frozen: ``"fan"``, all into a reserved unit
            (Eq. 4), or ``"ends"``, those between two reserved units (Serrà et al. 2018, Eq. 2).
            Weights from the noise are frozen if their output is reserved.
        smax: Maximum scale of the masks' sigmoid, above 1.
        annealing: How the scale increases (Eq. 3): ``"epochs"``, constant within each, or
            ``"steps"``.
        compensation: How the embeddings' gradients are corrected for the scale: ``"authors"``,
            ``"hat"`` (Serra et al. 2018) or ``"none"``.
        sparsity: Weight lambda_RU of the fraction of free units that a task uses (Eq. 6), 0 or
            more.
        at_rest: Data type of the generator's weights between experiences. All are rounded when an
            experience ends; its reserved weights do not change afterwards, bit by bit. The
            generator is trained and sampled in float32.
    """

    masking: Literal["units", "weights"] = "units"
    placement: Literal["before", "after"] = "before"
    protection: Literal["fan", "ends"] = "fan"
    smax: float = field(default=1e5, metadata={"above": 1})
    annealing: Literal["epochs", "steps"] = "epochs"
    compensation: Literal["authors", "hat", "none"] = "authors"
    sparsity: float = field(default=0.002, metadata={"least": 0})
    at_rest: AtRest = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        decay = self.gan_optimizer.options.get("weight_decay", 0)
        if decay:
            raise ConfigError(
                f"gan_optimizer has weight_decay={decay}, which would change reserved weights and"
                " with them old samples. Leave it out."
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
        class_inputs: Inputs of the generator that encode the class: the maximum number of classes.
    """

    class_inputs: int = 32
    aux_classifier_loss: Literal["auto", "always", "never"] = "always"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.class_inputs >= self.latent:
            raise ConfigError(
                f"class_inputs={self.class_inputs} of latent={self.latent} inputs leave none for"
                " noise. Increase latent, or set class_inputs to the number of classes."
            )
