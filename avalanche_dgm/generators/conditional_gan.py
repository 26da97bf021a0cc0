"""A GAN that is told the class and learns all of them with the same weights."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from avalanche_dgm.data import ExperienceData
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.generators.gan import GAN
from avalanche_dgm.generators.gan_settings import ConditionalGANSettings
from avalanche_dgm.generators.growing import MaskedGenerator
from avalanche_dgm.generators.keeping import KeepOld
from avalanche_dgm.generators.masked_networks import noise_with_class
from avalanche_dgm.modules import evaluating


class ConditionalGAN(GAN):
    """The network of `MaskedGAN` without masks; nothing is reserved and nothing grows.

    Classes may come back.

    Args:
        settings: See `GAN`.
        keep: How old classes are kept; ``None`` for not at all.
        begins_anew: Whether both networks are new in each experience (deep generative replay, Shin
            et al. 2017), or go on. New ones have all classes to learn, and take as many times the
            steps as there are more classes than the experience has.
        **changes: Fields of `ConditionalGANSettings`.
    """

    settings_type: ClassVar[type[ConditionalGANSettings]] = ConditionalGANSettings

    def __init__(
        self,
        settings: ConditionalGANSettings | None = None,
        *,
        keep: KeepOld | None = None,
        begins_anew: bool = False,
        **changes: Any,
    ) -> None:
        super().__init__(settings, keep=keep or KeepOld(), all_classes=True, **changes)
        self.keeps_discriminator = not begins_anew

    def check(self, data: ExperienceData) -> None:
        """See `GAN.check`.

        Raises:
            ConfigError: There is no room among the inputs that say the class.
        """
        super().check(data)
        known, room = self.known_pairs(), self.settings.class_inputs
        needed = self.learned + len({tuple(pair) for pair in data.pairs.tolist()} - known)
        if needed > room:
            raise ConfigError(
                f"The generator is told a class by {room} inputs, and there are {needed} classes"
                " now. Set class_inputs to the number of all classes to come."
            )

    def new_network(self) -> MaskedGenerator:
        """See `GAN.new_network`."""
        network = super().new_network()
        network.begin_task()
        return network

    def rounds(self, n_samples: int) -> int:
        """See `GAN.rounds`."""
        rounds = super().rounds(n_samples)
        if self.keeps_discriminator:
            return rounds
        return -(-rounds * len(self.classes) // len(self.opened))

    def inputs(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        """See `GAN.inputs`; of any classes."""
        s = self.settings
        return noise_with_class(rows, s.class_inputs, s.latent, rng)

    def _generate(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        with evaluating(self.network):
            return self._training_samples(rows, rng, 0)

    def _prepare(self, device: torch.device) -> None:
        super()._prepare(device)
        if not self.keeps_discriminator:
            self._network = self.new_network().to(device)
