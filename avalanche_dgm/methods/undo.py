"""Undoing an experience that was begun and not ended: it failed, or was interrupted."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from torch import nn

from avalanche_dgm.modules import Frozen, GrowingBuffers
from avalanche_dgm.randomness import RandomSource


class Undoable(nn.Module):
    """A method that keeps a copy of what it remembers while it learns, and can go back to it.

    The copy costs the memory's size as long as an experience lasts. The learner is not part of it.

    Attributes:
        in_training: Set by an adapter while it trains, so that it can tell an interrupted training
            later.
    """

    random: RandomSource
    learner: nn.Module | None
    task_aware: bool
    in_training: bool = False
    #: The copy, and the state of the random numbers then.
    _before: tuple[Undoable, dict[str, Any]] | None = None

    def attach(self, learner: nn.Module, *, task_aware: bool) -> None:
        """Tells which classifier learns.

        Args:
            learner: The user's model.
            task_aware: Whether it takes task labels as its second argument.
        """
        self.learner, self.task_aware = learner, task_aware

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
        self._before = None
        shared: list[Any] = [self.random, self.learner, *unchanged]
        for module in self.modules():
            if isinstance(module, GrowingBuffers):
                # They are replaced as a whole when more is learned.
                shared += module.buffers(recurse=False)
        memo = {id(part): part for part in shared if part is not None}
        self._before = copy.deepcopy(self, memo), self.random.get_state()

    def _keep(self) -> None:
        """Makes what was learned final: `undo` does not go back behind it."""
        self._before = None

    @property
    def unfinished(self) -> bool:
        """Whether an experience was begun and not ended."""
        return self._before is not None

    def undo(self) -> None:
        """Puts back what an experience that was begun and not ended has changed.

        The learner keeps what it has learned by batches. Does nothing between experiences.
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

    def _become(self, other: Undoable) -> None:
        """Takes over another one's state; methods within it stay the objects that they are."""
        mine = self._modules
        self.__dict__.clear()
        self.__dict__.update(other.__dict__)
        for name, module in other._modules.items():
            method = mine.get(name)
            if isinstance(method, Undoable) and isinstance(module, Undoable):
                method._become(module)
                self._modules[name] = method

    def __getstate__(self) -> dict[str, Any]:
        """Nobody trains a copy."""
        return {**self.__dict__, "in_training": False}
