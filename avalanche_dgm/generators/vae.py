"""Variational autoencoder for samples of any shape and range (Kingma & Welling 2014)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from avalanche_dgm.generators.spec import VAESpec
from avalanche_dgm.losses import bernoulli_nll, gaussian_kl, gaussian_nll
from avalanche_dgm.networks import ConvDecoder, DenseDecoder, build_encoder

#: Bounds of the encoder's log-variances: outside, ``exp`` would overflow in float16 or vanish.
_LOG_VARIANCE_BOUNDS = (-12.0, 8.0)


class VAE(nn.Module):
    """Encoder, decoder and the evidence lower bound.

    Inside, intensities are scaled from the specification's ``low``..``high`` to [0, 1]; methods
    take and return the user's range. They take any floating-point type and return the network's.

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
        # The range belongs to the specification, so it is not saved a second time.
        self.register_buffer("low", torch.tensor(spec.low).view(ranks), persistent=False)
        self.register_buffer("high", torch.tensor(spec.high).view(ranks), persistent=False)

    def _to_unit(self, images: Tensor) -> Tensor:
        unit = (images.to(self.low) - self.low) / (self.high - self.low)
        return unit.clamp(0, 1) if self.spec.likelihood == "bernoulli" else unit

    def _nll(self, outputs: Tensor, unit: Tensor) -> Tensor:
        if self.spec.likelihood == "bernoulli":
            return bernoulli_nll(outputs, unit)
        return gaussian_nll(outputs, unit, self.log_scale.clamp(-5.0, 2.0))

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the approximate posterior of each image.

        Args:
            images: Float tensor (n, *shape), in the user's range.

        Returns:
            Mean and log-variance, each (n, latent).
        """
        mean, log_variance = self.encoder(self._to_unit(images)).chunk(2, dim=1)
        return mean, log_variance.clamp(*_LOG_VARIANCE_BOUNDS)

    def decode(self, codes: Tensor) -> Tensor:
        """Returns the mean image of each code.

        Args:
            codes: Tensor (n, latent).

        Returns:
            Tensor (n, *shape), in the user's range.
        """
        outputs = self.decoder(codes)
        unit = outputs.sigmoid() if self.spec.likelihood == "bernoulli" else outputs
        return self.low + unit * (self.high - self.low)

    def reconstruct(self, images: Tensor) -> Tensor:
        """Returns the images as the model sees them: the decoded posterior means.

        Args:
            images: Float tensor (n, *shape).
        """
        return self.decode(self.encode(images)[0])

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        """Draws images from the prior.

        Args:
            n: How many.
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
            rng: Generator for one sample of the code; ``None`` uses the posterior's mean, which
                is deterministic.
            kl_weight: Factor of the divergence from the prior; other values than 1 give another
                objective than the bound (Higgins et al. 2017).

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
        """Returns how badly given codes decode to given images.

        Args:
            codes: Tensor (n, latent).
            images: Tensor (n, *shape).

        Returns:
            Tensor (n,), nats.
        """
        return self._nll(self.decoder(codes), self._to_unit(images))
