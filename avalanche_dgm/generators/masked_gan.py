"""Dynamic generative memory: a GAN whose units are reserved for what they make.

Ostapenko et al. 2019, "Learning to remember: dynamic generative memory", Section 4.
"""

from __future__ import annotations

import warnings
from itertools import accumulate
from typing import ClassVar

import torch
from torch import Tensor, nn

from avalanche_dgm.data import ExperienceData
from avalanche_dgm.errors import ConfigError, LabelError
from avalanche_dgm.generators.gan import GAN
from avalanche_dgm.generators.gan_settings import MaskedGANSettings
from avalanche_dgm.generators.growing import MaskedGenerator, MaskedSpec
from avalanche_dgm.generators.masked_networks import build_generator
from avalanche_dgm.generators.scaler import Scaler
from avalanche_dgm.modules import evaluating


class MaskedGAN(GAN):
    """One generator that remembers every class (Ostapenko et al. 2019).

    Each experience learns which units it uses. What makes its samples is frozen when it ends, and
    the generator grows by as many units as were reserved. Samples of old classes are the same for
    the same noise for ever, bit by bit. A class comes once: what makes its samples is frozen.

    The group of a class is the number of its experience.

    Args:
        settings: See `GAN`.
        all_classes: See `GAN`.
        **changes: Fields of `MaskedGANSettings`.
    """

    settings_type: ClassVar[type[MaskedGANSettings]] = MaskedGANSettings

    def check(self, data: ExperienceData) -> None:
        """See `GAN.check`.

        Raises:
            LabelError: One of its classes was learned before.
            ConfigError: More classes than there are noise dimensions to tell them by.
        """
        super().check(data)
        known = {(task, label) for _, task, label in self.classes.rows[: self.learned].tolist()}
        groups = data.pairs.tolist()
        again = sorted({label for task, label in groups if (task, label) in known})
        if again:
            raise LabelError(
                f"Experience {data.name or data.key} brings back the classes"
                f" {', '.join(map(str, again))}, which were learned before. Dynamic generative"
                " memory learns a class once: what makes its samples is frozen when its experience"
                " ends. Use a stream in which each class comes in one experience, or a method that"
                " takes classes back, such as DGDMN."
            )
        if len(groups) >= self.settings.latent:
            raise ConfigError(
                f"latent={self.settings.latent} noise dimensions cannot tell {len(groups)} classes"
                f" of one experience. Set latent to more than {len(groups)}."
            )

    def _build(self, scaler: Scaler) -> MaskedGenerator:
        s = self.settings
        spec = MaskedSpec(
            architecture=s.architecture_for(scaler.shape),
            shape=scaler.padded,
            width=s.width,
            latent=s.latent,
            masking=s.masking,
            placement=s.placement,
            protection=s.protection,
            bounded=scaler.bounded,
        )
        return build_generator(spec)

    def open(self, data: ExperienceData, *, groups: Tensor | None = None) -> None:
        """See `GAN.open`; the network gets norms and a head for the experience."""
        self.network.drop_task()
        super().open(data, groups=torch.full_like(data.tasks, self.experiences))
        self.network.begin_task()
        self.network.to(data.images.device)

    def _training_samples(self, rows: Tensor, rng: torch.Generator, number: int) -> Tensor:
        s = self.settings
        noise = noise_with_class(rows - self.learned, len(self.opened), s.latent, rng)
        return self.network(noise, scale=s.scale(number, self._rounds))

    def _extra_loss(self, rng: torch.Generator, number: int) -> Tensor:
        """How much of what is free is taken (Eq. 6), weighed by how much there is."""
        s, network = self.settings, self.network
        weight = s.sparsity * network.capacity_ratio
        return weight * network.sparsity(s.scale(number, self._rounds))

    def _protect(self, number: int) -> None:
        """Stops the gradients of what is reserved (Eq. 4)."""
        s = self.settings
        scale = s.scale(number, self._rounds)
        self.network.protect(scale=scale, smax=s.smax, compensation=s.compensation)

    def _close(self) -> None:
        """Binarises the masks, reserves what they use, and grows by as much (Sec. 4.2)."""
        network = self.network
        network.end_task()
        task = network.n_tasks - 1
        out = [name for name, mask in network.named_masks() if not mask.hard(task).any()]
        if out:
            warnings.warn(
                f"Nothing of {', '.join(out)} is used by what was learned last: its samples are"
                " poor or all alike. Set sparsity lower (now"
                f" {self.settings.sparsity}), or train longer.",
                stacklevel=2,
            )

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


def noise_with_class(
    positions: Tensor, n_classes: int, latent: int, rng: torch.Generator
) -> Tensor:
    """Standard normal noise whose first entries say the class, as the authors' code has it.

    Args:
        positions: int64 tensor (n,), the class, from 0 to ``n_classes`` - 1.
        n_classes: How many there are to tell apart.
        latent: Entries in all, more than ``n_classes``.
        rng: Generator on the device of ``positions``.

    Returns:
        Float tensor (n, latent).
    """
    noise = torch.randn(len(positions), latent, generator=rng, device=positions.device)
    noise[:, :n_classes] = nn.functional.one_hot(positions, n_classes).to(noise)
    return noise
