"""Training and evaluation of a strategy in the loops of a Trainer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.lightning import trainers
from avalanche_dgm.lightning.internals import (
    clear_stop_request,
    finds_unused_parameters,
    fire,
    ignored_in_ddp,
    reset_loss,
    stop_requested,
)
from avalanche_dgm.lightning.limits import limited_length, smoke_batches
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.ranks import any_rank, broadcast_buffers, reduce_counts
from avalanche_dgm.lightning.staged import StagedModule
from avalanche_dgm.lightning.stages import Optimization, Stage
from avalanche_dgm.lightning.strategies.batches import StrategyBatches
from avalanche_dgm.plugins.metrics import find_plugins
from avalanche_dgm.plugins.wrapped import WrappedModel


class StrategyStage(Stage):
    """A strategy's epochs on one experience, with the steps of ``SGDUpdate.training_epoch``.

    The Trainer's loader yields batch indices only. The order of hooks and, in a single process, of
    random draws is Avalanche's.

    Raises:
        ConfigError: The criterion is a sum over samples, on several devices.
    """

    clears_gradients = True

    def __init__(
        self, name: str, batches: StrategyBatches, *, check_ranks: bool, options: dict[str, Any]
    ) -> None:
        strategy, trainer = batches.strategy, batches.trainer
        model = strategy.model
        # Of a wrapped model, only the classifier of the current experience may be trained.
        active = model.method.active if isinstance(model, WrappedModel) else None
        super().__init__(
            name,
            log_prefix="train",
            module=model if active is None else active,
            epochs=1 if smoke_batches(trainer) else strategy.train_epochs,
        )
        self.strategy, self.trainer, self.batches = strategy, trainer, batches
        self.retain_graph = strategy.retain_graph
        self._check_ranks, self._options = check_ranks, options
        self._methods = [plugin.method for plugin in find_plugins(strategy)]
        self._first = True
        if batches.ranks.is_distributed and any(m.criterion.scale.sums for m in self._methods):
            raise ConfigError(
                "The criterion is a sum over samples. On several devices losses are averaged, so it"
                " must be their mean."
            )

    def loader(self) -> range:
        """Batch indices; `begin_batch` reads the batches."""
        limit = self.trainer.limit_train_batches
        return range(limited_length(len(self.strategy.dataloader), limit))

    @contextmanager
    def running(self, trainer: pl.Trainer, within: nn.Module) -> Iterator[None]:
        """The strategy manages training modes and gradients."""
        with self.batches.reading():
            yield
        broadcast_buffers(trainer, self.strategy.model)
        for method in self._methods:
            reduce_counts(trainer, method)
        _move_state(self.strategy.optimizer, trainer.strategy.root_device)

    def optimization(self, *, fused: bool) -> Optimization:
        """The strategy's optimiser, kept across experiences."""
        return self.strategy.optimizer, None

    def begin_batch(self) -> bool:
        """Reads the next batch; returns False if there is none or a plugin stops training."""
        if self.batches.read_next() and not stop_requested(self.strategy):
            return True
        self.batches.leave()
        return False

    def loss(self, batch: int) -> Tensor:
        """The loss of this process's shard of the batch, weighted by its number of samples."""
        strategy, options = self.strategy, self._options
        with self.batches.per_rank():
            weight = self.batches.shard(check=self._first and self._check_ranks)
            fire(strategy, "before_training_iteration", **options)
            if self.batch % self.trainer.accumulate_grad_batches == 0:
                strategy.optimizer.zero_grad()
            reset_loss(strategy)
            fire(strategy, "before_forward", **options)
            strategy.mb_output = strategy.forward()
            fire(strategy, "after_forward", **options)
            strategy.loss += strategy.criterion()
            fire(strategy, "before_backward", **options)
        loss: Tensor = strategy.loss.sum()
        # Unweighted in a single process, for gradients bitwise equal to those of Avalanche's loop.
        return loss * weight if self.batches.ranks.is_distributed else loss

    def hook(self, name: str) -> None:
        """Calls the strategy's hooks in the order of its own loop."""
        strategy, options = self.strategy, self._options
        # With 16-mixed precision, gradients are unscaled only before the step.
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        if name == "before_training_epoch" and self.epoch >= self.epochs:
            return
        if name == "after_backward":
            self._check_gradients()
            if scaled:
                return
        if name == "before_update" and scaled:
            fire(strategy, "after_backward", **options)
        if name == "after_training_iteration" and any(
            getattr(plugin, "peval_mode", "") == "iteration" for plugin in strategy.plugins
        ):
            broadcast_buffers(self.trainer, strategy.model)
        if name == "after_training_epoch":
            self.batches.end()
            broadcast_buffers(self.trainer, strategy.model)
        fire(strategy, name, **options)
        if name == "after_training_iteration":
            self.batches.full = None
        if name == "before_training_epoch":
            if any_rank(self.trainer, stop_requested(strategy)):
                clear_stop_request(strategy)
                self.epochs, self.trainer.should_stop = self.epoch, True
            else:
                self.batches.begin()

    def _check_gradients(self) -> None:
        """Checks in the first step that all parameters of DistributedDataParallel get gradients."""
        first, self._first = self._first, False
        if not (first and self.batches.ranks.is_distributed):
            return
        if finds_unused_parameters(self.trainer):
            return
        module = self.trainer.lightning_module
        ignored = set(ignored_in_ddp(module))
        unused = [
            name.removeprefix("model.")
            for name, parameter in module.named_parameters()
            if parameter.requires_grad and parameter.grad is None and name not in ignored
        ]
        if any_rank(self.trainer, bool(unused)):
            raise ConfigError(
                "The loss does not depend on all trainable parameters"
                f" ({', '.join(unused[:3])}{', ...' if len(unused) > 3 else ''}), and DDP would"
                " wait forever for their gradients. Use strategy='ddp_find_unused_parameters_true',"
                " or set requires_grad=False on parameters that are not trained."
            )


