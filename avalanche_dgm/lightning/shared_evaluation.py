"""Avalanche's metrics where each process has a part of a batch: they see the whole of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from avalanche.evaluation import PluginMetric
from torch import Tensor

from avalanche_dgm.data import Replay
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.ranks import Ranks
from avalanche_dgm.plugins.base import MethodPlugin

#: Callbacks in the middle of a batch, once there is an answer to it.
_ANSWERED = (
    "after_forward",
    "before_backward",
    "after_backward",
    "before_update",
    "after_update",
    "after_training_iteration",
    "after_eval_forward",
    "after_eval_iteration",
)


class SharedEvaluation:
    """Lets a strategy's evaluator see whole batches, equally in every process.

    While it is installed the strategy shows, during the evaluator's turn, the batch of all
    processes, the answers of all to it and the mean of their losses. Every process computes all
    metrics, so that plugins which read them decide alike; loggers are kept in the first only.

    Args:
        trainer: The Trainer, in each of its processes.
        strategy: The strategy.
    """

    def __init__(self, trainer: pl.Trainer, strategy: Any) -> None:
        self._trainer, self._ranks, self._strategy = trainer, Ranks.of(trainer), strategy
        self._whole: list[Tensor] | None = None
        self._training = False
        self._gathered: tuple[Any, Tensor] | None = None
        # Loggers differ between the processes, but all have to take part in gathering.
        self._needed: frozenset[str] = trainer.strategy.broadcast(_listened(strategy.evaluator))

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Puts itself between the strategy and its evaluator; a single process needs nothing."""
        evaluator = self._strategy.evaluator
        if not self._ranks.several:
            yield
            return
        if self._trainer.global_rank:
            evaluator.loggers = []
        update = evaluator._update_metrics_and_loggers

        def shared(strategy: Any, callback: str) -> Any:
            with self._shown(callback):
                return update(strategy, callback)

        # All callbacks go through this method. Replacing it keeps the evaluator the object it is,
        # which other plugins look for.
        evaluator._update_metrics_and_loggers = shared
        try:
            yield
        finally:
            del evaluator._update_metrics_and_loggers
            self.end()

    def take_part(self) -> float:
        """Leaves the strategy this process's part of its batch.

        Returns:
            What a mean over the part counts in the mean over processes.
        """
        strategy = self._strategy
        whole = strategy.mbatch
        n = len(whole[0])
        self._whole, self._training = whole, strategy.is_training
        self._gathered = None
        strategy.mbatch = [entry[self._ranks.part(n)] for entry in whole]
        return self._ranks.weight(n)

    def draw(self, plugin: MethodPlugin, n: int) -> Replay | None:
        """This process's part of the replay that goes with the batch, which is drawn by all alike.

        Args:
            plugin: Whose method replays.
            n: Samples of the batch that this process has.
        """
        if self._whole is None:
            return plugin.method.replay(n)
        drawn = plugin.method.replay(len(self._whole[0]))
        return None if drawn is None else drawn[self._ranks.part(len(drawn))]

    def end(self) -> None:
        """Forgets the batch."""
        self._whole = self._gathered = None

    @contextmanager
    def _shown(self, callback: str) -> Iterator[None]:
        strategy, whole = self._strategy, self._whole
        # An evaluation in the middle of training has batches of its own, which all processes see.
        if whole is None or strategy.is_training is not self._training:
            yield
            return
        mine = strategy.mbatch, strategy.mb_output, strategy.loss
        strategy.mbatch = whole
        if callback in self._needed:
            strategy.mb_output = self._answers(strategy.mb_output, len(whole[0]))
            strategy.loss = self._mean(strategy.loss, len(whole[0]))
        try:
            yield
        finally:
            strategy.mbatch, strategy.mb_output, strategy.loss = mine

    def _answers(self, answers: Any, n: int) -> Tensor:
        if self._gathered is not None and self._gathered[0] is answers:
            return self._gathered[1]
        part = self._ranks.part(n)
        if not isinstance(answers, Tensor) or len(answers) != part.stop - part.start:
            raise ConfigError(
                "The model's answers to a part of a batch cannot be joined with those of the other"
                " processes: metrics on several devices need one tensor with a row for each sample"
                " of the batch. Use one device, or an EvaluationPlugin() without metrics."
            )
        answers_of_all = self._ranks.gather(self._trainer, answers.detach(), n)
        if not self._ranks.shares(n):
            # All answered all of it, but dropout may have made a difference.
            answers_of_all = self._trainer.strategy.all_gather(answers.detach())[0]
        self._gathered = (answers, answers_of_all)
        return answers_of_all

    def _mean(self, loss: Tensor, n: int) -> Tensor:
        weighted = loss.detach() * self._ranks.weight(n)
        mean = self._trainer.strategy.reduce(weighted.clone(), reduce_op="mean")
        return torch.as_tensor(mean)


def _listened(evaluator: Any) -> frozenset[str]:
    """The callbacks for which some metric or logger looks at the answers to a batch."""
    usual = {"after_training_iteration", "after_eval_iteration"}
    if not evaluator.metrics and not evaluator.loggers:
        return frozenset()
    listened = {
        name
        for name in _ANSWERED
        for metric in evaluator.metrics
        if getattr(type(metric), name, None) is not getattr(PluginMetric, name, None)
    }
    return frozenset(usual | listened)
