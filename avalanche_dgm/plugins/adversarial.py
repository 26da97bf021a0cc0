"""Memories that are generative adversarial networks, as Avalanche plugins."""

from __future__ import annotations

from typing import Any, ClassVar

from avalanche_dgm.methods import DynamicMemory, EWCGenerator, GANReplay, MeRGAN
from avalanche_dgm.methods.adversarial import GANMethod
from avalanche_dgm.methods.dynamic_memory import paper_hyper
from avalanche_dgm.plugins.experiences import TaskOracle
from avalanche_dgm.plugins.wrapping import WrappingPlugin
from avalanche_dgm.signatures import takes_arguments_of


class GANPlugin(WrappingPlugin):
    """Drives a memory that is a generative adversarial network.

    With ``classifier="learner"`` the strategy's model learns, with replay, and stays the user's
    object. With ``classifier="discriminator"`` the discriminator answers in its place:
    ``strategy.model`` becomes a `WrappedModel`, the strategy's epochs are left out, and the user's
    model learns nothing; it only says how wide the answers are. `finish` puts it back.

    A subclass names its method in ``kind``.

    Args:
        oracle: How tasks are told apart in training; see `MethodPlugin`. Nothing is told to the
            model, neither in training nor at test time.
        progress: Whether to show progress bars.
        **hyper: Any argument of the method.

    Raises:
        ConfigError: A hyper-parameter is unknown or cannot work.
    """

    method: GANMethod
    kind: ClassVar[type[GANMethod]]

    def __init__(
        self,
        *,
        oracle: str | TaskOracle = "auto",
        progress: bool = False,
        **hyper: Any,
    ) -> None:
        super().__init__(self.kind(**hyper), oracle=oracle, progress=progress)


@takes_arguments_of(DynamicMemory)
class DynamicMemoryPlugin(GANPlugin):
    """Dynamic generative memory (Ostapenko et al. 2019) for any strategy, without an argument.

    A generator learns, by masks, which of its units each experience takes; they are frozen, and it
    grows by as many. Its samples of old classes, the same for ever, are replayed to the model::

        strategy = Naive(model=net, optimizer=optimizer, plugins=[DynamicMemoryPlugin()])

    Each class may come in one experience only.

    Args:
        oracle: How tasks are told apart in training; see `MethodPlugin`. Nothing is told to the
            model, neither in training nor at test time.
        progress: Whether to show progress bars.
        **hyper: Any field of `avalanche_dgm.methods.dynamic_memory.DynamicMemorySettings`.

    Raises:
        ConfigError: A hyper-parameter is unknown or cannot work.
    """

    method: DynamicMemory
    kind = DynamicMemory

    @classmethod
    def paper(cls, data: str = "mnist", **overrides: Any) -> DynamicMemoryPlugin:
        """Makes the plugin with the settings of the authors' code.

        Args:
            data: ``"mnist"``, ``"mnist-weights"``, ``"svhn-weights"`` or ``"cifar10"``.
            **overrides: Arguments that shall differ.

        Raises:
            ConfigError: There is no such configuration.
        """
        return cls(**{**paper_hyper(data), **overrides})


@takes_arguments_of(MeRGAN)
class MeRGANPlugin(GANPlugin):
    """Memory replay GANs (Wu et al. 2018) for any strategy, without an argument.

    A conditional GAN learns the experience, and is held by its former self to what it made of old
    classes, which is replayed to the model::

        strategy = Naive(model=net, optimizer=optimizer, plugins=[MeRGANPlugin()])

    Each class may come in one experience only.

    Args:
        oracle: How tasks are told apart in training; see `MethodPlugin`. Nothing is told to the
            model, neither in training nor at test time.
        progress: Whether to show progress bars.
        **hyper: Any field of `avalanche_dgm.methods.mergan.MeRGANSettings`.

    Raises:
        ConfigError: A hyper-parameter is unknown or cannot work.
    """

    method: MeRGAN
    kind = MeRGAN


@takes_arguments_of(EWCGenerator)
class EWCGeneratorPlugin(GANPlugin):
    """Elastic weight consolidation on a GAN (Seff et al. 2017) for any strategy.

    A conditional GAN learns the experience alone, its generator held where old classes need it to
    be. What it still makes of them is replayed to the model::

        strategy = Naive(model=net, optimizer=optimizer, plugins=[EWCGeneratorPlugin()])

    Each class may come in one experience only.

    Args:
        oracle: How tasks are told apart in training; see `MethodPlugin`. Nothing is told to the
            model, neither in training nor at test time.
        progress: Whether to show progress bars.
        **hyper: Any field of `avalanche_dgm.methods.ewc_generator.EWCGeneratorSettings`.

    Raises:
        ConfigError: A hyper-parameter is unknown or cannot work.
    """

    method: EWCGenerator
    kind = EWCGenerator


@takes_arguments_of(GANReplay)
class GANReplayPlugin(GANPlugin):
    """Deep generative replay (Shin et al. 2017) with a GAN, for any strategy.

    A new conditional GAN learns each experience together with what the former one made of old
    classes, which is replayed to the model, too::

        strategy = Naive(model=net, optimizer=optimizer, plugins=[GANReplayPlugin()])

    Each class may come in one experience only.

    Args:
        oracle: How tasks are told apart in training; see `MethodPlugin`. Nothing is told to the
            model, neither in training nor at test time.
        progress: Whether to show progress bars.
        **hyper: Any field of `avalanche_dgm.methods.mergan.GANReplaySettings`.

    Raises:
        ConfigError: A hyper-parameter is unknown or cannot work.
    """

    method: GANReplay
    kind = GANReplay
