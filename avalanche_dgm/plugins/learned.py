"""What a strategy has learned so far, as a metric sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from avalanche.benchmarks import OnlineCLExperience

from avalanche_dgm.plugins import samples

#: Task labels and classes of an experience.
Pairs = frozenset[tuple[int, int]]


class Learned:
    """Experiences and classes learned so far; call `begin` and `end` around each of them.

    Parts of an online stream make one experience, also where a strategy may not know it: metrics
    may. While an experience is learned evaluations are periodic ones, of an unfinished state.

    Attributes:
        positions: In the training stream, of those learned, in the order of learning.
        classes: Pairs of task label and class, of those learned.
        n_stream: Experiences of the training stream.
        learning: Whether one is being learned.
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
        """What is known once whole experiences were learned, one after the other."""
        learned = cls()
        for experience in experiences:
            learned.begin(experience)
            learned.end(experience)
        return learned

    def begin(self, experience: Any) -> None:
        """Notes that an experience, or a part of one, is about to be learned."""
        if not isinstance(experience, OnlineCLExperience) or experience.is_first_subexp:
            self._n_seen = 0
        self._n_seen += len(experience.dataset)
        self.learning = True

    def end(self, experience: Any) -> bool:
        """Notes that it was learned; says whether the experience is over, and not a part only."""
        # Parts that mix experiences are from none of them.
        origin = getattr(experience, "origin_experience", None)
        if isinstance(experience, OnlineCLExperience) and origin is not None:
            part, experience = experience, origin
            # Avalanche marks no last part when the parts divide it without a remainder.
            if not (part.is_last_subexp or self._n_seen >= len(experience.dataset)):
                return False
        self.learning = False
        stream = samples.stream_of(experience) or [experience]
        self.n_stream = len(samples.experiences_of(stream) or ())
        self.positions.append(int(experience.current_experience))
        self._pairs.append(pairs_of(experience))
        self.classes |= self._pairs[-1]
        return True

    def labels(self) -> set[int]:
        """The classes learned, whatever their task."""
        return {c for _, c in self.classes}

    def columns(self, tests: Sequence[Pairs]) -> list[int | None]:
        """The test experience of each learned experience, in the order of learning.

        Of streams of one length it is that at the same position, otherwise that of the same task
        labels and classes or, if there is none, of these and more; ``None`` if there are several
        or none.

        Args:
            tests: What all experiences of the test stream hold.
        """
        if len(tests) == self.n_stream:
            return list(self.positions)
        return [
            _match(position, mine, tests)
            for position, mine in zip(self.positions, self._pairs, strict=True)
        ]


def _match(position: int, mine: Pairs, tests: Sequence[Pairs]) -> int | None:
    found = [j for j, pairs in enumerate(tests) if pairs == mine]
    found = found or [j for j, pairs in enumerate(tests) if pairs >= mine]
    if position in found:
        return position
    return found[0] if len(found) == 1 else None


def pairs_of(experience: Any) -> Pairs:
    """The task labels of an experience, each with each of its classes, as far as it has any."""
    tasks, classes = samples.task_labels_of(experience), samples.classes_of(experience)
    return frozenset((task, label) for task in tasks for label in classes)


def stream_of(experience: Any) -> str:
    """The name of the stream that an experience is from, such as ``test``."""
    return str(getattr(samples.stream_of(experience), "name", ""))


def tested_of(strategy: Any, stream: str) -> list[Any]:
    """The experiences of a stream that a strategy is evaluated on.

    Args:
        strategy: The strategy, in an evaluation.
        stream: The stream's name.
    """
    return [e for e in strategy.current_eval_stream if stream_of(e) == stream]


def tests_of(strategy: Any, stream: str) -> list[Pairs]:
    """What all experiences of a stream hold that a strategy is evaluated on, if in parts.

    Args:
        strategy: The strategy, in an evaluation.
        stream: The stream's name.

    Returns:
        One entry for each experience, none if the evaluation is of other streams.
    """
    mine = tested_of(strategy, stream)
    return [pairs_of(experience) for experience in mine[0].origin_stream] if mine else []
