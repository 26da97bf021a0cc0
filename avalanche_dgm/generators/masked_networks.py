"""The networks of growing generators."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from avalanche_dgm.generators.growing import MaskedGenerator, MaskedSpec
from avalanche_dgm.generators.masked_layers import (
    Group,
    MaskedConv2d,
    MaskedConvTranspose2d,
    MaskedLinear,
    MaskOptions,
    NormReLU,
    Scale,
)


class MaskedDCGAN(MaskedGenerator):
    """Transposed convolutions of 4, 2 and 1 times the width (Radford et al. 2016).

    The first makes (H/8, W/8) pixels of the noise; each further one, and the head, doubles the
    sides. This is the network of Ostapenko et al. for MNIST and SVHN.

    Args:
        spec: Sizes and options, with images of sides that are multiples of 8.
    """

    def __init__(self, spec: MaskedSpec) -> None:
        super().__init__(spec)
        options = spec.options
        _, height, width = spec.shape
        wide = self.group("wide", 4 * spec.width)
        middle = self.group("middle", 2 * spec.width)
        narrow = self.group("narrow", spec.width)
        self.layer1 = MaskedConvTranspose2d(
            spec.latent,
            wide,
            kernel=(height // 8, width // 8),
            stride=1,
            padding=0,
            options=options,
        )
        self.norm1 = NormReLU(wide, options=options)
        self.layer2 = MaskedConvTranspose2d(wide, middle, options=options)
        self.norm2 = NormReLU(middle, options=options)
        self.layer3 = MaskedConvTranspose2d(middle, narrow, options=options)
        self.norm3 = NormReLU(narrow, options=options)

    def features(self, z: Tensor, task: int | None, scale: Scale) -> Tensor:
        """Returns (n, narrow, H/2, W/2) for noise (n, latent)."""
        x = self.layer1(z[:, :, None, None], task=task, scale=scale)
        x = self.layer2(self.norm1(x, task=task, scale=scale), task=task, scale=scale)
        x = self.layer3(self.norm2(x, task=task, scale=scale), task=task, scale=scale)
        return self.norm3(x, task=task, scale=scale)

    def head(self, widths: dict[str, int]) -> nn.Module:
        """Returns the transposed convolution to the image."""
        return nn.ConvTranspose2d(widths["narrow"], self.spec.shape[0], 4, 2, 1, bias=False)


class MaskedResidualBlock(nn.Module):
    """Upsampling residual block (Gulrajani et al. 2017, App. F) on a stream of channels.

    Args:
        stream: The channels that the block reads and adds to.
        inner: The channels between its two convolutions.
        options: What is masked.
    """

    def __init__(self, stream: Group, inner: Group, *, options: MaskOptions) -> None:
        super().__init__()
        self.norm1 = NormReLU(stream, options=options)
        self.conv1 = MaskedConv2d(stream, inner, options=options)
        self.norm2 = NormReLU(inner, options=options)
        self.conv2 = MaskedConv2d(inner, stream, options=options)

    def forward(self, x: Tensor, *, task: int | None = None, scale: Scale = None) -> Tensor:
        """Maps (n, stream, H, W) to (n, stream, 2H, 2W)."""
        y = F.interpolate(self.norm1(x, task=task, scale=scale), scale_factor=2)
        y = self.norm2(self.conv1(y, task=task, scale=scale), task=task, scale=scale)
        return self.conv2(y, task=task, scale=scale) + F.interpolate(x, scale_factor=2)


class MaskedResNet(MaskedGenerator):
    """Three upsampling residual blocks on one stream (Gulrajani et al. 2017).

    All layers that write to the stream share its mask, because sums need equal widths; between
    the two convolutions of a block is a group of its own.

    Args:
        spec: Sizes and options, with images of sides that are multiples of 8.
    """

    def __init__(self, spec: MaskedSpec) -> None:
        super().__init__(spec)
        options = spec.options
        _, height, width = spec.shape
        stream = self.group("stream", spec.width)
        self.first = MaskedConvTranspose2d(
            spec.latent,
            stream,
            kernel=(height // 8, width // 8),
            stride=1,
            padding=0,
            options=options,
        )
        self.blocks = nn.ModuleList(
            MaskedResidualBlock(stream, self.group(f"inner{i}", spec.width), options=options)
            for i in range(1, 4)
        )
        self.norm = NormReLU(stream, options=options)

    def features(self, z: Tensor, task: int | None, scale: Scale) -> Tensor:
        """Returns (n, stream, H, W) for noise (n, latent)."""
        x = self.first(z[:, :, None, None], task=task, scale=scale)
        for block in self.blocks:
            x = block(x, task=task, scale=scale)
        return self.norm(x, task=task, scale=scale)

    def head(self, widths: dict[str, int]) -> nn.Module:
        """Returns the convolution to the image."""
        return nn.Conv2d(widths["stream"], self.spec.shape[0], 3, padding=1)


class MaskedMLP(MaskedGenerator):
    """Two dense layers of 4 and 8 times the width, for flat samples.

    Args:
        spec: Sizes and options, with samples of shape (D,).
    """

    def __init__(self, spec: MaskedSpec) -> None:
        super().__init__(spec)
        options = spec.options
        first, second = self.group("first", 4 * spec.width), self.group("second", 8 * spec.width)
        self.layer1 = MaskedLinear(spec.latent, first, options=options)
        self.norm1 = NormReLU(first, options=options)
        self.layer2 = MaskedLinear(first, second, options=options)
        self.norm2 = NormReLU(second, options=options)

    def features(self, z: Tensor, task: int | None, scale: Scale) -> Tensor:
        """Returns (n, second) for noise (n, latent)."""
        x = self.norm1(self.layer1(z, task=task, scale=scale), task=task, scale=scale)
        return self.norm2(self.layer2(x, task=task, scale=scale), task=task, scale=scale)

    def head(self, widths: dict[str, int]) -> nn.Module:
        """Returns the dense layer to the sample."""
        return nn.Linear(widths["second"], self.spec.shape[0])


def build_generator(spec: MaskedSpec) -> MaskedGenerator:
    """Builds the network of a specification.

    Args:
        spec: Sizes and options.
    """
    networks: dict[str, type[MaskedGenerator]] = {
        "dcgan": MaskedDCGAN,
        "resnet": MaskedResNet,
        "dense": MaskedMLP,
    }
    return networks[spec.architecture](spec)
