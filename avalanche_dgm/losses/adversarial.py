"""Losses of a Wasserstein critic and its generator (Gulrajani et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def critic_loss(real: Tensor, generated: Tensor) -> Tensor:
    """What a critic minimises: the negative of the distance that it estimates.

    Args:
        real: Scores (n,) of real samples.
        generated: Scores (m,) of generated samples.

    Returns:
        Scalar.
    """
    return generated.mean() - real.mean()


def generator_loss(generated: Tensor) -> Tensor:
    """What a generator minimises.

    Args:
        generated: Scores (n,) of what it generated.

    Returns:
        Scalar.
    """
    return -generated.mean()


def gradient_penalty(
    score: Callable[[Tensor], Tensor], real: Tensor, generated: Tensor, shares: Tensor
) -> Tensor:
    """How far the critic's slope is from 1 between real and generated samples (Eq. 3 there).

    The result has a gradient with respect to the critic, through the gradient that it is made of.

    Args:
        score: The critic, from samples (n, *shape) to scores (n,).
        real: Float tensor (n, *shape).
        generated: Float tensor (n, *shape).
        shares: Float tensor (n,) in [0, 1], how much of the real sample each mixture has.

    Returns:
        Scalar: the mean of the squared difference of the Euclidean norm and 1.
    """
    shares = shares.reshape(-1, *[1] * (real.ndim - 1))
    mixed = (shares * real + (1 - shares) * generated).detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(score(mixed).sum(), mixed, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()
