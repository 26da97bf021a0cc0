"""Base class of all methods."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from avalanche_dgm.checks import read_bytes
from avalanche_dgm.data import ExperienceData, Replay, Step, append_replay, check_experience
from avalanche_dgm.errors import CapacityError, CheckpointError, ConfigError, required
from avalanche_dgm.fitting import Phase
from avalanche_dgm.held import held_bytes
from avalanche_dgm.losses import UserCriterion, distillation
from avalanche_dgm.memories.classifiers import counted, grow_to, logits_of, set_counted
from avalanche_dgm.methods.stats import MethodStats
from avalanche_dgm.modules import Savepoint, evaluating
from avalanche_dgm.randomness import RandomSource
from avalanche_dgm.settings import MethodSettings, make_settings

#: Version of the format of states and files; those of another version are refused.
VERSION = 3


def check_version(name: str, version: int) -> None:
    """Raises a `CheckpointError` if a saved state or file has another version of the format."""
    if version == VERSION:
        return
    age, remedy = (
        ("an earlier", "Train the memory again, or use the avalanche_dgm that saved it.")
        if version < VERSION
        else ("a later", "Update avalanche_dgm, or save the memory with this version.")
    )
    raise CheckpointError(
        f"{name} was saved by {age} avalanche_dgm (format version {version}; this one reads"
        f" {VERSION}). {remedy}"
    )


@dataclass(frozen=True)
class Needs:
    """Requirements of a method.

    Attributes:
        tasks: Whether each experience must have a task key.
        copies: Why the classifier must be copyable, as a sentence; empty if it need not be.
        learner: Whether the classifier's parameters must be trainable.
    """

    tasks: bool = False
    copies: str = ""
    learner: bool = True


class Method(nn.Module):
    """Base class of all methods.

    An adapter, such as a plugin, calls for each experience: `attach`, `check`, `begin`,
    ``criterion.set`` and the phases of `before_learning`; for each batch of the classifier's
    training `replay`, `forward` and `loss`; finally the phases of `after_learning` and `end`. It
    runs phases in the order in which they are yielded. ``data`` holds all samples of the
    experience. If an experience fails or is interrupted before `end`, `undo` rolls the method back;
    the next `begin` calls it, too.

    During an experience, a copy of the memory is kept for `undo`, without the classifier.

    Interfaces that only some methods implement are in `avalanche_dgm.methods.abilities`.

    Args:
        settings: Hyper-parameters; ``None`` for the defaults.
        **changes: Hyper-parameters that replace those of ``settings``, by name.

    Attributes:
        settings_type: The class of its hyper-parameters.
        needs: Its requirements.
        settings: Its hyper-parameters.
        random: Its random number generators.
        experiences: Experiences learned so far.
        learner: The user's classifier, after `attach`.
        task_aware: Whether the classifier takes task labels as its second argument.
        criterion: The loss on new samples.
        stats: Statistics of its training.
        in_training: Set by an adapter during training, to detect an interruption.

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
        #: Weight w of the loss on new samples, in (0, 1]; the loss on replay has 1 - w.
        self._new_weight = 1.0
        #: Temperature of the softmax of soft labels.
        self._temperature = 1.0
        #: For `undo`: the memory and the state of the random number generators.
        self._before: tuple[Savepoint, dict[str, Any]] | None = None

    @property
    def rng(self) -> torch.Generator:
        """The random number generator on the method's device."""
        tensors = chain(self.parameters(), self.buffers())
        device = next((t.device for t in tensors), torch.device("cpu"))
        return self.random.on(device)

    @property
    def _attached(self) -> nn.Module:
        """The classifier; an error before `attach`."""
        return required(self.learner, "learner", "attach")

    @property
    def active(self) -> nn.Module | None:
        """The classifier that an adapter's optimiser trains in this experience, or ``None``."""
        return self.learner

    def attach(self, learner: nn.Module, *, task_aware: bool) -> None:
        """Sets the classifier to train.

        Args:
            learner: The user's model.
            task_aware: Whether the model takes task labels as its second argument.
        """
        self.learner, self.task_aware = learner, task_aware

    def check(self, data: ExperienceData) -> None:
        """Checks that an experience can be learned; changes nothing.

        Raises:
            DataError: The experience cannot be learned.
        """
        check_experience(data)

    def begin(self, data: ExperienceData) -> None:
        """Starts an experience: checks its data and makes room for it in the memory.

        Raises:
            DataError: The experience cannot be learned; nothing was changed.
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
        """Yields the training phases before the classifier's training."""
        yield from ()

    def replay(self, n: int) -> Replay | None:
        """Draws a replay batch.

        Args:
            n: Size of the batch of new samples.

        Returns:
            The replay batch, or ``None`` if there is nothing to replay yet.
        """
        return None

    def forward(
        self, images: Tensor, tasks: Tensor, *, width: int, replay: Replay | None = None
    ) -> Tensor:
        """The logits of the classifier that is trained in the current experience.

        Args:
            images: Float tensor (n, *shape), new samples; n may be 0 if there is a replay batch.
            tasks: int64 tensor (n,), task labels.
            width: Number of outputs of the user's model.
            replay: Replay batch, which is appended to the new samples in the same forward pass.

        Returns:
            Tensor (n + len(replay), width) or wider.
        """
        return self._logits(*append_replay(images, tasks, replay))

    def loss(self, step: Step) -> Tensor | None:
        """The term that is added to the loss on new samples, in the units of the user's criterion.

        By default the total loss is w new + (1 - w) replay. As the loss on new samples is already
        counted, the term is (1 - w) (replay - new).

        Args:
            step: The step, with the logits of new and replayed samples.

        Returns:
            Scalar, or ``None`` for no term. In a step on replayed samples alone, their loss.
        """
        if step.replay is None:
            return None
        replayed = self._replay_loss(step)
        return replayed if step.new is None else (1 - self._new_weight) * (replayed - step.new)

    def _replay_loss(self, step: Step) -> Tensor:
        replay, logits = step.replay, step.replay_logits
        if replay is None or logits is None:
            raise RuntimeError("This step has no replay batch.")
        if replay.targets is None:
            loss = self.criterion.of_replay(logits, replay.labels, step.n)
        else:
            soft = distillation(logits, replay.targets, temperature=self._temperature).mean()
            loss = self.criterion.scaled(soft, step.n)
        return loss if step.replay_share == 1.0 else loss * step.replay_share

    def after_learning(self, data: ExperienceData) -> Iterator[Phase]:
        """Yields the training phases after the classifier's training."""
        yield from ()

    def end(self, data: ExperienceData) -> None:
        """Ends an experience; drops its temporary data."""
        self.stats.note_bytes(self.held_bytes())
        self.experiences += 1
        self._keep()

    def predict(self, images: Tensor, tasks: Tensor, *, key: str | None = None) -> Tensor:
        """The logits at test time.

        Args:
            images: Float tensor (n, *shape).
            tasks: int64 tensor (n,), task labels.
            key: The task's key from a task oracle, for methods that route by it.

        Returns:
            Tensor (n, K).
        """
        return self._logits(images, tasks)

    def _logits(self, images: Tensor, tasks: Tensor, network: nn.Module | None = None) -> Tensor:
        """The logits of the classifier, or of a copy of it."""
        network = self._attached if network is None else network
        return logits_of(network, images, tasks, task_aware=self.task_aware)

    def _width(self, images: Tensor, tasks: Tensor) -> int:
        """Number of outputs of the user's classifier, measured on the first image."""
        with evaluating(self.learner):
            return self._logits(images[:1], tasks[:1]).shape[1]

    def held_bytes(self) -> int:
        """Current size in bytes without the classifier, with the copies for `undo`."""
        # Never None: it holds parameters, buffers and tensors, no data set of unknown size.
        return held_bytes(self, without=[self.learner, UserCriterion, MethodStats]) or 0

    def _check_budget(self, needed: int, remedy: str) -> None:
        """Raises a `CapacityError` if the memory between experiences exceeds ``memory_budget``.

        It is ``needed`` bytes without the classifier; the remedy, how to need fewer, is a sentence.
        """
        budget = read_bytes("memory_budget", self.settings.memory_budget)
        if budget is not None and needed > budget:
            raise CapacityError(
                f"{type(self).__name__} needs {needed} bytes, more than memory_budget={budget}."
                f" {remedy}"
            )

    # Rollback

    @property
    def unfinished(self) -> bool:
        """Whether an experience was begun and not ended."""
        return self._before is not None

    def undo(self) -> None:
        """Rolls back to the state before an unfinished experience, if there is one.

        The classifier is not rolled back.
        """
        if self._before is None:
            return
        before, random_state = self._before
        learner, task_aware, in_training = self.learner, self.task_aware, self.in_training
        # Nested methods keep their identity, as others may refer to them.
        before.restore(self, keeping=Method)
        self.in_training = in_training
        self.random.set_state(random_state)
        if learner is not None and learner is not self.learner:
            self.attach(learner, task_aware=task_aware)

    def _unchanged(self, key: str) -> list[nn.Module]:
        """Modules that learning a task does not change in place; `undo` needs no copy of them."""
        return []

    def _save(self, unchanged: Iterable[nn.Module]) -> None:
        """Saves the current state for `undo`."""
        self._keep()
        shared = [self.random, self.learner, *unchanged]
        self._before = Savepoint(self, shared=shared), self.random.get_state()

    def _keep(self) -> None:
        """Drops the saved state: the current one is what `undo` returns to."""
        self._before = None

    # State

    def _hold(self, name: str, module: Any) -> None:
        """Sets an attribute that may be a module without registering it as a submodule.

        It is for temporary modules of the current experience, which are not saved in checkpoints.
        """
        object.__setattr__(self, name, module)

    def __getstate__(self) -> dict[str, Any]:
        """Copies are not in training."""
        return {**self.__dict__, "in_training": False}

    def get_extra_state(self) -> dict[str, Any]:
        """States of the random number generators, and counters, for ``state_dict``."""
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
        """Restores the state returned by `get_extra_state`."""
        self.random.set_state(state["random"])
        self.experiences = state["experiences"]
        for name in ("sleeps", "stm_occupancy", "sleep_seconds"):
            setattr(self.stats, name, state[name])
        set_counted(self.learner, state["counted"])

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        extra = state_dict.get(f"{prefix}_extra_state")
        if isinstance(extra, dict):
            check_version(f"The state of {type(self).__name__}", extra.get("version", 1))
        # A loaded state replaces that of an interrupted experience.
        self._keep()
        self._make_fit(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _make_fit(self, state_dict: Mapping[str, Any], prefix: str) -> None:
        """Resizes growing networks to the sizes in a state, before it is loaded.

        Raises:
            ConfigError: The state has the classifier's weights, and no classifier is attached.
        """
        if self.learner is None and any(k.startswith(f"{prefix}learner.") for k in state_dict):
            raise ConfigError(
                "The state holds the weights of the classifier, and none is attached. Attach the"
                " classifier before loading, with attach(model) of the plugin, or use save_memory"
                " and load_memory."
            )
        grow_to(self.learner, state_dict, f"{prefix}learner.")


class Naive(Method):
    """Trains the user's model on each experience without a memory: the baseline of `NaiveModule`.

    It is not registered: on the command line ``naive`` is Avalanche's strategy.
    """

    def __init__(self, settings: MethodSettings | None = None, **changes: Any) -> None:
        super().__init__(settings, **changes)
        self.criterion = UserCriterion(weighed=False)
