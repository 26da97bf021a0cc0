"""Discriminators with a class head (AC-GAN)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from avalanche_dgm.checks import one_of, whole
from avalanche_dgm.errors import ShapeError
from avalanche_dgm.modules import at_least_single

#: Negative slope of the leaky ReLUs.
_LEAK = 0.2
#: Smallest side of images, in pixels, for BatchNorm.
BATCH_NORM_SIDE = 32


class Discriminator(nn.Module):
    """A trunk with two linear heads: a score, and a logit for each class.

    Args:
        trunk: Maps samples (n, *shape) to features (n, F).
        n_features: F.
        n_classes: Number of logits, at least 1.

    Raises:
        ConfigError: There is no class.
    """

    def __init__(self, trunk: nn.Module, n_features: int, n_classes: int) -> None:
        super().__init__()
        whole("n_classes", n_classes)
        self.trunk = trunk
        self.score_head = nn.Linear(n_features, 1)
        self.class_head = nn.Linear(n_features, n_classes)

    def forward(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and classifies samples (n, *shape) in [-1, 1].

        Returns:
            Unbounded scores (n,) and logits (n, n_classes), float32 also in mixed precision, as
            losses are differences of their means.
        """
        features = self.trunk(samples)
        scores, logits = self.score_head(features).flatten(), self.class_head(features)
        return at_least_single(scores), at_least_single(logits)

    @torch.no_grad()
    def take_over(self, other: Discriminator) -> None:
        """Copies the weights of a discriminator with the same trunk and the first classes."""
        mine, theirs = self.state_dict(), other.state_dict()
        for name, value in theirs.items():
            mine[name][tuple(slice(n) for n in value.shape)] = value
        self.load_state_dict(mine)

    def score(self, samples: Tensor) -> Tensor:
        """Only the scores (n,)."""
        return at_least_single(self.score_head(self.trunk(samples)).flatten())

    def classify(self, samples: Tensor) -> Tensor:
        """Only the logits (n, n_classes)."""
        return at_least_single(self.class_head(self.trunk(samples)))


def _convolutional(shape: tuple[int, ...], width: int) -> tuple[nn.Module, int]:
    """Three convolutions with stride 2, as in the authors' code.

    Real and generated samples are in separate batches. On small feature maps BatchNorm removes the
    differences between these, so for small images each sample is normalised separately.
    """
    norm: Callable[[int], nn.BatchNorm2d | nn.GroupNorm] = partial(nn.GroupNorm, 1)
    if min(shape[1:]) >= BATCH_NORM_SIDE:
        norm = nn.BatchNorm2d
    layers: list[nn.Module] = []
    n_in = shape[0]
    for i, n_out in enumerate((width, 2 * width, 4 * width)):
        convolution = nn.Conv2d(n_in, n_out, 5, stride=2, padding=2)
        nn.init.normal_(convolution.weight, 0.0, 0.02)
        layers.append(convolution)
        if i:
            layer = norm(n_out)
            nn.init.normal_(layer.weight, 1.0, 0.02)
            layers.append(layer)
        layers.append(nn.LeakyReLU(_LEAK))
        n_in = n_out
    n_features = 4 * width * (shape[1] // 8) * (shape[2] // 8)
    return nn.Sequential(*layers, nn.Flatten()), n_features


def _dense(shape: tuple[int, ...], width: int) -> tuple[nn.Module, int]:
    layers: list[nn.Module] = [nn.Flatten()]
    n_in = int(torch.Size(shape).numel())
    for n_out in (8 * width, 4 * width):
        layers += [nn.Linear(n_in, n_out), nn.LeakyReLU(_LEAK)]
        n_in = n_out
    return nn.Sequential(*layers), 4 * width


def _residual(shape: tuple[int, ...], width: int) -> tuple[nn.Module, int]:
    """ResNet-18 with a stem for small images, and BatchNorm before the heads."""
    from torchvision.models.resnet import BasicBlock, ResNet

    network = ResNet(BasicBlock, [2, 2, 2, 2])
    # The usual stem would reduce a 32x32 image to one pixel.
    network.conv1 = nn.Conv2d(shape[0], 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    network.fc = nn.Linear(512, 64 * width)
    trunk = OrderedDict(network=network, norm=nn.BatchNorm1d(64 * width))
    return nn.Sequential(trunk), 64 * width


_TRUNKS = {"dcgan": _convolutional, "resnet": _residual, "dense": _dense}


def build_discriminator(
    architecture: str, shape: tuple[int, ...], *, width: int = 16, n_classes: int = 1
) -> Discriminator:
    """Builds the discriminator for a generator.

    Args:
        architecture: The generator's: ``"dcgan"``, ``"resnet"`` or ``"dense"``.
        shape: Shape of one sample: (C, H, W) with H and W multiples of 8, or (D,).
        width: Channels of the first convolution; the others have 2 and 4 times as many. The
            residual network's last layer has 64 times as many units, the dense layers 8 and 4 times
            as many.
        n_classes: Number of logits.

    Raises:
        ConfigError: The architecture is unknown, or a number below 1.
        ShapeError: It cannot take such samples.
    """
    one_of("architecture", architecture, *_TRUNKS)
    whole("width", width)
    images = architecture != "dense"
    if images and (len(shape) != 3 or shape[1] % 8 or shape[2] % 8):
        raise ShapeError(
            f"A {architecture} discriminator takes images (channels, height, width) whose sides are"
            f" multiples of 8, not samples of shape {shape}."
        )
    trunk, n_features = _TRUNKS[architecture](shape, width)
    return Discriminator(trunk, n_features, n_classes)
