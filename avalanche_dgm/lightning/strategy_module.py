"""A strategy's batches in the loops of a Trainer."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from avalanche_dgm.errors import ConfigError, RanksDifferError
from avalanche_dgm.lightning import trainers
from avalanche_dgm.lightning.distributed_evaluation import DistributedEvaluation
from avalanche_dgm.lightning.limits import limited_length, smoke_batches
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.ranks import Ranks, broadcast_buffers, reduce_counts
from avalanche_dgm.lightning.shared_rng import SharedRNG
from avalanche_dgm.lightning.stopping import (
    StreamStopped,
    agrees_on_stop,
    check_stop,
    signalled,
    stop_reason,
)
from avalanche_dgm.plugins.metrics import find_plugins
from avalanche_dgm.plugins.wrapped import WrappedModel


class StrategyModule(pl.LightningModule):
    """Does in a Trainer's hooks what ``SGDUpdate.training_epoch`` and ``eval_epoch`` do.

    The batches come from the strategy's own data loader and are pulled where Avalanche pulls
    them: the Trainer only counts. The order of all hooks, and with one process that of all random
    numbers, is Avalanche's.

    Args:
        strategy: The strategy; its model is registered anew before each fit, as plugins may
            replace it.
        evaluation: Shows its evaluator the full batches.
        ranks: The process among the others.
        check_ranks: Whether to check that all processes read the same batches.
    """

    def __init__(
        self, strategy: Any, evaluation: DistributedEvaluation, ranks: Ranks, *, check_ranks: bool
    ) -> None:
        super().__init__()
        self.strategy, self.evaluation, self.check_ranks = strategy, evaluation, check_ranks
        self.stage_name = ""
        self.model: nn.Module | None = None
        self._options: dict[str, Any] = {}
        self._batches: Iterator[Any] | None = None
        self._is_distributed, self._rng = ranks.is_distributed, SharedRNG(ranks)
        self._stopped = self._first = False
        self._weight, self._total, self._n = 1.0, torch.zeros(()), 0
        self._epochs = 0

    def fit(self, trainer: pl.Trainer, **options: Any) -> None:
        """Trains the strategy's epochs on its data loader, which has at least one batch.

        Args:
            trainer: The Trainer, in each of its processes.
            **options: For the hooks of plugins.

        Raises:
            StreamStopped: The stream ends before the last epoch has, or nothing was trained.
        """
        check_stop(trainer)
        strategy = self.strategy
        self._register(options)
        self._first, self._stopped, self._n, self._epochs = True, False, 0, 0
        methods = [plugin.method for plugin in find_plugins(strategy)]
        if self._is_distributed and any(method.criterion.scale.sums for method in methods):
            raise ConfigError(
                "The criterion is a sum over samples. On several devices losses are averaged, so it"
                " must be their mean."
            )
        with self._rng.active():
            n = limited_length(len(strategy.dataloader), trainer.limit_train_batches)
            epochs = 1 if smoke_batches(trainer) else strategy.train_epochs
            trainers.fit(trainer, self, range(n), epochs=epochs)
        if self._epochs < epochs and not self._stopped:
            self._check_end(trainer)
        broadcast_buffers(trainer, strategy.model)
        for method in methods:
            reduce_counts(trainer, method)
        _move_state(strategy.optimizer, trainer.strategy.root_device)

    def _check_end(self, trainer: pl.Trainer) -> None:
        reason = stop_reason(trainer, agree=True)
        if reason is None and not self._epochs and not self._n:
            reason = f"A callback stopped the Trainer before it had trained {self.stage_name!r}."
        if reason is not None:
            raise StreamStopped(reason)

    def test(self, trainer: pl.Trainer, **options: Any) -> None:
        """Evaluates on the strategy's data loader, which has at least one batch.

        Args:
            trainer: The Trainer, in each of its processes.
            **options: For the hooks of plugins.
        """
        self._register(options)
        with self._rng.active():
            n = limited_length(len(self.strategy.dataloader), trainer.limit_test_batches)
            trainers.test(trainer, self, range(n))

    def _register(self, options: dict[str, Any]) -> None:
        model = self.strategy.model
        self._options, self.model = options, model
        self._ddp_params_and_buffers_to_ignore: list[str] = []
        active = model.method.active if isinstance(model, WrappedModel) else None
        if active is not None:
            # Only the short-term learner is trained; to wait for other gradients is an error.
            trained = {id(parameter) for parameter in active.parameters()}
            self._ddp_params_and_buffers_to_ignore = [
                name
                for name, parameter in self.named_parameters(remove_duplicate=False)
                if id(parameter) not in trained
            ]

    # Training

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The strategy's, which keeps its state from experience to experience."""
        return self.strategy.optimizer

    def on_train_epoch_start(self) -> None:
        """Begins an epoch, unless a plugin has stopped the training."""
        strategy = self.strategy
        if self._stopped:
            return
        strategy._before_training_epoch(**self._options)
        if self._anybody(strategy._stop_training):
            strategy._stop_training = False
            self._stopped = self.trainer.should_stop = True
            return
        self._total, self._n = torch.zeros((), device=self.device), 0
        self._batches = iter(strategy.dataloader)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        """Pulls the next batch; without one, or after a plugin's stop, the epoch is over."""
        strategy = self.strategy
        if not self._pull() or strategy._stop_training:
            self._batches = None
            return -1
        return None

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of this process's part of the batch, weighed by its share of the samples."""
        strategy, options = self.strategy, self._options
        with self._rng.per_rank():
            self._shard_batch()
            strategy._before_training_iteration(**options)
            if batch_idx % self.trainer.accumulate_grad_batches == 0:
                strategy.optimizer.zero_grad()
            strategy.loss = strategy._make_empty_loss()
            strategy._before_forward(**options)
            strategy.mb_output = strategy.forward()
            strategy._after_forward(**options)
            strategy.loss += strategy.criterion()
            strategy._before_backward(**options)
        loss = strategy.loss.sum()
        self._total = self._total + loss.detach().float()
        self._n += 1
        # Without the multiplication a single process gets the very gradients of Avalanche's loop.
        return loss * self._weight if self._is_distributed else loss

    def optimizer_zero_grad(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: gradients are cleared in the step, where Avalanche clears them."""

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Runs the backward pass as the strategy would."""
        loss.backward(retain_graph=self.strategy.retain_graph)

    @property
    def _scaled(self) -> bool:
        return getattr(self.trainer.precision_plugin, "scaler", None) is not None

    def on_after_backward(self) -> None:
        """Tells the plugins."""
        self._check_gradients()
        if not self._scaled:
            self.strategy._after_backward(**self._options)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Tells the plugins; gradients that were scaled for 16 bits are true again only here."""
        if self._scaled:
            self.strategy._after_backward(**self._options)
        self.strategy._before_update(**self._options)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Takes the step, then tells the plugins."""
        super().optimizer_step(*args, **kwargs)
        self.strategy._after_update(**self._options)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Tells the plugins."""
        trainer: Any = self.trainer
        strategy = self.strategy
        if any(getattr(p, "peval_mode", "") == "iteration" for p in strategy.plugins):
            broadcast_buffers(trainer, strategy.model)
        strategy._after_training_iteration(**self._options)
        self.evaluation.end()
        agree = agrees_on_stop(trainer, batch_idx)
        if agree or (signalled() and not self._is_distributed):
            trainer.should_stop |= stop_reason(trainer, agree=agree) is not None
        if trainer.loggers and (batch_idx + 1) % trainer.log_every_n_steps == 0:
            self.log("train/loss_step", outputs["loss"], batch_size=1)

    def on_train_epoch_end(self) -> None:
        """Ends the epoch."""
        if not self._stopped:
            self._epochs += self.trainer.is_last_batch
            self._exhaust()
            broadcast_buffers(self.trainer, self.strategy.model)
            self.strategy._after_training_epoch(**self._options)
        # Also where nothing was trained, since callbacks may watch it.
        mean = self._total / self._n if self._n else torch.tensor(math.nan, device=self.device)
        self.log("train/loss", mean, prog_bar=True, sync_dist=self._is_distributed, batch_size=1)

    # Evaluation

    def on_test_model_eval(self) -> None:
        """Does nothing: Avalanche sets the modes of the model's parts."""

    def on_test_model_train(self) -> None:
        """Does nothing: Avalanche sets the modes of the model's parts."""

    def on_test_epoch_start(self) -> None:
        """Begins to read."""
        self._batches = iter(self.strategy.dataloader)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Evaluates this process's part of a batch."""
        strategy, options = self.strategy, self._options
        if not self._pull():
            return
        with self._rng.per_rank():
            self._shard_batch()
            strategy._before_eval_iteration(**options)
            strategy._before_eval_forward(**options)
            strategy.mb_output = strategy.forward()
            strategy._after_eval_forward(**options)
            strategy.loss = strategy.criterion()
        strategy._after_eval_iteration(**options)
        self.evaluation.end()

    def on_test_epoch_end(self) -> None:
        """Ends the reading."""
        self._exhaust()

    # Batches

    def _pull(self) -> bool:
        if self._batches is None:
            return False
        try:
            self.strategy.mbatch = next(self._batches)
        except StopIteration:
            self._batches = None
            return False
        return True

    def _exhaust(self) -> None:
        """Asks once more, as a ``for`` loop does at its end: loaders may draw random numbers."""
        if self._batches is not None:
            next(self._batches, None)
        self._batches = None

    def _shard_batch(self) -> None:
        self.strategy._unpack_minibatch()
        if not self._is_distributed:
            return
        if self._first and self.strategy.is_training and self.check_ranks:
            self._check_batch(self.strategy.mbatch)
        self._weight = self.evaluation.shard_batch()

    # Checks

    def _anybody(self, flag: bool) -> bool:
        pl_strategy: Any = self.trainer.strategy
        return (
            pl_strategy.reduce_boolean_decision(flag, all=False) if self._is_distributed else flag
        )

    def _check_batch(self, batch: list[Tensor]) -> None:
        columns = [column.detach().cpu().contiguous().view(torch.uint8) for column in batch]
        mine = [zlib.crc32(column.numpy().tobytes()) for column in columns]
        theirs = self.trainer.strategy.broadcast(mine)
        if self._anybody(mine != theirs):
            raise RanksDifferError(
                "The processes read different batches. Build the benchmark, and all that it draws"
                " at random, from the same seed in every process: call torch.manual_seed and"
                " numpy.random.seed, or Lightning's seed_everything, first. check_ranks=False"
                " goes on without this check."
            )

    def _check_gradients(self) -> None:
        """Checks in the first step that DistributedDataParallel does not wait for a gradient."""
        first, self._first = self._first, False
        options = getattr(self.trainer.strategy, "_ddp_kwargs", {})
        if not self._is_distributed or not first or options.get("find_unused_parameters"):
            return
        left_out = set(self._ddp_params_and_buffers_to_ignore)
        without = [
            name.removeprefix("model.")
            for name, parameter in self.named_parameters()
            if parameter.requires_grad and parameter.grad is None and name not in left_out
        ]
        if self._anybody(bool(without)):
            raise ConfigError(
                "The loss does not depend on all parameters that could be trained"
                f" ({', '.join(without[:3])}{', ...' if len(without) > 3 else ''}), for which"
                " several devices wait in vain. Use strategy='ddp_find_unused_parameters_true', or"
                " set requires_grad=False on what is not trained."
            )


def _move_state(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Puts an optimiser's state where its parameters are; a Trainer leaves it on the CPU."""
    for state in optimizer.state.values():
        for key, value in state.items():
            # Counts of steps stay where the optimiser wants them.
            if key != "step" and isinstance(value, Tensor):
                state[key] = value.to(device)
