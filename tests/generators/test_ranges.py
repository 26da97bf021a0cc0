"""Which samples are pixels, what scale others have, and what no generator could learn."""

import pytest
import torch

from avalanche_dgm.errors import RangeError
from avalanche_dgm.generators.ranges import check_scale, check_variety, known_range, standard_range
from avalanche_dgm.generators.vae import VAE, VAESpec, check_images, choose_spec


def rng():
    return torch.Generator().manual_seed(0)


def noise(*shape):
    return torch.randn(*shape, generator=rng())


def digits(side=8):
    """Whole numbers 0 to 16 of which many are 0 and many 16, divided by 16."""
    values = torch.randint(-4, 21, (60, 1, side, side), generator=rng())
    return values.clamp(0, 16) / 16


PIXELS = {
    "images in [0, 1]": (digits(), (0, 1)),
    "images that leave out the ends": (0.2 + 0.3 * digits(), (0, 1)),
    "images that nearly reach them": (0.1 + 0.8 * digits(), (0.1, 0.9)),
    "flattened": (digits().flatten(1), (0, 1)),
    "bytes": ((255 * digits()).round(), (0, 255)),
    "flattened bytes": ((255 * digits()).round().flatten(1), (0, 255)),
    "normalised": (digits() / 0.3081 - 0.5, (-0.5, 1 / 0.3081 - 0.5)),
    "flattened and normalised": ((digits() - 0.5).flatten(1) * 2, (-1, 1)),
    "clipped features": (noise(60, 30).clamp(-1, 1), (-1, 1)),
    "binary features": ((noise(60, 30) > 1).float(), (0, 1)),
}
NO_PIXELS = {
    "features": noise(60, 30),
    "features in [0, 1]": noise(60, 30).sigmoid(),
    "rectified features": noise(60, 30).relu(),
    "counts": torch.poisson(torch.full((60, 30), 9.0), generator=rng()),
    "categories": torch.randint(5, (60, 30), generator=rng()).float(),
    "normalised photographs": noise(60, 1, 8, 8),
    "hardly any contrast": 0.01 * digits() * noise(60, 1, 8, 8).sigmoid(),
}


@pytest.mark.parametrize("name", PIXELS)
def test_pixels_are_known_by_their_range(name):
    images, (low, high) = PIXELS[name]
    spec = choose_spec(images)
    assert spec.likelihood == "bernoulli"
    assert spec.low == pytest.approx((low,))
    assert spec.high == pytest.approx((high,))


@pytest.mark.parametrize("name", NO_PIXELS)
def test_all_else_has_no_bounds(name):
    images = NO_PIXELS[name]
    assert known_range(images) is None
    spec = choose_spec(images)
    assert spec.likelihood == "gaussian"
    check_images(spec, 9 * images - 5)
    assert choose_spec(images, value_range=(-20, 40)).likelihood == "bernoulli", "the user knows"


def test_coloured_images_keep_gaussian_pixels_and_the_scale_observed():
    images = 0.2 + 0.6 * torch.rand(20, 3, 16, 16, generator=rng())
    spec = choose_spec(images)
    assert spec.likelihood == "gaussian"
    assert spec.low == tuple(images.amin(dim=(0, 2, 3)).tolist())
    assert spec.high == tuple(images.amax(dim=(0, 2, 3)).tolist())


def test_vectors_are_standardised_by_feature():
    vectors = torch.tensor([3.0, -1000.0, 0.5, 2.0]) + torch.tensor([1.0, 50.0, 2.0, 0.0]) * noise(
        400, 4
    )
    spec = choose_spec(vectors)
    low, high = torch.tensor(spec.low), torch.tensor(spec.high)
    mean, deviation = vectors.mean(dim=0), vectors.std(dim=0, correction=0)
    torch.testing.assert_close((low + high) / 2, mean)
    torch.testing.assert_close(((high - low) / 2)[:3], deviation[:3])
    # What is constant so far has a tenth of the median of the others.
    torch.testing.assert_close((high[3] - low[3]) / 2, 0.1 * deviation[2])
    # Also where most of them are constant.
    many = standard_range(torch.cat([vectors[:, :1], torch.full((400, 9), 0.1)], dim=1))
    assert many[1][5] - many[0][5] == pytest.approx(0.2 * float(deviation[0]), rel=1e-4)
    assert VAESpec.from_dict(spec.to_dict()) == spec
    assert VAE(spec).sample(3, rng()).shape == (3, 4)


@pytest.mark.parametrize("vectors", [noise(1, 6), torch.full((9, 3), 2.0), torch.ones(1, 1)])
def test_a_scale_is_never_zero(vectors):
    low, high = standard_range(vectors)
    assert all(0 < b - a < float("inf") for a, b in zip(low, high, strict=True))


def with_outlier(images, value=1e6):
    images = images.clone()
    images.view(-1)[7] = value
    return images


@pytest.mark.parametrize(
    "images",
    [
        torch.full((9, 1, 8, 8), 0.5),
        torch.zeros(9, 5),
        with_outlier(digits()),
        with_outlier(digits().flatten(1)),
        with_outlier(noise(60, 30)),
        with_outlier(noise(60, 3, 8, 8), 500.0),
        torch.cat([digits(), 1e6 * digits()[:2]]),
        1e30 * noise(60, 30),
        1e-30 * noise(60, 30),
    ],
)
def test_a_first_experience_without_a_scale_is_refused(images):
    with pytest.raises(RangeError):
        check_variety(images, first=True)


def dark():
    images = torch.rand(60, 1, 8, 8, generator=rng()) * 0.005
    images[:, :, 7, 7] = 1.0
    return images


@pytest.mark.parametrize(
    "images",
    [
        *(images for images, _ in PIXELS.values()),
        *NO_PIXELS.values(),
        noise(60, 30) * torch.logspace(-3, 3, 30),
        # Features that are seldom active, images that are nearly empty.
        (noise(200, 30) - 1.7).relu(),
        torch.zeros(60, 1, 8, 8).index_fill(2, torch.tensor(3), 1e-3).bernoulli(generator=rng()),
        noise(60, 30).exp(),
        # A dark, noisy background with a bright corner; probabilities of many classes.
        dark(),
        (255 * dark()).round(),
        torch.softmax(10 * noise(60, 300), dim=1),
    ],
)
def test_what_users_bring_is_not_refused(images):
    check_variety(images, first=True)


def test_a_later_constant_is_learned():
    check_variety(torch.zeros(9, 1, 8, 8), first=False)
    check_scale(torch.zeros(9, 1, 8, 8), (0.0,), (1.0,))


@pytest.mark.parametrize("factor", [1e4, 1e-4])
def test_a_scale_that_another_experience_vanishes_on_is_refused(factor):
    vectors = noise(60, 4)
    low, high = standard_range(vectors)
    check_scale(20 * vectors + 5, low, high)
    check_scale(vectors / 20, low, high)
    with pytest.raises(RangeError, match="every experience"):
        check_scale(factor * vectors, low, high)
