"""The networks of growing generators."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avalanche_dgm.generators.growing import MaskedGenerator
from avalanche_dgm.generators.masked_layers import (
    Group,
    MaskedConv2d,
    MaskedConvTranspose2d,
    MaskedLinear,
    MaskedSpec,
    NormReLU,
)
from avalanche_dgm.generators.masks import View


def _from_noise(target: Group, spec: MaskedSpec) -> MaskedConvTranspose2d:
    """The layer from noise (n, latent, 1, 1) to pixels (n, target, H / 8, W / 8)."""
    kernel = (spec.shape[1] // 8, spec.shape[2] // 8)
    return MaskedConvTranspose2d(spec.latent, target, spec, kernel=kernel, stride=1, padding=0)


class MaskedDCGAN(MaskedGenerator):
    """Transposed convolutions with 4, 2 and 1 times the width (Radford et al. 2016).

    The first maps noise to (H/8, W/8) pixels; each further one, and the head, doubles the sides.
    This is the network of Ostapenko et al. for MNIST and SVHN.

    Args:
        spec: Sizes and options, for images whose sides are multiples of 8.
    """

    def __init__(self, spec: MaskedSpec) -> None:
        super().__init__(spec)
        wide = self.group("wide", 4 * spec.width)
        middle = self.group("middle", 2 * spec.width)
        narrow = self.group("narrow", spec.width)
        self.layer1, self.norm1 = _from_noise(wide, spec), NormReLU(wide, spec)
        self.layer2 = MaskedConvTranspose2d(wide, middle, spec)
        self.norm2 = NormReLU(middle, spec)
        self.layer3 = MaskedConvTranspose2d(middle, narrow, spec)
        self.norm3 = NormReLU(narrow, spec)

    def features(self, z: Tensor, view: View) -> Tensor:
        """Returns (n, narrow, H/2, W/2) for noise (n, latent)."""
        x = self.norm1(self.layer1(z[:, :, None, None], view), view)
        x = self.norm2(self.layer2(x, view), view)
        return self.norm3(self.layer3(x, view), view)

    def head(self, widths: dict[str, int]) -> nn.Module:
        """Returns the transposed convolution to the image."""
        return nn.ConvTranspose2d(widths["narrow"], self.spec.shape[0], 4, 2, 1, bias=False)


class MaskedResidualBlock(nn.Module):
    """Upsampling residual block (Gulrajani et al. 2017, App. F).

    Args:
        stream: Channels of the block's input and output.
        inner: Channels between its two convolutions.
        spec: The generator's specification.
    """

    def __init__(self, stream: Group, inner: Group, spec: MaskedSpec) -> None:
        super().__init__()
        self.norm1 = NormReLU(stream, spec)
        self.conv1 = MaskedConv2d(stream, inner, spec)
        self.norm2 = NormReLU(inner, spec)
        self.conv2 = MaskedConv2d(inner, stream, spec)

    def forward(self, x: Tensor, view: View) -> Tensor:
        """Maps (n, stream, H, W) to (n, stream, 2H, 2W)."""
        y = F.interpolate(self.norm1(x, view), scale_factor=2)
        y = self.norm2(self.conv1(y, view), view)
        return self.conv2(y, view) + F.interpolate(x, scale_factor=2)


class MaskedResNet(MaskedGenerator):
    """Three upsampling residual blocks (Gulrajani et al. 2017).

    Inputs and outputs of all blocks share one group, as sums need equal widths; each block has
    another group between its convolutions.

    Args:
        spec: Sizes and options, for images whose sides are multiples of 8.
    """

    def __init__(self, spec: MaskedSpec) -> None:
        super().__init__(spec)
        stream = self.group("stream", spec.width)
        self.first = _from_noise(stream, spec)
        self.blocks = nn.ModuleList(
            MaskedResidualBlock(stream, self.group(f"inner{i}", spec.width), spec)
            for i in range(1, 4)
        )
        self.norm = NormReLU(stream, spec)

    def features(self, z: Tensor, view: View) -> Tensor:
        """Returns (n, stream, H, W) for noise (n, latent)."""
        x = self.first(z[:, :, None, None], view)
        for block in self.blocks:
            x = block(x, view)
        return self.norm(x, view)

    def head(self, widths: dict[str, int]) -> nn.Module:
        """Returns the convolution to the image."""
        return nn.Conv2d(widths["stream"], self.spec.shape[0], 3, padding=1)


class MaskedMLP(MaskedGenerator):
    """Two dense layers with 4 and 8 times the width, for flat samples.

    Args:
        spec: Sizes and options, for samples of shape (D,).
    """

    def __init__(self, spec: MaskedSpec) -> None:
        super().__init__(spec)
        first, second = self.group("first", 4 * spec.width), self.group("second", 8 * spec.width)
        self.layer1, self.norm1 = MaskedLinear(spec.latent, first, spec), NormReLU(first, spec)
        self.layer2, self.norm2 = MaskedLinear(first, second, spec), NormReLU(second, spec)

    def features(self, z: Tensor, view: View) -> Tensor:
        """Returns (n, second) for noise (n, latent)."""
        x = self.norm1(self.layer1(z, view), view)
        return self.norm2(self.layer2(x, view), view)

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


def noise_with_class(
    positions: Tensor, n_classes: int, latent: int, rng: torch.Generator
) -> Tensor:
    """Standard normal noise whose first entries are a one-hot class, as in the authors' code.

    Args:
        positions: int64 tensor (n,), the class, from 0 to ``n_classes`` - 1.
        n_classes: Number of classes.
        latent: Total number of entries, more than ``n_classes``.
        rng: Generator on the device of ``positions``.

    Returns:
        Float tensor (n, latent).
    """
    noise = torch.randn(len(positions), latent, generator=rng, device=positions.device)
    noise[:, :n_classes] = F.one_hot(positions, n_classes).to(noise)
    return noise
