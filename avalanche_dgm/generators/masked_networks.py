"""The networks of growing generators."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avalanche_dgm.generators.gan_settings import GANSettings
from avalanche_dgm.generators.growing import MaskedGenerator
from avalanche_dgm.generators.masked_layers import (
    Group,
    MaskedConv2d,
    MaskedConvTranspose2d,
    MaskedLinear,
    NormReLU,
)
from avalanche_dgm.generators.masks import View
from avalanche_dgm.generators.scaler import Scaler


def _from_noise(target: Group, settings: GANSettings, scaler: Scaler) -> MaskedConvTranspose2d:
    """The layer from noise (n, latent, 1, 1) to pixels (n, target, H / 8, W / 8)."""
    kernel = (scaler.padded[1] // 8, scaler.padded[2] // 8)
    return MaskedConvTranspose2d(
        settings.latent, target, settings, kernel=kernel, stride=1, padding=0
    )


class MaskedDCGAN(MaskedGenerator):
    """Transposed convolutions with 4, 2 and 1 times the width (Radford et al. 2016).

    The first maps noise to (H/8, W/8) pixels; each further one, and the head, doubles the sides.
    This is the network of Ostapenko et al. for MNIST and SVHN.

    Args:
        settings: Sizes and options.
        scaler: Of the samples (C, H, W).
    """

    def __init__(self, settings: GANSettings, scaler: Scaler) -> None:
        super().__init__(settings, scaler)
        wide = self.group("wide", 4 * settings.width)
        middle = self.group("middle", 2 * settings.width)
        narrow = self.group("narrow", settings.width)
        self.layer1, self.norm1 = _from_noise(wide, settings, scaler), NormReLU(wide, settings)
        self.layer2 = MaskedConvTranspose2d(wide, middle, settings)
        self.norm2 = NormReLU(middle, settings)
        self.layer3 = MaskedConvTranspose2d(middle, narrow, settings)
        self.norm3 = NormReLU(narrow, settings)

    def features(self, z: Tensor, view: View) -> Tensor:
        """Returns (n, narrow, H/2, W/2) for noise (n, latent)."""
        x = self.norm1(self.layer1(z[:, :, None, None], view), view)
        x = self.norm2(self.layer2(x, view), view)
        return self.norm3(self.layer3(x, view), view)

    def head(self, widths: dict[str, int]) -> nn.Module:
        """Returns the transposed convolution to the image."""
        return nn.ConvTranspose2d(widths["narrow"], self.scaler.shape[0], 4, 2, 1, bias=False)


class MaskedResidualBlock(nn.Module):
    """Upsampling residual block (Gulrajani et al. 2017, App. F).

    Args:
        stream: Channels of the block's input and output.
        inner: Channels between its two convolutions.
        settings: The generator's settings.
    """

    def __init__(self, stream: Group, inner: Group, settings: GANSettings) -> None:
        super().__init__()
        self.norm1 = NormReLU(stream, settings)
        self.conv1 = MaskedConv2d(stream, inner, settings)
        self.norm2 = NormReLU(inner, settings)
        self.conv2 = MaskedConv2d(inner, stream, settings)

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
        settings: Sizes and options.
        scaler: Of the samples (C, H, W).
    """

    def __init__(self, settings: GANSettings, scaler: Scaler) -> None:
        super().__init__(settings, scaler)
        stream = self.group("stream", settings.width)
        self.first = _from_noise(stream, settings, scaler)
        self.blocks = nn.ModuleList(
            MaskedResidualBlock(stream, self.group(f"inner{i}", settings.width), settings)
            for i in range(1, 4)
        )
        self.norm = NormReLU(stream, settings)

    def features(self, z: Tensor, view: View) -> Tensor:
        """Returns (n, stream, H, W) for noise (n, latent)."""
        x = self.first(z[:, :, None, None], view)
        for block in self.blocks:
            x = block(x, view)
        return self.norm(x, view)

    def head(self, widths: dict[str, int]) -> nn.Module:
        """Returns the convolution to the image."""
        return nn.Conv2d(widths["stream"], self.scaler.shape[0], 3, padding=1)


class MaskedMLP(MaskedGenerator):
    """Two dense layers with 4 and 8 times the width, for flat samples.

    Args:
        settings: Sizes and options.
        scaler: Of the samples (D,).
    """

    def __init__(self, settings: GANSettings, scaler: Scaler) -> None:
        super().__init__(settings, scaler)
        first = self.group("first", 4 * settings.width)
        second = self.group("second", 8 * settings.width)
        self.layer1 = MaskedLinear(settings.latent, first, settings)
        self.norm1 = NormReLU(first, settings)
        self.layer2, self.norm2 = MaskedLinear(first, second, settings), NormReLU(second, settings)

    def features(self, z: Tensor, view: View) -> Tensor:
        """Returns (n, second) for noise (n, latent)."""
        x = self.norm1(self.layer1(z, view), view)
        return self.norm2(self.layer2(x, view), view)

    def head(self, widths: dict[str, int]) -> nn.Module:
        """Returns the dense layer to the sample."""
        return nn.Linear(widths["second"], self.scaler.shape[0])


def build_generator(settings: GANSettings, scaler: Scaler) -> MaskedGenerator:
    """Builds a generator network.

    Args:
        settings: Sizes and options.
        scaler: Of the samples; the network generates scaled ones.

    Raises:
        ShapeError: The architecture cannot generate such samples.
    """
    networks: dict[str, type[MaskedGenerator]] = {
        "dcgan": MaskedDCGAN,
        "resnet": MaskedResNet,
        "dense": MaskedMLP,
    }
    return networks[settings.architecture_for(scaler.shape)](settings, scaler)


def noise_with_class(
    positions: Tensor, n_classes: int, latent: int, rng: torch.Generator
) -> Tensor:
    """Standard normal noise (n, latent) whose first entries are a one-hot class.

    As in the authors' code. The classes ``positions`` (n,) are numbered from 0; ``latent`` is above
    their number.
    """
    noise = torch.randn(len(positions), latent, generator=rng, device=positions.device)
    noise[:, :n_classes] = F.one_hot(positions, n_classes).to(noise)
    return noise
