"""The sizes and the likelihood of a variational autoencoder, given or chosen from the data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from torch import Tensor

from avalanche_dgm.errors import ConfigError, ShapeError
from avalanche_dgm.generators.ranges import (
    check_intensities,
    check_scale,
    intensity_range,
    known_range,
    standard_range,
)


@dataclass(frozen=True)
class VAESpec:
    """Everything that is needed to build a `VAE` again.

    Attributes:
        shape: Shape of one sample, (C, H, W) or (D,).
        architecture: ``"dense"`` or ``"conv"``.
        hidden: Widths of the hidden dense layers, or channels of the stride-2 convolutions.
        latent: Number of latent dimensions.
        likelihood: ``"bernoulli"`` or ``"gaussian"``, the distribution of a pixel.
        low: Smallest intensity for each channel, in the user's units. With Gaussian pixels ``low``
            and ``high`` are a scale and no bounds; flat samples may have one for each feature.
        high: Largest intensity for each channel, above ``low``.
    """

    shape: tuple[int, ...]
    architecture: str
    hidden: tuple[int, ...]
    latent: int
    likelihood: str
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.architecture not in ("dense", "conv"):
            raise ConfigError(f"Unknown architecture {self.architecture!r}; use 'dense' or 'conv'.")
        if self.likelihood not in ("bernoulli", "gaussian"):
            raise ConfigError(
                f"Unknown likelihood {self.likelihood!r}; use 'bernoulli' or 'gaussian'."
            )
        if self.architecture == "conv" and len(self.shape) != 3:
            raise ConfigError(
                f"A convolutional generator needs images (channels, height, width), not samples of"
                f" shape {self.shape}. Use architecture='dense'."
            )
        if self.latent < 1 or not self.hidden or min(self.hidden) < 1:
            raise ConfigError(
                f"latent={self.latent} and hidden={self.hidden} must be whole numbers above 0."
            )

    def to_dict(self) -> dict[str, Any]:
        """Returns plain numbers, strings and tuples."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> VAESpec:
        """Builds the specification that `to_dict` described."""
        plain: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        return cls(**plain)


def choose_spec(
    images: Tensor,
    *,
    architecture: str = "auto",
    hidden: tuple[int, ...] | None = None,
    latent: int | None = None,
    likelihood: str = "auto",
    value_range: tuple[float, float] | None = None,
) -> VAESpec:
    """Fills in what the user left open, from the first experience's images.

    Dense layers serve flat samples and small grey images, convolutions larger or coloured ones.
    Bernoulli pixels serve grey images and flat samples that look like pixels of a known range, see
    `avalanche_dgm.generators.ranges.known_range`; all else is Gaussian. Vectors that are no pixels
    are standardised: by mean and standard deviation of each feature in the first experience.

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
    small = len(shape) == 1 or (shape[0] < 3 and prod(shape) <= 1024)
    if architecture == "auto":
        architecture = "dense" if small else "conv"
    pixels = known_range(images) if value_range is None else None
    standardised = False
    if likelihood == "auto":
        grey, bounded = len(shape) == 1 or shape[0] < 3, pixels or value_range
        likelihood = "bernoulli" if grey and bounded else "gaussian"
        standardised = len(shape) == 1 and not bounded
    if hidden is None:
        hidden = _default_hidden(shape, architecture)
    if latent is None:
        latent = 16 if prod(shape) <= 128 else 32 if small else 64
    if standardised:
        low, high = standard_range(images)
    elif pixels is not None and likelihood == "bernoulli":
        low, high = pixels
    else:
        low, high = intensity_range(images, value_range)
    spec = VAESpec(shape, architecture, tuple(hidden), latent, likelihood, low, high)
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
    if spec.likelihood == "bernoulli":
        check_intensities(
            images,
            spec.low,
            spec.high,
            given=given,
            what="a Bernoulli VAE",
            remedy=", or use likelihood='gaussian'",
        )
    if not given:
        check_scale(images, spec.low, spec.high)


def _default_hidden(shape: tuple[int, ...], architecture: str) -> tuple[int, ...]:
    # Flat samples cannot be convolved: the specification says so, whatever the widths.
    if architecture == "dense" or len(shape) != 3:
        width = min(400, max(128, 4 * prod(shape)))
        return (width, width)
    channels = [32, 64, 128, 256]
    depth, side = 0, min(shape[1:])
    while side > 4 and depth < len(channels):
        side, depth = (side + 1) // 2, depth + 1
    return tuple(channels[: max(depth, 1)])
