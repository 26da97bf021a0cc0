"""An Avalanche plugin for cosine annealing within each experience."""

from __future__ import annotations

from typing import Any

import torch
from avalanche.core import SupervisedPlugin

from avalanche_dgm.optimizers import OptimizerSpec


class CosineAnnealingPlugin(SupervisedPlugin):
    """Anneals the learning rate to 0 over each experience, along half a cosine.

    With a constant learning rate, the accuracies on old and new classes vary from step to step.
    Unlike Avalanche's ``LRSchedulerPlugin``, the schedule has the length of each experience.
    Afterwards the learning rates are restored. ``OptimizerSpec(schedule="cosine")`` is the same
    for a LightningModule.
    """

    supports_distributed = True

    def __init__(self) -> None:
        """See the class for the arguments."""
        super().__init__()
        self._schedule: torch.optim.lr_scheduler.LRScheduler | None = None

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Starts the schedule in the first epoch, when the number of batches is known."""
        if strategy.clock.train_exp_epochs > 0:
            return
        # The previous experience may have been interrupted.
        self._end(strategy)
        steps = strategy.train_epochs * len(strategy.dataloader)
        self._schedule = OptimizerSpec.cosine(strategy.optimizer, steps)

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        if self._schedule is not None:
            self._schedule.step()

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self._end(strategy)

    def _end(self, strategy: Any) -> None:
        for group in strategy.optimizer.param_groups if self._schedule is not None else []:
            group["lr"] = group.pop("initial_lr", group["lr"])
        self._schedule = None
