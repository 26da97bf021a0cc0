"""Losses of generators: pure functions of tensors."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# The evidence lower bound


def bernoulli_nll(logits: Tensor, images: Tensor) -> Tensor:
    """Negative log-likelihood under independent Bernoulli pixels.

    Args:
        logits: Any shape (n, ...), pre-sigmoid outputs of a decoder.
        images: Same shape, intensities in [0, 1].

    Returns:
        Tensor (n,), nats summed over the pixels.
    """
    return (
        F.binary_cross_entropy_with_logits(logits, images, reduction="none").flatten(1).sum(dim=1)
    )


def gaussian_nll(mean: Tensor, images: Tensor, log_scale: Tensor) -> Tensor:
    """Negative log-likelihood under Gaussian pixels with one shared standard deviation.

    Args:
        mean: Any shape (n, ...), outputs of a decoder.
        images: Same shape, real-valued.
        log_scale: Scalar, natural logarithm of the standard deviation.

    Returns:
        Tensor (n,), nats summed over the pixels.
    """
    squared = ((mean - images) * torch.exp(-log_scale)).square()
    return (0.5 * squared + log_scale + 0.5 * math.log(2 * math.pi)).flatten(1).sum(dim=1)


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence of a diagonal Gaussian from the standard normal.

    Args:
        mean: Tensor (n, z).
        log_variance: Tensor (n, z), natural logarithm of the variances.

    Returns:
        Tensor (n,), nats (Kingma & Welling 2014, appendix B).
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)


# Adversarial training


def discriminator_loss(real: Tensor, generated: Tensor) -> Tensor:
    """Loss of a discriminator: the negative of the distance that it estimates.

    Args:
        real: Scores (n,) of real samples.
        generated: Scores (m,) of generated samples.

    Returns:
        Scalar.
    """
    return generated.mean() - real.mean()


def generator_loss(generated: Tensor) -> Tensor:
    """Loss of a generator.

    Args:
        generated: Scores (n,) of generated samples.

    Returns:
        Scalar.
    """
    return -generated.mean()


def gradient_penalty(
    score: Callable[[Tensor], Tensor], real: Tensor, generated: Tensor, shares: Tensor
) -> Tensor:
    """Gradient penalty of the discriminator between real and generated samples (WGAN-GP, Eq. 3).

    The result is differentiable with respect to the discriminator's parameters.

    Args:
        score: The discriminator, from samples (n, *shape) to scores (n,).
        real: Float tensor (n, *shape).
        generated: Float tensor (n, *shape).
        shares: Float tensor (n,) in [0, 1], the weight of the real sample in each mixture.

    Returns:
        Scalar: the mean of the squared difference of the Euclidean norm and 1.
    """
    shares = shares.reshape(-1, *[1] * (real.ndim - 1))
    mixed = (shares * real + (1 - shares) * generated).detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(score(mixed).sum(), mixed, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()
