"""The contract between a method and the framework that drives it, and what a method reports."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from avalanche_dgm.checks import read_bytes
from avalanche_dgm.data import ExperienceData, Replay, Step, append_replay, check_experience
from avalanche_dgm.errors import CapacityError, CheckpointError
from avalanche_dgm.fitting import Phase
from avalanche_dgm.held import held_bytes
from avalanche_dgm.losses import UserCriterion, distillation
from avalanche_dgm.memories.classifiers import counted, grow_to, logits_of, set_counted
from avalanche_dgm.modules import Savepoint, evaluating
from avalanche_dgm.randomness import RandomSource
from avalanche_dgm.settings import MethodSettings, make_settings

#: Version of what methods keep, and under which names; states and files of another are refused.
VERSION = 3


def check_version(name: str, version: int) -> None:
    """Checks that something saved has this version of what methods keep.

    Args:
        name: What was saved, for the message.
        version: Its version.

    Raises:
        CheckpointError: It has another one.
    """
    if version == VERSION:
        return
    age, remedy = (
        ("an earlier", "Train the memory again, or use the avalanche_dgm that saved it.")
        if version < VERSION
        else ("a later", "Update avalanche_dgm, or save the memory with this version.")
    )
    raise CheckpointError(
        f"{name} was saved by {age} avalanche_dgm (version {version} of what methods keep; this"
        f" one reads {VERSION}). {remedy}"
    )


@dataclass(frozen=True)
class Needs:
    """What a method needs of its user.

    Attributes:
        tasks: Whether it must be told which task an experience belongs to.
        copies: What copies of the classifier are needed for, as a sentence; empty if none are.
        learner: Whether the classifier's parameters must be trainable.
    """

    tasks: bool = False
    copies: str = ""
    learner: bool = True


@dataclass
class MethodStats:
    """What a method did, for metrics and reports.

    Attributes:
        steps: Batches that the classifier was trained on in the current experience.
        replayed: Samples replayed to the classifier in the current experience, as of `read`.
        histogram: How often each label was replayed in the current experience, as of `read`.
        stm_occupancy: Tasks that wait for the next sleep.
        sleeps: Consolidations so far.
        sleep_seconds: Seconds asleep so far.
        phase_seconds: Seconds of each phase of the current experience, by name.
        peak_bytes: The most that was held in the current experience beside the classifier, in
            bytes, at its begin and its end: with the copies that are kept while it is learned.
        counts: int64 tensor (K,), replayed samples of each label, on the device; ``None`` before
            the first.
    """

    steps: int = 0
    replayed: int = 0
    histogram: dict[int, int] = field(default_factory=dict)
    stm_occupancy: int = 0
    sleeps: int = 0
    sleep_seconds: float = 0.0
    phase_seconds: dict[str, float] = field(default_factory=dict)
    peak_bytes: int = 0
    counts: Tensor | None = field(default=None, repr=False, compare=False)

    def begin(self) -> None:
        """Starts counting anew for an experience."""
        self.counts, self.replayed, self.histogram, self.phase_seconds = None, 0, {}, {}
        self.steps = self.peak_bytes = 0

    def count(self, replay: Replay, width: int) -> None:
        """Counts the labels of what was replayed to a classifier of so many outputs."""
        counts = torch.zeros(0, dtype=torch.int64) if self.counts is None else self.counts
        counts = counts.to(replay.labels.device)
        if len(counts) < width:
            counts = nn.functional.pad(counts, (0, width - len(counts)))
        self.counts = counts.index_add_(0, replay.labels, torch.ones_like(replay.labels))

    def add_phase(self, name: str, seconds: float) -> None:
        """Adds the time that a phase took."""
        self.phase_seconds[name] = self.phase_seconds.get(name, 0.0) + seconds
        if name.startswith("sleep"):
            self.sleep_seconds += seconds

    def note_bytes(self, n: int) -> None:
        """Takes note of how many bytes are held."""
        self.peak_bytes = max(self.peak_bytes, n)

    def read(self) -> MethodStats:
        """Brings ``replayed`` and ``histogram`` up to date; waits for the device."""
        if self.counts is not None:
            counts = self.counts.tolist()
            self.replayed = sum(counts)
            self.histogram = {i: c for i, c in enumerate(counts) if c}
        return self

    def state(self) -> dict[str, Any]:
        """What changes within an experience, for `set_state`."""
        names = ("steps", "counts", "phase_seconds", "sleep_seconds", "peak_bytes")
        return copy.deepcopy({name: getattr(self, name) for name in names})

    def set_state(self, state: dict[str, Any], device: torch.device) -> None:
        """Continues on a device where `state` was called."""
        vars(self).update(copy.deepcopy(state))
        if self.counts is not None:
            self.counts = self.counts.to(device)


class Method(nn.Module):
    """Base of all methods; adapters call its few methods at fixed points of training.

    An adapter calls, for each experience: `attach`, `check`, `begin`, ``criterion.set``, the phases
    of `before_learning`, then for each batch of the classifier's training `replay`, `forward` and
    `loss`, at last the phases of `after_learning` and `end`. Phases are run by the adapter, in the
    order in which they are yielded. ``data`` holds all samples of the experience. An experience
    that fails or is interrupted before its `end` is taken back by `undo`, which the next `begin`
    calls, too.

    While an experience is learned a copy of what was remembered before is kept for `undo`. It costs
    the memory's size; the classifier is not part of it.

    What only some methods can do is in `avalanche_dgm.methods.abilities`.

    Args:
        settings: Hyper-parameters; ``None`` for the defaults.
        **changes: Hyper-parameters that shall differ, by name.

    Attributes:
        settings_type: The class of its hyper-parameters.
        needs: What it needs of its user.
        settings: Its hyper-parameters.
        random: Its random numbers.
        experiences: Experiences learned so far.
        learner: The user's classifier, after `attach`.
        task_aware: Whether that takes task labels as its second argument.
        criterion: The loss that the classifier is trained by on new samples.
        stats: What it did so far.
        in_training: Set by an adapter while it trains, so that it can tell an interrupted training.

    Raises:
        ConfigError: A hyper-parameter is unknown or cannot work.
    """

    settings_type: ClassVar[type[MethodSettings]] = MethodSettings
    needs: Needs = Needs()

    def __init__(self, settings: MethodSettings | None = None, **changes: Any) -> None:
        super().__init__()
        self.settings: Any = make_settings(self.settings_type, changes, base=settings)
        self.random = RandomSource(self.settings.seed)
        self.experiences = 0
        self.learner: nn.Module | None = None
        self.task_aware = self.in_training = False
        self.criterion = UserCriterion()
        self.stats = MethodStats()
        #: Weight of the new samples' loss, in (0, 1]; that of replayed ones weighs the rest.
        self._new_weight = 1.0
        #: Softness of soft labels.
        self._temperature = 1.0
        #: For `undo`, with the state of the random numbers then.
        self._before: tuple[Savepoint, dict[str, Any]] | None = None

    @property
    def rng(self) -> torch.Generator:
        """The generator of random numbers on the device that the method is on."""
        tensors = chain(self.parameters(), self.buffers())
        device = next((t.device for t in tensors), torch.device("cpu"))
        return self.random.on(device)

    @property
    def _attached(self) -> nn.Module:
        """The classifier; an error before `attach`."""
        if self.learner is None:
            raise RuntimeError("The method has no learner yet; call attach() first.")
        return self.learner

    @property
    def active(self) -> nn.Module | None:
        """The classifier that learns the current experience, or ``None`` if none does by batches.

        An adapter's optimiser trains its parameters; see `forward`.
        """
        return self.learner

    def attach(self, learner: nn.Module, *, task_aware: bool) -> None:
        """Tells which classifier learns.

        Args:
            learner: The user's model.
            task_aware: Whether it takes task labels as its second argument.
        """
        self.learner, self.task_aware = learner, task_aware

    def check(self, data: ExperienceData) -> None:
        """Checks that an experience can be learned; changes nothing.

        Raises:
            DataError: It cannot.
        """
        check_experience(data)

    def begin(self, data: ExperienceData) -> None:
        """Starts an experience: checks its data, takes room for it.

        Raises:
            DataError: It cannot be learned; nothing was changed.
        """
        self.undo()
        self.check(data)
        self._save(self._unchanged(data.key))
        try:
            self._begin(data)
        except BaseException:
            self.undo()
            raise
        self.stats.note_bytes(self.held_bytes())

    def _begin(self, data: ExperienceData) -> None:
        """Starts a checked experience; subclasses extend it."""
        self.stats.begin()

    def before_learning(self, data: ExperienceData) -> Iterator[Phase]:
        """Yields what is trained before the classifier."""
        yield from ()

    def replay(self, n: int) -> Replay | None:
        """Draws samples to go with a batch of the current experience.

        Args:
            n: Size of that batch.

        Returns:
            The samples, or ``None`` if there is nothing to replay yet.
        """
        return None

    def forward(
        self, images: Tensor, tasks: Tensor, *, width: int, replay: Replay | None = None
    ) -> Tensor:
        """The logits of the classifier that learns the current experience.

        Args:
            images: Float tensor (n, *shape), what it is trained on; n may be 0 if there is a
                replay.
            tasks: int64 tensor (n,), task labels.
            width: Number of outputs of the user's model.
            replay: What is appended to the batch, to be answered in the same pass.

        Returns:
            Tensor (n + len(replay), width) or wider.
        """
        return self._logits(*append_replay(images, tasks, replay))

    def loss(self, step: Step) -> Tensor | None:
        """What a step adds to the loss on new samples, in the units of the user's criterion.

        By default replay and new samples weigh (1 - w) and w: with the loss of the new samples
        given, that is (1 - w) (replay - new).

        Args:
            step: The step, with the answers to new and replayed samples.

        Returns:
            Scalar, or ``None`` for nothing. In a step on replayed samples alone, their loss.
        """
        if step.replay is None:
            return None
        replayed = self._replay_loss(step)
        return replayed if step.new is None else (1 - self._new_weight) * (replayed - step.new)

    def _replay_loss(self, step: Step) -> Tensor:
        replay, logits = step.replay, step.replay_logits
        if replay is None or logits is None:
            raise RuntimeError("Nothing was replayed in this step.")
        if replay.targets is None:
            loss = self.criterion.of_replay(logits, replay.labels, step.n)
        else:
            soft = distillation(logits, replay.targets, temperature=self._temperature).mean()
            loss = self.criterion.scaled(soft, step.n)
        return loss if step.replay_share == 1.0 else loss * step.replay_share

    def after_learning(self, data: ExperienceData) -> Iterator[Phase]:
        """Yields what is trained after the classifier."""
        yield from ()

    def end(self, data: ExperienceData) -> None:
        """Ends an experience; drops what was needed for it only."""
        self.stats.note_bytes(self.held_bytes())
        self.experiences += 1
        self._keep()

    def predict(self, images: Tensor, tasks: Tensor, *, key: str | None = None) -> Tensor:
        """The logits at test time.

        Args:
            images: Float tensor (n, *shape).
            tasks: int64 tensor (n,), task labels.
            key: The task's name from an oracle, for methods that route by it.

        Returns:
            Tensor (n, K).
        """
        return self._logits(images, tasks)

    def _logits(self, images: Tensor, tasks: Tensor, network: nn.Module | None = None) -> Tensor:
        """The logits of the classifier, or of a copy of it, for what it is trained on."""
        network = self._attached if network is None else network
        return logits_of(network, images, tasks, task_aware=self.task_aware)

    def _width(self, images: Tensor, tasks: Tensor) -> int:
        """Number of outputs of the user's classifier, asked with the first of some images."""
        with evaluating(self.learner):
            return self._logits(images[:1], tasks[:1]).shape[1]

    def held_bytes(self) -> int:
        """Bytes of all that it holds now beside the classifier, copies for `undo` included."""
        # Parameters, buffers and tensors: no data set whose images could be of unknown size.
        return held_bytes(self, without=[self.learner, UserCriterion, MethodStats]) or 0

    def _check_budget(self, needed: int, remedy: str) -> None:
        """Checks that what is kept between experiences is within ``memory_budget``.

        Args:
            needed: Bytes that will be kept beside the classifier.
            remedy: What takes fewer, as a sentence.

        Raises:
            CapacityError: It is not.
        """
        budget = read_bytes("memory_budget", self.settings.memory_budget)
        if budget is not None and needed > budget:
            raise CapacityError(
                f"{type(self).__name__} needs {needed} bytes, more than memory_budget={budget}."
                f" {remedy}"
            )

    # Taking an experience back

    @property
    def unfinished(self) -> bool:
        """Whether an experience was begun and not ended."""
        return self._before is not None

    def undo(self) -> None:
        """Takes back what an experience that was begun and not ended has changed.

        The classifier keeps what it has learned by batches. Does nothing between experiences.
        """
        if self._before is None:
            return
        before, random_state = self._before
        learner, task_aware, in_training = self.learner, self.task_aware, self.in_training
        # Methods within it, which others may hold, stay the objects that they are.
        before.restore(self, keeping=Method)
        self.in_training = in_training
        self.random.set_state(random_state)
        if learner is not None and learner is not self.learner:
            self.attach(learner, task_aware=task_aware)

    def _unchanged(self, key: str) -> list[nn.Module]:
        """Modules that an experience of a task does not change in place: they are not copied."""
        return []

    def _save(self, unchanged: Iterable[nn.Module]) -> None:
        """Keeps a copy of what is remembered now, for `undo`."""
        self._keep()
        shared = [self.random, self.learner, *unchanged]
        self._before = Savepoint(self, shared=shared), self.random.get_state()

    def _keep(self) -> None:
        """Makes what was learned final: `undo` does not go back behind it."""
        self._before = None

    # State

    def _hold(self, name: str, module: Any) -> None:
        """Sets an attribute that may be a module but is no part of this one's state.

        What is needed for the current experience only does not belong into a checkpoint.
        """
        object.__setattr__(self, name, module)

    def __getstate__(self) -> dict[str, Any]:
        """Nobody trains a copy."""
        return {**self.__dict__, "in_training": False}

    def get_extra_state(self) -> dict[str, Any]:
        """Random numbers and counters, for ``state_dict``."""
        return {
            "version": VERSION,
            "random": self.random.get_state(),
            "experiences": self.experiences,
            "sleeps": self.stats.sleeps,
            "stm_occupancy": self.stats.stm_occupancy,
            "sleep_seconds": self.stats.sleep_seconds,
            "counted": counted(self.learner),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Takes over what `get_extra_state` returned."""
        self.random.set_state(state["random"])
        self.experiences = state["experiences"]
        for name in ("sleeps", "stm_occupancy", "sleep_seconds"):
            setattr(self.stats, name, state[name])
        set_counted(self.learner, state["counted"])

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        extra = state_dict.get(f"{prefix}_extra_state")
        if isinstance(extra, dict):
            check_version(f"The state of {type(self).__name__}", extra.get("version", 1))
        # What is loaded is final, also after an experience that was interrupted.
        self._keep()
        self._make_fit(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _make_fit(self, state_dict: Mapping[str, Any], prefix: str) -> None:
        """Gives networks that grow the sizes that a state has, before it is loaded."""
        grow_to(self.learner, state_dict, f"{prefix}learner.")


class Naive(Method):
    """Trains the user's model on each experience and does nothing against forgetting.

    It is what `NaiveModule` compares methods with on Lightning. It is not registered: there is
    nothing to plug into a strategy, and on the command line ``naive`` is Avalanche's own.
    """

    def __init__(self, settings: MethodSettings | None = None, **changes: Any) -> None:
        super().__init__(settings, **changes)
        self.criterion = UserCriterion(weighed=False)
