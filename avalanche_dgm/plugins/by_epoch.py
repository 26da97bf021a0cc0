"""An Avalanche plugin that records accuracies on old and new tasks by epoch."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from avalanche.core import SupervisedPlugin

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.metrics.functional import mean
from avalanche_dgm.metrics.stream_accuracies import EpochAccuracy
from avalanche_dgm.plugins.accuracies import ExperienceAccuracies

# Accuracies by position in the test stream.
_Row = dict[int, float]


class AccuracyByEpoch(SupervisedPlugin):
    """Records the accuracies of a strategy's evaluations during training.

    Enable these evaluations with ``eval_every``::

        recorder = AccuracyByEpoch()
        strategy = Naive(..., plugins=[ALTMPlugin(), recorder], eval_every=1)
        for experience in benchmark.train_stream:
            strategy.train(experience, eval_streams=[benchmark.test_stream])
        figure = furlanello2016.memory_by_epoch({"naive A-LTM": recorder.table()})

    Evaluations of other streams than the benchmark's test stream are ignored.
    """

    def __init__(self) -> None:
        """See the class for the arguments."""
        super().__init__()
        self._learned: list[int] = []
        self._rows: list[dict[int, _Row]] = []
        self._before: _Row = {}
        self._epoch: int | None = None
        self._evaluation = ExperienceAccuracies()

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Starts a table with the accuracies measured since the previous experience."""
        self._learned.append(int(strategy.experience.current_experience))
        self._rows.append({0: self._before} if self._before else {})
        self._before, self._epoch = {}, 0

    def before_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Counts epochs here, as a strategy evaluates before ``after_training_epoch``."""
        if self._epoch is not None:
            self._epoch += 1

    def after_training(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._epoch = None

    def before_eval(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._evaluation.before_eval(strategy)

    def after_eval_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._evaluation.after_eval_iteration(strategy)

    def after_eval(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        row = self._before
        if self._epoch is not None:
            row = self._rows[-1].setdefault(self._epoch, {})
        row |= self._evaluation.result()
        self._evaluation.reset()

    def rows(self, training: int = -1) -> list[dict[int, float]]:
        """The accuracies before a training experience and after each of its epochs.

        Args:
            training: Index of the training experience in the order of learning; the last one by
                default.

        Returns:
            Accuracies by position of the test experience, one dictionary per evaluated epoch, in
            ascending order.
        """
        return [row for _, row in sorted(self._rows[training].items())]

    def table(
        self,
        training: int = -1,
        *,
        old: Collection[int] | None = None,
        new: Collection[int] | None = None,
    ) -> list[EpochAccuracy]:
        """The accuracies after each epoch of a training experience.

        Args:
            training: Index of the training experience in the order of learning; the last one by
                default.
            old: Positions of the old test experiences; ``None`` for those of all previous training
                experiences.
            new: Positions of the new test experiences; ``None`` for that of ``training``. Their
                mean accuracy is used.

        Returns:
            A row for each epoch in which all of them were evaluated, in ascending order.

        Raises:
            ConfigError: There is no such training experience, or no old test experience.
        """
        if not -len(self._rows) <= training < len(self._rows):
            raise ConfigError(
                f"training={training} is out of range: {len(self._rows)} experiences were learned."
                " Train first, with this plugin among the strategy's."
            )
        training %= len(self._rows)
        position = self._learned[training]
        new = {position} if new is None else set(new)
        old = set(self._learned[:training]) - new if old is None else set(old)
        if not old or not new:
            raise ConfigError(
                "No experience was learned before this one: there is no old accuracy. Choose a"
                " later experience, or pass old and new test experiences."
            )
        return [
            EpochAccuracy(epoch, *(mean([row[j] for j in part]) for part in (old, new)))
            for epoch, row in sorted(self._rows[training].items())
            if old | new <= set(row)
        ]
