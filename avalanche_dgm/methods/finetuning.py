"""Balanced fine-tuning: a classifier's last steps of an experience, on new and replayed samples.

The user's training of an experience may be short, and it ends at whatever learning rate it had. So
the classifier takes further steps of the same kind, in which all classes weigh alike, while the
learning rate falls to 0. Castro et al. 2018 (End-to-End Incremental Learning, Sec. 4.2) end every
experience with balanced fine-tuning on stored samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from avalanche_dgm.data import ExperienceData, Step
from avalanche_dgm.fitting import OptimizerSpec, Phase
from avalanche_dgm.methods.base import Method
from avalanche_dgm.settings import Settings

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
        finetune_optimizer: Optimiser of these steps; the user's optimiser is not used.
    """

    finetune_steps: int | None = field(default=0, metadata={"least": 0})
    finetune_optimizer: OptimizerSpec = OptimizerSpec("adam", 1e-3, "cosine")


class FinetunedMethod(Method):
    """A method whose classifier can end an experience with balanced fine-tuning.

    Its settings have those of `FinetuningSettings`.
    """

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

        name = f"fine-tuning: {data.name or data.key}, balanced"
        batches = (data.images, data.labels, data.tasks)
        return Phase(
            name, learner, loss, self.settings.finetune_optimizer, steps, BATCH_SIZE, batches
        )
