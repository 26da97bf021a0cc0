"""The parts of the evidence lower bound against torch.distributions."""

import pytest
import torch
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

from avalanche_dgm.losses import bernoulli_nll, gaussian_kl, gaussian_nll

SHAPES = [(7,), (1, 8, 8), (3, 5, 4)]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("shape", SHAPES)
def test_bernoulli_nll_of_binary_images(shape):
    logits = 3 * torch.randn(6, *shape)
    images = (torch.rand(6, *shape) < 0.4).float()
    expected = -Independent(Bernoulli(logits=logits), len(shape)).log_prob(images)
    torch.testing.assert_close(bernoulli_nll(logits, images), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_bernoulli_nll_of_grey_images_is_the_cross_entropy(shape):
    logits, images = 3 * torch.randn(6, *shape), torch.rand(6, *shape)
    p = logits.double().sigmoid()
    expected = -(images * p.log() + (1 - images) * (1 - p).log()).flatten(1).sum(1)
    torch.testing.assert_close(bernoulli_nll(logits, images).double(), expected, rtol=1e-5, atol=0)


def test_bernoulli_nll_is_least_where_the_probability_is_the_intensity():
    image = torch.tensor([[0.3]])
    values = torch.linspace(0.01, 0.99, 99)
    nll = torch.stack([bernoulli_nll(torch.logit(p).view(1, 1), image)[0] for p in values])
    assert values[nll.argmin()].item() == pytest.approx(0.3)


def test_bernoulli_nll_of_a_certain_and_wrong_decoder_is_finite():
    assert bernoulli_nll(torch.tensor([[200.0]]), torch.tensor([[0.0]])).item() == 200.0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("log_scale", [-2.0, 0.0, 0.7])
def test_gaussian_nll(shape, log_scale):
    mean, images, scale = torch.randn(6, *shape), torch.randn(6, *shape), torch.tensor(log_scale)
    expected = -Independent(Normal(mean, scale.exp()), len(shape)).log_prob(images)
    torch.testing.assert_close(gaussian_nll(mean, images, scale), expected)


def test_gaussian_nll_learns_the_standard_deviation():
    """Its least value over the scale is at the empirical deviation."""
    errors = 0.37 * torch.randn(20_000, 1)
    scales = torch.linspace(-2, 1, 301)
    nll = torch.stack([gaussian_nll(torch.zeros_like(errors), errors, s).mean() for s in scales])
    best = scales[nll.argmin()].exp().item()
    assert best == pytest.approx(errors.square().mean().sqrt().item(), rel=0.01)


def test_kl():
    mean, log_variance = torch.randn(9, 5), torch.randn(9, 5)
    posterior = Normal(mean, (0.5 * log_variance).exp())
    expected = kl_divergence(posterior, Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(gaussian_kl(mean, log_variance), expected)


def test_kl_of_the_prior_is_zero_and_nothing_else_is():
    assert gaussian_kl(torch.zeros(1, 4), torch.zeros(1, 4)).item() == 0
    assert gaussian_kl(torch.full((1, 4), 0.1), torch.zeros(1, 4)).item() > 0
    assert gaussian_kl(torch.zeros(1, 4), torch.full((1, 4), 0.1)).item() > 0
