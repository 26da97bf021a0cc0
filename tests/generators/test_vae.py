"""The autoencoder: shapes, likelihoods, the bound, errors, and that it learns."""

import pytest
import torch
from driver import digits
from torch.distributions import Bernoulli, Independent, Normal

from avalanche_dgm.errors import ConfigError, RangeError, ShapeError
from avalanche_dgm.fitting import Phase, fit
from avalanche_dgm.generators import VAE, VAESettings, VAESpec, choose_spec
from avalanche_dgm.generators.vae import check_images
from avalanche_dgm.optimizers import OptimizerSpec

IMAGES = [(1, 8, 8), (3, 32, 32), (1, 28, 28), (2, 17, 23), (3, 1, 5), (1, 3, 64)]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def spec_of(shape, **changes):
    images = torch.rand(16, *shape)
    return choose_spec(images, **changes), images


CASES = [(s, a) for s in IMAGES for a in ("dense", "conv")] + [((5,), "dense"), ((1,), "dense")]


@pytest.mark.parametrize(("shape", "architecture"), CASES)
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_shapes(shape, architecture, likelihood):
    spec, images = spec_of(shape, architecture=architecture, likelihood=likelihood)
    vae = VAE(spec)
    mean, log_variance = vae.encode(images)
    assert mean.shape == log_variance.shape == (16, spec.latent)
    assert vae.decode(mean).shape == vae.reconstruct(images).shape == images.shape
    assert vae.sample(3, rng()).shape == (3, *shape)
    assert vae.negative_elbo(images).shape == vae.negative_elbo(images, rng()).shape == (16,)
    assert vae.decoding_loss(mean, images).shape == (16,)
    vae.negative_elbo(images, rng()).mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vae.parameters())


@pytest.mark.parametrize("shape", [*IMAGES, (5,)])
def test_sizes_are_chosen(shape):
    spec, _ = spec_of(shape)
    assert spec.shape == shape
    assert spec.low <= spec.high
    assert spec.architecture == ("conv" if shape == (3, 32, 32) else spec.architecture)
    assert VAE(spec).sample(2, rng()).shape == (2, *shape)
    assert VAESpec.from_dict(spec.to_dict()) == spec


def test_sizes_are_chosen_by_settings_or_by_name():
    images = torch.rand(16, 1, 8, 8)
    settings = VAESettings(hidden=(9, 5), likelihood="gaussian")
    assert choose_spec(images, settings) == choose_spec(
        images, hidden=(9, 5), likelihood="gaussian"
    )
    assert choose_spec(images, settings, hidden=(4,)).hidden == (4,)


def test_small_grey_images_are_dense_bernoulli_and_coloured_ones_convolutional_gaussian():
    grey, colour = spec_of((1, 28, 28))[0], spec_of((3, 32, 32))[0]
    assert (grey.architecture, grey.likelihood) == ("dense", "bernoulli")
    assert (colour.architecture, colour.likelihood) == ("conv", "gaussian")


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (-0.4242, 2.82)])
def test_samples_stay_in_the_user_s_range(low, high):
    images = low + (high - low) * torch.rand(16, 1, 8, 8)
    spec = choose_spec(images, value_range=(low, high))
    vae = VAE(spec)
    with torch.no_grad():
        vae.decoder.layers[-1].weight.mul_(50)  # so that the ends of the range are reached
    samples = vae.sample(64, rng())
    slack = 1e-5 * (high - low)
    assert samples.min() >= low - slack
    assert samples.max() <= high + slack
    assert samples.max() - samples.min() > 0.9 * (high - low)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_noise_outside_the_range_reaches_the_encoder(likelihood):
    spec, images = spec_of((6,), likelihood=likelihood)
    vae = VAE(spec)
    # With one layer the posterior's mean is an affine function.
    vae.encoder = torch.nn.Linear(6, 2 * spec.latent)
    noise = torch.randn(images.shape)
    means = [vae.encode(images + factor * noise)[0] for factor in (-3.0, 0.0, 3.0)]
    torch.testing.assert_close(means[0] + means[2], 2 * means[1])
    assert vae.negative_elbo(images + 3 * noise).isfinite().all()


def test_each_channel_has_its_own_range():
    images = torch.stack([torch.rand(9, 4, 4), 5 + 2 * torch.rand(9, 4, 4)], dim=1)
    spec = choose_spec(images, likelihood="bernoulli")
    assert spec.low == pytest.approx([images[:, c].min().item() for c in range(2)])
    assert spec.high == pytest.approx([images[:, c].max().item() for c in range(2)])
    samples = VAE(spec).sample(50, rng())
    assert samples[:, 0].max() <= 1
    assert samples[:, 1].min() >= 5


def test_a_constant_channel_can_be_learned():
    images = torch.full((6, 1, 4, 4), 0.25)
    vae = VAE(choose_spec(images))
    assert vae.negative_elbo(images).isfinite().all()


def test_the_unit_scale_does_not_depend_on_the_range():
    """The bound is that of the images scaled to [0, 1], whatever the user's units."""
    unit = torch.rand(8, 1, 8, 8)
    vae = VAE(choose_spec(unit, value_range=(0.0, 1.0)))
    other = VAE(choose_spec(7 * unit - 3, value_range=(-3.0, 4.0)))
    other.load_state_dict(vae.state_dict())
    torch.testing.assert_close(
        vae.negative_elbo(unit), other.negative_elbo(7 * unit - 3), rtol=1e-4, atol=1e-3
    )
    torch.testing.assert_close(
        7 * vae.reconstruct(unit) - 3, other.reconstruct(7 * unit - 3), rtol=1e-4, atol=1e-4
    )


