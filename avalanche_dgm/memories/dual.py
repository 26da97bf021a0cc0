"""Dual memory: short-term memories, a long-term memory, and routing between them.

Kamra et al. 2017, Section 3.2 and Figure 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from avalanche_dgm.data import ExperienceData, Replay
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.generators.base import VAESettings
from avalanche_dgm.generators.vae import choose_spec
from avalanche_dgm.generators.vae_generator import make_generator
from avalanche_dgm.memories.budget import check_capacity
from avalanche_dgm.memories.generative import DeepGenerativeMemory, MemorySettings
from avalanche_dgm.memories.short_term import (
    ShortTermTaskMemory,
    StoredTask,
    TaskLearner,
    widen,
)
from avalanche_dgm.modules import copied
from avalanche_dgm.optimizers import OptimizerSpec


@dataclass(frozen=True, kw_only=True)
class DualMemorySettings(MemorySettings):
    """Settings of a dual memory (Kamra et al., Sec. 3.2); the base class holds the LTM's.

    Attributes:
        stm_size: Tasks that the short-term memory holds before it sleeps, n_STM.
        short_term: ``False`` keeps the real samples of ``stm_size`` tasks until sleep instead of
            learning them in short-term memories (Sec. 5.1).
        routing: Which memory predicts at test time. ``"oracle"``: the short-term memory that holds
            the experience's task, otherwise the LTM (the paper: the task is given). ``"elbo"``: for
            each image, the memory whose generator gives it the largest evidence lower bound.
            ``"sleep"`` consolidates before every evaluation. ``"auto"`` is ``"elbo"``, restricted
            by task labels if the model gets them, or ``"sleep"`` if the generator has no score.
        unknown_task: With an oracle, a task that was never learned goes to the ``"ltm"``, or is an
            ``"error"``.
        reconstruct: Whether learners are trained and used on the generator's reconstructions of
            images (the paper). More robust to noise, slightly less accurate.
        ltm_help: Whether, for a repeated task, the LTM's reconstructions and labels of the new
            samples are added to the task's short-term memory, if its generator reconstructs.
        learner_steps: Optimiser steps of the long-term learner in one sleep.
        learner_epochs: Epochs instead of ``learner_steps``.
        learner_optimizer: Optimiser of the long-term learner in sleep.
        stm_hidden: Widths of the short-term generators; ``None`` for the LTM's.
        stm_latent: Their latent dimensions; ``None`` for the LTM's.
        stm_learner_hidden: Widths of the short-term learners.
        stm_generator_steps: Optimiser steps of a short-term generator; ``None`` for twice
            ``generator_steps``, since the LTM only learns from its samples.
    """

    # Samples of short-term memories are learned once more, so each loses less with sharper images.
    kl_weight: float = field(default=0.1, metadata={"above": 0})
    kappa: float = 0.05
    stm_size: int = 2
    short_term: bool = True
    routing: Literal["auto", "oracle", "elbo", "sleep"] = "auto"
    unknown_task: Literal["ltm", "error"] = "ltm"
    reconstruct: bool = False
    ltm_help: bool = True
    learner_steps: int = 800
    learner_epochs: int | None = None
    learner_optimizer: OptimizerSpec = OptimizerSpec("adam", 1e-3, "cosine")
    stm_hidden: tuple[int, ...] | None = None
    stm_latent: int | None = None
    stm_learner_hidden: tuple[int, ...] = (64, 64)
    stm_generator_steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_capacity(n_max=self.n_max, kappa=self.kappa, new=self.stm_size)

    @classmethod
    def _of_the_vae(cls) -> set[str]:
        return super()._of_the_vae() | {"stm_hidden", "stm_latent", "stm_generator_steps"}

    def of_the_short_term_vae(self) -> VAESettings:
        """Settings of a short-term generator; sizes may be ``None``, to derive from the LTM's."""
        settings = self.part(VAESettings, hidden=self.stm_hidden, latent=self.stm_latent)
        if self.stm_generator_steps is not None:
            steps = self.stm_generator_steps
            return replace(settings, generator_steps=steps, generator_epochs=None)
        return replace(settings, generator_steps=2 * self.generator_steps)


