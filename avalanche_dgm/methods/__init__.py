"""One file per paper; a method is a ``torch.nn.Module`` that an adapter drives."""

from typing import TYPE_CHECKING

from avalanche_dgm.deprecated import former_names
from avalanche_dgm.methods.altm import ALTM
from avalanche_dgm.methods.base import Method, Needs
from avalanche_dgm.methods.dgdmn import DGDMN
from avalanche_dgm.methods.dgr import DGR
from avalanche_dgm.methods.dynamic_memory import DynamicMemory
from avalanche_dgm.methods.ewc_generator import EWCGenerator
from avalanche_dgm.methods.latent_replay import LatentReplay
from avalanche_dgm.methods.mergan import GANReplay, MeRGAN
from avalanche_dgm.methods.naive import Naive
from avalanche_dgm.methods.pseudo_rehearsal import PseudoRehearsal
from avalanche_dgm.methods.stats import MethodStats

__all__ = [
    "ALTM",
    "DGDMN",
    "DGR",
    "DynamicMemory",
    "EWCGenerator",
    "GANReplay",
    "LatentReplay",
    "MeRGAN",
    "Method",
    "Naive",
    "PseudoRehearsal",
    "MethodStats",
    "Needs",
]

if not TYPE_CHECKING:
    __getattr__ = former_names(__name__, {"Record": "MethodStats"})
