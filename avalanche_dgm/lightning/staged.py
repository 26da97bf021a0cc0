"""A LightningModule that trains stage after stage."""

from __future__ import annotations

import copy
import time
from typing import Any, Protocol

import torch
from torch import Tensor

from avalanche_dgm.fitting import Phase
from avalanche_dgm.lightning import trainers
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.plain import CountingModule, with_schedule
from avalanche_dgm.lightning.ranks import Ranks, share_buffers
from avalanche_dgm.lightning.stages import PhaseStage, Stage
from avalanche_dgm.methods import Method
from avalanche_dgm.randomness import RandomSource


class Keeper(Protocol):
    """Who is told of each finished batch, to save it now and then."""

    def after_batch(self, host: StagedModule) -> None:
        """Called after each batch that ended with a step of the optimiser."""

    def restore(self, host: StagedModule) -> None:
        """Called before the first batch."""


class StagedModule(CountingModule):
    """A LightningModule that trains one stage after another, each in a fit of its own.

    Attributes:
        stage: What is trained now.
        keeper: Who saves the state now and then.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stage: Stage | None = None
        self.keeper: Keeper | None = None

    def sources(self) -> list[RandomSource]:
        """Random numbers that each process draws for itself while training."""
        return []

    @property
    def stage_name(self) -> str:
        """What is trained now, for progress bars."""
        return self.stage.name if self.stage is not None else ""

    @property
    def _running(self) -> Stage:
        if self.stage is None:
            raise RuntimeError("There is no stage; call run().")
        return self.stage

    def run(self, trainer: pl.Trainer, stage: Stage) -> float:
        """Trains a stage from where it is to its end.

        Args:
            trainer: The Trainer.
            stage: What to train.

        Returns:
            Seconds that it took.
        """
        started = time.perf_counter()
        ranks = Ranks.of(trainer)
        modes = [(part, part.training) for part in stage.module.modules()]
        trained = {id(t) for t in [*stage.module.parameters(), *stage.module.buffers()]}
        # Only what is trained is reduced over processes; the rest has no gradients to wait for.
        everything = [
            *self.named_parameters(remove_duplicate=False),
            *self.named_buffers(remove_duplicate=False),
        ]
        self._ddp_params_and_buffers_to_ignore = [n for n, t in everything if id(t) not in trained]
        self.stage = stage
        stage.module.train()
        try:
            with ranks.own_randomness(*self.sources()):
                while stage.epoch < stage.epochs and not (stage.epoch and trainer.should_stop):
                    # What is left of an interrupted epoch is a fit of its own: its length differs.
                    until = stage.epoch + 1 if stage.batch else stage.epochs
                    trainers.fit(
                        trainer,
                        self,
                        stage.loader(),
                        epochs=until,
                        first_epoch=stage.epoch,
                        val_loader=stage.val_loader(),
                    )
            share_buffers(trainer, stage.module)
        finally:
            stage.close()
            for parameter in stage.module.parameters():
                parameter.grad = None
            for part, mode in modes:
                part.training = mode
            self.stage = None
        return time.perf_counter() - started

    def run_phase(self, trainer: pl.Trainer, stage: PhaseStage) -> float:
        """Trains a phase; after an error its module has its weights from before.

        Args:
            trainer: The Trainer.
            stage: The phase.

        Returns:
            Seconds that it took.

        Raises:
            DivergenceError: The loss was not finite.
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
        """The stage's optimiser, its schedule in steps."""
        fused = trainers.may_fuse(self.trainer)
        return with_schedule(*self._running.optimization(fused=fused))

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """The Trainer's limit first, then the stage's own."""
        super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
        self._running.clip()

    def on_train_start(self) -> None:
        """Goes on in the middle of the stage, if it was interrupted there."""
        if self.keeper is not None:
            self.keeper.restore(self)

    def on_train_epoch_start(self) -> None:
        """Tells the stage, unless it continues in the middle of an epoch."""
        if not self._running.batch:
            self._running.hook("before_training_epoch")

    def on_after_backward(self) -> None:
        """Tells the stage."""
        self._running.hook("after_backward")

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Tells the stage."""
        self._running.hook("before_update")

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Takes the step, and tells the stage when it is taken."""
        super().optimizer_step(*args, **kwargs)
        self._running.hook("after_update")

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Counts the batch, tells the stage, and lets the keeper save."""
        stage = self._running
        stage.batch += 1
        stage.hook("after_training_iteration")
        trainer: Any = self.trainer
        if trainer.loggers and (batch_idx + 1) % trainer.log_every_n_steps == 0:
            self.log(stage.loss_name, outputs["loss"], batch_size=1)
        stepped = not trainer.fit_loop._should_accumulate()
        if self.keeper is not None and stepped:
            self.keeper.after_batch(self)

    def on_train_epoch_end(self) -> None:
        """Logs the epoch's means."""
        stage = self._running
        stage.hook("after_training_epoch")
        several = self.trainer.world_size > 1
        for name, value in stage.values().items():
            value = value.to(self.trainer.strategy.root_device)
            self.log(name, value, sync_dist=several, batch_size=1, prog_bar=name == "train/loss")
        stage.end_epoch()


class PhaseHost(StagedModule):
    """A LightningModule for phases of a method that has none of its own.

    Args:
        method: Whose phases are run.
    """

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def sources(self) -> list[RandomSource]:
        """The method's numbers."""
        return [self.method.random]


def run_phase_on(trainer: pl.Trainer, method: Method, phase: Phase) -> float:
    """Runs a phase as a fit of a Trainer; `avalanche_dgm.fitting.fit` does the same in memory.

    Args:
        trainer: The Trainer, in each of its processes.
        method: Whose phase it is.
        phase: What to train.

    Returns:
        Seconds that it took.

    Raises:
        DivergenceError: The loss was not finite; the module has its weights from before the phase.
    """
    if phase.steps < 1:
        phase.finish()
        return 0.0
    host = PhaseHost(method)
    host.to(trainer.strategy.root_device)
    return host.run_phase(trainer, PhaseStage(phase, method, trainer))