def log_likelihood(vae, codes, unit):
    outputs = vae.decoder(codes)
    if vae.spec.likelihood == "bernoulli":
        # Continuous intensities: the cross-entropy is no density, but log_prob extends to them.
        return Independent(Bernoulli(logits=outputs, validate_args=False), 3).log_prob(unit)
    return Independent(Normal(outputs, vae.log_scale.exp()), 3).log_prob(unit)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_bound_by_hand(likelihood):
    images = torch.rand(8, 1, 8, 8)
    vae = VAE(choose_spec(images, likelihood=likelihood, value_range=(0.0, 1.0)))
    mean, log_variance = vae.encode(images)
    posterior = Independent(Normal(mean, (0.5 * log_variance).exp()), 1)
    prior = Independent(Normal(torch.zeros_like(mean), 1.0), 1)
    kl = torch.distributions.kl_divergence(posterior, prior)
    expected = kl - log_likelihood(vae, mean, images)
    torch.testing.assert_close(vae.negative_elbo(images), expected)
    noise = torch.randn(mean.shape, generator=rng(3))
    expected = kl - log_likelihood(vae, mean + noise * (0.5 * log_variance).exp(), images)
    torch.testing.assert_close(vae.negative_elbo(images, rng(3)), expected)
    torch.testing.assert_close(vae.decoding_loss(mean, images), -log_likelihood(vae, mean, images))


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@torch.no_grad()
def test_elbo_lies_below_the_importance_sampled_likelihood(likelihood):
    """log p(x) is estimated with 2000 samples of the posterior (Burda et al. 2016)."""
    images = (torch.rand(4, 1, 3, 3) < 0.5).float()
    vae = VAE(choose_spec(images, likelihood=likelihood, latent=3, value_range=(0.0, 1.0)))
    vae.decoder.layers[-1].weight.mul_(20)  # so that the codes matter
    mean, log_variance = vae.encode(images)
    posterior = Independent(Normal(mean, (0.5 * log_variance).exp()), 1)
    prior = Independent(Normal(torch.zeros_like(mean), 1.0), 1)
    weights, bounds = [], []
    for i in range(2000):
        codes = posterior.sample()
        joint = log_likelihood(vae, codes, images) + prior.log_prob(codes)
        weights.append(joint - posterior.log_prob(codes))
        if i < 400:
            bounds.append(-vae.negative_elbo(images, rng(i)))
    estimate = torch.stack(weights).logsumexp(0) - torch.tensor(2000.0).log()
    bound = torch.stack(bounds).mean(0)
    error = torch.stack(bounds).std(0) / 20
    assert (bound < estimate).all()
    # It is the bound and not something far below it: the mean of the same weights.
    assert ((bound - torch.stack(weights).mean(0)).abs() < 6 * error).all()


def test_a_changed_shape_is_an_error():
    spec, _ = spec_of((1, 8, 8))
    with pytest.raises(ShapeError, match=r"\(1, 8, 9\)"):
        check_images(spec, torch.rand(4, 1, 8, 9))


@pytest.mark.parametrize("factor", [255.0, 2.0])
def test_a_bernoulli_generator_refuses_images_of_another_scale(factor):
    spec, images = spec_of((1, 8, 8))
    with pytest.raises(RangeError, match="likelihood='gaussian'"):
        check_images(spec, factor * images)
    check_images(spec, 1.2 * images)  # within the tolerance


def test_a_given_range_is_exact():
    images = torch.rand(9, 1, 4, 4)
    spec = choose_spec(images, value_range=(0, 1))
    check_images(spec, images, given=True)
    with pytest.raises(RangeError):
        check_images(spec, images + 0.1, given=True)
    with pytest.raises(RangeError):
        choose_spec(2 * images + 1, value_range=(0, 1))


def test_one_channel_of_another_scale_is_found():
    spec = choose_spec(torch.rand(9, 2, 4, 4), likelihood="bernoulli")
    bad = torch.rand(9, 2, 4, 4)
    bad[:, 1] *= 9
    with pytest.raises(RangeError, match="Channel 1"):
        check_images(spec, bad)


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "transformer"},
        {"likelihood": "poisson"},
        {"hidden": ()},
        {"hidden": (16, 0)},
        {"latent": 0},
        {"value_range": (1.0, 0.0)},
        {"value_range": (1.0, 1.0)},
    ],
)
def test_impossible_specifications(changes):
    with pytest.raises(ConfigError):
        spec_of((1, 8, 8), **changes)


def test_flat_samples_cannot_be_convolved():
    with pytest.raises(ConfigError, match="architecture='dense'"):
        spec_of((5,), architecture="conv")


@pytest.mark.parametrize("architecture", ["dense", "conv"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_it_learns_digits(architecture, likelihood):
    """Unseen digits are reconstructed much better than by the mean image; untrained, worse."""
    train, test = digits(*range(10), per_class=60), digits(*range(10), per_class=20, skip=60)
    spec = choose_spec(train.images, architecture=architecture, likelihood=likelihood)
    vae = VAE(spec)

    def error():
        with torch.no_grad():
            return (vae.reconstruct(test.images) - test.images).square().mean().item()

    mean_image = (train.images.mean(0) - test.images).square().mean().item()
    assert error() > mean_image
    optimizer = OptimizerSpec("adam", 2e-3, "one-cycle", clip_norm=50.0)
    phase = Phase(
        "fit",
        vae,
        lambda batch, r: vae.negative_elbo(batch[0], r).mean(),
        optimizer,
        300 if likelihood == "gaussian" else 600,
        64,
        (train.images,),
    )
    fit(phase, rng())
    assert error() < 0.6 * mean_image
