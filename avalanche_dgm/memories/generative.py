"""Deep generative memory: a generator, a learner and a dictionary of tasks.

Kamra et al. 2017, Section 3.1 and Figure 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from avalanche_dgm.data import ExperienceData, Replay
from avalanche_dgm.errors import UnknownTaskError, UnsupportedModelError
from avalanche_dgm.fitting import Phase
from avalanche_dgm.generators.base import Generator
from avalanche_dgm.generators.default import make_generator
from avalanche_dgm.losses import soft_targets
from avalanche_dgm.memories.budget import Budget, new_fraction, replay_budget
from avalanche_dgm.memories.classifiers import logits_of
from avalanche_dgm.memories.settings import MemorySettings
from avalanche_dgm.modules import CHUNK, Frozen, evaluating, in_chunks


class DeepGenerativeMemory(nn.Module):
    """Remembers tasks by generating their samples.

    Args:
        settings: Hyper-parameters.
        generator: A generator that has learned nothing; ``None`` makes that of the settings.

    Attributes:
        generator: What generates inputs; its networks are built for the first samples.
        learner: The classifier that labels what is generated, or ``None`` until `attach`.
        tasks: How often each task was met, by its key, in the order in which they came.
    """

    learner: nn.Module | None

    def __init__(self, settings: MemorySettings, generator: Generator | None = None) -> None:
        super().__init__()
        self.settings = settings
        self.generator = generator or make_generator(settings.generator, settings)
        self.tasks: Counter[str] = Counter()
        self.task_aware = False
        self.learner = None
        #: What is learned now, noted in the dictionary by `end`.
        self._incoming: list[tuple[str, int]] = []

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Shape of one sample, or ``None`` before the first experience."""
        return self.generator.shape

    def attach(self, learner: nn.Module, *, task_aware: bool = False) -> None:
        """Makes a classifier the memory's learner.

        Args:
            learner: Maps images, and task labels if ``task_aware``, to logits (n, K).
            task_aware: Whether it takes the task labels (n,) as its second argument.

        Raises:
            UnsupportedModelError: Samples without a class have no task label, so they cannot be
                labelled by a learner that needs one.
        """
        if task_aware and not self.generator.conditional:
            raise UnsupportedModelError(
                "The model answers by task label, but what the generator makes has none. Use"
                " sampling='class', or a generator that samples given classes, with multi-head"
                " models."
            )
        self.learner, self.task_aware = learner, task_aware

    def check(self, data: ExperienceData) -> None:
        """Checks that an experience can be learned; changes nothing.

        Args:
            data: The experience.

        Raises:
            DataError: The generator cannot learn it.
        """
        self.generator.check(data)

    def build(self, samples: Tensor) -> None:
        """Builds the generator for the first samples, or checks later ones against it.

        Args:
            samples: Float tensor (N, *shape).

        Raises:
            DataError: The generator cannot make such samples.
        """
        self.generator.build(samples)

    # Learning

    def fraction(self, incoming: Sequence[ExperienceData]) -> float:
        """The share eta of incoming samples in what is learned (Sec. 3.1).

        Args:
            incoming: Samples of one or more tasks.
        """
        if not self.tasks:
            return 1.0
        new, old = self._counted(incoming)
        tasks = len({data.key for data in incoming})
        return new_fraction(new=new, old=old, kappa=self.settings.kappa, tasks=tasks)

    def budget(self, incoming: Sequence[ExperienceData]) -> Budget:
        """How many samples are kept of what comes in, and generated of what is known.

        Args:
            incoming: Samples of one or more tasks.

        Raises:
            CapacityError: ``n_max`` has no room for one sample of each task.
        """
        new, old = self._counted(incoming)
        return replay_budget(
            new=new,
            old=old,
            n_incoming=sum(len(data) for data in incoming),
            n_max=self.settings.n_max,
            kappa=self.settings.kappa,
            # One that was met several times is promised no more than the others.
            tasks=len({data.key for data in incoming}),
        )

    def _counted(self, incoming: Sequence[ExperienceData]) -> tuple[int, int]:
        """New and old, counted as the settings say."""
        if self.settings.count == "tasks":
            return sum(data.times for data in incoming), self.tasks.total()
        return sum(len(data.classes) for data in incoming), len(self.generator.classes)

    def learn(
        self,
        incoming: Sequence[ExperienceData],
        rng: torch.Generator,
        *,
        previous: DeepGenerativeMemory | None,
        old: tuple[Tensor, Tensor] | None = None,
        name: str = "generator",
    ) -> Iterator[Phase]:
        """Yields the generator's training on new tasks and on what it knew; then comes `end`.

        Args:
            incoming: Samples of one or more tasks, after `build`.
            rng: Generator on the memory's device.
            previous: Snapshot of the memory from before, or ``None`` if nothing shall be kept.
            old: What was generated of the old tasks already, as by `generate`. Then ``incoming`` is
                within the budget.
            name: How progress bars call it.
        """
        keys = list(dict.fromkeys([*self.tasks, *(data.key for data in incoming)]))
        groups = torch.cat([torch.full_like(d.tasks, keys.index(d.key)) for d in incoming])
        data, n_max = ExperienceData.cat(incoming), self.settings.n_max
        kept = None
        if old is None and previous is not None and self.generator.rehearses:
            budget = self.budget(incoming)
            kept = choose(len(data), budget.n_incoming, rng)
            if budget.n_generated:
                old = previous.generate(budget.n_generated, rng)
        elif old is None and n_max is not None:
            # Nothing generated is kept beyond a step, so only what comes in is limited.
            kept = choose(len(data), n_max, rng)
        if kept is not None:
            data, groups = data.take(kept), groups[kept]
        phases = self.generator.learn(
            data,
            rng,
            groups=groups,
            previous=previous.generator if previous is not None else None,
            old=old,
            share=self.fraction(incoming),
        )
        self._incoming = [(part.key, part.times) for part in incoming]
        for phase in phases:
            yield replace(phase, name=name)

    def end(self, rng: torch.Generator) -> None:
        """Notes what was learned; nothing, if nothing was.

        Args:
            rng: Generator on the memory's device.
        """
        self.generator.end(rng)
        for key, times in self._incoming:
            self.tasks[key] += times
        self._incoming = []

    # Generating

    @torch.no_grad()
    def generate(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Generates inputs of what the memory knows, balanced over classes.

        Args:
            n: How many, at least 1.
            rng: Generator on the memory's device.

        Returns:
            Samples (n, *shape), and the row (n,) in the generator's ``classes`` of each; -1 where
            classes cannot be asked for.

        Raises:
            UnknownTaskError: Nothing was learned yet.
        """
        if not self.tasks:
            raise UnknownTaskError("Nothing was learned yet: train on an experience first.")
        device, parts = self.generator.classes.rows.device, []
        with evaluating(self.generator):
            for chunk in torch.arange(n, device=device).split(CHUNK):
                rows = torch.full_like(chunk, -1)
                if self.generator.conditional:
                    rows = self.generator.classes.balanced(len(chunk), rng)
                parts.append((self.generator.sample(rows, rng), rows))
        samples, rows_of = zip(*parts, strict=True)
        return torch.cat(samples), torch.cat(rows_of)

    @torch.no_grad()
    def label(
        self, samples: Tensor, rows: Tensor, *, reconstruct: bool = False, hard: bool = False
    ) -> Replay:
        """Labels generated inputs.

        Labels are the classes that they were generated for, or, without these, the learner's
        decisions. Soft labels are the learner's answers over the classes that the memory knows.
        Without a learner, all else is 0.

        Args:
            samples: Float tensor (n, *shape).
            rows: int64 tensor (n,), see `generate`.
            reconstruct: Whether the learner labels the samples' reconstructions.
            hard: Leave soft labels out, whatever the settings say.
        """
        known = self.generator.classes
        soft = self.settings.labels == "soft" and not hard
        if self.generator.conditional:
            labels, tasks = known.labels[rows], known.tasks[rows]
            if not soft or self.learner is None:
                return Replay(samples, labels, tasks)
        else:
            labels = tasks = torch.zeros_like(rows)
            if self.learner is None:
                return Replay(samples, labels, tasks)
        shown = self.reconstruct(samples) if reconstruct else samples
        logits = self.eval_logits(samples if shown is None else shown, tasks)
        allowed = known.outputs(tasks, logits.shape[1], by_task=self.task_aware)
        targets = soft_targets(logits, allowed=allowed, temperature=self.settings.temperature)
        if not self.generator.conditional:
            labels = targets.argmax(dim=1)
        return Replay(samples, labels, tasks, targets if soft else None)

    def sample(
        self, n: int, rng: torch.Generator, *, reconstruct: bool = False, hard: bool = False
    ) -> Replay:
        """Generates labelled samples of what the memory knows, see `generate` and `label`.

        Args:
            n: How many, at least 1.
            rng: Generator on the memory's device.
            reconstruct: Whether the learner labels the samples' reconstructions.
            hard: Leave soft labels out, whatever the settings say.

        Raises:
            UnknownTaskError: Nothing was learned yet.
        """
        return self.label(*self.generate(n, rng), reconstruct=reconstruct, hard=hard)

    # Being asked

    def logits(self, samples: Tensor, tasks: Tensor) -> Tensor:
        """The learner's logits (n, K).

        Args:
            samples: Float tensor (n, *shape).
            tasks: int64 tensor (n,), task labels.
        """
        if self.learner is None:
            raise RuntimeError("The memory has no learner yet; call attach() first.")
        return logits_of(self.learner, samples, tasks, task_aware=self.task_aware)

    @torch.no_grad()
    def eval_logits(self, samples: Tensor, tasks: Tensor) -> Tensor:
        """The learner's logits (n, K) in evaluation mode and without gradients, to label with.

        Args:
            samples: Float tensor (n, *shape).
            tasks: int64 tensor (n,), task labels.
        """
        with evaluating(self.learner):
            return in_chunks(self.logits, samples, tasks)

    @torch.no_grad()
    def score(self, samples: Tensor) -> Tensor | None:
        """How badly the generator explains samples (n, *shape), see `Generator.score`."""
        with evaluating(self.generator):
            return self.generator.score(samples)

    @torch.no_grad()
    def encode(self, samples: Tensor) -> Tensor | None:
        """The generator's codes (n, D) of samples (n, *shape); ``None`` without any (yet)."""
        if self.shape is None:
            return None
        with evaluating(self.generator):
            return self.generator.encode(samples)

    @torch.no_grad()
    def reconstruct(self, samples: Tensor) -> Tensor | None:
        """The generator's view (n, *shape) of samples (n, *shape); ``None`` without any (yet)."""
        if self.shape is None or not self.generator.reconstructs:
            return None
        with evaluating(self.generator):
            return in_chunks(self._view, samples)

    def _view(self, samples: Tensor) -> Tensor:
        seen = self.generator.reconstruct(samples)
        return samples if seen is None else seen

    def snapshot(self) -> Frozen[DeepGenerativeMemory]:
        """A copy of what is remembered now, to be replayed while the memory changes."""
        return Frozen(self)

    def get_extra_state(self) -> dict[str, Any]:
        """The dictionary of tasks, for ``state_dict``."""
        return {"tasks": dict(self.tasks)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Takes over what `get_extra_state` returned."""
        self.tasks = Counter(state["tasks"])


def choose(n: int, k: int, rng: torch.Generator) -> Tensor:
    """Positions of ``k`` of ``n`` samples, or of all if there are fewer."""
    return torch.randperm(n, generator=rng, device=rng.device)[:k]
