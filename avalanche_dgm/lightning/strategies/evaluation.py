"""Full batches for Avalanche's metrics on several devices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from avalanche.evaluation import PluginMetric
from torch import Tensor

from avalanche_dgm.data import Replay
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.lightning import internals
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.ranks import Ranks
from avalanche_dgm.plugins.base import MethodPlugin

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

    def __init__(self, trainer: pl.Trainer, strategy: Any) -> None:
        self._trainer, self._ranks, self._strategy = trainer, Ranks.of(trainer), strategy
        self._batch: list[Tensor] | None = None
        self._training = False
        self._gathered: tuple[Any, Tensor] | None = None
        # Only rank 0 has loggers, but every process must take part in gathering.
        self._needed: frozenset[str] = trainer.strategy.broadcast(
            _hooks_on_outputs(strategy.evaluator)
        )

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Wraps the evaluator's updates; does nothing in a single process."""
        evaluator = self._strategy.evaluator
        if not self._ranks.is_distributed:
            yield
            return
        if self._trainer.global_rank:
            evaluator.loggers = []
        try:
            with internals.with_updates(evaluator, self._full_batch):
                yield
        finally:
            self.end()

    def shard_batch(self) -> float:
        """Replaces the strategy's batch by this process's shard.

        Returns:
            The weight of the shard's mean loss in the mean over processes.
        """
        strategy = self._strategy
        full = strategy.mbatch
        n = len(full[0])
        self._batch, self._training = full, strategy.is_training
        self._gathered = None
        strategy.mbatch = [entry[self._ranks.shard(n)] for entry in full]
        return self._ranks.loss_weight(n)

    def sample_replay(self, plugin: MethodPlugin, n: int) -> Replay | None:
        """Samples the same replay in every process and returns this process's shard of it."""
        if self._batch is None:
            return plugin.method.replay(n)
        full = plugin.method.replay(len(self._batch[0]))
        return None if full is None else full[self._ranks.shard(len(full))]

    def end(self) -> None:
        """Drops the batch."""
        self._batch = self._gathered = None

    @contextmanager
    def _full_batch(self, hook: str) -> Iterator[None]:
        strategy, full = self._strategy, self._batch
        # Evaluation during training runs on full batches in every process.
        if full is None or strategy.is_training is not self._training:
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
        shard = self._ranks.shard(n)
        if not isinstance(outputs, Tensor) or len(outputs) != shard.stop - shard.start:
            raise ConfigError(
                "The model's outputs for a part of a batch cannot be gathered from all processes:"
                " metrics on several devices need one tensor with a row per sample of the batch."
                " Use one device, or an EvaluationPlugin() without metrics."
            )
        gathered = self._ranks.gather(self._trainer, outputs.detach(), n)
        if not self._ranks.can_shard(n):
            # Every process ran the full batch, but dropout may differ: uses rank 0's outputs.
            gathered = self._trainer.strategy.all_gather(outputs.detach())[0]
        self._gathered = (outputs, gathered)
        return gathered

    def _mean_loss(self, loss: Tensor, n: int) -> Tensor:
        weighted = loss.detach() * self._ranks.loss_weight(n)
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