class StrategyModule(StagedModule):
    """Trains a strategy with a `StrategyStage`, and evaluates it like Avalanche's ``eval_epoch``.

    Args:
        strategy: The strategy; its model is registered again before each fit, as plugins may
            replace it.
        batches: The batches of its data loader.
    """

    def __init__(self, strategy: Any, batches: StrategyBatches) -> None:
        super().__init__()
        self.strategy, self.batches = strategy, batches
        self.model: nn.Module | None = None
        self._options: dict[str, Any] = {}

    def run(self, trainer: pl.Trainer, stage: Stage) -> float:
        self.model = self.strategy.model
        return super().run(trainer, stage)

    def test(self, trainer: pl.Trainer, **options: Any) -> None:
        """Evaluates on the strategy's data loader, which has at least one batch."""
        self.model, self._options = self.strategy.model, options
        with self.batches.reading():
            n = limited_length(len(self.strategy.dataloader), trainer.limit_test_batches)
            trainers.test(trainer, self, range(n))

    def on_test_model_eval(self) -> None:
        """Does nothing: Avalanche sets the training modes."""

    def on_test_model_train(self) -> None:
        """Does nothing: Avalanche sets the training modes."""

    def on_test_epoch_start(self) -> None:
        self.batches.begin()

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Evaluates this process's shard of a batch."""
        strategy, options = self.strategy, self._options
        if not self.batches.read_next():
            return
        with self.batches.per_rank():
            self.batches.shard()
            fire(strategy, "before_eval_iteration", **options)
            fire(strategy, "before_eval_forward", **options)
            strategy.mb_output = strategy.forward()
            fire(strategy, "after_eval_forward", **options)
            strategy.loss = strategy.criterion()
        fire(strategy, "after_eval_iteration", **options)
        self.batches.full = None

    def on_test_epoch_end(self) -> None:
        self.batches.end()


def _move_state(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Moves an optimiser's state to the parameters' device; a Trainer leaves it on the CPU."""
    for state in optimizer.state.values():
        for key, value in state.items():
            # Optimisers choose the device of step counts.
            if key != "step" and isinstance(value, Tensor):
                state[key] = value.to(device)
