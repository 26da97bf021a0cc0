"""Dynamic generative memory (Ostapenko et al. 2019, "Learning to remember", Section 4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from avalanche_dgm.generators.growing import MaskedGenerator
from avalanche_dgm.memories.adversarial import noise_with_class
from avalanche_dgm.memories.adversarial_settings import DynamicMemorySettings
from avalanche_dgm.memories.masked import DynamicGenerativeMemory
from avalanche_dgm.memories.settings import make_settings
from avalanche_dgm.methods.adversarial import GANMethod
from avalanche_dgm.signatures import takes_arguments_of


@takes_arguments_of(DynamicMemorySettings)
class DynamicMemory(GANMethod[DynamicGenerativeMemory]):
    """An AC-GAN that learns masks and grows, and replays old classes to a classifier.

    Args:
        classifier: See `GANMethod`.
        replay_size: See `GANMethod`.
        seed: See `Method`.
        **hyper: Fields of `DynamicMemorySettings`.
    """

    def __init__(
        self,
        *,
        classifier: str = "learner",
        replay_size: int | None = None,
        seed: int | None = None,
        **hyper: Any,
    ) -> None:
        memory = DynamicGenerativeMemory(make_settings(DynamicMemorySettings, hyper))
        super().__init__(memory, classifier=classifier, replay_size=replay_size, seed=seed)

    @property
    def _generator(self) -> MaskedGenerator:
        return self.generative.built

    def _make(self, rows: Tensor, rng: torch.Generator, number: int, rounds: int) -> Tensor:
        memory, s = self.generative, self.generative.settings
        learned = memory.learned
        n_classes = len(memory.entries) - learned
        noise = noise_with_class(rows - learned, n_classes, s.latent, rng)
        return memory.built(noise, scale=s.scale(number, rounds))

    def _extra_loss(self) -> Callable[[torch.Generator, int, int], Tensor]:
        """How much of the free capacity is taken (Eq. 6), weighed by how much there is."""
        s, generator = self.generative.settings, self._generator
        weight = s.sparsity * generator.capacity_ratio
        return lambda rng, number, rounds: weight * generator.sparsity(s.scale(number, rounds))

    def _protect(self, number: int, rounds: int) -> None:
        """Stops the gradients of what is reserved (Eq. 4)."""
        s = self.generative.settings
        scale = s.scale(number, rounds)
        self._generator.protect(scale=scale, smax=s.smax, compensation=s.compensation)
