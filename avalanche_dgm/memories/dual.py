"""Dual memory: short-term memories of single tasks, one long-term memory, and sleep.

Kamra et al. 2017, Section 3.2 and Figure 2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from avalanche_dgm.data import ExperienceData, Replay
from avalanche_dgm.memories.generative import CHUNK, DeepGenerativeMemory
from avalanche_dgm.memories.routing import choose_memory
from avalanche_dgm.memories.settings import DualMemorySettings
from avalanche_dgm.memories.short_term import (
    ShortTermTaskMemory,
    StoredTask,
    short_term_spec,
    widen,
)
from avalanche_dgm.modules import evaluating


class DualMemory(nn.Module):
    """The short-term memory (STM), the long-term memory (LTM), and who answers what.

    Args:
        settings: Hyper-parameters.

    Attributes:
        ltm: The long-term memory; its learner is the user's model.
        stm: Short-term memories by slot, ``"0"`` to ``str(stm_size - 1)``.
        stored: Real samples that wait for sleep, in the variant without STM.
        sleeps: Number of consolidations so far.
        opened: Number of short-term memories so far.
    """

    def __init__(self, settings: DualMemorySettings) -> None:
        super().__init__()
        self.settings = settings
        self.ltm = DeepGenerativeMemory(settings)
        self.stm = nn.ModuleDict()
        self.stored = nn.ModuleList()
        self.sleeps = self.opened = 0

    def slots(self) -> list[tuple[str, ShortTermTaskMemory]]:
        """The slots in use and their short-term memories."""
        pairs = [(slot, self.stm[slot]) for slot in sorted(self.stm)]
        return [(slot, m) for slot, m in pairs if isinstance(m, ShortTermTaskMemory)]

    def sttms(self) -> list[ShortTermTaskMemory]:
        """The short-term memories in use, by slot."""
        return [memory for _, memory in self.slots()]

    def waiting(self) -> list[ExperienceData]:
        """The real samples that wait for sleep, task by task."""
        return [task.data() for task in self.stored if isinstance(task, StoredTask)]

    def find(self, key: str) -> ShortTermTaskMemory | None:
        """The short-term memory that holds a task, if there is one."""
        return next((memory for memory in self.sttms() if memory.key == key), None)

    def knows(self, key: str) -> bool:
        """Whether a task was learned, in either memory."""
        return self.find(key) is not None or key in self.ltm.tasks

    def classes_of(self, key: str) -> set[int] | None:
        """The classes learned of a task, in either memory; ``None`` if it was never learned."""
        memory, classes = self.find(key), set()
        if memory is not None:
            classes |= {*memory.classes}
        for data in self.waiting():
            classes |= {*data.classes} if data.key == key else set()
        if key in self.ltm.tasks and self.ltm.density is not None:
            known = self.ltm.density.classes
            mine = known.groups == self.ltm.tasks.index(key)
            classes |= {int(c) for c in known.labels[mine].tolist()}
        return classes or None

    @property
    def occupancy(self) -> int:
        """Tasks that wait for the next sleep."""
        return len(self.stm) + len(self.stored)

    @property
    def full(self) -> bool:
        """Whether it is time to sleep."""
        return self.occupancy >= self.settings.stm_size

    def open(self, data: ExperienceData) -> ShortTermTaskMemory:
        """Finds or takes the short-term memory for an experience's task.

        Args:
            data: The experience; the LTM's generator was built for such images.
        """
        memory, classes = self.find(data.key), data.classes
        if memory is not None:
            classes = tuple(sorted({*memory.classes, *data.classes}))
            if classes == memory.classes:
                return memory
            # The oracle calls it the same task, though it holds more classes now: begin again.
            # What it knew is replayed to the new memory, see `extra_samples`.
            self.close(data.key)
        slot = next(str(i) for i in range(len(self.stm) + 1) if str(i) not in self.stm)
        generator, _ = self.ltm.built()
        memory = ShortTermTaskMemory(
            self.settings,
            short_term_spec(self.settings, generator.spec),
            key=data.key,
            classes=classes,
            number=self.opened,
        ).to(data.images.device)
        self.opened += 1
        self.stm[slot] = memory
        return memory

    def close(self, key: str) -> None:
        """Frees the short-term memory of a task."""
        for slot, memory in self.slots():
            if memory.key == key:
                del self.stm[slot]

    def store(self, data: ExperienceData) -> None:
        """Keeps an experience's real samples until the next sleep."""
        self.stored.append(StoredTask(data))

    @torch.no_grad()
    def extra_samples(self, data: ExperienceData, rng: torch.Generator) -> Replay | None:
        """What is known already of an incoming task (Sec. 3.2 and 4.3).

        The task's own short-term memory replays as many samples as came in for each time it was
        met; the LTM reconstructs the incoming samples and labels them.

        Args:
            data: The incoming experience.
            rng: Generator on the memory's device.

        Returns:
            Samples with hard labels, or ``None`` if nothing is known.
        """
        parts: list[Replay] = []
        memory = self.find(data.key)
        if memory is not None and memory.tasks.total:
            n = len(data) * memory.tasks.total
            parts += [memory.draw(len(c), rng) for c in torch.arange(n).split(CHUNK)]
        if self.settings.ltm_help and data.key in self.ltm.tasks:
            parts += self._view_of_ltm(data)
        if not parts:
            return None
        return Replay.cat(parts)

    def _view_of_ltm(self, data: ExperienceData) -> list[Replay]:
        """Reconstructs incoming samples of a known task and labels them, a chunk at a time."""
        generator, density = self.ltm.built()
        mine = density.classes.groups == self.ltm.tasks.index(data.key)
        known = torch.unique(density.classes.labels[mine])
        # A class that is new to the task could only be mistaken for one that is not.
        index = torch.nonzero(torch.isin(data.labels, known)).flatten()
        views = []
        for part in (data.take(chunk) for chunk in index.split(CHUNK) if len(chunk)):
            images = generator.reconstruct(part.images)
            with evaluating(self.ltm.learner):
                logits = self.ltm.answers(images, part.tasks)
            # The learner is asked among the task's classes only: the task is known here.
            allowed = torch.zeros_like(logits[0], dtype=torch.bool)
            allowed[known] = True
            labels = logits.masked_fill(~allowed, float("-inf")).argmax(dim=1)
            views.append(Replay(images, labels, part.tasks))
        return views

    def respond(self, memory: DeepGenerativeMemory, images: Tensor, tasks: Tensor) -> Tensor:
        """Lets one memory answer, on reconstructions if the settings say so."""
        if self.settings.reconstruct and memory.generator is not None:
            with torch.no_grad():
                images = memory.generator.reconstruct(images)
        return memory.answers(images, tasks)

    def predict(self, images: Tensor, tasks: Tensor, *, key: str | None) -> Tensor:
        """Answers with the memory that knows best (Sec. 3.2).

        Args:
            images: Float tensor (n, *shape).
            tasks: int64 tensor (n,), task labels.
            key: The task, from an oracle; ``None`` decides for each image by the evidence lower
                bound, among the memories that know its task label if the model goes by those.

        Returns:
            Logits (n, K).
        """
        sttms = self.sttms()
        if key is not None:
            chosen = self.find(key)
            sttms = [chosen] if chosen is not None else []
            members: list[DeepGenerativeMemory] = [*sttms] if sttms else [self.ltm]
        else:
            members = [*sttms, self.ltm]
        answers = [self.respond(memory, images, tasks) for memory in members]
        if len(answers) == 1:
            return answers[0]
        width = max(a.shape[1] for a in answers)
        stacked = torch.stack([widen(a, width) for a in answers])
        index = choose_memory(members, images, tasks, by_task=self.ltm.task_aware)
        return stacked[index, torch.arange(len(images), device=images.device)]

    @torch.no_grad()
    def reconstruct(self, images: Tensor, tasks: Tensor) -> Tensor | None:
        """What the memory that explains each image best makes of it.

        Args:
            images: Float tensor (n, *shape).
            tasks: int64 tensor (n,), task labels.

        Returns:
            Float tensor (n, *shape), ``None`` before anything was learned.
        """
        members = [m for m in [*self.sttms(), self.ltm] if m.generator is not None]
        views = [view for m in members if (view := m.reconstruct(images)) is not None]
        if not views:
            return None
        index = choose_memory(members, images, tasks, by_task=self.ltm.task_aware)
        return torch.stack(views)[index, torch.arange(len(images), device=images.device)]

    def get_extra_state(self) -> dict[str, Any]:
        """What ``state_dict`` needs to build the memories again."""
        return {
            "sleeps": self.sleeps,
            "opened": self.opened,
            "stm": {slot: memory.describe() for slot, memory in self.slots()},
            "stored": [memory.key for memory in self.stored],
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Builds the short-term memories before their weights are loaded."""
        self.sleeps, self.opened = state["sleeps"], state["opened"]
        device = next((p.device for p in self.parameters()), torch.device("cpu"))
        self.stm = nn.ModuleDict(
            {
                slot: ShortTermTaskMemory.rebuild(self.settings, description).to(device)
                for slot, description in state["stm"].items()
            }
        )
        empty = torch.empty(0, device=device)
        none = torch.empty(0, dtype=torch.int64, device=device)
        self.stored = nn.ModuleList(
            StoredTask(ExperienceData(empty, none, none, key)) for key in state["stored"]
        )
