"""The sizes and the likelihood of a variational autoencoder, given or chosen from the data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isfinite, prod
from typing import Any

from torch import Tensor

from avalanche_dgm.errors import ConfigError, RangeError, ShapeError

#: Share of the learned range by which later intensities may exceed it; they are clipped.
RANGE_TOLERANCE = 0.25


@dataclass(frozen=True)
class VAESpec:
    """Everything that is needed to build a `VAE` again.

    Attributes:
        shape: Shape of one sample, (C, H, W) or (D,).
        architecture: ``"dense"`` or ``"conv"``.
        hidden: Widths of the hidden dense layers, or channels of the stride-2 convolutions.
        latent: Number of latent dimensions.
        likelihood: ``"bernoulli"`` or ``"gaussian"``, the distribution of a pixel.
        low: Smallest intensity for each channel, in the user's units.
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

    Dense layers and Bernoulli pixels serve flat samples and small grey images; larger or coloured
    images get convolutions and Gaussian pixels.

    Args:
        images: Float tensor (N, C, H, W) or (N, D).
        architecture: ``"auto"``, ``"dense"`` or ``"conv"``.
        hidden: Widths or channels, or ``None``.
        latent: Number of latent dimensions, or ``None``.
        likelihood: ``"auto"``, ``"bernoulli"`` or ``"gaussian"``.
        value_range: Smallest and largest possible intensity; ``None`` takes the smallest and
            largest of ``images`` for each channel.

    Raises:
        RangeError: Images lie outside ``value_range``.
    """
    shape = tuple(int(s) for s in images.shape[1:])
    small = len(shape) == 1 or (shape[0] < 3 and prod(shape) <= 1024)
    if architecture == "auto":
        architecture = "dense" if small else "conv"
    if likelihood == "auto":
        likelihood = "bernoulli" if len(shape) == 1 or shape[0] < 3 else "gaussian"
    if hidden is None:
        hidden = _default_hidden(shape, architecture)
    if latent is None:
        latent = 16 if prod(shape) <= 128 else 32 if small else 64
    low, high = intensity_range(images, value_range)
    spec = VAESpec(shape, architecture, tuple(hidden), latent, likelihood, low, high)
    check_images(spec, images, given=value_range is not None)
    return spec


def check_images(spec: VAESpec, images: Tensor, *, given: bool = False) -> None:
    """Checks that a generator of this specification can produce such images.

    Args:
        spec: The generator's specification.
        images: Float tensor (N, *spec.shape).
        given: Whether the user stated the range; then nothing outside it is accepted.

    Raises:
        ShapeError: The images have another shape.
        RangeError: Intensities outside the range, for Bernoulli pixels.
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


def check_intensities(
    images: Tensor,
    low: tuple[float, ...],
    high: tuple[float, ...],
    *,
    given: bool,
    what: str,
    remedy: str = "",
) -> None:
    """Checks that a generator with bounded intensities can produce such images.

    Args:
        images: Float tensor (N, C, H, W) or (N, D).
        low: Smallest intensity for each channel.
        high: Largest intensity for each channel.
        given: Whether the user stated the range; then nothing outside it is accepted.
        what: How messages call the generator.
        remedy: A further way out, for the message.

    Raises:
        RangeError: It cannot.
    """
    tolerance = 1e-6 if given else RANGE_TOLERANCE
    smallest, largest = _channel_extremes(images, len(low))
    for channel, (bottom, top) in enumerate(zip(low, high, strict=True)):
        slack = tolerance * (top - bottom)
        if smallest[channel] < bottom - slack or largest[channel] > top + slack:
            raise RangeError(
                f"Channel {channel} has intensities from {smallest[channel]:.4g} to"
                f" {largest[channel]:.4g}, but {what} for {bottom:.4g} to {top:.4g} cannot"
                " produce them. Scale the images the same way in every experience, or pass their"
                f" full range as value_range=(low, high){remedy}."
            )


def check_range(value_range: tuple[float, float] | None) -> None:
    """Checks the range of intensities that a user gave.

    Args:
        value_range: Smallest and largest possible intensity, or ``None``.

    Raises:
        ConfigError: It is not two finite numbers, the first below the second.
    """
    if value_range is None:
        return
    try:
        low, high = (float(value) for value in value_range)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"value_range={value_range!r} must be two numbers, the smallest and the largest"
            " possible intensity."
        ) from error
    if not (isfinite(low) and isfinite(high) and low < high):
        raise ConfigError(f"value_range={value_range} needs its first number below its second.")


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


def _channel_extremes(images: Tensor, n_channels: int) -> tuple[list[float], list[float]]:
    channels = images.transpose(0, 1).flatten(1) if n_channels > 1 else images.reshape(1, -1)
    return channels.amin(dim=1).tolist(), channels.amax(dim=1).tolist()


def intensity_range(
    images: Tensor, given: tuple[float, float] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The smallest and the largest intensity of each channel.

    Args:
        images: Float tensor (N, C, H, W), or (N, D), which has one channel.
        given: What the user says that they are, for all channels, or ``None``.

    Raises:
        ConfigError: What is given is not a range.
    """
    n_channels = int(images.shape[1]) if images.ndim == 4 else 1
    if given is not None:
        check_range(given)
        low, high = float(given[0]), float(given[1])
        return (low,) * n_channels, (high,) * n_channels
    smallest, largest = _channel_extremes(images, n_channels)
    # A channel that is constant so far gets a range of one, so that scaling stays defined.
    return tuple(smallest), tuple(
        h if h > lo else lo + 1.0 for lo, h in zip(smallest, largest, strict=True)
    )
