"""The two parts of the evidence lower bound of a variational autoencoder.

``-ELBO(x) = E_q(z|x)[-log p(x|z)] + KL(q(z|x) || N(0, I))`` (Kingma & Welling 2014, Eq. 3).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


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
