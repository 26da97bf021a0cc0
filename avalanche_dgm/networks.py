"""Small networks of the memories, sized for the shape of a sample."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Dense layers with ReLU between them, for the widths of input, hidden layers and output."""
    layers: list[nn.Module] = []
    for i, (n_in, n_out) in enumerate(pairwise(sizes)):
        layers.append(nn.Linear(n_in, n_out))
        if i < len(sizes) - 2:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def halvings(shape: tuple[int, ...], channels: Sequence[int]) -> list[tuple[int, int]]:
    """Height and width of an image (C, H, W), and after each of several stride-2 convolutions.

    These halve it, rounding up; there is one for each entry of ``channels``.
    """
    sizes = [(shape[1], shape[2])]
    for _ in channels:
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    return sizes


class ConvEncoder(nn.Module):
    """Stride-2 convolutions and one dense layer.

    Args:
        shape: (C, H, W) of one image.
        channels: Output channels of each convolution.
        n_outputs: Width of the output.
    """

    def __init__(self, shape: tuple[int, ...], channels: Sequence[int], n_outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for n_in, n_out in zip([shape[0], *channels[:-1]], channels, strict=True):
            layers += [nn.Conv2d(n_in, n_out, 3, stride=2, padding=1), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers)
        height, width = halvings(shape, channels)[-1]
        self.output = nn.Linear(channels[-1] * height * width, n_outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Maps images (n, C, H, W) to (n, n_outputs)."""
        return self.output(self.convolutions(images).flatten(1))


class ConvDecoder(nn.Module):
    """The mirror of `ConvEncoder`: nearest-neighbour upsampling before each convolution.

    Each upsampling restores the size at that layer of the encoder, so that any height and width
    works.

    Args:
        n_inputs: Latent dimensions.
        channels: The encoder's channels, in the encoder's order.
        shape: (C, H, W) of one image.
    """

    def __init__(self, n_inputs: int, channels: Sequence[int], shape: tuple[int, ...]) -> None:
        super().__init__()
        sizes = halvings(shape, channels)
        self.start = (channels[-1], *sizes[-1])
        self.targets = sizes[-2::-1]
        self.input = nn.Linear(n_inputs, prod(self.start))
        outputs = [*channels[-2::-1], shape[0]]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(n_in, n_out, 3, padding=1)
            for n_in, n_out in zip(channels[::-1], outputs, strict=True)
        )

    def forward(self, codes: Tensor) -> Tensor:
        """Maps latents (n, n_inputs) to images (n, C, H, W), without a final non-linearity."""
        features = self.input(codes).unflatten(1, self.start)
        for size, convolution in zip(self.targets, self.convolutions, strict=True):
            features = F.interpolate(torch.relu(features), size=size, mode="nearest")
            features = convolution(features)
        return features


class DenseDecoder(nn.Module):
    """Dense layers from a latent to a sample.

    Args:
        n_inputs: Latent dimensions.
        hidden: Widths of the hidden layers.
        shape: Shape of one sample, (C, H, W) or (D,).
    """

    def __init__(self, n_inputs: int, hidden: Sequence[int], shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.layers = mlp([n_inputs, *hidden, prod(shape)])

    def forward(self, codes: Tensor) -> Tensor:
        """Maps latents (n, n_inputs) to samples (n, *shape), without a final non-linearity."""
        return self.layers(codes).unflatten(1, self.shape)


def build_encoder(
    shape: tuple[int, ...], *, architecture: str, hidden: Sequence[int], n_outputs: int
) -> nn.Module:
    """Builds a network from a sample, (C, H, W) or (D,), to ``n_outputs`` outputs.

    ``hidden`` are the widths of ``"dense"`` layers, or the channels of ``"conv"`` layers.
    """
    if architecture == "conv":
        return ConvEncoder(shape, hidden, n_outputs)
    return nn.Sequential(nn.Flatten(1), mlp([prod(shape), *hidden, n_outputs]))


def default_architecture(shape: tuple[int, ...]) -> Literal["dense", "conv"]:
    """``"dense"`` for flat samples and small grey images, else ``"conv"``."""
    small = len(shape) == 1 or (shape[0] < 3 and prod(shape) <= 1024)
    return "dense" if small else "conv"


def default_hidden(shape: tuple[int, ...], architecture: str) -> tuple[int, ...]:
    """Default widths of dense layers, or channels of convolutions, for samples of a shape."""
    # Convolutions of flat samples are refused elsewhere.
    if architecture == "dense" or len(shape) != 3:
        width = min(400, max(128, 4 * prod(shape)))
        return (width, width)
    channels = [32, 64, 128, 256]
    depth, side = 0, min(shape[1:])
    while side > 4 and depth < len(channels):
        side, depth = (side + 1) // 2, depth + 1
    return tuple(channels[: max(depth, 1)])
