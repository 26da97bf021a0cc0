"""Dynamic generative memory: a GAN whose units are reserved for what they make.

Ostapenko et al. 2019, "Learning to remember: dynamic generative memory", Section 4.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from itertools import accumulate
from typing import Any, ClassVar

import torch
from torch import Tensor

from avalanche_dgm.data import ExperienceData
from avalanche_dgm.errors import ConfigError, LabelError
from avalanche_dgm.generators.gan import GAN
from avalanche_dgm.generators.gan_settings import MaskedGANSettings
from avalanche_dgm.generators.keeping import KeepOld
from avalanche_dgm.generators.masked_networks import noise_with_class
from avalanche_dgm.modules import evaluating


class ReservedUnits(KeepOld):
    """Keeps old classes by masks: what makes their samples is reserved, and never changes."""

    def loss(self, gan: GAN, rng: torch.Generator, number: int = 0) -> Tensor:
        """How much of what is free is taken (Eq. 6), weighed by how much there is."""
        weight = gan.settings.sparsity * gan.network.capacity_ratio
        return weight * gan.network.sparsity(gan.scale(number))

    def protect(self, gan: GAN, number: int) -> None:
        """Stops the gradients of what is reserved (Eq. 4)."""
        s = gan.settings
        gan.network.protect(scale=gan.scale(number), smax=s.smax, compensation=s.compensation)

    def end(self, gan: GAN) -> None:
        """Binarises the masks and reserves what they use (Eq. 5)."""
        network = gan.network
        network.end_task()
        task = network.n_tasks - 1
        out = [name for name, mask in network.named_masks() if not mask.hard(task).any()]
        if out:
            warnings.warn(
                f"No unit of the generator's layer {', '.join(out)} is used by the classes learned"
                " last: their samples are poor or all alike. Set sparsity lower (now"
                f" {gan.settings.sparsity}), or train longer.",
                stacklevel=2,
            )


class MaskedGAN(GAN):
    """One generator that remembers every class (Ostapenko et al. 2019).

    Each experience learns which units it uses. What makes its samples is frozen when it ends, and
    the generator grows by as many units when the next one begins. Samples of old classes are the
    same for the same noise for ever, bit by bit. A class comes once: what makes its samples is
    frozen.

    The group of a class is the number of its experience.

    Args:
        settings: See `GAN`.
        all_classes: See `GAN`.
        **changes: Fields of `MaskedGANSettings`.
    """

    settings_type: ClassVar[type[MaskedGANSettings]] = MaskedGANSettings

    def __init__(
        self,
        settings: MaskedGANSettings | None = None,
        *,
        all_classes: bool = False,
        **changes: Any,
    ) -> None:
        super().__init__(settings, keep=ReservedUnits(), all_classes=all_classes, **changes)

    def check(self, data: ExperienceData) -> None:
        """See `GAN.check`.

        Raises:
            LabelError: One of its classes was learned before.
            ConfigError: More classes than there are noise dimensions to tell them by.
        """
        super().check(data)
        known, pairs = self.known_pairs(), data.pairs.tolist()
        again = sorted({label for task, label in pairs if (task, label) in known})
        if again:
            raise LabelError(
                f"Experience {data.name or data.key} brings back the classes"
                f" {', '.join(map(str, again))}, which were learned before. Dynamic generative"
                " memory learns a class once: what makes its samples is frozen when its experience"
                " ends. Use a stream in which each class comes in one experience, or a method that"
                " takes classes back, such as DGDMN."
            )
        if len(pairs) >= self.settings.latent:
            raise ConfigError(
                f"latent={self.settings.latent} noise dimensions cannot tell {len(pairs)} classes"
                f" of one experience. Set latent to more than {len(pairs)}."
            )

    def _masks(self) -> Mapping[str, Any]:
        names = ("masking", "placement", "protection", "at_rest")
        return {name: getattr(self.settings, name) for name in names}

    def open(self, data: ExperienceData, *, groups: Tensor | None = None) -> None:
        """See `GAN.open`; the network grows, and gets norms and a head for the experience."""
        self.network.drop_task()
        super().open(data, groups=torch.full_like(data.tasks, self.experiences))
        self.network.begin_task()
        self.network.to(data.images.device)

    def inputs(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        """See `GAN.inputs`; of the open experience's classes."""
        return noise_with_class(rows - self.learned, len(self.opened), self.settings.latent, rng)

    def _generate(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        """One pass for each experience that is asked for, in their order."""
        network, groups = self.network, self.classes.groups
        counts: list[int] = torch.bincount(groups).tolist()
        firsts = [0, *accumulate(counts)]
        order = torch.argsort(groups[rows], stable=True)
        parts = []
        with evaluating(network):
            asked = torch.bincount(groups[rows]).tolist()
            for experience, mine in enumerate(rows[order].split(asked)):
                if not len(mine):
                    continue
                positions, n_classes = mine - firsts[experience], counts[experience]
                noise = noise_with_class(positions, n_classes, self.settings.latent, rng)
                if experience < network.n_tasks:
                    parts.append(network(noise, task=experience))
                else:
                    parts.append(network(noise, scale=self.settings.smax))
        return torch.cat(parts)[torch.argsort(order)]
