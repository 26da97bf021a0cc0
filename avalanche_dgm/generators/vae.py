"""The variational autoencoder, for samples of any shape and range (Kingma & Welling 2014)."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from avalanche_dgm.errors import ConfigError, ShapeError
from avalanche_dgm.generators.base import SampleSpec, VAESettings
from avalanche_dgm.generators.ranges import check_scale, choose_scale
from avalanche_dgm.losses import bernoulli_nll, gaussian_kl, gaussian_nll
from avalanche_dgm.networks import (
    ConvDecoder,
    DenseDecoder,
    build_encoder,
    default_architecture,
    default_hidden,
)
from avalanche_dgm.settings import check_fields, make_settings

#: Bounds of the encoder's log-variances, outside of which ``exp`` overflows or vanishes in float16.
_LOG_VARIANCE_BOUNDS = (-12.0, 8.0)


@dataclass(frozen=True)
class VAESpec(SampleSpec):
    """Specification from which a `VAE` is built.

    Attributes:
        architecture: ``"dense"`` or ``"conv"``.
        hidden: Widths of the hidden dense layers, or channels of the stride-2 convolutions.
        latent: Number of latent dimensions.
        likelihood: ``"bernoulli"`` or ``"gaussian"``, the distribution of a pixel.
        low: Smallest intensity for each channel, in the user's units. With Gaussian pixels ``low``
            and ``high`` are a scale, not bounds; flat samples may have one for each feature.
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


def choose_spec(images: Tensor, settings: VAESettings | None = None, **changes: Any) -> VAESpec:
    """Chooses the settings that are ``None`` or ``"auto"`` for the first experience's images.

    See `avalanche_dgm.networks.default_architecture` and
    `avalanche_dgm.generators.ranges.choose_scale`.

    Args:
        images: Float tensor (N, C, H, W) or (N, D).
        settings: Architecture, sizes, likelihood and range; ``None`` for the defaults.
        **changes: Fields of `VAESettings` that replace those of ``settings``.

    Raises:
        ConfigError: A setting cannot work.
        RangeError: Images lie outside ``value_range``.
    """
    s = make_settings(VAESettings, changes, base=settings)
    shape = tuple(int(side) for side in images.shape[1:])
    default = default_architecture(shape)
    architecture = default if s.architecture == "auto" else s.architecture
    hidden, latent = s.hidden, s.latent
    if hidden is None:
        hidden = default_hidden(shape, architecture)
    if latent is None:
        latent = 16 if prod(shape) <= 128 else 32 if default == "dense" else 64
    scale = choose_scale(images, likelihood=s.likelihood, value_range=s.value_range)
    spec = VAESpec(shape, architecture, tuple(hidden), latent, *scale)
    if s.value_range is not None:
        check_images(spec, images, given=True)
    return spec


def check_images(spec: VAESpec, images: Tensor, *, given: bool = False) -> None:
    """Checks that a generator with this specification can produce images (N, *spec.shape).

    If the user has ``given`` the range, nothing outside it is accepted.

    Raises:
        ShapeError: The images have another shape.
        RangeError: Intensities outside the range with Bernoulli pixels, far from it with Gaussian.
    """
    shape = tuple(images.shape[1:])
    if shape != spec.shape:
        raise ShapeError(
            f"The images have shape {shape}, but the generator generates {spec.shape}. Resize"
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


class VAE(nn.Module):
    """Encoder, decoder and the evidence lower bound.

    Methods take and return the user's range, which is scaled from ``low``..``high`` to [0, 1]
    internally. They take any floating-point type and return the network's.

    Args:
        spec: Sizes, likelihood and range.
    """

    low: Tensor
    high: Tensor

    def __init__(self, spec: VAESpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = build_encoder(
            spec.shape,
            architecture=spec.architecture,
            hidden=spec.hidden,
            n_outputs=2 * spec.latent,
        )
        self.decoder: nn.Module
        if spec.architecture == "conv":
            self.decoder = ConvDecoder(spec.latent, spec.hidden, spec.shape)
        else:
            self.decoder = DenseDecoder(spec.latent, spec.hidden[::-1], spec.shape)
        if spec.likelihood == "gaussian":
            self.log_scale = nn.Parameter(torch.tensor(-1.0))
        ranks = (-1, 1, 1) if len(spec.shape) == 3 else (-1,)
        # Not persistent, as the specification has the range.
        self.register_buffer("low", torch.tensor(spec.low).view(ranks), persistent=False)
        self.register_buffer("high", torch.tensor(spec.high).view(ranks), persistent=False)

    def _to_unit(self, images: Tensor) -> Tensor:
        return (images.to(self.low) - self.low) / (self.high - self.low)

    def _nll(self, outputs: Tensor, unit: Tensor) -> Tensor:
        if self.spec.likelihood == "bernoulli":
            # Only here: an encoder that sees clipped noise sees noise whose mean is not 0.
            return bernoulli_nll(outputs, unit.clamp(0, 1))
        return gaussian_nll(outputs, unit, self.log_scale.clamp(-5.0, 2.0))

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the approximate posterior of each image.

        Args:
            images: Float tensor (n, *shape), in the user's range; values outside of it, such as
                those of noisy images, are not clipped.

        Returns:
            Mean and log-variance, each (n, latent).
        """
        mean, log_variance = self.encoder(self._to_unit(images)).chunk(2, dim=1)
        return mean, log_variance.clamp(*_LOG_VARIANCE_BOUNDS)

    def decode(self, codes: Tensor) -> Tensor:
        """Returns the mean image of each latent.

        Args:
            codes: Tensor (n, latent).

        Returns:
            Tensor (n, *shape), in the user's range.
        """
        outputs = self.decoder(codes)
        unit = outputs.sigmoid() if self.spec.likelihood == "bernoulli" else outputs
        return self.low + unit * (self.high - self.low)

    def reconstruct(self, images: Tensor) -> Tensor:
        """Returns the decoded posterior means (n, *shape) of images (n, *shape)."""
        return self.decode(self.encode(images)[0])

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        """Draws images from the prior.

        Args:
            n: Number of images.
            rng: Generator on the model's device.

        Returns:
            Tensor (n, *shape), in the user's range.
        """
        codes = torch.randn(n, self.spec.latent, generator=rng, device=self.low.device)
        return self.decode(codes)

    def negative_elbo(
        self, images: Tensor, rng: torch.Generator | None = None, *, kl_weight: float = 1.0
    ) -> Tensor:
        """Returns the negative evidence lower bound (Kingma & Welling 2014, Eq. 10).

        Args:
            images: Float tensor (n, *shape).
            rng: Generator for one sample of the latent; ``None`` uses the posterior's mean, which
                is deterministic.
            kl_weight: Factor of the divergence from the prior; with values other than 1 the result
                is not the bound (Higgins et al. 2017).

        Returns:
            Tensor (n,), nats.
        """
        unit = self._to_unit(images)
        mean, log_variance = self.encode(images)
        codes = mean
        if rng is not None:
            noise = torch.randn(mean.shape, generator=rng, device=mean.device, dtype=mean.dtype)
            codes = mean + noise * (0.5 * log_variance).exp()
        return self._nll(self.decoder(codes), unit) + kl_weight * gaussian_kl(mean, log_variance)

    def decoding_loss(self, codes: Tensor, images: Tensor) -> Tensor:
        """Returns the negative log-likelihood of images given latents.

        Args:
            codes: Tensor (n, latent).
            images: Tensor (n, *shape).

        Returns:
            Tensor (n,), nats.
        """
        return self._nll(self.decoder(codes), self._to_unit(images))
