"""What methods share whose generator learns all classes with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from avalanche_dgm.memories.adversarial import SamplePool, even_weights
from avalanche_dgm.memories.conditional import ConditionalMemory
from avalanche_dgm.methods.adversarial import GANMethod
from avalanche_dgm.methods.games import AdversarialTrainer, Batch, Shown

Shows = Callable[[Batch, torch.Generator], list[Shown]]


class ConditionalMethod(GANMethod[ConditionalMemory]):
    """A conditional GAN beside a classifier; see `GANMethod` for the arguments."""

    memory_kind = ConditionalMemory

    def _trainer(self, rows: Tensor, old: Tensor, old_rows: Tensor) -> AdversarialTrainer:
        """The experience alone, with nothing against forgetting."""
        memory, s = self.generative, self.settings

        def make(mine: Tensor, rng: torch.Generator, number: int) -> Tensor:
            noise = torch.randn(len(mine), s.latent, generator=rng, device=mine.device)
            return memory.make(mine, noise)

        zero = torch.zeros((), device=rows.device)
        return AdversarialTrainer(
            discriminator=self._discriminator,
            generator=memory.built,
            settings=s,
            rounds=s.rounds(len(rows)),
            first=self._first_class(),
            aux_loss=self._has_aux_loss(),
            make=make,
            shown=lambda batch, rng: [(batch[0], batch[1], 1.0, True)],
            extra=lambda rng, number: zero,
            protect=lambda number: None,
        )

    def _with_old(
        self, trainer: AdversarialTrainer, old: Tensor, old_rows: Tensor
    ) -> AdversarialTrainer:
        """Adds as many samples of all old classes together, as if they were data."""
        n_old = self.generative.learned
        if not n_old:
            return trainer
        n_new = len(self.generative.entries) - n_old
        pool = SamplePool(old, old_rows, even_weights(old_rows))

        def both(batch: Batch, rng: torch.Generator) -> list[Shown]:
            samples, rows = pool.draw(len(batch[0]), rng)
            # Each class weighs the same: a sum over classes, in the authors' code.
            return [*trainer.shown(batch, rng), (samples, rows, n_old / n_new, False)]

        return replace(trainer, shown=both)
