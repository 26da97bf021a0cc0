"""The sizes and the likelihood of a variational autoencoder, given or chosen from the data."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

from torch import Tensor

from avalanche_dgm.errors import ConfigError, ShapeError
from avalanche_dgm.generators.base import SampleSpec
from avalanche_dgm.generators.ranges import check_scale, choose_scale
from avalanche_dgm.networks import default_architecture, default_hidden
from avalanche_dgm.settings import check_fields


@dataclass(frozen=True)
class VAESpec(SampleSpec):
    """Everything that is needed to build a `VAE` again.

    Attributes:
        architecture: ``"dense"`` or ``"conv"``.
        hidden: Widths of the hidden dense layers, or channels of the stride-2 convolutions.
        latent: Number of latent dimensions.
        likelihood: ``"bernoulli"`` or ``"gaussian"``, the distribution of a pixel.
        low: Smallest intensity for each channel, in the user's units. With Gaussian pixels ``low``
            and ``high`` are a scale and no bounds; flat samples may have one for each feature.
        high: Largest intensity for each channel, above ``low``.

    Raises:
        ConfigError: A value cannot work.
    """

    architecture: Literal["dense", "conv"]
    hidden: tuple[int, ...]
    latent: int
    likelihood: Literal["bernoulli", "gaussian"]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        check_fields(self)
        if self.architecture == "conv" and len(self.shape) != 3:
            raise ConfigError(
                f"A convolutional generator needs images (channels, height, width), not samples of"
                f" shape {self.shape}. Use architecture='dense'."
            )


def choose_spec(
    images: Tensor,
    *,
    architecture: Literal["auto", "dense", "conv"] = "auto",
    hidden: tuple[int, ...] | None = None,
    latent: int | None = None,
    likelihood: Literal["auto", "bernoulli", "gaussian"] = "auto",
    value_range: tuple[float, float] | None = None,
) -> VAESpec:
    """Fills in what the user left open, from the first experience's images.

    See `avalanche_dgm.networks.default_architecture` and
    `avalanche_dgm.generators.ranges.choose_scale`.

    Args:
        images: Float tensor (N, C, H, W) or (N, D).
        architecture: ``"auto"``, ``"dense"`` or ``"conv"``.
        hidden: Widths or channels, or ``None``.
        latent: Number of latent dimensions, or ``None``.
        likelihood: ``"auto"``, ``"bernoulli"`` or ``"gaussian"``.
        value_range: Smallest and largest possible intensity; ``None`` finds them out, or does
            without.

    Raises:
        RangeError: Images lie outside ``value_range``.
    """
    shape = tuple(int(s) for s in images.shape[1:])
    default = default_architecture(shape)
    chosen = default if architecture == "auto" else architecture
    if hidden is None:
        hidden = default_hidden(shape, chosen)
    if latent is None:
        latent = 16 if prod(shape) <= 128 else 32 if default == "dense" else 64
    scale = choose_scale(images, likelihood=likelihood, value_range=value_range)
    spec = VAESpec(shape, chosen, tuple(hidden), latent, *scale)
    if value_range is not None:
        check_images(spec, images, given=True)
    return spec


def check_images(spec: VAESpec, images: Tensor, *, given: bool = False) -> None:
    """Checks that a generator of this specification can produce such images.

    Args:
        spec: The generator's specification.
        images: Float tensor (N, *spec.shape).
        given: Whether the user stated the range; then nothing outside it is accepted.

    Raises:
        ShapeError: The images have another shape.
        RangeError: Intensities outside the range, for Bernoulli pixels; far from it, for Gaussian.
    """
    shape = tuple(images.shape[1:])
    if shape != spec.shape:
        raise ShapeError(
            f"Images of shape {shape} were given, but the generator makes {spec.shape}. Resize"
            " them, or use a new generator."
        )
    check_scale(
        images,
        spec.low,
        spec.high,
        bounded=spec.likelihood == "bernoulli",
        given=given,
        what="a Bernoulli VAE",
        remedy=", or use likelihood='gaussian'",
    )
