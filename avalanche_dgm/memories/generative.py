"""Deep generative memory (Kamra et al. 2017, Section 3.1 and Figure 1), and its replay rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from avalanche_dgm.checks import read_bytes
from avalanche_dgm.data import ExperienceData, Replay
from avalanche_dgm.errors import UnknownTaskError, UnsupportedModelError, required
from avalanche_dgm.fitting import Phase
from avalanche_dgm.generators.base import Generator, VAESettings
from avalanche_dgm.generators.density import ClassDensity
from avalanche_dgm.generators.vae_generator import make_generator
from avalanche_dgm.losses import soft_targets
from avalanche_dgm.memories.budget import (
    Budget,
    check_capacity,
    choose,
    new_fraction,
    replay_budget,
)
from avalanche_dgm.memories.classifiers import logits_of
from avalanche_dgm.modules import CHUNK, evaluating, in_chunks


@dataclass(frozen=True, kw_only=True)
class MemorySettings(VAESettings):
    """Settings of a deep generative memory, and of its generator if that is the autoencoder.

    The defaults are ours, not the paper's.

    Attributes:
        generator: ``"vae"``, the autoencoder that the settings above configure; ``"low-rank"`` or
            another name of `make_density`, better for features of a pretrained network; or an
            untrained `Generator`, which is copied.
        labels: Labels of replayed samples: ``"soft"``, the previous learner's probabilities, or
            ``"hard"``, its predicted classes; ``None`` for ``"soft"``.
        temperature: Temperature of the softmax of soft labels, above 0.
        kappa: Minimum fraction of the memory for each new task (Sec. 3.1).
        n_max: Maximum number of samples, generated and new, in one consolidation; ``None`` for no
            limit. Aligned consolidation keeps generated samples for one step only.
        count: How new samples are weighted against old ones: ``"tasks"``, by the number of tasks so
            far, including repetitions (the paper); ``"classes"``, by the number of classes, so that
            a large first experience keeps its weight.
        memory_budget: Maximum bytes of the memory, as a number or as text such as ``"1MB"``; larger
            networks are refused. Short-term memories do not count.
    """

    generator: Generator | str = "vae"
    labels: Literal["soft", "hard"] | None = None
    temperature: float = field(default=2.0, metadata={"above": 0})
    kappa: float = 0.0
    n_max: int | None = None
    count: Literal["classes", "tasks"] = "classes"
    memory_budget: int | str | None = field(default=None, metadata={"bytes": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_capacity(n_max=self.n_max, kappa=self.kappa, new=1)
        self.check_owners("generator", {"vae": self._of_the_vae()})

    @property
    def soft_labels(self) -> bool:
        """Whether replay has soft labels."""
        return self.labels != "hard"

    @classmethod
    def _of_the_vae(cls) -> set[str]:
        """Names of the settings that are only for the autoencoder."""
        # batch_size is also a setting of the learner.
        return VAESettings.names() - {"batch_size"}


class DeepGenerativeMemory(nn.Module):
    """A generator of samples of all learned tasks, and a learner that labels them.

    Args:
        settings: Hyper-parameters.
        generator: An untrained generator; ``None`` makes that of the settings.

    Attributes:
        generator: The generator; its networks are built for the first samples.
        learner: The classifier that labels generated samples, or ``None`` until `attach`.
        tasks: The dictionary: how often each task was learned, by its key, in order of the first.
    """

    learner: nn.Module | None

    def __init__(self, settings: MemorySettings, generator: Generator | None = None) -> None:
        super().__init__()
        self.settings = settings
        self.generator = generator or make_generator(settings.generator, settings)
        self._memory_budget = read_bytes("memory_budget", settings.memory_budget)
        if isinstance(self.generator, ClassDensity):
            self.generator.memory_budget = self._memory_budget or self.generator.memory_budget
        self.tasks: Counter[str] = Counter()
        self.task_aware = False
        self.learner = None

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Shape of one sample, or ``None`` before the first experience."""
        return self.generator.shape

    def attach(self, learner: nn.Module, *, task_aware: bool = False) -> None:
        """Sets the memory's learner, see `Method.attach`.

        Raises:
            UnsupportedModelError: The learner needs task labels, and the generator is not
                class-conditional, so its samples have none.
        """
        if task_aware and not self.generator.conditional:
            raise UnsupportedModelError(
                "The model needs task labels, but the generator's samples have none. With"
                " multi-head models, use sampling='class' or a class-conditional generator."
            )
        self.learner, self.task_aware = learner, task_aware

    def check_budget(self, shape: Sequence[int], labels: Tensor, tasks: Tensor) -> None:
        """Checks, after the generator is built, that the memory with new classes fits the budget.

        Args:
            shape: Shape of a sample.
            labels: int64 tensor (N,), new labels.
            tasks: int64 tensor (N,), their task labels.

        Raises:
            CapacityError: It does not fit.
        """
        n_classes = self.generator.classes.count_with(tasks, labels)
        self.generator.check_budget(self._memory_budget, n_classes, prod(shape))

    # Learning

    def fraction(self, incoming: Sequence[ExperienceData]) -> float:
        """The fraction eta of incoming samples in the training data (Sec. 3.1)."""
        if not self.tasks:
            return 1.0
        new, old = self._counted(incoming)
        tasks = len({data.key for data in incoming})
        return new_fraction(new=new, old=old, kappa=self.settings.kappa, tasks=tasks)

    def budget(self, incoming: Sequence[ExperienceData]) -> Budget:
        """The numbers of incoming and generated samples, by the replay rule.

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
            # kappa is per task, however often the task was seen.
            tasks=len({data.key for data in incoming}),
        )

    def _counted(self, incoming: Sequence[ExperienceData]) -> tuple[int, int]:
        """Numbers of new and old tasks or classes, as ``count`` says."""
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
        """Yields the generator's training on new tasks and on replay of old ones.

        After the last phase the tasks are in the dictionary, and their classes can be generated.

        Args:
            incoming: Samples of one or more tasks, after `build`.
            rng: Generator on the memory's device.
            previous: Frozen copy of the previous memory, or ``None`` for no replay.
            old: Samples of old tasks that `generate` returned; then ``incoming`` is already within
                the budget.
            name: Name for progress bars.
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
            # Generated samples are drawn for each step, so only incoming samples are limited.
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
        for phase in phases:
            yield replace(phase, name=name)
        self.generator.end(rng)
        for part in incoming:
            self.tasks[part.key] += part.times

    # Generating

    @torch.no_grad()
    def generate(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Generates inputs, balanced over classes if the generator is class-conditional.

        Args:
            n: Number of samples, at least 1.
            rng: Generator on the memory's device.

        Returns:
            Samples (n, *shape), and their rows (n,) in the generator's ``classes``; -1 if the
            generator is not class-conditional.

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

        Labels are the classes given to the generator or, if it is not class-conditional, the
        learner's predictions. Soft labels are the learner's probabilities over known classes.
        Without a learner and a class-conditional generator, labels are 0.

        Args:
            samples: Float tensor (n, *shape).
            rows: int64 tensor (n,), see `generate`.
            reconstruct: Whether the learner labels the samples' reconstructions.
            hard: Whether to omit soft labels.
        """
        known, conditional = self.generator.classes, self.generator.conditional
        labels = tasks = torch.zeros_like(rows)
        if conditional:
            labels, tasks = known.labels[rows], known.tasks[rows]
        soft = self.settings.soft_labels and not hard
        if self.learner is None or (conditional and not soft):
            return Replay(samples, labels, tasks)
        inputs = self.reconstruct(samples) if reconstruct else samples
        logits = self.eval_logits(samples if inputs is None else inputs, tasks)
        allowed = known.outputs(tasks, logits.shape[1], by_task=self.task_aware)
        targets = soft_targets(logits, allowed=allowed, temperature=self.settings.temperature)
        if not conditional:
            labels = targets.argmax(dim=1)
        return Replay(samples, labels, tasks, targets if soft else None)

    def sample(
        self, n: int, rng: torch.Generator, *, reconstruct: bool = False, hard: bool = False
    ) -> Replay:
        """Generates labelled samples, see `generate` and `label`."""
        return self.label(*self.generate(n, rng), reconstruct=reconstruct, hard=hard)

    # Inference

    def logits(self, samples: Tensor, tasks: Tensor) -> Tensor:
        """The learner's logits (n, K) for samples (n, *shape) with task labels (n,)."""
        learner = required(self.learner, "learner", "attach")
        return logits_of(learner, samples, tasks, task_aware=self.task_aware)

    @torch.no_grad()
    def eval_logits(self, samples: Tensor, tasks: Tensor) -> Tensor:
        """`logits` in evaluation mode and without gradients."""
        with evaluating(self.learner):
            return in_chunks(self.logits, samples, tasks)

    @torch.no_grad()
    def score(self, samples: Tensor) -> Tensor | None:
        """The generator's scores (n,) of samples (n, *shape), see `Generator.score`."""
        with evaluating(self.generator):
            return self.generator.score(samples)

    @torch.no_grad()
    def encode(self, samples: Tensor) -> Tensor | None:
        """The generator's latents (n, D) of samples (n, *shape), or ``None`` if it has none yet."""
        if self.shape is None:
            return None
        with evaluating(self.generator):
            return self.generator.encode(samples)

    @torch.no_grad()
    def reconstruct(self, samples: Tensor) -> Tensor | None:
        """The generator's reconstructions of samples (n, *shape), or ``None`` if there are none."""
        if self.shape is None or not self.generator.reconstructs:
            return None
        with evaluating(self.generator):
            return in_chunks(self._reconstruct, samples)

    def _reconstruct(self, samples: Tensor) -> Tensor:
        reconstructed = self.generator.reconstruct(samples)
        return samples if reconstructed is None else reconstructed

    def get_extra_state(self) -> dict[str, Any]:
        """The dictionary of tasks, for ``state_dict``."""
        return {"tasks": dict(self.tasks)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restores the state returned by `get_extra_state`."""
        self.tasks = Counter(state["tasks"])
