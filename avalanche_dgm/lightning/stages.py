"""Stages: one training of a Trainer, of the classifier or of a phase of a method."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from avalanche_dgm.fitting import CHECK_EVERY, Batches, Phase, StepCycle, check_finite
from avalanche_dgm.lightning.base import Means
from avalanche_dgm.lightning.callbacks import check_integer_buffers
from avalanche_dgm.lightning.limits import smoke_batches
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.ranks import Ranks, broadcast_buffers
from avalanche_dgm.methods import Method
from avalanche_dgm.optimizers import OptimizerSpec
from avalanche_dgm.randomness import RandomSource

Schedule = torch.optim.lr_scheduler.LRScheduler | None
Optimization = tuple[torch.optim.Optimizer, Schedule]


class Stage(ABC):
    """One training with its own loss, data and optimiser; `StagedModule` delegates to it.

    Args:
        name: Name shown in progress bars.
        log_prefix: Prefix of the names of logged values.
        module: The module to train.
        epochs: Number of epochs.

    Attributes:
        epoch: Index of the current epoch.
        batch: Batches of the current epoch that are done.
        means: Means over the epoch, by logged name.
        loss_key: Logged name of the last step's loss.
        optimizer: The optimiser, set when the stage runs.
        schedule: Its learning-rate schedule, or ``None``.
    """

    optimizer: torch.optim.Optimizer
    schedule: Schedule = None

    #: Whether an error rolls back the module's weights.
    restores = False
    #: Passed to ``Tensor.backward``.
    retain_graph = False
    #: Whether `loss` clears the gradients.
    clears_gradients = False
    #: Random sources that are seeded by rank while the stage runs.
    random_sources: Sequence[RandomSource] = ()

    def __init__(self, name: str, *, log_prefix: str, module: nn.Module, epochs: int = 1) -> None:
        self.name, self.log_prefix, self.module, self.epochs = name, log_prefix, module, epochs
        self.epoch, self.batch = 0, 0
        self.means, self.loss_key = Means(), f"{log_prefix}/loss"

    @abstractmethod
    def loader(self) -> Iterable[Any]:
        """The remaining batches of the current epoch, from index ``batch``."""

    def val_loader(self) -> Any:
        """Validation batches, or ``None``."""
        return None

    @abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """The loss on this process's shard of a batch."""

    @contextmanager
    def running(self, trainer: pl.Trainer, within: nn.Module) -> Iterator[None]:
        """Context of all fits of the stage; restores training modes and clears gradients."""
        before = copy.deepcopy(self.module.state_dict()) if self.restores else None
        modes = [(part, part.training) for part in self.module.modules()]
        self.module.train()
        seeded = Ranks.of(trainer).rank_seeded(*self.random_sources)
        try:
            with seeded, check_integer_buffers(within, self.module):
                yield
            broadcast_buffers(trainer, self.module)
        except BaseException:
            # Also on Ctrl-C: a half-trained generator must not be used.
            if before is not None:
                self.module.load_state_dict(before)
            self.abort()
            raise
        finally:
            self.close()
            for parameter in self.module.parameters():
                parameter.grad = None
            for part, mode in modes:
                part.training = mode

    def finish(self) -> None:
        """Called after the last step, or after loading the stage's saved outcome."""
        return

    def abort(self) -> None:
        """Called after an error or interruption, once the weights are restored."""
        return

    def begin_batch(self) -> bool:
        """Prepares the next batch; returns False to end the epoch early."""
        return True

    @abstractmethod
    def optimization(self, *, fused: bool) -> Optimization:
        """The optimiser and a new learning-rate schedule over all steps, if any."""

    def clip(self) -> None:
        """Clips gradients, after the Trainer's clipping."""
        return

    def hook(self, name: str) -> None:
        """Called with the name of an Avalanche plugin hook, such as ``after_backward``."""
        return

    def close(self) -> None:
        """Cleans up after a step, also after an error."""
        return

    def epoch_means(self) -> dict[str, Tensor]:
        """Means over the epoch, by logged name; NaN if nothing was trained."""
        return self.means.values() or {self.loss_key: torch.tensor(math.nan)}

    def end_epoch(self) -> None:
        """Resets the means and counts the epoch."""
        self.epoch, self.batch = self.epoch + 1, 0
        self.means = Means()

    def state(self) -> dict[str, Any]:
        """Position and means, for `set_state` of a new stage with the same arguments."""
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "means": self.means.sums,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores what `state` returned."""
        self.epoch, self.batch = state["epoch"], state["batch"]
        device = next(self.module.parameters()).device
        self.means.set_sums(state["means"], device)


class PhaseStage(Stage):
    """A phase of a method, with its own number of optimiser steps and batch size.

    The samples of each step are split over processes and accumulated batches. The name in progress
    bars is the phase's by default.
    """

    restores = True

    def __init__(
        self, phase: Phase, method: Method, trainer: pl.Trainer, *, name: str | None = None
    ) -> None:
        super().__init__(
            name or phase.name, log_prefix=log_prefix_of(phase.name), module=phase.module
        )
        self.phase, self.method = phase, method
        # Noise is drawn for this process's shard of a batch.
        self.random_sources = [method.random]
        # The Trainer's limits do not apply to phases.
        self._n_batches = phase.steps * trainer.accumulate_grad_batches
        if smoke_batches(trainer):
            self._n_batches = min(self._n_batches, smoke_batches(trainer))
        self._ranks, self._accumulate = Ranks.of(trainer), trainer.accumulate_grad_batches
        # All processes use the same order of batches, so it is not seeded by rank.
        order = method.rng
        if self._ranks.is_distributed:
            order = torch.Generator(device=order.device).manual_seed(method.random.child_seed())
        self._order = order
        self._batches = Batches(phase.data, batch_size=phase.batch_size, rng=order)
        self._step_batch: tuple[Tensor, ...] = ()
        self._cycle = StepCycle(phase)
        self._frozen = ExitStack()

    def finish(self) -> None:
        self.phase.finish()

    def abort(self) -> None:
        self.phase.abort()

    def loader(self) -> Iterable[int]:
        """Batch indices; `loss` samples the batches, to keep the order of random draws."""
        return range(self.batch, self._n_batches)

    def loss(self, batch: int) -> Tensor:
        step, number = divmod(batch, self._accumulate)
        if number == 0:
            self._step_batch = next(self._batches)
        shard, ranks, cycle = self._step_batch, self._ranks, self._cycle
        if shard and (ranks.is_distributed or self._accumulate > 1):
            parts = Ranks(number * ranks.world + ranks.rank, ranks.world * self._accumulate)
            shard = tuple(tensor[parts.shard(len(tensor))] for tensor in shard)
        if not ranks.is_distributed:
            self._frozen.enter_context(cycle.alone(step))
        loss = cycle.loss(step, shard, self.method.rng)
        if ranks.is_distributed:
            # DDP needs a gradient of each parameter; `before_step` drops those not trained.
            loss = loss + sum(0.0 * p.sum() for p in cycle.others(step))
        # One mean per kind of step.
        self.loss_key = f"{self.log_prefix}/{cycle.at(step).name}"
        return loss

    def optimization(self, *, fused: bool) -> Optimization:
        spec: OptimizerSpec = self.phase.optimizer
        optimizer = spec.build(self.module, fused=fused)
        return optimizer, spec.build_schedule(optimizer, self.phase.steps)

    def clip(self) -> None:
        self.phase.optimizer.clip(self.module)

    def hook(self, name: str) -> None:
        """Handles the step's parameters, and periodically checks that the loss is finite."""
        if name == "after_backward":
            self.close()
        if name == "before_update":
            # Before clipping, which must see the gradients of the trained parameters only.
            self._cycle.before_step(self.batch // self._accumulate)
        if name != "after_training_iteration":
            return
        last = self.batch == self._n_batches
        if last or self.batch % (CHECK_EVERY * self._accumulate) == 0:
            check_finite(self.phase, self.means.total(), self.batch // self._accumulate)

    def close(self) -> None:
        """Unfreezes the parameters that the step does not train."""
        self._frozen.close()

    def state(self) -> dict[str, Any]:
        return {
            **super().state(),
            "batches": self._batches.state(),
            "order": self._order.get_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self._batches.set_state(state["batches"])
        self._order.set_state(state["order"])


def log_prefix_of(name: str) -> str:
    """Prefix of a phase's logged names, the same in every experience.

    For example ``sleep/learner`` for ``sleep: consolidating tasks 3, 4 (learner, with replay)``.
    """
    # The last parenthesis, as task names may contain others.
    head, _, detail = name.rpartition(" (") if name.endswith(")") else (name, "", "")
    first = head.split(":")[0]
    second = detail.rstrip(")").split(",")[0]
    return f"{first}/{second}" if second else first
