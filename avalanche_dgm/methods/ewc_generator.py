"""Elastic weight consolidation on a generator (Seff et al. 2017).

| paper | code |
|---|---|
| penalty on the generator alone | `EWC.loss` |
| diagonal of the Fisher information, from samples of the classes | `EWC.information` |
| conditional generator | `ConditionalGAN.inputs` |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from avalanche_dgm.generators.conditional_gan import ConditionalGAN
from avalanche_dgm.generators.gan_settings import ConditionalGANSettings
from avalanche_dgm.generators.keeping import EWC
from avalanche_dgm.methods.adversarial import FAST, GANMethod, GANMethodSettings
from avalanche_dgm.methods.registry import register


@dataclass(frozen=True, kw_only=True)
class EWCGeneratorSettings(GANMethodSettings, ConditionalGANSettings):
    """Settings of elastic weight consolidation on a generator (Seff et al. 2017).

    Attributes:
        ewc_weight: Factor lambda of the penalty, above 0.
        fisher_samples: Samples of each new class used to estimate the Fisher information.
    """

    ewc_weight: float = field(default=1e7, metadata={"above": 0})
    fisher_samples: int = 128


@register(
    "ewc-generator",
    "a conditional GAN whose generator is regularised by elastic weight consolidation",
    defaults={"classifier": "discriminator"},
    fast={**FAST, "fisher_samples": 8},
)
class EWCGenerator(GANMethod):
    """Elastic weight consolidation on the generator of a conditional GAN that replays.

    The generator is trained on the samples of the experience only. The samples that it generates of
    old classes are replayed to the classifier.
    """

    settings_type: ClassVar[type[EWCGeneratorSettings]] = EWCGeneratorSettings

    def _make_generator(self) -> ConditionalGAN:
        s = self.settings
        return ConditionalGAN(s, keep=EWC(s.ewc_weight, s.fisher_samples))
