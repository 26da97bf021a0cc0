"""Memory replay GANs (Wu et al. 2018), and deep generative replay with the same networks.

| paper | code |
|---|---|
| joint retraining with replay (Sec. 3.2) | `JointReplay`, ``replay="joint"`` |
| replay alignment (Sec. 3.3, Eq. 6) | `Alignment`, ``replay="alignment"`` |
| sequential fine-tuning (baseline) | ``replay="none"`` |
| auxiliary classifier, Wasserstein losses | `GAN.discriminator_loss`, `GAN.generator_loss` |
| deep generative replay (Shin et al. 2017) | `GANReplay` |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from avalanche_dgm.checks import one_of
from avalanche_dgm.generators.conditional_gan import ConditionalGAN
from avalanche_dgm.generators.gan_settings import ConditionalGANSettings
from avalanche_dgm.generators.keeping import Alignment, JointReplay, KeepOld
from avalanche_dgm.methods.adversarial import FAST, GANMethod, GANMethodSettings
from avalanche_dgm.methods.registry import register
from avalanche_dgm.modules import copied


@dataclass(frozen=True, kw_only=True)
class GANReplaySettings(GANMethodSettings, ConditionalGANSettings):
    """Settings of deep generative replay with a GAN."""


@dataclass(frozen=True, kw_only=True)
class MeRGANSettings(GANMethodSettings, ConditionalGANSettings):
    """Settings of memory replay GANs (Wu et al. 2018).

    Attributes:
        replay: How the generator retains old classes: ``"joint"`` trains it on samples of the
            previous generator as if they were data; ``"alignment"`` trains it to map the same noise
            to the same images as the previous one; ``"none"`` forgets. Or an object such as
            `Alignment` with a weight, which is copied.
        alignment: With ``replay="alignment"``, weight of the squared distance, summed over a batch
            and its pixels, above 0.
    """

    replay: Literal["joint", "alignment", "none"] | KeepOld = "joint"
    alignment: float = field(default=1e-3, metadata={"above": 0})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.replay, KeepOld):
            one_of("replay", self.replay, "joint", "alignment", "none")


@register(
    "mergan-alignment",
    "a conditional GAN, aligned with its previous version on the same noise",
    defaults={"classifier": "discriminator"},
    fixed={"replay": "alignment"},
    fast=FAST,
)
@register(
    "mergan",
    "a conditional GAN, retrained jointly on new samples and those of its previous version",
    defaults={"classifier": "discriminator"},
    fixed={"replay": "joint"},
    fast=FAST,
)
class MeRGAN(GANMethod):
    """MeRGAN: a conditional GAN whose samples are replayed to itself and to the classifier.

    Generator and discriminator continue from experience to experience. ``replay="joint"`` is joint
    retraining with replayed samples, ``replay="alignment"`` aligns the generator with the previous
    one.
    """

    settings_type: ClassVar[type[MeRGANSettings]] = MeRGANSettings

    def _make_generator(self) -> ConditionalGAN:
        s = self.settings
        if isinstance(s.replay, KeepOld):
            return ConditionalGAN(s, keep=copied(s.replay))
        keep: dict[str, KeepOld] = {"joint": JointReplay(), "alignment": Alignment(s.alignment)}
        return ConditionalGAN(s, keep=keep.get(s.replay))


@register(
    "gan-replay",
    "deep generative replay with a conditional GAN, trained from scratch in each experience",
    defaults={"classifier": "discriminator"},
    fast=FAST,
)
class GANReplay(GANMethod):
    """Deep generative replay (Shin et al. 2017) with a new GAN in each experience.

    The GAN is trained on the experience's samples and on the previous generator's of old classes.
    """

    settings_type: ClassVar[type[GANReplaySettings]] = GANReplaySettings

    def _make_generator(self) -> ConditionalGAN:
        return ConditionalGAN(self.settings, keep=JointReplay(), begins_anew=True)
