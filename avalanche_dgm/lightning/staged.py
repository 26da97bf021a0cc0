"""The LightningModule that trains stages, each in a fit of its own."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import Tensor

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.fitting import CHECK_EVERY, Phase
from avalanche_dgm.lightning import internals, trainers
from avalanche_dgm.lightning.base import MeanLoggingModule, with_schedule
from avalanche_dgm.lightning.callbacks import stream_callbacks
from avalanche_dgm.lightning.limits import without_limits
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.stages import PhaseStage, Stage
from avalanche_dgm.lightning.stopping import StreamStopped, signalled, stop_reason, timers_of
from avalanche_dgm.methods import Method

F = TypeVar("F", bound=Callable[..., Any])


def needed(hook: F) -> F:
    """Marks a module's hook that must be called by those that override it."""

    @functools.wraps(hook)
    def marked(self: StagedModule, *args: Any, **kwargs: Any) -> Any:
        self.called.add(hook.__name__)
        return hook(self, *args, **kwargs)

    untyped: Any = marked
    untyped.is_needed = True
    return untyped


class StagedModule(MeanLoggingModule):
    """A LightningModule that trains one stage after another, each in a fit of its own.

    Attributes:
        stage: The stage in training, or ``None``.
        called: Names of the `needed` hooks that were called.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stage: Stage | None = None
        self.called: set[str] = set()
        self._stop_reason: str | None = None
        self._epoch_cut_short = False

    @property
    def stage_name(self) -> str:
        """Name of the current stage, for progress bars."""
        return self.stage.name if self.stage is not None else ""

    def checking_overrides(self) -> AbstractContextManager[None]:
        """Context in which an overridden hook raises ``ConfigError`` if it is not called itself."""
        kinds = type(self).__mro__
        names = {n for kind in kinds for n, f in vars(kind).items() if hasattr(f, "is_needed")}
        overridden = [name for name in names if not hasattr(getattr(self, name), "is_needed")]
        return internals.replaced(self, **{name: self._checked(name) for name in overridden})

    def _checked(self, name: str) -> Callable[..., Any]:
        hook = getattr(self, name)

        @functools.wraps(hook)
        def checked(*args: Any, **kwargs: Any) -> Any:
            self.called.discard(name)
            result = hook(*args, **kwargs)
            if name not in self.called:
                raise ConfigError(
                    f"{name}() of {type(self).__name__} does not call super().{name}(), without"
                    " which the method does not learn as it should, such as from replay. Call it,"
                    " and return what it returns; a loss may be added to."
                )
            return result

        return checked

    @property
    def _current(self) -> Stage:
        if self.stage is None:
            raise RuntimeError("There is no stage; call run().")
        return self.stage

    def run(self, trainer: pl.Trainer, stage: Stage) -> float:
        """Trains a stage from its current position to its end, and finishes it.

        Returns:
            Duration, seconds.

        Raises:
            DivergenceError: The loss of a phase was not finite.
            StreamStopped: The stream stops before the end of the stage.
        """
        started = time.perf_counter()
        # DDP must not wait for gradients of parameters that are not trained.
        trained = {id(t) for t in [*stage.module.parameters(), *stage.module.buffers()]}
        everything = [
            *self.named_parameters(remove_duplicate=False),
            *self.named_buffers(remove_duplicate=False),
        ]
        internals.ignore_in_ddp(self, [n for n, t in everything if id(t) not in trained])
        self.stage = stage
        try:
            with stage.running(trainer, self):
                # Not in `configure_optimizers`: all fits of the stage share one schedule.
                fused = trainers.may_fuse(trainer)
                stage.optimizer, stage.schedule = stage.optimization(fused=fused)
                reason = stop_reason(trainer, agree=True)
                if reason is not None:
                    raise StreamStopped(reason)
                while stage.epoch < stage.epochs:
                    before = stage.epoch, stage.batch
                    self._stop_reason, self._epoch_cut_short = None, False
                    self._fit(trainer, stage)
                    if stage.epoch < stage.epochs and self._ends_early(before):
                        break
        finally:
            self.stage = None
        stage.finish()
        return time.perf_counter() - started

    def _fit(self, trainer: pl.Trainer, stage: Stage) -> None:
        """Runs a fit from the stage's position; steps are counted on from earlier fits."""
        loop: Any = trainer.fit_loop
        loader, phase = stage.loader(), isinstance(stage, PhaseStage)
        # The rest of an interrupted epoch is a fit of its own, as it is shorter.
        loop.max_epochs = stage.epoch + 1 if stage.batch else stage.epochs
        internals.start_at_epoch(trainer, stage.epoch)
        trainer.should_stop = False
        with (
            trainers.quiet(),
            internals.fit_timers(timers_of(trainer)),
            internals.loading_nothing(trainer),
            without_limits(trainer, loader, phase=phase),
            self.checking_overrides(),
            internals.replaced(loop, min_epochs=None if phase else loop.min_epochs),
        ):
            trainer.fit(self, train_dataloaders=loader, val_dataloaders=stage.val_loader())
        self.to(trainer.strategy.root_device)

    def _ends_early(self, before: tuple[int, int]) -> bool:
        """Whether a callback ended the stage with epochs left.

        Raises:
            StreamStopped: The stream stops here.
        """
        stage, trainer = self._current, self.trainer
        advanced = (stage.epoch, stage.batch) != before
        if advanced and stage.epoch and trainer.should_stop and not self._epoch_cut_short:
            return True
        reason = self._stop_reason or stop_reason(trainer, agree=True)
        if reason is None:
            if advanced:
                return False
            reason = f"A callback stopped the Trainer before it had trained {stage.name!r}."
        if advanced and not self._epoch_cut_short:
            self._call_step_end(stops=True)
        raise StreamStopped(reason)

    def _call_step_end(self, *, stops: bool) -> None:
        for callback in stream_callbacks(self.trainer):
            callback.on_step_end(self.trainer, self, stops=stops)

    @needed
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        stage = self._current
        loss = stage.loss(batch)
        stage.means.add(stage.loss_key, loss)
        return loss

    def configure_optimizers(self) -> Any:
        return with_schedule(self._current.optimizer, self._current.schedule)

    @needed
    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        """Clips by the Trainer's settings, then by the stage's."""
        super().configure_gradient_clipping(*args, **kwargs)
        self._current.clip()

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        super().backward(loss, *args, retain_graph=self._current.retain_graph, **kwargs)

    def optimizer_zero_grad(self, *args: Any, **kwargs: Any) -> None:
        if not self._current.clears_gradients:
            super().optimizer_zero_grad(*args, **kwargs)

    @needed
    def on_train_epoch_start(self) -> None:
        """Calls the stage's hook, unless it resumes in the middle of an epoch."""
        if not self._current.batch:
            self._current.hook("before_training_epoch")

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        """Ends the epoch if the stage has no more batches."""
        return None if self._current.begin_batch() else -1

    @needed
    def on_after_backward(self) -> None:
        self._current.hook("after_backward")

    @needed
    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self._current.hook("before_update")

    @needed
    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        # An autocast around the Trainer would go on with its copies of the old weights.
        torch.clear_autocast_cache()
        self._current.hook("after_update")

    def _stream_stops(self, *, agree: bool = False) -> bool:
        """Whether the stream should stop at the next point from which it can resume."""
        trainer: Any = self.trainer
        check = trainer.should_stop or agree or (trainer.world_size == 1 and signalled())
        if self._stop_reason is None and check:
            self._stop_reason = stop_reason(trainer, agree=agree)
        if self._stop_reason is None and trainer.should_stop and isinstance(self.stage, PhaseStage):
            # A phase needs all of its steps, so stopping it stops the stream.
            self._stop_reason = f"A callback stopped the Trainer in {self.stage_name!r}."
        return self._stop_reason is not None and internals.may_stop(trainer)

    @needed
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Counts the batch and calls the stage's hook and the stream's callbacks."""
        stage = self._current
        stage.batch += 1
        stage.hook("after_training_iteration")
        trainer: Any = self.trainer
        if trainer.loggers and (batch_idx + 1) % trainer.log_every_n_steps == 0:
            self.log(f"{stage.loss_key}_step", outputs["loss"], batch_size=1)
        stepped = internals.takes_step(trainer)
        # With several processes, signals are exchanged every CHECK_EVERY batches.
        agree = trainer.world_size > 1 and batch_idx % CHECK_EVERY == CHECK_EVERY - 1
        if self._stream_stops(agree=agree):
            # Not while gradients accumulate; the last batch ends the epoch anyway.
            self._epoch_cut_short = stepped and not trainer.is_last_batch
            trainer.should_stop = self._epoch_cut_short
        if stepped:
            self._call_step_end(stops=self._epoch_cut_short)

    @needed
    def on_train_epoch_end(self) -> None:
        """Logs the epoch's means; an epoch that was cut short is not counted."""
        stage = self._current
        complete = stage.batch > 0 and not self._epoch_cut_short
        if complete:
            stage.hook("after_training_epoch")
        sync = self.trainer.world_size > 1
        for name, value in stage.epoch_means().items():
            value = value.to(self.trainer.strategy.root_device)
            self.log(name, value, sync_dist=sync, batch_size=1, prog_bar=name == "train/loss")
        if not complete:
            return
        stage.end_epoch()
        if self._stream_stops(agree=True):
            # No further epoch. If should_stop is set again, a callback has stopped the stage.
            self.trainer.fit_loop.max_epochs = stage.epoch
            self.trainer.should_stop = False


def run_phase_on(trainer: pl.Trainer, method: Method, phase: Phase) -> float:
    """Runs a phase as a fit of a Trainer, in place of `avalanche_dgm.fitting.fit`.

    Returns:
        Duration in the first process, seconds.

    Raises:
        DivergenceError: The loss was not finite; the module's weights were rolled back.
        StreamStopped: The stream stops before the end of the phase.
    """
    module = StagedModule()
    module.add_module("method", method)
    module.to(trainer.strategy.root_device)
    seconds = module.run(trainer, PhaseStage(phase, method, trainer))
    # The method stores the duration, and its state must be the same in every process.
    return trainer.strategy.broadcast(seconds)
