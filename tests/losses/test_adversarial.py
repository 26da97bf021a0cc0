"""Losses of a Wasserstein discriminator and its generator against closed formulas."""

import pytest
import torch
from torch import nn

from avalanche_dgm.losses import discriminator_loss, generator_loss, gradient_penalty


def test_scores():
    real, generated = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([-1.0, 2.0])
    assert discriminator_loss(real, generated).item() == pytest.approx(0.5 - 3.0)
    assert generator_loss(generated).item() == pytest.approx(-0.5)


def test_the_slope_of_a_linear_discriminator_is_its_weight():
    torch.manual_seed(0)
    discriminator = nn.Linear(12, 1)
    real, generated, shares = torch.randn(5, 3, 2, 2), torch.randn(5, 3, 2, 2), torch.rand(5)

    def score(x):
        return discriminator(x.flatten(1)).flatten()

    penalty = gradient_penalty(score, real, generated, shares)
    norm = discriminator.weight.norm()
    torch.testing.assert_close(penalty, (norm - 1) ** 2)
    penalty.backward()
    wanted = (2 * (norm - 1) / norm * discriminator.weight).detach()
    torch.testing.assert_close(discriminator.weight.grad, wanted)


def test_the_slope_is_taken_between_the_samples():
    """Of x^2 it is 2x, at the mixture that the shares say."""
    real, generated = torch.tensor([[2.0], [2.0]]), torch.tensor([[0.0], [4.0]])
    penalty = gradient_penalty(
        lambda x: x.square().flatten(), real, generated, torch.tensor([0.25, 0.75])
    )
    assert penalty.item() == pytest.approx(((2 * 0.5 - 1) ** 2 + (2 * 2.5 - 1) ** 2) / 2)
