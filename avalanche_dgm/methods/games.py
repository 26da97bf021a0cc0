"""The training of a critic and a generator, and of a critic as a classifier, as phases."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avalanche_dgm.fitting import Phase, Turn, epochs_to_steps
from avalanche_dgm.generators.critics import Critic
from avalanche_dgm.losses import critic_loss, generator_loss, gradient_penalty
from avalanche_dgm.memories.adversarial import SamplePool
from avalanche_dgm.memories.adversarial_settings import GANSettings

Batch = tuple[Tensor, ...]

#: Samples a step in the training of the classifier.
CLOSING_BATCH = 64
#: Its fewest steps, where experiences are small.
LEAST_CLOSING = 60

#: Real samples, their classes, their weight in the loss, and whether the slope is penalised there.
Shown = tuple[Tensor, Tensor, float, bool]


@dataclass(frozen=True)
class Game:
    """A critic and a generator that take turns (AC-GAN; Gulrajani et al. 2017).

    Attributes:
        critic: Tells real from generated samples, and classes.
        generator: What is trained to deceive it.
        settings: Hyper-parameters.
        rounds: Steps of the generator.
        first: The class that is the critic's first logit.
        guided: Whether the generator learns from the critic's answers on classes.
        make: From classes (n,), random numbers and the number of the round to samples (n, *padded)
            with a gradient.
        shown: From a batch and random numbers to what both learn from in this step.
        extra: From random numbers and the number of the round to what is added to the generator's
            loss.
        protect: Changes the generator's gradients before its step; told the number of the round.
    """

    critic: Critic
    generator: nn.Module
    settings: GANSettings
    rounds: int
    first: int
    guided: bool
    make: Callable[[Tensor, torch.Generator, int], Tensor]
    shown: Callable[[Batch, torch.Generator], Iterable[Shown]]
    extra: Callable[[torch.Generator, int], Tensor]
    protect: Callable[[int], None]

    def phase(self, samples: Tensor, rows: Tensor, class_turns: Iterable[Turn] = ()) -> Phase:
        """The phase in which both are trained.

        Args:
            samples: Float tensor (N, *padded), real samples.
            rows: int64 tensor (N,), their classes.
            class_turns: Further steps in each round, which come first.
        """
        s, critic = self.settings, self.critic
        judged = [*critic.trunk.parameters(), *critic.score_head.parameters()]
        judged += critic.class_head.parameters() if self.guided else []
        made = [p for p in self.generator.parameters() if p.requires_grad]
        turns = [
            *class_turns,
            *[Turn("critic", judged, self.judge)] * s.critic_steps,
            Turn("generator", made, self.deceive, self.protect),
        ]
        players = nn.ModuleDict({"critic": critic, "generator": self.generator})
        steps = self.rounds * len(turns)
        data = (samples, rows)
        return Phase("generator", players, turns, s.gan_optimizer, steps, s.batch_size, data)

    def judge(self, batch: Batch, rng: torch.Generator, number: int) -> Tensor:
        """The critic's loss: real against generated, classes of real samples, and its slope."""
        critic, penalty = self.critic, self.settings.penalty
        total = torch.zeros((), device=batch[0].device)
        for real, rows, weight, penalised in self.shown(batch, rng):
            with torch.no_grad():
                generated = self.make(rows, rng, number)
            if self.guided:
                scores, logits = critic(real)
                loss = F.cross_entropy(logits, rows - self.first)
            else:
                scores, loss = critic.score(real), torch.zeros_like(total)
            loss = loss + critic_loss(scores, critic.score(generated))
            if penalised and penalty:
                shares = torch.rand(len(real), generator=rng, device=real.device)
                loss = loss + penalty * gradient_penalty(critic.score, real, generated, shares)
            total = total + weight * loss
        return total

    def deceive(self, batch: Batch, rng: torch.Generator, number: int) -> Tensor:
        """The generator's loss: the critic's scores, its answers on classes, and what is added."""
        total = self.extra(rng, number)
        for _, rows, weight, _ in self.shown(batch, rng):
            generated = self.make(rows, rng, number)
            if self.guided:
                scores, logits = self.critic(generated)
                loss = generator_loss(scores) + F.cross_entropy(logits, rows - self.first)
            else:
                loss = generator_loss(self.critic.score(generated))
            total = total + weight * loss
        return total


def class_turn(critic: Critic, pool: SamplePool, *, first: int) -> Turn:
    """A step of the critic on classes (Ostapenko et al., Sec. 4.1).

    Args:
        critic: Shares its trunk with its other task.
        pool: Real new samples and generated old ones.
        first: The class that is the critic's first logit.
    """

    def loss(batch: Batch, rng: torch.Generator, number: int) -> Tensor:
        samples, rows = pool.draw(len(batch[0]), rng)
        return F.cross_entropy(critic.classify(samples), rows - first)

    return Turn("classes", [*critic.trunk.parameters(), *critic.class_head.parameters()], loss)


def classification(critic: Critic, pool: SamplePool, settings: GANSettings, n: int) -> Phase:
    """The training of a critic as the classifier of all classes.

    Args:
        critic: Has a logit for each class.
        pool: Real new samples and generated ones.
        settings: Hyper-parameters.
        n: Samples in a pass.
    """

    def loss(batch: Batch, rng: torch.Generator, number: int) -> Tensor:
        # The batch only says how many: several devices divide them.
        samples, rows = pool.draw(len(batch[0]), rng)
        samples = shifted(samples, settings.shift, rng)
        return F.cross_entropy(critic.classify(samples), rows)

    steps = epochs_to_steps(settings.closing_epochs, n, CLOSING_BATCH)
    steps = max(steps, LEAST_CLOSING) if steps else 0
    # Said to be a turn, since several devices have to know that the score's head has no gradient.
    turn = Turn("loss", [*critic.trunk.parameters(), *critic.class_head.parameters()], loss)
    optimizer = settings.closing_optimizer
    return Phase("classifier", critic, [turn], optimizer, steps, CLOSING_BATCH, (pool.rows,))


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
