"""The LightningModule that trains stages, each in a fit of its own."""

from __future__ import annotations

import copy
import time
from typing import Any, Protocol

import torch
from torch import Tensor

from avalanche_dgm.fitting import Phase
from avalanche_dgm.lightning import trainers
from avalanche_dgm.lightning.base import MeanLoggingModule, with_schedule
from avalanche_dgm.lightning.callbacks import check_integer_buffers
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.ranks import Ranks, broadcast_buffers
from avalanche_dgm.lightning.stages import PhaseStage, Stage
from avalanche_dgm.lightning.stopping import (
    StreamStopped,
    agrees_on_stop,
    check_stop,
    signalled,
    stop_reason,
)
from avalanche_dgm.methods import Method


class BatchEndListener(Protocol):
    """Listens to finished batches, to save mid-stage checkpoints."""

    def on_batch_end(self, module: StagedModule, *, at_once: bool) -> None:
        """Called after each batch that ended with an optimiser step.

        Args:
            module: The module that trains.
            at_once: Whether to save now, as the stream stops here.
        """

    def save(self, module: StagedModule) -> None:
        """Called when the stream stops between two epochs."""

    def restore(self, module: StagedModule) -> None:
        """Called before the first batch."""


class StagedModule(MeanLoggingModule):
    """A LightningModule that trains one stage after another, each in a fit of its own.

    Attributes:
        stage: The stage that is trained now, or ``None``.
        listener: Listener to finished batches, or ``None``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stage: Stage | None = None
        self.listener: BatchEndListener | None = None
        self._ending: str | None = None
        self._cut = False

    @property
    def stage_name(self) -> str:
        """Name of the current stage, for progress bars."""
        return self.stage.name if self.stage is not None else ""

    @property
    def _running(self) -> Stage:
        if self.stage is None:
            raise RuntimeError("There is no stage; call run().")
        return self.stage

    def run(self, trainer: pl.Trainer, stage: Stage) -> float:
        """Trains a stage from its current position to its end.

        Args:
            trainer: The Trainer.
            stage: The stage to train.

        Returns:
            Seconds that it took.

        Raises:
            StreamStopped: The stream stops before the end of the stage.
        """
        check_stop(trainer)
        started = time.perf_counter()
        ranks = Ranks.of(trainer)
        modes = [(part, part.training) for part in stage.module.modules()]
        trained = {id(t) for t in [*stage.module.parameters(), *stage.module.buffers()]}
        # DDP must not wait for gradients of what is not trained.
        everything = [
            *self.named_parameters(remove_duplicate=False),
            *self.named_buffers(remove_duplicate=False),
        ]
        self._ddp_params_and_buffers_to_ignore = [n for n, t in everything if id(t) not in trained]
        self.stage = stage
        stage.module.train()
        try:
            with ranks.rank_seeded(*stage.random_sources()), check_integer_buffers(self, trained):
                while stage.epoch < stage.epochs:
                    before = stage.epoch, stage.batch
                    self._ending, self._cut = None, False
                    # The rest of an interrupted epoch is a fit of its own: its length differs.
                    until = stage.epoch + 1 if stage.batch else stage.epochs
                    trainers.fit(
                        trainer,
                        self,
                        stage.loader(),
                        epochs=until,
                        first_epoch=stage.epoch,
                        val_loader=stage.val_loader(),
                        phase=isinstance(stage, PhaseStage),
                    )
                    if stage.epoch < stage.epochs and self._stops(before):
                        break
            broadcast_buffers(trainer, stage.module)
        finally:
            stage.close()
            for parameter in stage.module.parameters():
                parameter.grad = None
            for part, mode in modes:
                part.training = mode
            self.stage = None
        return time.perf_counter() - started

    def _stops(self, before: tuple[int, int]) -> bool:
        """Whether the stage ends early, with epochs left.

        Args:
            before: Epoch and batch before the fit.

        Raises:
            StreamStopped: The stream stops here.
        """
        stage, trainer = self._running, self.trainer
        moved = (stage.epoch, stage.batch) != before
        if moved and stage.epoch and trainer.should_stop and not self._cut:
            return True
        reason = self._ending or stop_reason(trainer, agree=True)
        if reason is None:
            if moved:
                return False
            reason = f"A callback stopped the Trainer before it had trained {stage.name!r}."
        if moved and not self._cut and self.listener is not None:
            self.listener.save(self)
        raise StreamStopped(reason)

    def run_phase(self, trainer: pl.Trainer, stage: PhaseStage) -> float:
        """Trains a phase; after an error its module has the weights from before the phase.

        Args:
            trainer: The Trainer.
            stage: The phase.

        Returns:
            Seconds that it took.

        Raises:
            DivergenceError: The loss was not finite.
            StreamStopped: The stream stops before the end of the phase.
        """
        before = copy.deepcopy(stage.module.state_dict())
        try:
            seconds = self.run(trainer, stage)
        except BaseException:
            stage.module.load_state_dict(before)
            stage.phase.broken_off()
            raise
        stage.phase.finish()
        return seconds

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The stage's loss."""
        return self._running.step(batch)

    def configure_optimizers(self) -> Any:
        """The stage's optimiser and schedule."""
        fused = trainers.may_fuse(self.trainer)
        return with_schedule(*self._running.optimization(fused=fused))

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips by the Trainer's settings, then by the stage's."""
        super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
        self._running.clip()

    def on_train_start(self) -> None:
        """Resumes in the middle of the stage, if it was interrupted there."""
        if self.listener is not None:
            self.listener.restore(self)

    def on_train_epoch_start(self) -> None:
        """Calls the stage's hook, unless it resumes in the middle of an epoch."""
        if not self._running.batch:
            self._running.hook("before_training_epoch")

    def on_after_backward(self) -> None:
        """Calls the stage's hook."""
        self._running.hook("after_backward")

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Calls the stage's hook."""
        self._running.hook("before_update")

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Takes the step, then calls the stage's hook."""
        super().optimizer_step(*args, **kwargs)
        self._running.hook("after_update")

    def _ends(self, *, agree: bool = False) -> bool:
        """Whether the stream should stop at the next point from which it can resume."""
        trainer: Any = self.trainer
        alone = trainer.world_size == 1
        if self._ending is None and (trainer.should_stop or agree or (alone and signalled())):
            self._ending = stop_reason(trainer, agree=agree)
        if self._ending is None and trainer.should_stop and isinstance(self.stage, PhaseStage):
            # A phase needs all of its steps, so stopping it stops the stream.
            self._ending = f"A callback stopped the Trainer in {self.stage_name!r}."
        return self._ending is not None and trainer.fit_loop._can_stop_early

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Counts the batch and calls the stage's hook and the listener."""
        stage = self._running
        stage.batch += 1
        stage.hook("after_training_iteration")
        trainer: Any = self.trainer
        if trainer.loggers and (batch_idx + 1) % trainer.log_every_n_steps == 0:
            self.log(stage.loss_name, outputs["loss"], batch_size=1)
        stepped = not trainer.fit_loop._should_accumulate()
        if self._ends(agree=agrees_on_stop(trainer, batch_idx)):
            # Not while gradients accumulate; and an epoch's last batch ends the epoch anyway.
            trainer.should_stop = self._cut = stepped and not trainer.is_last_batch
        if self.listener is not None and stepped:
            self.listener.on_batch_end(self, at_once=self._cut)

    def on_train_epoch_end(self) -> None:
        """Logs the epoch's means; an epoch that was cut short is not counted."""
        stage = self._running
        whole = stage.batch > 0 and not self._cut
        if whole:
            stage.hook("after_training_epoch")
        several = self.trainer.world_size > 1
        for name, value in stage.epoch_means().items():
            value = value.to(self.trainer.strategy.root_device)
            self.log(name, value, sync_dist=several, batch_size=1, prog_bar=name == "train/loss")
        if not whole:
            return
        stage.end_epoch()
        if self._ends(agree=True):
            # No further epoch. If should_stop is set again, a callback has stopped the stage.
            self.trainer.fit_loop.max_epochs = stage.epoch
            self.trainer.should_stop = False


class PhaseModule(StagedModule):
    """A LightningModule for the phases of a method in a strategy's plugin.

    Args:
        method: The method.
    """

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method


def run_phase_on(trainer: pl.Trainer, method: Method, phase: Phase) -> float:
    """Runs a phase as a fit of a Trainer; `avalanche_dgm.fitting.fit` does the same in memory.

    Args:
        trainer: The Trainer, in each of its processes.
        method: The method that the phase belongs to.
        phase: The phase.

    Returns:
        Seconds that it took.

    Raises:
        DivergenceError: The loss was not finite; the module has its weights from before the phase.
        StreamStopped: The stream stops before the end of the phase.
    """
    if phase.steps < 1:
        phase.finish()
        return 0.0
    module = PhaseModule(method)
    module.to(trainer.strategy.root_device)
    return module.run_phase(trainer, PhaseStage(phase, method, trainer))