class DualMemory(nn.Module):
    """Short-term memory (STM), long-term memory (LTM), and routing between them.

    Args:
        settings: Hyper-parameters.

    Attributes:
        ltm: The long-term memory; its learner is the user's model.
        stm: Short-term memories by slot, ``"0"`` to ``str(stm_size - 1)``.
        stored: Real samples that wait for sleep, in the variant without STM.
        routing: The setting, with ``"auto"`` resolved.
        sleeps: Number of sleeps so far.
        opened: Number of short-term memories created so far.

    Raises:
        ConfigError: The generator does not support the settings.
    """

    def __init__(self, settings: DualMemorySettings) -> None:
        super().__init__()
        self.settings = settings
        self.ltm = DeepGenerativeMemory(settings)
        self.stm = nn.ModuleDict()
        self.stored = nn.ModuleList()
        self.routing = self._decide_routing()
        self.sleeps = self.opened = 0
        #: Arguments of all short-term learners, after `build`.
        self._learner_arguments: dict[str, Any] = {}
        # In a tuple, so that it is no submodule.
        short_term = make_generator(settings.generator, settings.of_the_short_term_vae())
        self._template = (short_term,)

    def _decide_routing(self) -> str:
        generator, s = self.ltm.generator, self.settings
        kind = type(generator).__name__
        if s.reconstruct and not generator.reconstructs:
            raise ConfigError(
                f"reconstruct=True needs a generator that reconstructs, and {kind} does not. Give"
                f" {kind} a method reconstruct(), or leave reconstruct out."
            )
        if s.routing == "elbo" and not generator.scores:
            raise ConfigError(
                f"routing='elbo' needs a generator with a score, and {kind} has none. Give {kind} a"
                " method score(), or use routing='sleep' or 'oracle'."
            )
        if s.routing == "auto":
            return "elbo" if generator.scores else "sleep"
        return s.routing

    def build(self, samples: Tensor) -> None:
        """Builds the long-term generator for the first samples (N, *shape)."""
        self.ltm.generator.build(samples)
        if not self._learner_arguments:
            self._learner_arguments = self._choose_learner(samples)

    def _choose_learner(self, samples: Tensor) -> dict[str, Any]:
        """Chooses the arguments of short-term learners for the first samples, see `TaskLearner`."""
        s = self.settings
        spec = choose_spec(samples, s.part(VAESettings))
        hidden = s.stm_learner_hidden
        if spec.architecture == "conv":
            # It learns one task, so half of the long-term autoencoder's widths suffice.
            hidden = s.stm_hidden or tuple(max(16, width // 2) for width in spec.hidden)
        names = ("shape", "low", "high", "architecture")
        return {**{name: getattr(spec, name) for name in names}, "hidden": tuple(hidden)}

    def slots(self) -> list[tuple[str, ShortTermTaskMemory]]:
        """The slots in use and their short-term memories, by the slot's number."""
        pairs = [(slot, self.stm[slot]) for slot in sorted(self.stm, key=int)]
        return [(slot, m) for slot, m in pairs if isinstance(m, ShortTermTaskMemory)]

    def sttms(self) -> list[ShortTermTaskMemory]:
        """The short-term memories in use, by slot."""
        return [memory for _, memory in self.slots()]

    def waiting(self) -> list[ExperienceData]:
        """The real samples of each task that wait for sleep."""
        return [task.data() for task in self.stored if isinstance(task, StoredTask)]

    def find(self, key: str) -> ShortTermTaskMemory | None:
        """The short-term memory of a task, if there is one."""
        return next((memory for memory in self.sttms() if memory.key == key), None)

    def knows(self, key: str) -> bool:
        """Whether a task was learned, in either memory."""
        return self.find(key) is not None or key in self.ltm.tasks

    def classes_of(self, key: str) -> set[int] | None:
        """The classes learned of a task, in either memory; ``None`` if it was never learned."""
        memory, classes = self.find(key), set(self._in_ltm(key).tolist())
        if memory is not None:
            classes |= {*memory.classes}
        for data in self.waiting():
            classes |= {*data.classes} if data.key == key else set()
        return classes or None

    def _in_ltm(self, key: str) -> Tensor:
        """A task's classes (k,) in the long-term memory, in ascending order."""
        table, keys = self.ltm.generator.classes, list(self.ltm.tasks)
        if key not in keys:
            return table.labels[:0]
        return torch.unique(table.labels[table.groups == keys.index(key)])

    @property
    def occupancy(self) -> int:
        """Number of tasks that wait for the next sleep."""
        return len(self.stm) + len(self.stored)

    @property
    def full(self) -> bool:
        """Whether sleep is due."""
        return self.occupancy >= self.settings.stm_size

    def open(self, data: ExperienceData) -> ShortTermTaskMemory:
        """Finds or creates the short-term memory of an experience's task, after `build`."""
        memory, classes = self.find(data.key), data.classes
        if memory is not None:
            classes = tuple(sorted({*memory.classes, *data.classes}))
            if classes == memory.classes:
                return memory
            # The task has new classes: create a new memory. Samples of the old one are replayed to
            # it, see `extra_samples`.
            self.close(data.key)
        slot = next(str(i) for i in range(len(self.stm) + 1) if str(i) not in self.stm)
        memory = self._short_term_memory(data.key, self.opened)
        memory.generator.adapt_to(self.ltm.generator)
        memory.generator.build(data.images)
        memory.take_learner(TaskLearner(classes, **self._learner_arguments))
        self.opened += 1
        self.stm[slot] = memory.to(data.images.device)
        return memory

    def _short_term_memory(self, key: str, number: int) -> ShortTermTaskMemory:
        return ShortTermTaskMemory(self.settings, copied(self._template[0]), key, number)

    def close(self, key: str) -> None:
        """Frees the short-term memory of a task."""
        for slot, memory in self.slots():
            if memory.key == key:
                del self.stm[slot]

    def store(self, data: ExperienceData) -> None:
        """Stores an experience's real samples until the next sleep."""
        self.stored.append(StoredTask(data))

    @torch.no_grad()
    def extra_samples(self, data: ExperienceData, rng: torch.Generator) -> Replay | None:
        """Replay of a repeated task (Sec. 3.2 and 4.3).

        The task's short-term memory generates as many samples as incoming ones, times the number of
        times it has learned the task; the LTM reconstructs and labels the incoming samples.

        Returns:
            Samples with hard labels, or ``None`` for a new task.
        """
        parts = []
        memory = self.find(data.key)
        if memory is not None and memory.tasks:
            n = len(data) * memory.tasks.total()
            parts.append(memory.sample(n, rng, reconstruct=self.settings.reconstruct))
        if self.settings.ltm_help and (reconstructed := self._reconstruct_by_ltm(data)) is not None:
            parts.append(reconstructed)
        return Replay.cat(parts) if parts else None

    def _reconstruct_by_ltm(self, data: ExperienceData) -> Replay | None:
        """Incoming samples of a known task, reconstructed and labelled by the LTM."""
        known = self._in_ltm(data.key)
        # Without samples of the task's new classes, which the LTM would label wrongly.
        data = data.take(torch.nonzero(torch.isin(data.labels, known)).flatten())
        images = self.ltm.reconstruct(data.images) if len(data) else None
        if images is None:
            return None
        logits = self.ltm.eval_logits(images, data.tasks)
        # Only the task's classes, as the task is known.
        allowed = torch.zeros_like(logits[0], dtype=torch.bool)
        allowed[known] = True
        labels = logits.masked_fill(~allowed, float("-inf")).argmax(dim=1)
        return Replay(images, labels, data.tasks)

    def logits(self, memory: DeepGenerativeMemory, images: Tensor, tasks: Tensor) -> Tensor:
        """One memory's logits (n, K) of images (n, *shape)."""
        return memory.logits(self.inputs(memory, images), tasks)

    def inputs(self, memory: DeepGenerativeMemory, images: Tensor) -> Tensor:
        """Inputs of a memory's learner: images, or reconstructions if ``reconstruct`` is set."""
        reconstructed = memory.reconstruct(images) if self.settings.reconstruct else None
        return images if reconstructed is None else reconstructed

    def predict(self, images: Tensor, tasks: Tensor, *, key: str | None) -> Tensor:
        """Logits of the memory to which each image is routed (Sec. 3.2).

        Args:
            images: Float tensor (n, *shape).
            tasks: int64 tensor (n,), task labels.
            key: The task key, from an oracle; ``None`` to route each image by the generators'
                scores, for a model with task labels among memories that learned its task label.

        Returns:
            Logits (n, K).
        """
        members: list[DeepGenerativeMemory] = [*self.sttms(), self.ltm]
        if key is not None:
            members = [self.find(key) or self.ltm]
        logits = [self.logits(memory, images, tasks) for memory in members]
        if len(logits) == 1:
            return logits[0]
        width = max(part.shape[1] for part in logits)
        stacked = torch.stack([widen(part, width) for part in logits])
        index = choose_memory(members, images, tasks, by_task=self.ltm.task_aware)
        return stacked[index, torch.arange(len(images), device=images.device)]

    @torch.no_grad()
    def reconstruct(self, images: Tensor, tasks: Tensor) -> Tensor | None:
        """Reconstructs each image by the memory to which it is routed.

        Args:
            images: Float tensor (n, *shape).
            tasks: int64 tensor (n,), task labels.

        Returns:
            Float tensor (n, *shape), or ``None`` if no memory reconstructs (yet).
        """
        members = [m for m in [*self.sttms(), self.ltm] if m.shape is not None]
        parts = [part for m in members if (part := m.reconstruct(images)) is not None]
        if not parts:
            return None
        index = choose_memory(members, images, tasks, by_task=self.ltm.task_aware)
        return torch.stack(parts)[index, torch.arange(len(images), device=images.device)]

    def get_extra_state(self) -> dict[str, Any]:
        """Descriptions from which the memories are rebuilt, for ``state_dict``."""
        return {
            "sleeps": self.sleeps,
            "opened": self.opened,
            "learner": self._learner_arguments,
            "stm": {
                slot: {
                    "key": memory.key,
                    "n_seen": memory.n_seen,
                    "number": memory.number,
                    "classes": list(memory.classes),
                }
                for slot, memory in self.slots()
            },
            "stored": [memory.key for memory in self.stored],
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Builds the short-term memories before their weights are loaded."""
        self.sleeps, self.opened = state["sleeps"], state["opened"]
        self._learner_arguments = state["learner"]
        tensors = [*self.parameters(), *self.buffers()]
        device = tensors[0].device if tensors else torch.device("cpu")
        self.stm = nn.ModuleDict()
        for slot, description in state["stm"].items():
            memory = self._short_term_memory(description["key"], description["number"])
            memory.n_seen = description["n_seen"]
            classes = tuple(description["classes"])
            memory.take_learner(TaskLearner(classes, **self._learner_arguments))
            self.stm[slot] = memory.to(device)
        empty = torch.empty(0, device=device)
        none = torch.empty(0, dtype=torch.int64, device=device)
        self.stored = nn.ModuleList(
            StoredTask(ExperienceData(empty, none, none, key)) for key in state["stored"]
        )


@torch.no_grad()
def choose_memory(
    memories: Sequence[DeepGenerativeMemory], images: Tensor, tasks: Tensor, *, by_task: bool
) -> Tensor:
    """Indices (n,) of a memory for each image, by the generators' scores, such as lower bounds.

    Args:
        memories: The candidates, the LTM last; an untrained one is chosen only if all others are
            excluded.
        images: Float tensor (n, *shape).
        tasks: int64 tensor (n,), task labels.
        by_task: Whether an image is only routed to memories that learned its task label.
    """
    worst = torch.finfo(torch.float32).max
    scores = []
    for memory in memories:
        score = torch.full((len(images),), worst, device=images.device)
        if memory.tasks:
            own = memory.score(images)
            score = torch.zeros_like(score) if own is None else own
        if memory.tasks and by_task:
            known = (tasks[:, None] == memory.generator.classes.tasks[None]).any(dim=1)
            score = score.masked_fill(~known, worst)
        scores.append(score)
    # Reversed, so that the LTM is chosen where no memory qualifies.
    return len(memories) - 1 - torch.stack(scores[::-1]).argmin(dim=0)
