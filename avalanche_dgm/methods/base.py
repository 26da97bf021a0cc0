"""The contract between a method and the framework that drives it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from avalanche_dgm.data import ExperienceData, Replay, Step, append_replay, check_experience
from avalanche_dgm.fitting import Phase
from avalanche_dgm.losses import UserCriterion, distillation
from avalanche_dgm.memories.classifiers import counted, grow_to, logits_of, set_counted
from avalanche_dgm.methods.stats import MethodStats
from avalanche_dgm.modules import Frozen, GrowingBuffers
from avalanche_dgm.randomness import RandomSource
from avalanche_dgm.settings import MethodSettings, make_settings


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


class Method(nn.Module):
    """A way to remember, driven through a few verbs.

    An adapter calls, for each experience: `attach`, `check`, `begin`, ``criterion.set``, the phases
    of `before_learning`, then for each batch of the classifier's training `replay`, `forward` and
    `loss`, at last the phases of `after_learning` and `end`. Phases are run by the adapter, in the
    order in which they are yielded. An experience that fails or is interrupted before its `end` is
    taken back by `undo`, which the next `begin` calls, too.

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
        unfinished: Whether an experience was begun and not ended.
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
        self.task_aware = self.in_training = self.unfinished = False
        self.criterion = UserCriterion()
        self.stats = MethodStats()
        #: Weight of the new samples' loss, in (0, 1]; that of replayed ones weighs the rest.
        self._new_weight = 1.0
        #: Softness of soft labels.
        self._temperature = 1.0
        #: The copy for `undo`, and the state of the random numbers then.
        self._before: tuple[Method, dict[str, Any]] | None = None

    @property
    def rng(self) -> torch.Generator:
        """The generator of random numbers on the device that the method is on."""
        tensors = chain(self.parameters(), self.buffers())
        device = next((t.device for t in tensors), torch.device("cpu"))
        return self.random.on(device)

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

        Args:
            data: All of its samples.

        Raises:
            DataError: They cannot be learned.
        """
        check_experience(data)

    def begin(self, data: ExperienceData) -> None:
        """Starts an experience: checks its data, takes room for it.

        Args:
            data: All of its samples.

        Raises:
            DataError: They cannot be learned; nothing was changed.
        """
        self.undo()
        self.check(data)
        self._save(self._unchanged(data.key))
        try:
            self._begin(data)
        except BaseException:
            self.undo()
            raise

    def _begin(self, data: ExperienceData) -> None:
        """Starts a checked experience; subclasses extend it."""
        self.stats.begin()

    def before_learning(self, data: ExperienceData) -> Iterator[Phase]:
        """Yields what is trained before the classifier.

        Args:
            data: All samples of the experience.
        """
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
        """Yields what is trained after the classifier.

        Args:
            data: All samples of the experience.
        """
        yield from ()

    def end(self, data: ExperienceData) -> None:
        """Ends an experience; drops what was needed for it only.

        Args:
            data: All of its samples.
        """
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

    def _logits(self, images: Tensor, tasks: Tensor) -> Tensor:
        if self.learner is None:
            raise RuntimeError("The method has no learner yet; call attach() first.")
        return logits_of(self.learner, images, tasks, task_aware=self.task_aware)

    def memory(self) -> list[nn.Module]:
        """The modules that exist only to remember, the classifier not among them."""
        return []

    # Taking an experience back

    def undo(self) -> None:
        """Takes back what an experience that was begun and not ended has changed.

        The classifier keeps what it has learned by batches. Does nothing between experiences.
        """
        if self._before is None:
            return
        before, random_state = self._before
        learner, task_aware, in_training = self.learner, self.task_aware, self.in_training
        self._become(before)
        self.in_training = in_training
        self.random.set_state(random_state)
        if learner is not None and learner is not self.learner:
            self.attach(learner, task_aware=task_aware)

    def _unchanged(self, key: str) -> list[nn.Module]:
        """Modules that an experience does not change in place: no copy of them is needed.

        Args:
            key: The experience's task.
        """
        return [module for module in self.modules() if isinstance(module, Frozen)]

    def _save(self, unchanged: Iterable[nn.Module]) -> None:
        """Keeps a copy of what is remembered now, for `undo`.

        Args:
            unchanged: Modules that are shared with the copy.
        """
        self._keep()
        shared: list[Any] = [self.random, self.learner, *unchanged]
        for module in self.modules():
            if isinstance(module, GrowingBuffers):
                # They are replaced as a whole when more is learned.
                shared += module.buffers(recurse=False)
        memo = {id(part): part for part in shared if part is not None}
        self._before = copy.deepcopy(self, memo), self.random.get_state()
        self.unfinished = True

    def _keep(self) -> None:
        """Makes what was learned final: `undo` does not go back behind it."""
        self._before, self.unfinished = None, False

    def _become(self, other: Method) -> None:
        """Takes over another one's state; methods within it stay the objects that they are."""
        mine = self._modules
        self.__dict__.clear()
        self.__dict__.update(other.__dict__)
        for name, module in other._modules.items():
            method = mine.get(name)
            if isinstance(method, Method) and isinstance(module, Method):
                method._become(module)
                self._modules[name] = method

    # State

    def _hold(self, name: str, module: Any) -> None:
        """Sets an attribute that may be a module but is no part of this one's state.

        What is needed for the current experience only does not belong into a checkpoint.

        Args:
            name: The attribute.
            module: Its value.
        """
        object.__setattr__(self, name, module)

    def __getstate__(self) -> dict[str, Any]:
        """Nobody trains a copy."""
        return {**self.__dict__, "in_training": False}

    def get_extra_state(self) -> dict[str, Any]:
        """Random numbers and counters, for ``state_dict``."""
        return {
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
        # What is loaded is final, also after an experience that was interrupted.
        self._keep()
        self._make_fit(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _make_fit(self, state_dict: Mapping[str, Any], prefix: str) -> None:
        """Gives networks that grow the sizes that a state has, before it is loaded.

        Args:
            state_dict: The state.
            prefix: What the method's names begin with there.
        """
        grow_to(self.learner, state_dict, f"{prefix}learner.")
