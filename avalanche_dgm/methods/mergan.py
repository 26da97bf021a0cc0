"""Memory replay GANs (Wu et al. 2018), and deep generative replay with the same networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from avalanche_dgm.data import ExperienceData
from avalanche_dgm.generators.growing import MaskedGenerator
from avalanche_dgm.memories.adversarial_settings import ConditionalSettings, MeRGANSettings
from avalanche_dgm.methods.adversarial import FAST
from avalanche_dgm.methods.conditional import ConditionalMethod
from avalanche_dgm.methods.games import AdversarialTrainer
from avalanche_dgm.methods.registry import register
from avalanche_dgm.modules import copied
from avalanche_dgm.signatures import takes_arguments_of


@register(
    "mergan-alignment",
    "the same, held to what its former self makes of the same noise",
    defaults={"classifier": "discriminator"},
    fixed={"replay": "alignment"},
    fast=FAST,
)
@register(
    "mergan",
    "a conditional GAN that replays its own former samples to itself",
    defaults={"classifier": "discriminator"},
    fixed={"replay": "joint"},
    fast=FAST,
)
@takes_arguments_of(MeRGANSettings)
class MeRGAN(ConditionalMethod):
    """A conditional GAN that replays its own former samples to itself.

    Generator and discriminator go on from experience to experience. ``replay="joint"`` is joint
    retraining with replayed samples, ``replay="alignment"`` holds the generator to its former self.

    Args:
        classifier: See `GANMethod`.
        replay_size: See `GANMethod`.
        seed: See `Method`.
        **hyper: Fields of `MeRGANSettings`.
    """

    settings: MeRGANSettings
    settings_kind = MeRGANSettings
    keeps_discriminator = True
    #: The former generator, where and while it is compared with; held, and no part of the state.
    _previous: MaskedGenerator | None = None

    def _begin(self, data: ExperienceData) -> None:
        """See `Method.begin`."""
        super()._begin(data)
        memory, former = self.generative, None
        if memory.learned and self.settings.replay == "alignment":
            # In training mode, as the generator is: both normalise by the batch.
            former = copied(memory.built).requires_grad_(False).train()
        self._hold("_previous", former)

    def end(self, data: ExperienceData) -> None:
        """See `Method.end`."""
        self._hold("_previous", None)
        super().end(data)

    def _trainer(self, rows: Tensor, old: Tensor, old_rows: Tensor) -> AdversarialTrainer:
        """The experience, and what the former self makes of old classes."""
        trainer = super()._trainer(rows, old, old_rows)
        if self.settings.replay == "joint":
            return self._with_old(trainer, old, old_rows)
        if self._previous is not None:
            return replace(trainer, extra=self._distance(self._previous))
        return trainer

    def _distance(self, previous: MaskedGenerator) -> Callable[[torch.Generator, int], Tensor]:
        """The squared distance to the former self's samples of old classes (Eq. 6 there)."""
        memory, s = self.generative, self.settings
        n_old = memory.learned
        each = max(s.batch_size // n_old, 1)
        rows = torch.arange(n_old, device=memory.entries.device).repeat_interleave(each)

        def distance(rng: torch.Generator, number: int) -> Tensor:
            noise = torch.randn(len(rows), s.latent, generator=rng, device=rows.device)
            # In half precision a small difference would be nothing but its rounding.
            with torch.autocast(rows.device.type, enabled=False):
                with torch.no_grad():
                    wanted = previous(memory.told(rows, noise), scale=1.0)
                difference = memory.make(rows, noise) - wanted
            # The authors' code: half of the sum over samples and pixels, mean over classes.
            return s.alignment * 0.5 * difference.square().sum() / n_old

        return distance


@register(
    "gan-replay",
    "deep generative replay with a conditional GAN, made anew each time",
    defaults={"classifier": "discriminator"},
    fast=FAST,
)
@takes_arguments_of(ConditionalSettings)
class GANReplay(ConditionalMethod):
    """Deep generative replay (Shin et al. 2017) with a GAN: both networks begin anew each time.

    They learn the experience's samples and what the former generator made of old classes.

    Args:
        classifier: See `GANMethod`.
        replay_size: See `GANMethod`.
        seed: See `Method`.
        **hyper: Fields of `ConditionalSettings`.
    """

    settings_kind = ConditionalSettings

    def _first_class(self) -> int:
        """The generator learns old classes again, so the discriminator knows them all."""
        return 0

    def _begin_training(self, device: torch.device) -> None:
        """Begins with new networks."""
        super()._begin_training(device)
        self.generative.renew()

    def _trainer(self, rows: Tensor, old: Tensor, old_rows: Tensor) -> AdversarialTrainer:
        """The experience, and what the former generator made of old classes."""
        return self._with_old(super()._trainer(rows, old, old_rows), old, old_rows)
