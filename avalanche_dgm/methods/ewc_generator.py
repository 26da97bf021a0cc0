"""Elastic weight consolidation on a generator (Seff et al. 2017)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from avalanche_dgm.data import ExperienceData
from avalanche_dgm.memories.adversarial_settings import EWCGeneratorSettings
from avalanche_dgm.methods.adversarial import FAST, GANMethod
from avalanche_dgm.methods.conditional import ConditionalMethod
from avalanche_dgm.methods.games import AdversarialTrainer
from avalanche_dgm.methods.registry import register
from avalanche_dgm.modules import GrowingBuffers, evaluating
from avalanche_dgm.signatures import takes_arguments_of

#: Samples whose gradients are held at once: each has as many numbers as the generator.
_AT_ONCE = 32


class _Importance(GrowingBuffers):
    """How much each weight of a generator matters, and where it was: flat tensors."""

    fisher: Tensor
    anchor: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("fisher", torch.empty(0))
        self.register_buffer("anchor", torch.empty(0))

    def add(self, fisher: Tensor, anchor: Tensor) -> None:
        """Sums the information over experiences; the weights are those of now."""
        self.fisher = self.fisher + fisher if len(self.fisher) else fisher
        self.anchor = anchor


@register(
    "ewc-generator",
    "a conditional GAN whose generator is held by elastic weight consolidation",
    defaults={"classifier": "discriminator"},
    fast={**FAST, "fisher_samples": 8},
)
@takes_arguments_of(EWCGeneratorSettings)
@takes_arguments_of(GANMethod)
class EWCGenerator(ConditionalMethod):
    """A conditional GAN whose generator is held where old classes need it to be.

    The generator is trained on the experience alone, and nothing is replayed to it. What it still
    makes of old classes is replayed to the classifier.

    Args:
        classifier: See `GANMethod`.
        replay_size: See `GANMethod`.
        seed: See `Method`.
        **hyper: Fields of `EWCGeneratorSettings`.
    """

    settings: EWCGeneratorSettings
    settings_kind = EWCGeneratorSettings
    keeps_discriminator = True

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.importance = _Importance()
        self._found: Tensor | None = None

    def _trainer(self, rows: Tensor, old: Tensor, old_rows: Tensor) -> AdversarialTrainer:
        """The experience, with half of lambda times the squared way from where it was, weighed."""
        trainer, held = super()._trainer(rows, old, old_rows), self.importance
        if not len(held.fisher):
            return trainer
        parameters = list(self.generative.built.parameters())

        def penalty(rng: torch.Generator, number: int) -> Tensor:
            way = torch.cat([p.flatten() for p in parameters]) - held.anchor
            return self.settings.ewc_weight / 2 * (held.fisher * way.square()).sum()

        return replace(trainer, extra=penalty)

    def _after_training(self) -> None:
        """Estimates the information by the discriminator that the generator has learned from."""
        self._found = self._fisher()

    def _fisher(self) -> Tensor:
        """The diagonal of the Fisher information of the new classes' samples, summed over classes.

        The mean of each sample's squared gradient of the generator's loss, as there is no
        likelihood.

        Returns:
            Float tensor (P,), in the order of the generator's parameters.
        """
        memory, discriminator, s = self.generative, self._discriminator, self.settings
        generator = memory.built
        n_new = len(memory.entries) - memory.learned
        device = memory.entries.device
        rows = torch.arange(memory.learned, len(memory.entries), device=device)
        rows = rows.repeat_interleave(s.fisher_samples)
        noise = torch.randn(len(rows), s.latent, generator=self.rng, device=device)
        inputs = memory.told(rows, noise)
        weights = {name: p.detach() for name, p in generator.named_parameters()}

        def loss(weights: dict[str, Tensor], one: Tensor) -> Tensor:
            made = functional_call(generator, weights, (one[None],), {"scale": 1.0})
            return -discriminator.score(made).sum()

        total = torch.zeros(sum(p.numel() for p in weights.values()), device=device)
        each = vmap(grad(loss), in_dims=(None, 0))
        with evaluating(generator), evaluating(discriminator):
            for part in inputs.split(_AT_ONCE):
                gradients = each(weights, part)
                squares = [gradients[name].square().sum(dim=0).flatten() for name in weights]
                total += torch.cat(squares).detach()
        return total / len(rows) * n_new

    def end(self, data: ExperienceData) -> None:
        """See `Method.end`; from now on the generator is held here."""
        if self._found is not None:
            weights = [p.detach().flatten() for p in self.generative.built.parameters()]
            self.importance.add(self._found, torch.cat(weights))
        self._found = None
        super().end(data)

    def memory(self) -> list[nn.Module]:
        """See `GANMethod.memory`; and what holds the generator."""
        return [*super().memory(), self.importance]
