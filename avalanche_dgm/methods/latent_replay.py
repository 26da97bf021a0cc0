"""Latent replay (Saez de Ocariz Borde 2022).

The first layers of a classifier, the compressor, are frozen after the first experience. The latents
of a few samples are stored and replayed to the remaining layers, which continue to learn.

=====================================  =====================================================
paper                                  code
=====================================  =====================================================
compressor and classifier              `SplitModel`: the layers up to ``layer``, the others
both train together on experience 1    ``freeze_after=1``: `LatentReplay.end` freezes
a small share is encoded and stored    `LatentReplay.end`, `StoredLatents.add`
new batches are encoded                `LatentReplay.prepare`, once for all epochs
a step on latents after each new one   ``schedule="alternating"``: `LatentReplay.alternates`
stored latents with their classes      ``jitter=0``, ``labels="hard"``: `LatentReplay.replay`
all settings of the paper              `LatentReplayPlugin.paper`, ``configuration=paper``
(not in the paper) generated latents   ``memory=`` a generator: `LatentReplay.after_learning`
=====================================  =====================================================
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from avalanche_dgm.data import ExperienceData, Latents, Replay, append_replay
from avalanche_dgm.errors import ConfigError, ShapeError
from avalanche_dgm.fitting import Phase
from avalanche_dgm.losses import UserCriterion, soft_targets
from avalanche_dgm.memories.classifiers import check_heads
from avalanche_dgm.memories.layers import FrozenPrefix
from avalanche_dgm.memories.splitting import SplitModel
from avalanche_dgm.memories.stored_latents import StoredLatents
from avalanche_dgm.methods.abilities import LatentInputs, ReplaySource
from avalanche_dgm.methods.base import Needs
from avalanche_dgm.methods.cut import CutMethod
from avalanche_dgm.methods.finetuning import FinetunedMethod
from avalanche_dgm.methods.latent_replay_settings import (
    LatentReplaySettings,
    compact,
    fast,
    paper_hyper,
)
from avalanche_dgm.methods.registry import register
from avalanche_dgm.modules import Frozen


@register(
    "latent-replay",
    "a frozen compressor, and replay of stored latents of a few samples",
    fast=fast,
    configurations={
        "default": {},
        "compact": compact,
        "paper": paper_hyper(),
        "paper-batch": paper_hyper("batch"),
    },
)
class LatentReplay(LatentInputs, ReplaySource, CutMethod, FinetunedMethod):
    """Latent replay: frozen first layers of the network, and stored or generated latents.

    Attributes:
        split: The classifier, split in two, after `attach`.
        latent_memory: The memory of latents.
    """

    settings_type: ClassVar = LatentReplaySettings
    source_settings: ClassVar = {"schedule": "mixed", "labels": "hard", "finetune_steps": 0}
    generates_new = True
    paper = staticmethod(paper_hyper)
    #: A copy of the classifier from before the experience, for soft labels.
    _teacher: Frozen[nn.Module] | None

    def __init__(self, settings: LatentReplaySettings | None = None, **changes: Any) -> None:
        super().__init__(settings, **changes)
        s: LatentReplaySettings = self.settings
        self.latent_memory = s.make_memory()
        self._temperature = s.temperature
        if s.soft_labels:
            self.needs = Needs(copies="A copy gives the soft labels; labels='hard' needs none.")
            self.criterion = UserCriterion(soft_labels=True)
        self._hold("_teacher", None)
        self._prefix: FrozenPrefix | None = None
        self._latent_shape: tuple[int, ...] | None = None
        #: Latents of the current experience, once it is encoded.
        self._encoded: ExperienceData | None = None

    @classmethod
    def model_of(
        cls,
        *,
        compressor: nn.Module | str | None = None,
        classifier: nn.Module | str | None = None,
        **others: Any,
    ) -> nn.Module:
        """The model that consists of two modules given as hyper-parameters.

        Raises:
            ConfigError: A part is missing.
        """
        if not (isinstance(compressor, nn.Module) and isinstance(classifier, nn.Module)):
            raise ConfigError("There is no model. Give model, or both compressor and classifier.")
        return nn.Sequential(OrderedDict(compressor=compressor, classifier=classifier))

    @property
    def stored(self) -> StoredLatents | None:
        """The memory, if it stores latents."""
        return self.latent_memory if isinstance(self.latent_memory, StoredLatents) else None

    @property
    def frozen(self) -> bool:
        """Whether the compressor is frozen."""
        return self._prefix is not None

    def _place(self) -> tuple[Any, Any]:
        s = self.settings
        return s.compressor if s.layer is None else s.layer, s.classifier

    def _cut_learner(self, learner: nn.Module, *, task_aware: bool) -> SplitModel | None:
        split = super()._cut_learner(learner, task_aware=task_aware)
        if split is not None and self._prefix is not None:
            split.freeze(self._prefix)
        return split

    def check(self, data: ExperienceData) -> None:
        """See `Method.check`.

        Raises:
            CapacityError: No sample of some class would be stored.
            UnsupportedModelError: The learner cannot be split after the layer.
        """
        super().check(data)
        self.latent_memory.check(data.labels, data.tasks)
        if not self.task_aware:
            # With heads, this is checked later: the head of a new task may be missing here.
            self._check_cut(data)

    def _begin(self, data: ExperienceData) -> None:
        super()._begin(data)
        self._encoded = None
        self._hold("_teacher", None)
        new = len(data.pairs)
        self._new_weight = new / (new + len(self.latent_memory.classes))

    def _check_cut(self, data: ExperienceData) -> None:
        shape = self._cut().check(data.images, data.tasks)
        if self._latent_shape is not None and self.frozen and shape != self._latent_shape:
            raise ShapeError(
                f"The latents have shape {shape}, but {self._latent_shape} was learned."
            )
        self.latent_memory.check_size(shape, data.labels, data.tasks)

    def before_learning(self, data: ExperienceData) -> Iterator[Phase]:
        """Freezes the compressor if ``freeze_after=0``; copies the classifier for soft labels.

        Raises:
            ConfigError: The classifier lacks outputs of learned classes.
            UnsupportedModelError: It cannot be split after the layer, or not be copied.
        """
        if self.task_aware:
            self._check_cut(data)
        if len(self.latent_memory.classes):
            # Sorted, so that a task's largest label counts.
            known = sorted(self.latent_memory.classes.rows[:, 1:].tolist())
            needed = {task: label + 1 for task, label in known}
            check_heads(self._attached, data.images[:1], needed, task_aware=self.task_aware)
        if not self.frozen and not self.settings.freeze_after:
            self._prefix = self._cut().freeze()
        # In an online stream the classifier may have seen only some samples of a class, and is no
        # teacher of it.
        soft = self.settings.soft_labels and not data.partial
        if soft and len(self.latent_memory.classes):
            self._hold("_teacher", Frozen(self._attached))
        yield from ()

    def prepare(
        self, data: ExperienceData, *, augmented: Callable[[], bool] = lambda: False
    ) -> ExperienceData:
        """The experience's latents, once the compressor is frozen."""
        once = self.settings.encode_once
        if not self.frozen or once is False or (once is None and augmented()):
            return data
        self._encoded = replace(data, images=self.encode_batch(data.images, data.tasks))
        return self._encoded

    def _latents(self, data: ExperienceData) -> ExperienceData:
        """The experience's latents as plain tensors, encoded once."""
        if self._encoded is not None:
            return replace(data, images=self._encoded.images.as_subclass(Tensor))
        return replace(data, images=self._cut().encode(data.images, data.tasks))

    def encode_batch(self, x: Tensor, tasks: Tensor) -> Tensor:
        if not self.frozen or isinstance(x, Latents):
            return x
        return Latents.of(self._cut().encode(x, tasks))

    def forward(
        self, images: Tensor, tasks: Tensor, *, width: int, replay: Replay | None = None
    ) -> Tensor:
        """See `Method.forward`; encodes images if the replay batch has latents."""
        if replay is not None and isinstance(replay.images, Latents):
            images = self.encode_batch(images, tasks)
        return self._logits(*append_replay(images, tasks, replay))

    def _logits(self, images: Tensor, tasks: Tensor, network: nn.Module | None = None) -> Tensor:
        if isinstance(images, Latents):
            return self._cut().answer(images, tasks, model=network)
        return super()._logits(images, tasks, network)

    def replay(self, n: int) -> Replay | None:
        """Draws latents; before the compressor is frozen, images."""
        if not len(self.latent_memory.classes):
            return None
        size = self.settings.replay_size or n
        replay = self.sample(self.stored_samples() if size == "all" else size)
        if self._teacher is None:
            return replay
        with torch.no_grad():
            logits = self._logits(replay.images, replay.tasks, self._teacher.module)
        allowed = self.latent_memory.classes.outputs(
            replay.tasks, logits.shape[1], by_task=self.task_aware
        )
        targets = soft_targets(logits, allowed=allowed, temperature=self._temperature)
        return Replay(replay.images, replay.labels, replay.tasks, targets)

    def sample_old(self, n: int) -> Replay | None:
        """See `ReplaySource.sample_old`: latents; before the compressor is frozen, images."""
        return self.sample(n) if len(self.latent_memory.classes) else None

    @property
    def alternates(self) -> bool:
        return self.settings.schedule == "alternating" and len(self.latent_memory.classes) > 0

    def after_learning(self, data: ExperienceData) -> Iterator[Phase]:
        """Yields the classifier's fine-tuning, and the generative memory's training, if any."""
        if not self._on_generated:
            yield from super().after_learning(data)
        yield from self.latent_memory.learn_latents(lambda: self._latents(data), self.random)
        if self._on_generated:
            yield from super().after_learning(data)

    def _trained_on(self, data: ExperienceData) -> ExperienceData:
        return data if self._encoded is None else self._encoded

    def end(self, data: ExperienceData) -> None:
        """Adds the experience to the memory, and freezes the compressor after ``freeze_after``."""
        split = self._cut()
        freezing = not self.frozen and self.experiences + 1 == self.settings.freeze_after
        frozen = self.frozen or freezing
        self.latent_memory.end_experience(
            data,
            lambda: self._latents(data),
            self.rng,
            encode=split.encode if frozen else None,
            freezing=freezing,
        )
        if frozen:
            self._latent_shape = split.latent_shape
        if freezing:
            # Last, so that an error or interruption leaves the model unchanged.
            self._prefix = split.freeze()
        self._encoded = None
        self._hold("_teacher", None)
        super().end(data)

    def sample(self, n: int) -> Replay:
        """See `Inspectable.sample`: latents; before the compressor is frozen, images."""
        if self.stored is not None and not self.frozen:
            return self.stored.draw(n, self.rng)
        replay = self.latent_memory.rehearse(n, self.rng)
        images = replay.images.view(n, *(self._latent_shape or ()))
        return replace(replay, images=Latents.of(images))

    def encode(self, images: Tensor, tasks: Tensor) -> Tensor | None:
        """See `Inspectable.encode`: the compressor's output, flattened."""
        if self.split is None or not self.experiences:
            return None
        return self.split.encode(images, tasks).flatten(1)

    def stored_samples(self) -> int:
        return len(self.stored) if self.stored is not None else 0

    def get_extra_state(self) -> dict[str, Any]:
        prefix = self._prefix
        names = [list(prefix.modules), list(prefix.parameters)] if prefix else None
        shapes = [self._shape, self._latent_shape]
        return {**super().get_extra_state(), "prefix": names, "shapes": shapes}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restores the state, and freezes the compressor of the current or next learner."""
        super().set_extra_state(state)
        names = state["prefix"]
        self._prefix = FrozenPrefix(tuple(names[0]), tuple(names[1])) if names else None
        self._shape, self._latent_shape = state["shapes"]
        if self._prefix is not None and self.split is not None:
            self.split.freeze(self._prefix)
