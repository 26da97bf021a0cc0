"""Full batches for Avalanche's metrics on several devices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from avalanche.evaluation import PluginMetric
from torch import Tensor

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.lightning import internals
from avalanche_dgm.lightning.strategies.batches import StrategyBatches

#: Hooks on a batch after its forward pass.
_AFTER_OUTPUT = (
    "after_forward",
    "before_backward",
    "after_backward",
    "before_update",
    "after_update",
    "after_training_iteration",
    "after_eval_forward",
    "after_eval_iteration",
)


class DistributedEvaluation:
    """Lets a strategy's evaluator see full batches in every process.

    While `installed`, the evaluator's hooks see the batch, outputs and mean loss of all processes.
    Every process computes all metrics, so that plugins which read them behave the same; only the
    first process keeps its loggers.
    """

    def __init__(self, batches: StrategyBatches) -> None:
        self._batches, self._trainer = batches, batches.trainer
        self._gathered: tuple[Any, Tensor] | None = None
        # Only rank 0 has loggers, but every process must take part in gathering.
        self._needed: frozenset[str] = self._trainer.strategy.broadcast(
            _hooks_on_outputs(batches.strategy.evaluator)
        )

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Wraps the evaluator's updates; does nothing in a single process."""
        evaluator = self._batches.strategy.evaluator
        if not self._batches.ranks.is_distributed:
            yield
            return
        if self._trainer.global_rank:
            evaluator.loggers = []
        with internals.with_updates(evaluator, self._full_batch):
            yield

    @contextmanager
    def _full_batch(self, hook: str) -> Iterator[None]:
        strategy, full = self._batches.strategy, self._batches.full
        # Evaluation during training runs on full batches in every process.
        if full is None or strategy.is_training is not self._batches.training:
            yield
            return
        shard = strategy.mbatch, strategy.mb_output, strategy.loss
        strategy.mbatch = full
        if hook in self._needed:
            strategy.mb_output = self._gather_outputs(strategy.mb_output, len(full[0]))
            strategy.loss = self._mean_loss(strategy.loss, len(full[0]))
        try:
            yield
        finally:
            strategy.mbatch, strategy.mb_output, strategy.loss = shard

    def _gather_outputs(self, outputs: Any, n: int) -> Tensor:
        if self._gathered is not None and self._gathered[0] is outputs:
            return self._gathered[1]
        ranks = self._batches.ranks
        shard = ranks.shard(n)
        if not isinstance(outputs, Tensor) or len(outputs) != shard.stop - shard.start:
            raise ConfigError(
                "The model's outputs for a part of a batch cannot be gathered from all processes:"
                " metrics on several devices need one tensor with a row per sample of the batch."
                " Use one device, or an EvaluationPlugin() without metrics."
            )
        gathered = ranks.gather(self._trainer, outputs.detach(), n)
        if not ranks.can_shard(n):
            # Every process ran the full batch, but dropout may differ: uses rank 0's outputs.
            gathered = self._trainer.strategy.all_gather(outputs.detach())[0]
        self._gathered = (outputs, gathered)
        return gathered

    def _mean_loss(self, loss: Tensor, n: int) -> Tensor:
        weighted = loss.detach() * self._batches.ranks.loss_weight(n)
        mean = self._trainer.strategy.reduce(weighted.clone(), reduce_op="mean")
        return torch.as_tensor(mean)


def _hooks_on_outputs(evaluator: Any) -> frozenset[str]:
    """The hooks in which metrics or loggers read a batch's outputs."""
    always = {"after_training_iteration", "after_eval_iteration"}
    if not evaluator.metrics and not evaluator.loggers:
        return frozenset()
    overridden = {
        name
        for name in _AFTER_OUTPUT
        for metric in evaluator.metrics
        if getattr(type(metric), name, None) is not getattr(PluginMetric, name, None)
    }
    return frozenset(always | overridden)
