"""Discriminators and the scaler that they see."""

import pytest
import torch

from avalanche_dgm.errors import ConfigError, ShapeError
from avalanche_dgm.generators.discriminators import build_discriminator
from avalanche_dgm.generators.scaler import Scaler


@pytest.mark.parametrize(
    ("architecture", "shape", "width"),
    [
        ("dcgan", (1, 32, 32), 4),
        ("dcgan", (3, 8, 24), 4),
        ("resnet", (3, 16, 16), 1),
        ("dense", (20,), 3),
    ],
)
def test_shapes(architecture, shape, width):
    discriminator = build_discriminator(architecture, shape, width=width, n_classes=3)
    samples = torch.rand(5, *shape)
    scores, logits = discriminator.eval()(samples)
    assert scores.shape == (5,)
    assert logits.shape == (5, 3)
    torch.testing.assert_close(discriminator.score(samples), scores)
    torch.testing.assert_close(discriminator.classify(samples), logits)


def test_the_paper_s_size():
    """About 279.7 thousand weights for MNIST."""
    discriminator = build_discriminator("dcgan", (1, 32, 32), width=32, n_classes=10)
    convolutions = 832 + 51_264 + 204_928
    norms, heads = 2 * (64 + 128), 2049 * 11
    assert sum(p.numel() for p in discriminator.parameters()) == convolutions + norms + heads


def test_take_over_keeps_what_is_known():
    torch.manual_seed(0)
    small = build_discriminator("dcgan", (1, 16, 16), width=3, n_classes=2).eval()
    large = build_discriminator("dcgan", (1, 16, 16), width=3, n_classes=5).eval()
    new = large.class_head.weight[2:].clone()
    large.take_over(small)
    samples = torch.rand(4, 1, 16, 16)
    torch.testing.assert_close(large.score(samples), small.score(samples))
    torch.testing.assert_close(large.classify(samples)[:, :2], small.classify(samples))
    assert torch.equal(large.class_head.weight[2:], new)


@pytest.mark.parametrize(
    ("error", "arguments", "match"),
    [
        (ConfigError, ("vgg", (1, 32, 32)), "vgg"),
        (ShapeError, ("dcgan", (1, 28, 28)), "multiples of 8"),
        (ShapeError, ("resnet", (20,)), "multiples of 8"),
    ],
)
def test_errors(error, arguments, match):
    with pytest.raises(error, match=match):
        build_discriminator(*arguments)


def test_numbers_that_cannot_work():
    with pytest.raises(ConfigError, match="width"):
        build_discriminator("dense", (3,), width=0)
    with pytest.raises(ConfigError, match="n_classes"):
        build_discriminator("dense", (3,), n_classes=0)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (2, 9, 17), (5,)])
def test_the_canvas_gives_back_what_was_put_on_it(shape):
    torch.manual_seed(0)
    n = shape[0] if len(shape) == 3 else 1
    low, high = tuple(float(i) for i in range(n)), tuple(float(i + 3) for i in range(n))
    scaler = Scaler(shape, low, high)
    first = torch.tensor(low).view(-1, *[1] * (len(shape) - 1))
    samples = first + 3 * torch.rand(4, *shape)
    put = scaler.transform(samples)
    assert put.shape == (4, *scaler.padded)
    assert put.min() >= -1
    assert put.max() <= 1
    torch.testing.assert_close(scaler.inverse_transform(put), samples)
    assert all(side % 8 == 0 for side in scaler.padded[1:])
    assert Scaler.from_dict(scaler.to_dict()) == scaler


def test_the_padding_is_dark_and_around():
    scaler = Scaler((1, 28, 28), (0.0,), (1.0,))
    put = scaler.transform(torch.ones(1, 1, 28, 28))
    assert put[:, :, 2:30, 2:30].eq(1).all()
    assert put.sum() == 28 * 28 - (32 * 32 - 28 * 28)
