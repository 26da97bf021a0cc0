"""Experiences and classes learned so far, for metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from avalanche.benchmarks import OnlineCLExperience

from avalanche_dgm.plugins import samples
from avalanche_dgm.plugins.experiences import is_last_part

#: Pairs of task label and class of an experience.
Pairs = frozenset[tuple[int, int]]


class Learned:
    """Experiences and classes learned so far; call `begin` and `end` around each experience.

    The parts of an online stream count as one experience, even if task boundaries are hidden.

    Attributes:
        positions: Positions of learned experiences in the training stream, in order of learning.
        classes: Pairs of task label and class learned so far.
        n_stream: Length of the training stream.
        learning: Whether an experience is in training.
    """

    def __init__(self) -> None:
        self.positions: list[int] = []
        self.classes: set[tuple[int, int]] = set()
        self.learning = False
        self._pairs: list[Pairs] = []
        self.n_stream = 0
        self._n_seen = 0

    @classmethod
    def of(cls, experiences: Sequence[Any]) -> Learned:
        """The state after some experiences were learned in order."""
        learned = cls()
        for experience in experiences:
            learned.begin(experience)
            learned.end(experience)
        return learned

    def begin(self, experience: Any) -> None:
        """Starts an experience, or a part of one."""
        if not isinstance(experience, OnlineCLExperience) or experience.is_first_subexp:
            self._n_seen = 0
        self._n_seen += len(experience.dataset)
        self.learning = True

    def end(self, experience: Any) -> bool:
        """Ends the experience or part; returns whether the full experience was learned."""
        # Parts that mix experiences have no origin.
        origin = getattr(experience, "origin_experience", None)
        if isinstance(experience, OnlineCLExperience) and origin is not None:
            if not is_last_part(experience, self._n_seen):
                return False
            experience = origin
        self.learning = False
        stream = samples.stream_of(experience) or [experience]
        self.n_stream = len(samples.experiences_of(stream) or ())
        self.positions.append(int(experience.current_experience))
        self._pairs.append(pairs_of(experience))
        self.classes |= self._pairs[-1]
        return True

    def labels_before(self) -> set[int]:
        """The classes learned before the last experience, over all tasks."""
        return {label for pairs in self._pairs[:-1] for _, label in pairs}

    def columns(self, tests: Sequence[Pairs]) -> list[int | None]:
        """The test experience of each learned experience, in the order of learning.

        For streams of equal lengths, it is at the same position. Otherwise it has the same pairs
        of task label and class or, if there is none, a superset of them; ``None`` if there are
        several.

        Args:
            tests: Pairs of task label and class of all test experiences.
        """
        if len(tests) == self.n_stream:
            return list(self.positions)
        return [
            _match(position, pairs, tests)
            for position, pairs in zip(self.positions, self._pairs, strict=True)
        ]


def order_of(training: Sequence[Any], tests: Sequence[Any]) -> list[int | None]:
    """The test experience of each training experience; see `Learned.columns`.

    Args:
        training: Training experiences or parts of them, in the order of learning.
        tests: Test experiences, all of a stream or some.

    Returns:
        Indices into ``tests``; ``None`` for a training experience without a test.
    """
    if not tests:
        return [None for _ in training]
    whole = samples.stream_of(tests[0]) or tests
    origins = [getattr(e, "origin_experience", None) or e for e in training]
    columns = Learned.of(origins).columns([pairs_of(test) for test in whole])
    places = {int(test.current_experience): i for i, test in enumerate(tests)}
    return [None if j is None else places.get(j) for j in columns]


def _match(position: int, trained: Pairs, tests: Sequence[Pairs]) -> int | None:
    found = [j for j, pairs in enumerate(tests) if pairs == trained]
    found = found or [j for j, pairs in enumerate(tests) if pairs >= trained]
    if position in found:
        return position
    return found[0] if len(found) == 1 else None


def pairs_of(experience: Any) -> Pairs:
    """All pairs of a task label and a class of an experience."""
    tasks, classes = samples.task_labels_of(experience), samples.classes_of(experience)
    return frozenset((task, label) for task in tasks for label in classes)


def stream_of(experience: Any) -> str:
    """The name of an experience's stream, such as ``test``."""
    return str(getattr(samples.stream_of(experience), "name", ""))


def tested_of(strategy: Any, stream: str) -> list[Any]:
    """The experiences of a stream, by its name, in a strategy's current evaluation."""
    return [e for e in strategy.current_eval_stream if stream_of(e) == stream]


def tests_of(strategy: Any, stream: str) -> list[Pairs]:
    """The pairs of all experiences of a stream, if any of them is in the current evaluation."""
    tested = tested_of(strategy, stream)
    return [pairs_of(e) for e in samples.stream_of(tested[0])] if tested else []
