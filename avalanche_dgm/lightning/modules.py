"""One LightningModule for each method."""

from __future__ import annotations

from avalanche_dgm.lightning.module import MethodModule
from avalanche_dgm.methods import (
    ALTM,
    DGDMN,
    DGR,
    DynamicMemory,
    EWCGenerator,
    GANReplay,
    LatentReplay,
    MeRGAN,
    Naive,
    PseudoRehearsal,
)
from avalanche_dgm.signatures import takes_arguments_of


@takes_arguments_of(DGDMN)
class DGDMNModule(MethodModule):
    """Deep generative dual memory (Kamra et al. 2017).

    The optimiser trains the small short-term learner of each task; the model is the long-term
    learner and is trained in sleep.

    Args:
        model: See `MethodModule`.
        **hyper: ``optimizer`` and ``criterion`` of `MethodModule`, ``seed``, and any field of
            `avalanche_dgm.memories.DualMemorySettings`.
    """

    kind = DGDMN


@takes_arguments_of(DGR)
class DGRModule(MethodModule):
    """Deep generative replay (Shin et al. 2017).

    Args:
        model: See `MethodModule`.
        **hyper: ``optimizer`` and ``criterion`` of `MethodModule`, ``replay_size``, ``seed``, and
            any field of `avalanche_dgm.memories.MemorySettings`.
    """

    kind = DGR


@takes_arguments_of(PseudoRehearsal)
class PseudoRehearsalModule(MethodModule):
    """Pseudopattern rehearsal (Robins 1995), a baseline.

    Args:
        model: See `MethodModule`.
        **hyper: ``optimizer`` and ``criterion`` of `MethodModule`, and the arguments of
            `avalanche_dgm.methods.PseudoRehearsal`.
    """

    kind = PseudoRehearsal


class NaiveModule(MethodModule):
    """The plain network, which forgets: what the methods are compared with.

    Args:
        model: See `MethodModule`.
        **hyper: ``optimizer`` and ``criterion`` of `MethodModule`, and ``seed``.
    """

    kind = Naive


@takes_arguments_of(ALTM)
class ALTMModule(MethodModule):
    """Active long-term memory: distillation from a frozen stable network (Furlanello et al. 2016).

    Args:
        model: See `MethodModule`.
        **hyper: ``optimizer`` and ``criterion`` of `MethodModule`, and the arguments of
            `avalanche_dgm.methods.ALTM`.
    """

    kind = ALTM


@takes_arguments_of(LatentReplay)
class LatentReplayModule(MethodModule):
    """Replay of latents behind a frozen compressor (Saez de Ocariz Borde 2022).

    Args:
        model: See `MethodModule`; or ``torch.nn.Sequential(compressor, classifier)``.
        **hyper: ``optimizer`` and ``criterion`` of `MethodModule`, and the arguments of
            `avalanche_dgm.methods.LatentReplay`.
    """

    kind = LatentReplay


@takes_arguments_of(DynamicMemory)
class DynamicMemoryModule(MethodModule):
    """Dynamic generative memory (Ostapenko et al. 2019).

    With ``classifier="discriminator"`` the discriminator answers, and the model learns nothing.

    Args:
        model: See `MethodModule`.
        **hyper: ``optimizer`` and ``criterion`` of `MethodModule`, ``classifier``,
            ``replay_size``, ``seed``, and any field of
            `avalanche_dgm.methods.dynamic_memory.DynamicMemorySettings`.
    """

    kind = DynamicMemory


@takes_arguments_of(MeRGAN)
class MeRGANModule(MethodModule):
    """Memory replay GANs (Wu et al. 2018).

    With ``classifier="discriminator"`` the discriminator answers, and the model learns nothing.

    Args:
        model: See `MethodModule`.
        **hyper: ``optimizer`` and ``criterion`` of `MethodModule`, ``classifier``,
            ``replay_size``, ``seed``, and any field of
            `avalanche_dgm.methods.mergan.MeRGANSettings`.
    """

    kind = MeRGAN


@takes_arguments_of(EWCGenerator)
class EWCGeneratorModule(MethodModule):
    """Elastic weight consolidation on a GAN (Seff et al. 2017).

    With ``classifier="discriminator"`` the discriminator answers, and the model learns nothing.

    Args:
        model: See `MethodModule`.
        **hyper: ``optimizer`` and ``criterion`` of `MethodModule`, ``classifier``,
            ``replay_size``, ``seed``, and any field of
            `avalanche_dgm.methods.ewc_generator.EWCGeneratorSettings`.
    """

    kind = EWCGenerator


@takes_arguments_of(GANReplay)
class GANReplayModule(MethodModule):
    """Deep generative replay (Shin et al. 2017) with a GAN.

    With ``classifier="discriminator"`` the discriminator answers, and the model learns nothing.

    Args:
        model: See `MethodModule`.
        **hyper: ``optimizer`` and ``criterion`` of `MethodModule`, ``classifier``,
            ``replay_size``, ``seed``, and any field of
            `avalanche_dgm.methods.mergan.GANReplaySettings`.
    """

    kind = GANReplay
