"""A class-conditional GAN that learns all classes with the same weights."""

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
    """The network of `MaskedGAN` without masks and growth; classes can be learned again.

    Args:
        keep: How old classes are retained; ``None`` for not at all.
        begins_anew: Whether both networks are new in each experience (deep generative replay, Shin
            et al. 2017) instead of continuing. New networks learn all classes, so the number of
            steps is multiplied by the number of all classes over that of the experience's.
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
            ConfigError: There are more classes than ``class_inputs``.
        """
        super().check(data)
        known, room = self.known_pairs(), self.settings.class_inputs
        needed = self.learned + len({tuple(pair) for pair in data.pairs.tolist()} - known)
        if needed > room:
            raise ConfigError(
                f"The generator has {room} inputs that encode the class, but there are {needed}"
                " classes. Set class_inputs to the number of all classes of the stream."
            )

    def new_network(self) -> MaskedGenerator:
        network = super().new_network()
        network.begin_task()
        return network

    def rounds(self, n_samples: int) -> int:
        rounds = super().rounds(n_samples)
        if self.keeps_discriminator:
            return rounds
        return -(-rounds * len(self.classes) // len(self.opened))

    def inputs(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        """See `GAN.inputs`; for any classes."""
        s = self.settings
        return noise_with_class(rows, s.class_inputs, s.latent, rng)

    def _generate(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        with evaluating(self.network):
            return self._training_samples(rows, rng, 0)

    def _prepare(self, device: torch.device) -> None:
        super()._prepare(device)
        if not self.keeps_discriminator:
            self._network = self.new_network().to(device)
