"""Dynamic generative memory: a GAN that reserves the units of learned classes.

Ostapenko et al. 2019, "Learning to remember: dynamic generative memory", Section 4.
"""

from __future__ import annotations

import warnings
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
    """Retains old classes by masks: the weights that generate them are reserved and frozen."""

    def loss(self, gan: GAN, rng: torch.Generator, number: int = 0) -> Tensor:
        """The sparsity loss (Eq. 6), weighted by the growth of the network."""
        weight = gan.settings.sparsity * gan.network.capacity_ratio
        return weight * gan.network.sparsity(gan.scale(number))

    def protect(self, gan: GAN, number: int) -> None:
        """Stops the gradients of reserved weights (Eq. 4)."""
        s = gan.settings
        gan.network.protect(scale=gan.scale(number), smax=s.smax, compensation=s.compensation)

    def end(self, gan: GAN) -> None:
        """Binarises the masks and reserves their entries (Eq. 5)."""
        network = gan.network
        network.end_task()
        task = network.n_tasks - 1
        unused = [name for name, mask in network.named_masks() if not mask.hard(task).any()]
        if unused:
            warnings.warn(
                f"No unit of the generator's layer {', '.join(unused)} is used by the classes"
                " learned last: their samples are poor or all alike. Decrease sparsity (now"
                f" {gan.settings.sparsity}), or train longer.",
                stacklevel=2,
            )


class MaskedGAN(GAN):
    """A growing generator with learned masks (Ostapenko et al. 2019).

    Each experience learns which units it uses. They are frozen when it ends, and the generator
    grows by as many units when the next one begins. The samples of old classes for given noise
    never change, bit by bit. A class can only be learned once.

    The group of a class is the number of its experience.
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
            ConfigError: There are as many classes as noise dimensions, or more.
        """
        super().check(data)
        known, pairs = self.known_pairs(), data.pairs.tolist()
        again = sorted({label for task, label in pairs if (task, label) in known})
        if again:
            raise LabelError(
                f"Experience {data.name or data.key} has the classes"
                f" {', '.join(map(str, again))}, which were learned before. Dynamic generative"
                " memory learns a class only once, as its weights are frozen at the end of its"
                " experience. Use a stream with each class in one experience, or a method that"
                " learns classes again, such as DGDMN."
            )
        if len(pairs) >= self.settings.latent:
            raise ConfigError(
                f"latent={self.settings.latent} noise dimensions cannot encode {len(pairs)} classes"
                f" of one experience. Set latent to more than {len(pairs)}."
            )

    def open(self, data: ExperienceData, *, groups: Tensor | None = None) -> None:
        """See `GAN.open`; grows the network and adds norms and a head for the experience."""
        self.network.drop_task()
        super().open(data, groups=torch.full_like(data.tasks, self.experiences))
        self.network.begin_task()
        self.network.to(data.images.device)

    def inputs(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        """See `GAN.inputs`; for the current experience's classes."""
        return noise_with_class(rows - self.learned, len(self.opened), self.settings.latent, rng)

    def _generate(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        """See `GAN.generate`: one forward pass for the classes of each experience."""
        network, groups = self.network, self.classes.groups
        counts: list[int] = torch.bincount(groups).tolist()
        firsts = [0, *accumulate(counts)]
        order = torch.argsort(groups[rows], stable=True)
        parts = []
        with evaluating(network):
            sizes = torch.bincount(groups[rows]).tolist()
            for experience, part in enumerate(rows[order].split(sizes)):
                if not len(part):
                    continue
                positions, n_classes = part - firsts[experience], counts[experience]
                noise = noise_with_class(positions, n_classes, self.settings.latent, rng)
                if experience < network.n_tasks:
                    parts.append(network(noise, task=experience))
                else:
                    parts.append(network(noise, scale=self.settings.smax))
        return torch.cat(parts)[torch.argsort(order)]
