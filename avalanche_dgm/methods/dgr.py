"""Deep generative replay (Shin et al. 2017; Kamra et al. 2017, Section 4.1).

A generator samples inputs of all old tasks, and a copy of the previous classifier labels them. They
are replayed while the classifier is trained on new samples.

=====================================  ======================================================
paper (Shin et al. 2017)               code
=====================================  ======================================================
scholar: generator and solver          ``ltm``, a `DeepGenerativeMemory`; the user's model
previous scholar                       a frozen copy of the memory, taken when a task begins
generator learns new and replayed      `DGR.before_learning`, `DeepGenerativeMemory.learn`
replay: generated inputs, labelled     `DGR.replay`, `DeepGenerativeMemory.sample`
by the previous solver
loss r L(new) + (1 - r) L(replay)      `Method.loss`
r, the new task's importance           `DeepGenerativeMemory.fraction` (Kamra et al., Sec. 3.1)
=====================================  ======================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from avalanche_dgm.data import ExperienceData, Replay, check_experience
from avalanche_dgm.fitting import Phase
from avalanche_dgm.losses import UserCriterion
from avalanche_dgm.memories.generative import DeepGenerativeMemory, MemorySettings
from avalanche_dgm.methods.abilities import ReplaySource
from avalanche_dgm.methods.base import Needs
from avalanche_dgm.methods.finetuning import FinetunedMethod, FinetuningSettings
from avalanche_dgm.methods.registry import register
from avalanche_dgm.modules import Frozen
from avalanche_dgm.settings import MethodSettings

#: Minimum size of a replay batch by default: smaller ones are too noisy.
FEWEST_REPLAYED = 128


@dataclass(frozen=True, kw_only=True)
class DGRSettings(FinetuningSettings, MethodSettings, MemorySettings):
    """Settings of deep generative replay, and of its memory.

    Attributes:
        replay_size: Replayed samples per step; ``None`` for as many as are new, at least 128.
    """

    finetune_steps: int | None = field(default=None, metadata={"least": 0})
    replay_size: int | None = None


@register(
    "dgr",
    "deep generative replay: one generative memory of all experiences",
    fast={"generator_steps": 30, "finetune_steps": 10},
    # Kamra et al. train the learner inside the memory, after the generator (Sec. 4.1).
    paper="dgdmn-direct",
)
class DGR(ReplaySource, FinetunedMethod):
    """DGR: deep generative replay for any classifier.

    Attributes:
        ltm: The generative memory of all experiences.
    """

    settings_type: ClassVar[type[MethodSettings]] = DGRSettings
    needs = Needs(copies="A copy labels what is replayed.")
    source_settings: ClassVar = {"labels": "hard", "finetune_steps": 0}
    generates_new = True

    def __init__(self, settings: DGRSettings | None = None, **changes: Any) -> None:
        super().__init__(settings, **changes)
        self.ltm = DeepGenerativeMemory(self.settings)
        self._previous: DeepGenerativeMemory | None
        self._hold("_previous", None)
        self.criterion = UserCriterion(soft_labels=self.settings.soft_labels)
        self._temperature = self.settings.temperature
        self._partial = False

    def attach(self, learner: nn.Module, *, task_aware: bool) -> None:
        super().attach(learner, task_aware=task_aware)
        if self.settings.soft_labels or not self.ltm.generator.conditional:
            # A conditional generator's samples have hard labels without a learner.
            self.ltm.attach(learner, task_aware=task_aware)

    def check(self, data: ExperienceData) -> None:
        check_experience(data, shape=self.ltm.shape)
        self.ltm.generator.check(data)

    def _begin(self, data: ExperienceData) -> None:
        super()._begin(data)
        with self.random.seeded_init():
            self.ltm.generator.build(data.images)
        self.ltm.check_budget(data.images.shape[1:], data.labels, data.tasks)
        self._hold("_previous", Frozen(self.ltm).module if self.ltm.tasks else None)
        self._new_weight = self.ltm.fraction([data])
        # In an online stream the learner may have seen only some samples of a class, and is no
        # teacher of it.
        self._partial = data.partial

    def before_learning(self, data: ExperienceData) -> Iterator[Phase]:
        """Yields the generator's training on new samples and on samples of the previous one."""
        yield from self.ltm.learn([data], self.rng, previous=self._previous)

    def replay(self, n: int) -> Replay | None:
        return self.sample_old(self.settings.replay_size or max(n, FEWEST_REPLAYED))

    def sample_old(self, n: int) -> Replay | None:
        """See `ReplaySource.sample_old`: from the generator before this experience."""
        if self._previous is None:
            return None
        return self._previous.sample(n, self.rng, hard=self._partial)

    def end(self, data: ExperienceData) -> None:
        self._hold("_previous", None)
        super().end(data)

    def sample(self, n: int) -> Replay:
        return self.ltm.sample(n, self.rng, hard=True)

    def encode(self, images: Tensor, tasks: Tensor) -> Tensor | None:
        """See `Inspectable.encode`: means of the generator's posterior."""
        return self.ltm.encode(images)

    def reconstruct(self, images: Tensor, tasks: Tensor) -> Tensor | None:
        """See `Inspectable.reconstruct`: by the generator."""
        return self.ltm.reconstruct(images)
