"""A generator that is told the class and learns all of them with the same weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from avalanche_dgm.data import ExperienceData
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.generators.growing import MaskedSpec
from avalanche_dgm.generators.masked_networks import build_generator
from avalanche_dgm.memories.adversarial import GANMemory
from avalanche_dgm.memories.adversarial_settings import ConditionalSettings
from avalanche_dgm.modules import evaluating


class ConditionalMemory(GANMemory):
    """The network of `DynamicGenerativeMemory` without masks, for the methods it is compared with.

    Nothing is reserved and nothing grows: what keeps old classes is up to the method.

    Args:
        settings: Hyper-parameters.
    """

    settings: ConditionalSettings

    def check(self, data: ExperienceData) -> None:
        """See `GANMemory.check`; also for room among the inputs that say the class."""
        super().check(data)
        groups = torch.unique(torch.stack([data.tasks, data.labels], dim=1), dim=0)
        needed = self.learned + len(groups)
        if needed > self.settings.class_inputs:
            raise ConfigError(
                f"The generator is told a class by {self.settings.class_inputs} inputs, and there"
                f" are {needed} classes now. Set class_inputs to the number of all classes to come."
            )

    def _build(self, shape: tuple[int, ...]) -> None:
        s = self.settings
        spec = MaskedSpec(
            architecture=self.architecture,
            shape=shape,
            width=s.width,
            latent=s.latent,
            masking="none",
            bounded=self.ready.bounded,
        )
        self.generator = build_generator(spec)
        self.generator.begin_task()

    def renew(self) -> None:
        """Begins with a new generator."""
        device = self.entries.device
        self._build(self.ready.padded)
        self.to(device)

    def told(self, rows: Tensor, noise: Tensor) -> Tensor:
        """The generator's inputs (n, latent): the class in place of the noise's first entries.

        Args:
            rows: int64 tensor (n,), rows of ``entries``.
            noise: Float tensor (n, latent).
        """
        n = self.settings.class_inputs
        return torch.cat([F.one_hot(rows, n).to(noise), noise[:, n:]], dim=1)

    def make(self, rows: Tensor, noise: Tensor) -> Tensor:
        """Generates samples on the scaler.

        Args:
            rows: int64 tensor (n,), rows of ``entries``.
            noise: Float tensor (n, latent).
        """
        return self.built(self.told(rows, noise), scale=1.0)

    @torch.no_grad()
    def imagine(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        """See `GANMemory.imagine`."""
        noise = torch.randn(len(rows), self.settings.latent, generator=rng, device=rows.device)
        with evaluating(self.built):
            return self.make(rows, noise)
