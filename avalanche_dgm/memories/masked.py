"""Dynamic generative memory: a generator whose units are reserved for what they make."""

from __future__ import annotations

import warnings
from itertools import accumulate

import torch
from torch import Tensor

from avalanche_dgm.data import ExperienceData
from avalanche_dgm.generators.growing import MaskedSpec
from avalanche_dgm.generators.masked_networks import build_generator
from avalanche_dgm.memories.adversarial import GANMemory, noise_with_class
from avalanche_dgm.memories.adversarial_settings import DynamicMemorySettings
from avalanche_dgm.modules import evaluating


class DynamicGenerativeMemory(GANMemory):
    """One generator that remembers every class (Ostapenko et al. 2019).

    Each experience learns which units it uses. What makes its samples is frozen when it ends, and
    the generator grows by as many units as were reserved. Samples of old classes are the same for
    the same noise for ever, bit by bit.

    Args:
        settings: Hyper-parameters.
    """

    settings: DynamicMemorySettings

    def _build(self, shape: tuple[int, ...]) -> None:
        s = self.settings
        spec = MaskedSpec(
            architecture=self.architecture,
            shape=shape,
            width=s.width,
            latent=s.latent,
            masking=s.masking,
            placement=s.placement,
            protection=s.protection,
            bounded=self.ready.bounded,
        )
        self.generator = build_generator(spec)

    def open(self, data: ExperienceData) -> None:
        """See `GANMemory.open`; the generator gets a norm and a head for the experience."""
        generator = self.built
        generator.drop_task()
        super().open(data)
        generator.begin_task()
        generator.to(data.images.device)

    def close(self) -> None:
        """Binarises the masks, reserves what they use, and grows by as much (Sec. 4.2)."""
        generator = self.built
        generator.end_task()
        super().close()
        task = generator.n_tasks - 1
        out = [name for name, mask in generator.named_masks() if not mask.hard(task).any()]
        if out:
            warnings.warn(
                f"Nothing of {', '.join(out)} is used by what was learned last: its samples are"
                " poor or all alike. Set sparsity lower (now"
                f" {self.settings.sparsity}), or train longer.",
                stacklevel=2,
            )

    def spans(self) -> list[tuple[int, int]]:
        """For each experience, its first row of ``entries`` and its number of classes."""
        counts: list[int] = torch.bincount(self.entries[:, 0]).tolist()
        return list(zip([0, *accumulate(counts)], counts, strict=False))

    @torch.no_grad()
    def imagine(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        """See `GANMemory.imagine`; one pass for each experience that is asked for."""
        generator, spans = self.built, self.spans()
        sizes = torch.bincount(self.entries[rows, 0]).tolist()
        parts = []
        with evaluating(generator):
            for experience, mine in enumerate(rows.split(sizes)):
                if not len(mine):
                    continue
                first, n_classes = spans[experience]
                noise = noise_with_class(mine - first, n_classes, self.settings.latent, rng)
                if experience < generator.n_tasks:
                    parts.append(generator(noise, task=experience))
                else:
                    parts.append(generator(noise, scale=self.settings.smax))
        return torch.cat(parts)
