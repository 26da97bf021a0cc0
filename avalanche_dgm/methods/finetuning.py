"""Balanced fine-tuning: a classifier's last steps of an experience, on new and replayed samples.

The user's training of an experience may be short, and it ends at whatever learning rate it had. So
the classifier takes further steps of the same kind, in which all classes weigh alike, while the
learning rate falls to 0. Castro et al. 2018 (End-to-End Incremental Learning, Sec. 4.2) end every
experience with balanced fine-tuning on stored samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from avalanche_dgm.data import ExperienceData, Replay, Step
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.fitting import OptimizerSpec, Phase
from avalanche_dgm.methods.base import Method
from avalanche_dgm.settings import MethodSettings, Settings

#: New samples a step.
BATCH_SIZE = 128
#: By default, steps that an experience has in all, unless the user's own are more.
ENOUGH_STEPS = 400
#: By default, fewest steps of fine-tuning.
LEAST_STEPS = 100


@dataclass(frozen=True, kw_only=True)
class FinetuningSettings(Settings):
    """Settings of balanced fine-tuning.

    Attributes:
        finetune_steps: Optimiser steps of the classifier on new and replayed samples at the end of
            an experience, 0 for none; ``None`` for as many as bring the experience to 400 steps in
            total, at least 100, but none for parts of an online stream.
        finetune_data: What these steps are on: ``"new"``, the experience's samples and replayed
            ones; ``"generated"``, from the second experience on, what the memory generates of all
            classes, those of the experience too. Then nothing but their class tells old samples
            from new ones: a classifier that can tell generated samples from real ones would take
            real samples of old classes for new ones.
        finetune_optimizer: Optimiser of these steps; the user's optimiser is not used.
    """

    finetune_steps: int | None = field(default=0, metadata={"least": 0})
    finetune_data: Literal["new", "generated"] = "new"
    finetune_optimizer: OptimizerSpec = OptimizerSpec("adam", 1e-3, "cosine")


class FinetunedMethod(Method):
    """A method whose classifier can end an experience with balanced fine-tuning.

    Its settings have those of `FinetuningSettings`.

    Raises:
        ConfigError: It shall be fine-tuned on generated samples, and generates none.
    """

    def __init__(self, settings: MethodSettings | None = None, **changes: Any) -> None:
        super().__init__(settings, **changes)
        generates = type(self)._generate is not FinetunedMethod._generate
        if self.settings.finetune_data == "generated" and not generates:
            raise ConfigError(
                "finetune_data='generated' is for DGR and for latent replay that generates:"
                f" {type(self).__name__} generates no samples of the experience's classes."
            )

    def after_learning(self, data: ExperienceData) -> Iterator[Phase]:
        """Yields the classifier's fine-tuning."""
        steps: int | None = self.settings.finetune_steps
        if steps is None:
            missing = max(ENOUGH_STEPS - self.stats.steps, LEAST_STEPS)
            steps = 0 if data.partial else missing
        if self.active is not None and steps:
            yield self._balanced_finetuning(self.active, self._trained_on(data), steps)

    def _trained_on(self, data: ExperienceData) -> ExperienceData:
        """What the classifier was trained on in an experience."""
        return data

    @property
    def _on_generated(self) -> bool:
        """Whether the experience's fine-tuning is on generated samples."""
        return self.settings.finetune_data == "generated" and self.experiences > 0

    def _generate(self, n: int) -> Replay:
        """Generates n samples of all classes, those of the experience too."""
        raise NotImplementedError

    def _balanced_finetuning(self, learner: nn.Module, data: ExperienceData, steps: int) -> Phase:
        width = int(data.labels.max()) + 1

        def loss(batch: tuple[Tensor, ...], rng: torch.Generator) -> Tensor:
            images, labels, tasks = batch
            n, replay = len(images), self.replay(len(images))
            logits = self(images, tasks, width=width, replay=replay)
            new = self.criterion.criterion(logits[:n], labels)
            answers = None
            if replay is not None:
                answers = logits[n:]
                self.stats.count(replay, logits.shape[1])
            added = self.loss(Step(images, tasks, logits[:n], new, n, replay, answers))
            return new if added is None else new + added

        def generated_loss(batch: tuple[Tensor, ...], rng: torch.Generator) -> Tensor:
            # The batch only says how many: several devices divide them.
            images, _, tasks = batch
            n, old = len(images), self.settings.replay_size
            samples = self._generate(n + (old if isinstance(old, int) else n))
            logits = self(images[:0], tasks[:0], width=width, replay=samples)
            return self.criterion.of_replay(logits, samples.labels, n)

        name = f"fine-tuning: {data.name or data.key}, balanced"
        batches = (data.images, data.labels, data.tasks)
        on = generated_loss if self._on_generated else loss
        return Phase(
            name, learner, on, self.settings.finetune_optimizer, steps, BATCH_SIZE, batches
        )
