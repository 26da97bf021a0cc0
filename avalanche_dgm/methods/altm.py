"""Active long-term memory networks (Furlanello et al. 2016).

A stable network N, frozen, holds what is known. A flexible one H, the user's model, learns the new
task and is kept near N's answers for the old ones: on the new inputs (naive), or on old inputs that
are stored or that a memory makes (replay). Afterwards N takes over what H has learned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from avalanche_dgm.classes import ClassTable
from avalanche_dgm.data import ExperienceData, Replay, Step
from avalanche_dgm.errors import ConfigError, UnknownTaskError
from avalanche_dgm.fitting import OptimizerSpec, Phase
from avalanche_dgm.memories import Frozen, MemorySettings
from avalanche_dgm.memories.classifiers import (
    check_heads,
    head_width,
    logits_of,
)
from avalanche_dgm.memories.growing_heads import counted, grow_to, set_counted
from avalanche_dgm.methods.abilities import Inspectable, LatentInputs
from avalanche_dgm.methods.altm_sources import REPLAYS, make_source
from avalanche_dgm.methods.base import Method, Needs
from avalanche_dgm.methods.latent_replay import LatentReplay
from avalanche_dgm.methods.registry import METHODS, register
from avalanche_dgm.modules import copied
from avalanche_dgm.signatures import takes_arguments_of

_CONSOLIDATIONS = ("replace", "distil")


def _fast(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """What makes small what is replayed."""
    replay = settings.get("replay")
    if replay == "generated":
        return {"generator_steps": 30}
    source = METHODS.get(str(replay))
    fast = source.fast_settings({}) if source is not None else {}
    return {"source": fast} if fast else {}


@register(
    "altm-generated",
    "the same, held on images that a generator makes",
    fixed={"replay": "generated"},
    fast=_fast,
)
@register(
    "altm-stored",
    "the same, held on a stored share of the old images",
    fixed={"replay": "stored"},
)
@register(
    "altm",
    "distillation from a frozen copy of the network; --set replay=stored, or a memory",
    fast=_fast,
)
@takes_arguments_of(MemorySettings)
class ALTM(Inspectable, LatentInputs, Method):
    """Distillation from a frozen stable network.

    Args:
        weight: Factor lambda of the squared distance between H's and N's logits (Eq. 4), above 0,
            beside the mean cross-entropy; another criterion's scale multiplies it.
            Larger values hold the old task and slow the new one.
        replay: Which inputs the distance is measured on: ``None`` (naive), those of the current
            experience; ``"stored"``, samples of old experiences; ``"generated"``, what a deep
            generative memory makes of them; ``"dynamic-memory"``, ``"mergan"``,
            ``"ewc-generator"`` or ``"gan-replay"``, what such a generator does; or
            ``"latent-replay"``: the first layers are frozen after the first experience, and the
            distance is measured on remembered latents behind them.
        source: Arguments of the method that is named by ``replay``, such as
            ``{"generator_epochs": 10}`` of `DynamicMemory` or ``{"layer": "features"}`` of
            `LatentReplay`; ``None`` for its defaults.
        replay_size: Replayed samples a step; ``None`` for as many as are new.
        share: Share of each experience's samples that is stored, in (0, 1]. If no size is given, it
            is 0.1, and a class that comes again takes no more room.
        per_class: Samples stored of each class, instead.
        consolidation: What N becomes after an experience: ``"replace"``, a copy of H; ``"distil"``,
            a network that learns H's answers for the new classes and keeps N's for the old ones.
        distil_steps: Optimiser steps of ``"distil"``.
        memory_consolidation: ``consolidation`` of `MemorySettings`, for ``replay="generated"``.
        seed: See `Method`.
        **hyper: Fields of `MemorySettings`, for ``replay="generated"``.

    Raises:
        ConfigError: A hyper-parameter is unknown or cannot work.
        CapacityError: The size of the store cannot hold a sample of each class.
    """

    needs = Needs(copies="A copy is the stable network, which the model is held to.")

    def __init__(
        self,
        *,
        weight: float = 0.1,
        replay: str | None = None,
        source: Mapping[str, Any] | None = None,
        replay_size: int | None = None,
        share: float | None = None,
        per_class: int | None = None,
        consolidation: str = "replace",
        distil_steps: int = 500,
        memory_consolidation: str | None = None,
        seed: int | None = None,
        **hyper: Any,
    ) -> None:
        super().__init__(seed=seed)
        if not weight > 0:
            raise ConfigError(f"weight={weight} must be above 0; without it nothing is held.")
        if replay not in REPLAYS:
            known = ", ".join(map(repr, REPLAYS))
            raise ConfigError(f"replay={replay!r} is not known; use one of {known}.")
        if consolidation not in _CONSOLIDATIONS:
            raise ConfigError(
                f"consolidation={consolidation!r} is not known; use 'replace' or 'distil'."
            )
        if replay_size is not None and replay_size < 1:
            raise ConfigError(f"replay_size={replay_size} must be at least 1, or None.")
        if distil_steps < 1:
            raise ConfigError(f"distil_steps={distil_steps} must be at least 1.")
        self.weight, self.replay_size = weight, replay_size
        self.consolidation, self.distil_steps = consolidation, distil_steps
        self.known = ClassTable()
        self.stable: Frozen[nn.Module] | None = None
        if memory_consolidation is not None:
            hyper = {**hyper, "consolidation": memory_consolidation}
        sizes = {"share": share, "per_class": per_class}
        self.source: Any = make_source(replay, sizes=sizes, hyper=hyper, arguments=source)
        if self.source is not None:
            # One stream of random numbers, saved once with the state and restored with it.
            self.source.random = self.random
            self.needs = replace(self.needs, tasks=self.source.needs.tasks)
        self._old_tasks: list[int] = []
        #: What the classifier is trained on in the current experience.
        self._learned_on: ExperienceData | None = None

    @property
    def uses_latents(self) -> bool:
        """See `LatentInputs.uses_latents`."""
        return self.latents is not None

    @property
    def latents(self) -> LatentReplay | None:
        """The source, if it replays latents."""
        return self.source if isinstance(self.source, LatentReplay) else None

    def attach(self, learner: nn.Module, *, task_aware: bool) -> None:
        """See `Method.attach`."""
        super().attach(learner, task_aware=task_aware)
        if self.source is not None:
            self.source.attach(learner, task_aware=task_aware)

    def check(self, data: ExperienceData) -> None:
        """See `Method.check`."""
        (self.source.check if self.source is not None else super().check)(data)

    def _begin(self, data: ExperienceData) -> None:
        """See `Method.begin`."""
        super()._begin(data)
        if self.source is not None:
            self.source._begin(data)
        self._old_tasks, self._learned_on = torch.unique(self.known.tasks).tolist(), data

    def before_learning(self, data: ExperienceData) -> Iterator[Phase]:
        """Yields the training of the source's generator, if there is one.

        Raises:
            ConfigError: The classifier has lost outputs that were learned.
        """
        if self.stable is not None and self.learner is not None:
            one, aware = data.images[:1], self.task_aware
            held = self.stable.module
            needed = {t: head_width(held, one, t, task_aware=aware) for t in self._old_tasks}
            check_heads(self.learner, one, needed, task_aware=aware)
        if self.source is not None:
            yield from self.source.before_learning(data)

    def prepare(
        self, data: ExperienceData, *, augmented: Callable[[], bool] = lambda: False
    ) -> ExperienceData:
        """See `LatentInputs.prepare`: latents, if they are what is replayed."""
        if self.latents is not None:
            data = self.latents.prepare(data, augmented=augmented)
        self._learned_on = data
        return data

    def encode_batch(self, x: Tensor, tasks: Tensor) -> Tensor:
        """See `LatentInputs.encode_batch`."""
        return self.latents.encode_batch(x, tasks) if self.latents is not None else x

    def forward(
        self, images: Tensor, tasks: Tensor, *, width: int, replay: Replay | None = None
    ) -> Tensor:
        """See `Method.forward`."""
        if self.source is None:
            return super().forward(images, tasks, width=width, replay=replay)
        answers: Tensor = self.source(images, tasks, width=width, replay=replay)
        return answers

    def predict(self, images: Tensor, tasks: Tensor, *, key: str | None = None) -> Tensor:
        """See `Method.predict`."""
        if self.source is None:
            return super().predict(images, tasks, key=key)
        answers: Tensor = self.source.predict(images, tasks, key=key)
        return answers

    def answer(self, network: nn.Module, inputs: Tensor, tasks: Tensor) -> Tensor:
        """The logits of another network for what the learner is trained on.

        Args:
            network: A copy of the learner, or one that has grown; in its own mode.
            inputs: Float tensor (n, *shape), images or latents.
            tasks: int64 tensor (n,), task labels.
        """
        if self.latents is not None:
            return self.latents.answer(network, inputs, tasks)
        return logits_of(network, inputs, tasks, task_aware=self.task_aware)

    def replay(self, n: int) -> Replay | None:
        """Draws old inputs; their labels are those that they had, or were drawn for."""
        if self.stable is None or self.source is None:
            return None
        return self.source.sample_old(self.replay_size or n)

    def _on_new_inputs(
        self, answer: Callable[[Tensor, Tensor], Tensor], images: Tensor, tasks: Tensor, own: Tensor
    ) -> Tensor:
        """The distance on new inputs: of one head, or summed over the heads of old tasks.

        Args:
            answer: From images and task labels to the logits of a network.
            images: Float tensor (n, *shape).
            tasks: int64 tensor (n,), task labels.
            own: Tensor (n, K), its logits for them.
        """
        if not self.task_aware:
            return self.distance(own, images, tasks, old_inputs=False)
        total = torch.zeros((), device=own.device)
        for task in self._old_tasks:
            old = torch.full_like(tasks, task)
            total = total + self.distance(answer(images, old), images, old, old_inputs=False)
        return total

    def distance(
        self, logits: Tensor, images: Tensor, tasks: Tensor, *, old_inputs: bool
    ) -> Tensor:
        """Squared distance to N's logits.

        On new inputs it is taken over the outputs that N has learned, as the others are to be
        learned now. On old ones a single head is held as a whole: the outputs of new classes must
        not rise there; N rates those that it does not have like its lowest.

        Args:
            logits: Tensor (n, K), H's answers.
            images: Float tensor (n, *shape), what was asked; latents, if they are replayed.
            tasks: int64 tensor (n,), task labels, which choose the head.
            old_inputs: Whether the inputs are of old tasks.

        Returns:
            Scalar: summed over outputs, mean over samples.
        """
        if self.stable is None:
            raise UnknownTaskError("Nothing was learned yet: train on an experience first.")
        with torch.no_grad():
            wanted = self.answer(self.stable.module, images, tasks)
        if old_inputs and not self.task_aware:
            missing = logits.shape[1] - wanted.shape[1]
            lowest = wanted.amin(dim=1, keepdim=True).expand(-1, missing)
            return (logits - torch.cat([wanted, lowest], dim=1)).square().sum(dim=1).mean()
        width = wanted.shape[1]
        mask = self.known.outputs(tasks, width, by_task=self.task_aware)
        difference = (logits[:, :width] - wanted).masked_fill(~mask, 0.0)
        return difference.square().sum(dim=1).mean()

    def loss(self, step: Step) -> Tensor | None:
        """Lambda times the distance on replayed inputs (Eq. 4), or on the new ones without."""
        if step.replay is not None and step.replay_logits is not None:
            replay, share = step.replay, step.replay_share
            distance = self.distance(
                step.replay_logits, replay.images, replay.tasks, old_inputs=True
            )
            loss = self.weight * self.criterion.scaled(distance, step.n)
        elif self.stable is not None and self.source is None:
            distance = self._on_new_inputs(self._logits, step.images, step.tasks, step.logits)
            loss, share = self.criterion.scaled(self.weight * distance, step.n), step.share
        else:
            return None
        return loss if share == 1.0 else loss * share

    def after_learning(self, data: ExperienceData) -> Iterator[Phase]:
        """Yields the consolidation of H into N, if N is to learn it, and what the source learns."""
        if self.consolidation == "distil" and self.stable is not None and self.learner is not None:
            self.candidate = self._candidate()
            try:
                yield self._distillation(self._learned_on or data, Frozen(self.learner).module)
                self.stable = Frozen(self.candidate)
            finally:
                # After `undo` there is none.
                self._modules.pop("candidate", None)
        if self.source is not None:
            yield from self.source.after_learning(data)

    def _candidate(self) -> nn.Module:
        """N with the outputs that H has more: N's weights wherever they fit, H's elsewhere."""
        if self.learner is None or self.stable is None:
            raise RuntimeError("There is nothing to consolidate.")
        candidate = copied(self.learner)
        old, new = self.stable.module.state_dict(), candidate.state_dict()
        fitting = {k: v for k, v in old.items() if k in new and v.shape == new[k].shape}
        candidate.load_state_dict({**new, **fitting})
        return candidate

    def _distillation(self, data: ExperienceData, teacher: nn.Module) -> Phase:
        candidate = self.candidate
        classes = torch.unique(data.labels)

        def answer(images: Tensor, tasks: Tensor) -> Tensor:
            return self.answer(candidate, images, tasks)

        def loss(batch: tuple[Tensor, ...], rng: torch.Generator) -> Tensor:
            images, tasks = batch
            logits = answer(images, tasks)
            with torch.no_grad():
                wanted = self.answer(teacher, images, tasks)
            total = (logits - wanted)[:, classes].square().sum(dim=1).mean()
            replay = self.replay(len(images))
            if replay is None:
                return total + self.weight * self._on_new_inputs(answer, images, tasks, logits)
            old = answer(replay.images, replay.tasks)
            held = self.distance(old, replay.images, replay.tasks, old_inputs=True)
            return total + self.weight * held

        spec = OptimizerSpec("adam", 1e-3, "one-cycle", clip_norm=10.0)
        tensors = (data.images, data.tasks)
        return Phase("consolidation", candidate, loss, spec, self.distil_steps, 128, tensors)

    def end(self, data: ExperienceData) -> None:
        """Makes N ready for the next experience; the source remembers this one."""
        free = self.latents is not None and not self.latents.frozen
        if self.source is not None:
            self.source.end(data)
        self._learned_on = None
        self.known.add(data.tasks, data.labels)
        # N must have the layers that were frozen just now: what is remembered was made by them.
        shared = free and self.latents is not None and self.latents.frozen
        first = self.stable is None
        if self.learner is not None and (first or shared or self.consolidation == "replace"):
            self.stable = Frozen(self.learner)
        super().end(data)

    def sample(self, n: int) -> Replay:
        """Draws of the old inputs that are stored or can be generated.

        Args:
            n: How many.

        Raises:
            UnknownTaskError: Nothing was learned yet, or nothing is kept (naive).
        """
        if not self.experiences:
            raise UnknownTaskError("Nothing was learned yet: train on an experience first.")
        if self.source is None:
            raise UnknownTaskError(
                "Without replay A-LTM keeps a network and no inputs. Use replay='stored' or"
                " 'generated' for samples to look at."
            )
        return self.source.sample(n)

    def encode(self, images: Tensor, tasks: Tensor) -> Tensor | None:
        """See `Inspectable.encode`: of the source."""
        return self.source.encode(images, tasks) if self.source is not None else None

    def reconstruct(self, images: Tensor, tasks: Tensor) -> Tensor | None:
        """See `Inspectable.reconstruct`: by the source."""
        return self.source.reconstruct(images, tasks) if self.source is not None else None

    def stored_samples(self) -> int:
        """See `Inspectable.stored_samples`."""
        return self.source.stored_samples() if self.source is not None else 0

    def memory(self) -> list[nn.Module]:
        """The stable network, and what the source remembers."""
        own: list[nn.Module | None] = [self.stable, self.known]
        source = self.source.memory() if self.source is not None else []
        return [module for module in (*own, *source) if module is not None]

    def get_extra_state(self) -> dict[str, Any]:
        """See `Method.get_extra_state`."""
        return {**super().get_extra_state(), "stable": self.stable is not None}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if self.stable is not None:
            set_counted(self.stable.frozen, counted(self.learner))

    def _make_fit(self, state_dict: Mapping[str, Any], prefix: str) -> None:
        """See `Method._make_fit`."""
        start = f"{prefix}stable.frozen."
        held = any(name.startswith(start) for name in state_dict)
        if self.stable is None and held and self.learner is not None:
            # Before the classifier grows: it may have grown since its copy was made.
            self.stable = Frozen(self.learner)
        super()._make_fit(state_dict, prefix)
        if self.stable is not None:
            grow_to(self.stable.frozen, state_dict, start)

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Builds the stable network, as the attached classifier is, before its weights come."""
        super().set_extra_state(state)
        if state["stable"] and self.learner is None:
            raise ConfigError(
                "The state holds a stable network. Attach the classifier before loading it:"
                " the stable network has its architecture."
            )
        if not state["stable"]:
            self.stable = None
        elif self.stable is None and self.learner is not None:
            self.stable = Frozen(self.learner)
