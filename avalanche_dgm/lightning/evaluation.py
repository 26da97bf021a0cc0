"""Avalanche's metrics and loggers in a run with a Trainer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.plugins.clock import Clock
from torch import Tensor, nn


class StrategyView:
    """A stand-in for a strategy, with the attributes that metrics and loggers read.

    Args:
        evaluator: Avalanche's evaluation plugin.
        model: The user's model.
        plugins: Further plugins that metrics look up; they are not called.
        criterion: The loss, from logits and labels.
        train_epochs: Passes over an experience.
        train_mb_size: Samples a step.
        eval_mb_size: Samples a batch of a test.

    Attributes:
        experience: The current experience of training or testing.
        mbatch: The current batch over all devices: images, labels, task labels.
        mb_output: Its outputs.
        loss: Its loss.
        dataloader: The batches of the current epoch.
        adapted_dataset: The experience's samples.
        is_training: Whether it is training.
        current_eval_stream: The experiences under test.
        clock: Avalanche's counters.
    """

    def __init__(
        self,
        evaluator: EvaluationPlugin,
        model: nn.Module,
        *,
        plugins: Sequence[Any] = (),
        criterion: Any,
        train_epochs: int,
        train_mb_size: int,
        eval_mb_size: int,
    ) -> None:
        self.evaluator, self.model, self._criterion = evaluator, model, criterion
        self.train_epochs, self.train_mb_size = train_epochs, train_mb_size
        self.eval_mb_size, self.eval_every = eval_mb_size, -1
        self.clock = Clock()
        self.plugins: list[Any] = [*plugins, evaluator, self.clock]
        self.optimizer: torch.optim.Optimizer | None = None
        self.device = torch.device("cpu")
        self.experience: Any = None
        self.mbatch: list[Tensor] = []
        self.mb_output: Tensor | None = None
        self.loss = torch.zeros(1)
        self.dataloader: Any = []
        self.adapted_dataset: Any = None
        self.is_training = False
        self.current_eval_stream: Any = []
        self.stops = False

    @property
    def is_eval(self) -> bool:
        """Whether it is testing."""
        return not self.is_training

    @property
    def mb_x(self) -> Tensor:
        """Images of the current batch (n, *shape)."""
        return self.mbatch[0]

    @property
    def mb_y(self) -> Tensor:
        """Their labels (n,)."""
        return self.mbatch[1]

    @property
    def mb_task_id(self) -> Tensor:
        """Their task labels (n,)."""
        return self.mbatch[-1]

    def stop_training(self) -> None:
        """Asks for no further batches of this experience."""
        self.stops = True

    def fire(self, hook: str) -> None:
        """Calls a hook of the metrics and loggers.

        Args:
            hook: Its name in Avalanche, such as ``after_training_iteration``.
        """
        getattr(self.evaluator, hook)(self)
        # The clock comes last, as in a strategy: metrics see the count before the step.
        if hasattr(self.clock, hook):
            getattr(self.clock, hook)(self)

    def state(self) -> dict[str, Any]:
        """Metrics, their values so far, and the clock, for `set_state`."""
        evaluator = self.evaluator
        return {
            "metrics": evaluator.metrics,
            "last": evaluator.last_metric_results,
            "all": evaluator.all_metric_results,
            "clock": self.clock,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores what `state` returned."""
        evaluator = self.evaluator
        evaluator.metrics = state["metrics"]
        evaluator.last_metric_results = state["last"]
        evaluator.all_metric_results = state["all"]
        self.clock = state["clock"]
        self.plugins[-1] = self.clock
