"""Networks that can sample what they have learned."""

from avalanche_dgm.generators.base import Generator, VAESettings
from avalanche_dgm.generators.conditional_gan import ConditionalGAN
from avalanche_dgm.generators.density import ClassDensity, make_density
from avalanche_dgm.generators.gan import GAN
from avalanche_dgm.generators.growing import MaskedGenerator
from avalanche_dgm.generators.keeping import EWC, Alignment, JointReplay, KeepOld
from avalanche_dgm.generators.masked_gan import MaskedGAN
from avalanche_dgm.generators.masked_layers import (
    Group,
    MaskedConv2d,
    MaskedConvTranspose2d,
    MaskedLinear,
    MaskedSpec,
    NormReLU,
)
from avalanche_dgm.generators.masked_networks import (
    MaskedDCGAN,
    MaskedMLP,
    MaskedResidualBlock,
    MaskedResNet,
    build_generator,
)
from avalanche_dgm.generators.masks import Mask
from avalanche_dgm.generators.vae import VAE, VAESpec, choose_spec
from avalanche_dgm.generators.vae_generator import VAEGenerator

__all__ = [
    "GAN",
    "ConditionalGAN",
    "MaskedGAN",
    "JointReplay",
    "KeepOld",
    "Alignment",
    "EWC",
    "Generator",
    "VAE",
    "VAEGenerator",
    "VAESettings",
    "ClassDensity",
    "make_density",
    "VAESpec",
    "choose_spec",
    "MaskedGenerator",
    "MaskedSpec",
    "build_generator",
    "MaskedDCGAN",
    "MaskedResNet",
    "MaskedMLP",
    "Mask",
    "Group",
    "MaskedLinear",
    "MaskedConv2d",
    "MaskedConvTranspose2d",
    "MaskedResidualBlock",
    "NormReLU",
]
