"""Accuracies on a test stream, as a strategy measures them after each experience."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from avalanche_dgm.plugins.learned import Learned, Pairs, stream_of, tests_of


class StreamAccuracies:
    """Counts correct predictions in evaluations, for an accuracy matrix.

    Evaluations while an experience is learned do not count, nor those of other streams. One that is
    repeated replaces what was measured, and one of a part of the stream what was measured of it.
    The owner tells `learned` of every experience, and calls the other methods around evaluations.

    Args:
        stream: Name of the stream whose evaluations count.

    Attributes:
        learned: What was learned so far.
        tests: What the experiences of the stream hold, once one was evaluated.
        rows: For each experience learned so far, accuracies by position in the stream.
        untrained: Those before anything was learned.
    """

    def __init__(self, stream: str = "test") -> None:
        self.stream = stream
        self.learned = Learned()
        self.tests: list[Pairs] = []
        self.rows: list[dict[int, float]] = []
        self.untrained: dict[int, float] = {}
        self._right: dict[int, Tensor] = {}

    def begin(self, strategy: Any) -> None:
        """Starts an evaluation."""
        self._right = {}
        self.tests = self.tests or tests_of(strategy, self.stream)

    def count(self, strategy: Any) -> None:
        """Adds a batch, on the device."""
        experience, answers = strategy.experience, strategy.mb_output
        if self.learned.learning or stream_of(experience) != self.stream:
            return
        if not isinstance(answers, Tensor) or answers.ndim != 2:
            return
        right = (answers.argmax(dim=1) == strategy.mb_y).sum()
        batch = torch.stack([right, right.new_tensor(len(strategy.mb_y))])
        position = int(experience.current_experience)
        self._right[position] = self._right.get(position, 0) + batch

    def end(self) -> bool:
        """Fills a row; waits for the device. Returns whether a row was filled."""
        if not self._right:
            return False
        counts = torch.stack(list(self._right.values())).double()
        accuracies: list[float] = (counts[:, 0] / counts[:, 1]).tolist()
        measured = dict(zip(self._right, accuracies, strict=True))
        self._right = {}
        after = len(self.learned.positions)
        if not after:
            self.untrained |= measured
            return False
        # Experiences that were learned without a test have a row of NaN.
        self.rows += [{} for _ in range(after - len(self.rows))]
        self.rows[-1] |= measured
        return True

    def matrix(self) -> Tensor:
        """The accuracy matrix so far.

        Returns:
            Float tensor (T, S): a row for each learned experience, a column for each of the
            stream, in its order; NaN where nothing was measured.
        """
        return torch.stack([self._row(row) for row in self.rows]) if self.rows else torch.empty(0)

    def baseline(self) -> Tensor:
        """Float tensor (S,): accuracies before anything was learned, NaN where not measured."""
        return self._row(self.untrained)

    def columns(self) -> list[int | None]:
        """The column of each learned experience; see `Learned.columns`."""
        return self.learned.columns(self.tests)

    def _row(self, row: dict[int, float]) -> Tensor:
        return torch.tensor([row.get(j, torch.nan) for j in range(len(self.tests))])
