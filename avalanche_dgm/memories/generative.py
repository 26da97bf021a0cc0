"""Deep generative memory: a generator, a learner, a dictionary of tasks, and the replay rule.

Kamra et al. 2017, Section 3.1 and Figure 1.
"""

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
from avalanche_dgm.errors import (
    CapacityError,
    ConfigError,
    UnknownTaskError,
    UnsupportedModelError,
)
from avalanche_dgm.fitting import Phase
from avalanche_dgm.generators.base import Generator, VAESettings
from avalanche_dgm.generators.density import ClassDensity
from avalanche_dgm.generators.vae_generator import make_generator
from avalanche_dgm.losses import soft_targets
from avalanche_dgm.memories.classifiers import logits_of
from avalanche_dgm.modules import CHUNK, evaluating, in_chunks


@dataclass(frozen=True, kw_only=True)
class MemorySettings(VAESettings):
    """Settings of one deep generative memory, and of its generator if that is the autoencoder.

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
        given = ", ".join(self._vae_settings_given())
        if self.generator != "vae" and given:
            raise ConfigError(
                f"{given} is for generator='vae'. Give settings of another generator to that"
                " generator, where it is made."
            )

    @property
    def soft_labels(self) -> bool:
        """Whether replay has soft labels."""
        return self.labels != "hard"

    def _vae_settings_given(self) -> list[str]:
        """Names of the autoencoder's settings that are not the default ones."""
        # The learner is trained in batches of this size, too.
        return [name for name in self.part(VAESettings).given() if name != "batch_size"]


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
        self._memory_budget = read_bytes("memory_budget", settings.memory_budget)
        if isinstance(self.generator, ClassDensity):
            self.generator.memory_budget = self._memory_budget or self.generator.memory_budget
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
        """Makes a classifier the memory's learner, see `Method.attach`.

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

    def check_budget(self, shape: Sequence[int], labels: Tensor, tasks: Tensor) -> None:
        """Checks, once the generator is built, that what is to be learned fits into the budget.

        Args:
            shape: Shape of a sample.
            labels: int64 tensor (N,).
            tasks: int64 tensor (N,), task labels.

        Raises:
            CapacityError: It does not.
        """
        n_classes = self.generator.classes.count_with(tasks, labels)
        self.generator.check_budget(self._memory_budget, n_classes, prod(shape))

    # Learning

    def fraction(self, incoming: Sequence[ExperienceData]) -> float:
        """The share eta of samples of one or more tasks in what is learned with them (Sec. 3.1)."""
        if not self.tasks:
            return 1.0
        new, old = self._counted(incoming)
        tasks = len({data.key for data in incoming})
        return new_fraction(new=new, old=old, kappa=self.settings.kappa, tasks=tasks)

    def budget(self, incoming: Sequence[ExperienceData]) -> Budget:
        """How many samples are kept of one or more tasks, and generated of what is known.

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
        """Notes what was learned; nothing, if nothing was."""
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
        known, conditional = self.generator.classes, self.generator.conditional
        labels = tasks = torch.zeros_like(rows)
        if conditional:
            labels, tasks = known.labels[rows], known.tasks[rows]
        soft = self.settings.soft_labels and not hard
        if self.learner is None or (conditional and not soft):
            return Replay(samples, labels, tasks)
        shown = self.reconstruct(samples) if reconstruct else samples
        logits = self.eval_logits(samples if shown is None else shown, tasks)
        allowed = known.outputs(tasks, logits.shape[1], by_task=self.task_aware)
        targets = soft_targets(logits, allowed=allowed, temperature=self.settings.temperature)
        if not conditional:
            labels = targets.argmax(dim=1)
        return Replay(samples, labels, tasks, targets if soft else None)

    def sample(
        self, n: int, rng: torch.Generator, *, reconstruct: bool = False, hard: bool = False
    ) -> Replay:
        """Generates labelled samples of what the memory knows, see `generate` and `label`."""
        return self.label(*self.generate(n, rng), reconstruct=reconstruct, hard=hard)

    # Being asked

    def logits(self, samples: Tensor, tasks: Tensor) -> Tensor:
        """The learner's logits (n, K) for samples (n, *shape) with task labels (n,)."""
        if self.learner is None:
            raise RuntimeError("The memory has no learner yet; call attach() first.")
        return logits_of(self.learner, samples, tasks, task_aware=self.task_aware)

    @torch.no_grad()
    def eval_logits(self, samples: Tensor, tasks: Tensor) -> Tensor:
        """The same in evaluation mode and without gradients, to label with."""
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

    def get_extra_state(self) -> dict[str, Any]:
        """The dictionary of tasks, for ``state_dict``."""
        return {"tasks": dict(self.tasks)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Takes over what `get_extra_state` returned."""
        self.tasks = Counter(state["tasks"])


def choose(n: int, k: int, rng: torch.Generator) -> Tensor:
    """Positions of ``k`` of ``n`` samples, or of all if there are fewer."""
    return torch.randperm(n, generator=rng, device=rng.device)[:k]


@dataclass(frozen=True)
class Budget:
    """The outcome of the replay rule (Sec. 3.1).

    Attributes:
        n_incoming: Incoming samples that are kept.
        n_generated: Samples that the memory generates of what it knows.
        fraction: The share eta of incoming samples.
    """

    n_incoming: int
    n_generated: int
    fraction: float


def new_fraction(*, new: float, old: float, kappa: float, tasks: int | None = None) -> float:
    """Share eta of incoming samples: in proportion to the tasks, at least kappa a new task.

    Args:
        new: Incoming tasks, repetitions counted; above 0.
        old: Tasks in the dictionary, repetitions counted.
        kappa: Smallest share of one new task, in [0, 1].
        tasks: Incoming tasks, each counted once; ``None`` if none is repeated.
    """
    return min(1.0, max(new / (new + old), kappa * (new if tasks is None else tasks)))


def replay_budget(
    *,
    new: int,
    old: int,
    n_incoming: int,
    n_max: int | None,
    kappa: float,
    tasks: int | None = None,
) -> Budget:
    """Applies the replay rule.

    Args:
        new: Incoming tasks, repetitions counted; at least 1.
        old: Tasks in the dictionary, repetitions counted.
        n_incoming: Incoming samples, at least 1.
        n_max: Most samples, generated and incoming together, or ``None`` for no limit.
        kappa: Smallest share of ``n_max`` for each new task, in [0, 1].
        tasks: Incoming tasks, each counted once; ``None`` if none is repeated.

    Returns:
        Numbers that add up to at most ``n_max``; nothing is generated when nothing is known.

    Raises:
        CapacityError: ``n_max`` has no room for one sample of each task.
    """
    tasks = new if tasks is None else tasks
    check_capacity(n_max=n_max, kappa=kappa, new=tasks, old=old)
    fraction = new_fraction(new=new, old=old, kappa=kappa, tasks=tasks) if old else 1.0
    total = round(n_incoming / fraction)
    if n_max is not None:
        total = min(n_max, total)
    kept = min(n_incoming, max(round(fraction * total), tasks))
    return Budget(kept, max(total - kept, 0), fraction)


def check_capacity(*, n_max: int | None, kappa: float, new: int, old: int = 1) -> None:
    """Checks that what is promised to each of the new tasks can be held.

    Raises:
        CapacityError: It cannot.
    """
    if not 0 <= kappa <= 1:
        raise CapacityError(f"kappa={kappa} is a share: give a number from 0 to 1.")
    if n_max is not None and n_max < 1:
        raise CapacityError(f"n_max={n_max} must be at least 1 sample, or None for no limit.")
    if kappa * new > 1 + 1e-9:
        raise CapacityError(
            f"kappa={kappa} promises {kappa * new:.0%} of the memory to {new} tasks that are"
            f" consolidated at once. Lower kappa to at most {1 / new:.3g}, or consolidate fewer"
            " tasks at once (stm_size)."
        )
    if n_max is not None and n_max < new + (1 if old and kappa * new < 1 else 0):
        raise CapacityError(
            f"n_max={n_max} cannot hold one sample of each of {new} new tasks beside what was"
            " learned. Raise n_max."
        )
    if n_max is not None and 0 < kappa * n_max < 1:
        raise CapacityError(
            f"kappa={kappa} of n_max={n_max} is less than one sample a task. Raise either."
        )
