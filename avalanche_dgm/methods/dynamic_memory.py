"""Dynamic generative memory (Ostapenko et al. 2019, "Learning to remember", Section 4)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avalanche_dgm.fitting import Phase, Turn
from avalanche_dgm.losses import generator_loss
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

    def _adversarial(self, samples: Tensor, rows: Tensor, old: Tensor, old_rows: Tensor) -> Phase:
        memory, critic = self.generative, self.critic
        generator, s = memory.built, memory.settings
        if critic is None:
            raise RuntimeError("There is no critic to train against.")
        rounds = s.rounds(len(samples))
        learned, first = memory.learned, self._first_class()
        n_classes = len(memory.entries) - learned
        guided = self._guides(n_classes)
        sparsity = s.sparsity * generator.capacity_ratio

        def generate(mine: Tensor, rng: torch.Generator, scale: float) -> Tensor:
            noise = noise_with_class(mine - learned, n_classes, s.latent, rng)
            return generator(noise, scale=scale)

        def judge(batch: tuple[Tensor, ...], rng: torch.Generator, number: int) -> Tensor:
            real, mine = batch
            with torch.no_grad():
                fake = generate(mine, rng, s.scale(number, rounds))
            classes = mine - first if guided else None
            return self._judge(critic, real, fake, rng, classes=classes)

        def deceive(batch: tuple[Tensor, ...], rng: torch.Generator, number: int) -> Tensor:
            mine, scale = batch[1], s.scale(number, rounds)
            fake = generate(mine, rng, scale)
            total = sparsity * generator.sparsity(scale)
            if not guided:
                return total + generator_loss(critic.score(fake))
            scores, logits = critic(fake)
            return total + generator_loss(scores) + F.cross_entropy(logits, mine - first)

        def protect(number: int) -> None:
            scale = s.scale(number, rounds)
            generator.protect(scale=scale, smax=s.smax, compensation=s.compensation)

        heads = [*critic.trunk.parameters(), *critic.score_head.parameters()]
        if guided:
            heads += critic.class_head.parameters()
        trained = [p for p in generator.parameters() if p.requires_grad]
        turns = [
            *self._class_turns(critic, (samples, old), (rows, old_rows)),
            *[Turn("critic", heads, judge)] * s.critic_steps,
            Turn("generator", trained, deceive, protect),
        ]
        players = nn.ModuleDict({"critic": critic, "generator": generator})
        return Phase(
            "generator",
            players,
            turns,
            s.optimizer,
            rounds * len(turns),
            s.batch_size,
            (samples, rows),
        )
