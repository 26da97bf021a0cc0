"""Phases that train a generator against a discriminator, and a discriminator as a classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avalanche_dgm.fitting import OptimizationStep, Phase, epochs_to_steps
from avalanche_dgm.generators.discriminators import Discriminator
from avalanche_dgm.losses import discriminator_loss, generator_loss, gradient_penalty
from avalanche_dgm.memories.adversarial import SamplePool
from avalanche_dgm.memories.adversarial_settings import GANSettings

Batch = tuple[Tensor, ...]

#: Samples a step in the training of the classifier.
FINETUNE_BATCH = 64
#: Its fewest steps, where experiences are small.
LEAST_FINETUNE_STEPS = 60

#: Real samples, their classes, their weight in the loss, and whether the slope is penalised there.
Shown = tuple[Tensor, Tensor, float, bool]


@dataclass(frozen=True)
class AdversarialTrainer:
    """Trains a discriminator and a generator in alternating steps (AC-GAN, WGAN-GP).

    Attributes:
        discriminator: Tells real from generated samples, and classes.
        generator: What makes the samples.
        settings: Hyper-parameters.
        rounds: Steps of the generator.
        first: The class that is the discriminator's first logit.
        aux_loss: Whether the generator learns from the discriminator's answers on classes.
        make: From classes (n,), random numbers and the number of the round to samples (n, *padded)
            with a gradient.
        shown: From a batch and random numbers to what both learn from in this step.
        extra: From random numbers and the number of the round to what is added to the generator's
            loss.
        protect: Changes the generator's gradients before its step; told the number of the round.
    """

    discriminator: Discriminator
    generator: nn.Module
    settings: GANSettings
    rounds: int
    first: int
    aux_loss: bool
    make: Callable[[Tensor, torch.Generator, int], Tensor]
    shown: Callable[[Batch, torch.Generator], Iterable[Shown]]
    extra: Callable[[torch.Generator, int], Tensor]
    protect: Callable[[int], None]

    def phase(
        self, samples: Tensor, rows: Tensor, class_steps: Iterable[OptimizationStep] = ()
    ) -> Phase:
        """The phase in which both are trained.

        Args:
            samples: Float tensor (N, *padded), real samples.
            rows: int64 tensor (N,), their classes.
            class_steps: Further steps in each round, which come first.
        """
        s, discriminator = self.settings, self.discriminator
        discriminates = [*discriminator.trunk.parameters(), *discriminator.score_head.parameters()]
        discriminates += discriminator.class_head.parameters() if self.aux_loss else []
        made = [p for p in self.generator.parameters() if p.requires_grad]
        kinds = [
            *class_steps,
            *[OptimizationStep("discriminator", discriminates, self._discriminator_loss)]
            * s.discriminator_steps,
            OptimizationStep("generator", made, self._generator_loss, self.protect),
        ]
        both = nn.ModuleDict({"discriminator": discriminator, "generator": self.generator})
        steps = self.rounds * len(kinds)
        data = (samples, rows)
        return Phase("generator", both, kinds, s.gan_optimizer, steps, s.batch_size, data)

    def _discriminator_loss(self, batch: Batch, rng: torch.Generator, number: int) -> Tensor:
        """Wasserstein loss, the auxiliary classifier's on real samples, and gradient penalty."""
        discriminator, penalty = self.discriminator, self.settings.penalty
        total = torch.zeros((), device=batch[0].device)
        for real, rows, weight, penalised in self.shown(batch, rng):
            with torch.no_grad():
                generated = self.make(rows, rng, number)
            if self.aux_loss:
                scores, logits = discriminator(real)
                loss = F.cross_entropy(logits, rows - self.first)
            else:
                scores, loss = discriminator.score(real), torch.zeros_like(total)
            loss = loss + discriminator_loss(scores, discriminator.score(generated))
            if penalised and penalty:
                shares = torch.rand(len(real), generator=rng, device=real.device)
                loss = loss + penalty * gradient_penalty(
                    discriminator.score, real, generated, shares
                )
            total = total + weight * loss
        return total

    def _generator_loss(self, batch: Batch, rng: torch.Generator, number: int) -> Tensor:
        """Scores of generated samples, the auxiliary classifier's loss, and what is added."""
        total = self.extra(rng, number)
        for _, rows, weight, _ in self.shown(batch, rng):
            generated = self.make(rows, rng, number)
            if self.aux_loss:
                scores, logits = self.discriminator(generated)
                loss = generator_loss(scores) + F.cross_entropy(logits, rows - self.first)
            else:
                loss = generator_loss(self.discriminator.score(generated))
            total = total + weight * loss
        return total


def class_step(discriminator: Discriminator, pool: SamplePool, *, first: int) -> OptimizationStep:
    """A step of the discriminator on classes (Ostapenko et al., Sec. 4.1).

    Args:
        discriminator: Shares its trunk with its other task.
        pool: Real new samples and generated old ones.
        first: The class that is the discriminator's first logit.
    """

    def loss(batch: Batch, rng: torch.Generator, number: int) -> Tensor:
        samples, rows = pool.draw(len(batch[0]), rng)
        return F.cross_entropy(discriminator.classify(samples), rows - first)

    return OptimizationStep(
        "classes", [*discriminator.trunk.parameters(), *discriminator.class_head.parameters()], loss
    )


def classification(
    discriminator: Discriminator, pool: SamplePool, settings: GANSettings, n: int
) -> Phase:
    """The training of a discriminator as the classifier of all classes.

    Args:
        discriminator: Has a logit for each class.
        pool: Real new samples and generated ones.
        settings: Hyper-parameters.
        n: Samples in a pass.
    """

    def loss(batch: Batch, rng: torch.Generator, number: int) -> Tensor:
        # The batch only says how many: several devices divide them.
        samples, rows = pool.draw(len(batch[0]), rng)
        samples = shifted(samples, settings.shift, rng)
        return F.cross_entropy(discriminator.classify(samples), rows)

    steps = epochs_to_steps(settings.discriminator_finetune_epochs, n, FINETUNE_BATCH)
    steps = max(steps, LEAST_FINETUNE_STEPS) if steps else 0
    # A step of its own kind, since several devices have to know that the score's head has no
    # gradient.
    step = OptimizationStep(
        "loss", [*discriminator.trunk.parameters(), *discriminator.class_head.parameters()], loss
    )
    optimizer = settings.discriminator_finetune_optimizer
    return Phase(
        "classifier", discriminator, [step], optimizer, steps, FINETUNE_BATCH, (pool.rows,)
    )


def shifted(samples: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Shifts each image at random; what comes in from outside is dark.

    Args:
        samples: Float tensor (n, C, H, W) in [-1, 1], or (n, D), which is left alone.
        share: The farthest, as a share of each side.
        rng: Generator on the samples' device.
    """
    if samples.ndim != 4 or not share:
        return samples
    n, _, height, width = samples.shape
    far = [round(share * height), round(share * width)]
    padded = F.pad(samples, (far[1], far[1], far[0], far[0]), value=-1.0)
    device = samples.device
    places = [
        torch.randint(0, 2 * most + 1, (n, 1), generator=rng, device=device)
        + torch.arange(side, device=device)
        for most, side in zip(far, (height, width), strict=True)
    ]
    each = torch.arange(n, device=device)[:, None, None]
    # Indexed dimensions come first, hence channels last.
    picked = padded.permute(0, 2, 3, 1)[each, places[0][:, :, None], places[1][:, None, :]]
    return picked.permute(0, 3, 1, 2).contiguous()
