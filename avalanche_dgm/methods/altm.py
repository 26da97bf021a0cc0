"""Active long-term memory networks (Furlanello et al. 2016).

A stable network N, frozen, has learned the old tasks. A flexible network H, the user's model,
learns the new task, and its logits for the old tasks are held near those of N: on the new inputs
(naive), or on stored or generated old inputs (replay). Afterwards H is consolidated into N.

======================================  =======================================================
paper                                   code
======================================  =======================================================
N, stable, learning rate 0              `ALTM.stable`, a `Frozen` copy of the user's model
H, flexible, with a new head            the user's model
L = L_new + lambda ||H(x) - N(x)||^2    `ALTM.loss`, `ALTM.distance`, ``weight`` (Eq. 4)
naive: x are the new inputs             ``replay=None``
replay: x are old inputs                ``replay=`` a store, a generator or a replay source
consolidation of H into N               ``consolidation``; `ALTM.after_learning`, `ALTM.end`
======================================  =======================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from avalanche_dgm.classes import ClassTable
from avalanche_dgm.data import MASKED_LOGIT, ExperienceData, Replay, Step
from avalanche_dgm.errors import ConfigError, UnknownTaskError
from avalanche_dgm.fitting import Phase
from avalanche_dgm.generators import Generator
from avalanche_dgm.memories.classifiers import (
    check_heads,
    counted,
    grow_to,
    head_width,
    is_masked,
    set_counted,
)
from avalanche_dgm.memories.generative import MemorySettings
from avalanche_dgm.memories.stored import StoredMemory
from avalanche_dgm.methods.abilities import Inspectable, LatentInputs, ReplaySource
from avalanche_dgm.methods.altm_sources import fast_source, make_source
from avalanche_dgm.methods.base import Method, Needs
from avalanche_dgm.methods.finetuning import FinetunedMethod, FinetuningSettings
from avalanche_dgm.methods.registry import register
from avalanche_dgm.modules import Frozen, copied
from avalanche_dgm.optimizers import OptimizerSpec
from avalanche_dgm.settings import MethodSettings, Settings


@dataclass(frozen=True, kw_only=True)
class ALTMSettings(FinetuningSettings, MethodSettings, MemorySettings):
    """Settings of A-LTM.

    The settings of `MemorySettings`, except ``consolidation``, are for ``replay="generated"``;
    ``memory_budget`` is also for ``"stored"``, and does not include the stable network.

    Attributes:
        weight: Weight lambda of the squared distance between the logits of H and N (Eq. 4), above
            0, relative to the mean cross-entropy; it is scaled with the criterion.
            Larger values preserve the old task and slow down the new one.
        replay: Inputs on which the distance is computed: ``None`` (naive), those of the current
            experience; or old ones. These come from an untrained `StoredMemory`, `Generator` or
            method that is a `ReplaySource`, which is copied; or from a source by name:
            ``"stored"``; ``"generated"``, an autoencoder; or the name of a registered method, such
            as ``"dynamic-memory"``. With ``"latent-replay"`` the first layers are frozen after the
            first experience, and the distance is computed on latents in the memory.
        source: Settings of the method named by ``replay``, such as ``{"generator_epochs": 10}`` of
            `DynamicMemory` or ``{"layer": "features"}`` of `LatentReplay`; ``None`` for its
            defaults.
        replay_size: Replayed samples per step; ``None`` for as many as are new.
        share: With ``replay="stored"``, the fraction of each experience's samples that is stored,
            in (0, 1]. If no size is given, it is 0.1, and a class that is learned again needs no
            further space.
        per_class: Number of stored samples per class, instead of ``share``.
        consolidation: How N is updated after an experience: ``"replace"``, by a copy of H;
            ``"distil"``, by distilling H on the new classes and N on the old ones.
        distil_steps: Optimiser steps of ``"distil"``.
        memory_consolidation: With ``replay="generated"``, how the generator retains old classes:
            ``"aligned"`` or ``"rehearsal"``, see ``consolidation`` of `MemorySettings`; ``None``
            for its default.
    """

    weight: float = field(default=0.1, metadata={"above": 0})
    replay: Method | Generator | StoredMemory | str | None = None
    source: Mapping[str, Any] | None = None
    replay_size: int | None = None
    share: float | None = None
    per_class: int | None = None
    consolidation: Literal["replace", "distil"] = "replace"  # type: ignore[assignment]
    distil_steps: int = 500
    memory_consolidation: str | None = None

    def __post_init__(self) -> None:
        # Not MemorySettings.__post_init__: its setting `consolidation` has other values.
        Settings.__post_init__(self)
        memory = MemorySettings.names() - {"consolidation"} | {"memory_consolidation"}
        if self.replay == "stored":
            memory -= {"memory_budget"}
        self.check_owners("replay", {"stored": ("share", "per_class"), "generated": memory})
        if self.source is not None and self.replay in (None, "stored", "generated"):
            raise ConfigError(
                f"source={dict(self.source)!r} is only for replay by a named method. With other"
                " replay, give settings directly."
            )
        self.make_source()

    def make_source(self) -> Method:
        """Makes the method whose old inputs are replayed; see `altm_sources.make_source`."""
        if self.replay == "stored":
            return make_source(
                StoredMemory(
                    share=self.share, per_class=self.per_class, memory_budget=self.memory_budget
                )
            )
        if self.replay == "generated":
            consolidation = self.memory_consolidation or MemorySettings.consolidation
            memory = self.part(MemorySettings, consolidation=consolidation)
            # Its samples need no labels.
            given = set(memory.given()) - {"labels", "temperature"}
            return make_source("dgr", {name: getattr(memory, name) for name in given})
        return make_source(self.replay, self.source)


@register(
    "altm-generated",
    "A-LTM with distillation on generated images",
    fixed={"replay": "generated"},
    fast=fast_source,
)
@register(
    "altm-stored",
    "A-LTM with distillation on a stored fraction of the old images",
    fixed={"replay": "stored"},
)
@register(
    "altm",
    "distillation from a frozen copy of the network; --set replay=stored, or a memory",
    fast=fast_source,
)
class ALTM(LatentInputs, FinetunedMethod):
    """A-LTM: distillation from a frozen, stable network, with or without replay.

    Attributes:
        stable: The stable network N, or ``None`` before the first experience.
        known: The classes that N has learned.
        source: The method whose old inputs are replayed; without replay, one without a memory.
    """

    settings_type: ClassVar = ALTMSettings
    needs = Needs(copies="A copy is the stable network, from which the model is distilled.")

    def __init__(self, settings: ALTMSettings | None = None, **changes: Any) -> None:
        super().__init__(settings, **changes)
        self.weight: float = self.settings.weight
        self.known = ClassTable()
        self.stable: Frozen[nn.Module] | None = None
        self.source: Method = self.settings.make_source()
        # The source shares the random number generators, which are saved once.
        self.source.random = self.random
        self.needs = replace(self.needs, tasks=self.source.needs.tasks)
        self._old_tasks: list[int] = []
        #: Training data of the classifier in the current experience.
        self._learned_on: ExperienceData | None = None

    @property
    def uses_latents(self) -> bool:
        return isinstance(self.source, LatentInputs)

    @property
    def frozen(self) -> bool:
        return isinstance(self.source, LatentInputs) and self.source.frozen

    def attach(self, learner: nn.Module, *, task_aware: bool) -> None:
        super().attach(learner, task_aware=task_aware)
        self.source.attach(learner, task_aware=task_aware)

    def check(self, data: ExperienceData) -> None:
        self.source.check(data)

    def _begin(self, data: ExperienceData) -> None:
        super()._begin(data)
        self.source._begin(data)
        self._old_tasks = torch.unique(self.known.tasks).tolist()
        self._learned_on = data

    def before_learning(self, data: ExperienceData) -> Iterator[Phase]:
        """Yields the source's training phases.

        Raises:
            ConfigError: The classifier lacks outputs of learned classes.
        """
        if self.stable is not None:
            one, aware, held = data.images[:1], self.task_aware, self.stable.module
            needed = {t: head_width(held, one, t, task_aware=aware) for t in self._old_tasks}
            check_heads(self._attached, one, needed, task_aware=aware)
        yield from self.source.before_learning(data)

    def prepare(
        self, data: ExperienceData, *, augmented: Callable[[], bool] = lambda: False
    ) -> ExperienceData:
        if isinstance(self.source, LatentInputs):
            data = self.source.prepare(data, augmented=augmented)
        self._learned_on = data
        return data

    def encode_batch(self, x: Tensor, tasks: Tensor) -> Tensor:
        source = self.source
        return source.encode_batch(x, tasks) if isinstance(source, LatentInputs) else x

    def forward(
        self, images: Tensor, tasks: Tensor, *, width: int, replay: Replay | None = None
    ) -> Tensor:
        return self.source.forward(images, tasks, width=width, replay=replay)

    def _logits(self, images: Tensor, tasks: Tensor, network: nn.Module | None = None) -> Tensor:
        return self.source._logits(images, tasks, network)

    def replay(self, n: int) -> Replay | None:
        """Draws old inputs with their labels."""
        if self.stable is None or not isinstance(self.source, ReplaySource):
            return None
        return self.source.sample_old(self.settings.replay_size or n)

    def _on_new_inputs(
        self, images: Tensor, tasks: Tensor, own: Tensor, network: nn.Module | None = None
    ) -> Tensor:
        """A network's distance on new inputs; with several heads, summed over old tasks."""
        if not self.task_aware:
            return self.distance(own, images, tasks, old_inputs=False)
        total = torch.zeros((), device=own.device)
        for task in self._old_tasks:
            old = torch.full_like(tasks, task)
            logits = self._logits(images, old, network)
            total = total + self.distance(logits, images, old, old_inputs=False)
        return total

    def distance(
        self, logits: Tensor, images: Tensor, tasks: Tensor, *, old_inputs: bool
    ) -> Tensor:
        """Squared distance to N's logits.

        On new inputs it is taken over the outputs of classes that N has learned. On old inputs a
        single head is compared over all outputs, as logits of new classes must not rise there; the
        targets of outputs that N does not have, or masks, are N's lowest logit. Outputs that H
        masks do not count.

        Args:
            logits: Tensor (n, K), H's logits.
            images: Float tensor (n, *shape), the inputs, which may be latents.
            tasks: int64 tensor (n,), task labels, which choose the head.
            old_inputs: Whether the inputs are of old tasks.

        Returns:
            Scalar: summed over outputs, mean over samples.
        """
        if self.stable is None:
            raise UnknownTaskError("Nothing was learned yet: train on an experience first.")
        with torch.no_grad():
            targets = self._logits(images, tasks, self.stable.module)
        if old_inputs and not self.task_aware:
            more = logits.shape[1] - targets.shape[1]
            targets = nn.functional.pad(targets, (0, more), value=MASKED_LOGIT)
            absent = is_masked(targets)
            lowest = targets.masked_fill(absent, math.inf).amin(dim=1, keepdim=True)
            difference = logits - torch.where(absent, lowest, targets)
            return difference.masked_fill(is_masked(logits), 0.0).square().sum(dim=1).mean()
        width = targets.shape[1]
        mask = self.known.outputs(tasks, width, by_task=self.task_aware)
        difference = (logits[:, :width] - targets).masked_fill(~mask, 0.0)
        return difference.square().sum(dim=1).mean()

    def loss(self, step: Step) -> Tensor | None:
        """Lambda times the distance (Eq. 4) on replayed inputs or, without replay, on new ones."""
        if step.replay is not None and step.replay_logits is not None:
            old, share = step.replay, step.replay_share
            distance = self.distance(step.replay_logits, old.images, old.tasks, old_inputs=True)
        elif self.stable is not None and self.settings.replay is None:
            distance, share = self._on_new_inputs(step.images, step.tasks, step.logits), step.share
        else:
            return None
        loss = self.criterion.scaled(self.weight * distance, step.n)
        return loss if share == 1.0 else loss * share

    def after_learning(self, data: ExperienceData) -> Iterator[Phase]:
        """Yields the fine-tuning of H, the consolidation into N, and the source's phases."""
        yield from super().after_learning(data)
        distil = self.settings.consolidation == "distil"
        if distil and self.stable is not None:
            # N with H's shapes: N's weights where the shapes agree, H's elsewhere.
            self.candidate = copied(self._attached)
            old, new = self.stable.module.state_dict(), self.candidate.state_dict()
            fitting = {k: v for k, v in old.items() if k in new and v.shape == new[k].shape}
            self.candidate.load_state_dict({**new, **fitting})
            try:
                yield self._distillation(self._trained_on(data), Frozen(self._attached).module)
                self.stable = Frozen(self.candidate)
            finally:
                # `undo` may have removed it.
                self._modules.pop("candidate", None)
        yield from self.source.after_learning(data)

    def _trained_on(self, data: ExperienceData) -> ExperienceData:
        return self._learned_on or data

    def _distillation(self, data: ExperienceData, teacher: nn.Module) -> Phase:
        candidate = self.candidate
        classes = torch.unique(data.labels)

        def loss(batch: tuple[Tensor, ...], rng: torch.Generator) -> Tensor:
            images, tasks = batch
            logits = self._logits(images, tasks, candidate)
            with torch.no_grad():
                targets = self._logits(images, tasks, teacher)
            total = (logits - targets)[:, classes].square().sum(dim=1).mean()
            replay = self.replay(len(images))
            if replay is None:
                return total + self.weight * self._on_new_inputs(images, tasks, logits, candidate)
            old = self._logits(replay.images, replay.tasks, candidate)
            distance = self.distance(old, replay.images, replay.tasks, old_inputs=True)
            return total + self.weight * distance

        spec = OptimizerSpec("adam", 1e-3, "one-cycle", clip_norm=10.0)
        samples, steps = (data.images, data.tasks), self.settings.distil_steps
        return Phase("consolidation", candidate, loss, spec, steps, 128, samples)

    def end(self, data: ExperienceData) -> None:
        """Updates N, and adds the experience to the source."""
        frozen, self._learned_on = self.frozen, None
        self.source.end(data)
        self.known.add(data.tasks, data.labels)
        # N must share the layers that were just frozen, which computed the latents in the memory.
        shared = self.frozen and not frozen
        replaced = self.stable is None or self.settings.consolidation == "replace"
        if replaced or shared:
            self.stable = Frozen(self._attached)
        super().end(data)

    def sample(self, n: int) -> Replay:
        if not self.experiences:
            raise UnknownTaskError("Nothing was learned yet: train on an experience first.")
        if not isinstance(self.source, Inspectable):
            raise UnknownTaskError(
                "Without replay A-LTM has no samples. Use replay='stored' or 'generated' to inspect"
                " samples."
            )
        return self.source.sample(n)

    def encode(self, images: Tensor, tasks: Tensor) -> Tensor | None:
        source = self.source
        return source.encode(images, tasks) if isinstance(source, Inspectable) else None

    def reconstruct(self, images: Tensor, tasks: Tensor) -> Tensor | None:
        source = self.source
        return source.reconstruct(images, tasks) if isinstance(source, Inspectable) else None

    def stored_samples(self) -> int:
        return self.source.stored_samples() if isinstance(self.source, Inspectable) else 0

    def _make_fit(self, state_dict: Mapping[str, Any], prefix: str) -> None:
        """Builds the stable network from the attached classifier, before its weights are loaded."""
        start = f"{prefix}stable.frozen."
        if not any(name.startswith(start) for name in state_dict):
            self.stable = None
        elif self.stable is None and self.learner is not None:
            # Before the classifier grows to its saved size, which may be larger.
            self.stable = Frozen(self.learner)
        super()._make_fit(state_dict, prefix)
        if self.stable is not None:
            grow_to(self.stable.frozen, state_dict, start)

    def set_extra_state(self, state: dict[str, Any]) -> None:
        super().set_extra_state(state)
        if self.stable is not None:
            set_counted(self.stable.frozen, counted(self.learner))
