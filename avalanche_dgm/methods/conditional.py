"""What methods share whose generator learns all classes with the same weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from avalanche_dgm.generators.growing import MaskedGenerator
from avalanche_dgm.memories.adversarial import SamplePool, even_weights
from avalanche_dgm.memories.conditional import ConditionalMemory
from avalanche_dgm.methods.adversarial import GANMethod, Shown


class ConditionalMethod(GANMethod[ConditionalMemory]):
    """A conditional GAN beside a classifier; see `GANMethod` for the arguments."""

    @property
    def _generator(self) -> MaskedGenerator:
        return self.generative.built

    def _make(self, rows: Tensor, rng: torch.Generator, number: int, rounds: int) -> Tensor:
        latent = self.settings.latent
        noise = torch.randn(len(rows), latent, generator=rng, device=rows.device)
        return self.generative.make(rows, noise)

    def _with_old(self, old: Tensor, old_rows: Tensor) -> Callable[..., list[Shown]]:
        """The batch, and as many samples of all old classes together, as if they were data."""
        shown = super()._shown(old, old_rows)
        n_old = self.generative.learned
        if not n_old:
            return shown
        n_new = len(self.generative.entries) - n_old
        pool = SamplePool(old, old_rows, even_weights(old_rows))

        def both(batch: tuple[Tensor, ...], rng: torch.Generator) -> list[Shown]:
            samples, rows = pool.draw(len(batch[0]), rng)
            # Each class weighs the same: a sum over classes, in the authors' code.
            return [*shown(batch, rng), (samples, rows, n_old / n_new, False)]

        return both
