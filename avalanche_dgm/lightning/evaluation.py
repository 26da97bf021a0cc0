"""Avalanche's evaluation inside a Trainer: its metrics and loggers see a strategy's run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.plugins.clock import Clock
from torch import Tensor, nn


class StrategyView:
    """What metrics and loggers may ask a strategy for, of a run that has none.

    Args:
        evaluator: Avalanche's evaluation plugin.
        model: The user's model.
        plugins: Further plugins that metrics look for; they are not called.
        criterion: The loss, from logits and labels.
        train_epochs: Passes over an experience.
        train_mb_size: Samples a step.
        eval_mb_size: Samples a batch of a test.

    Attributes:
        experience: The experience that is learned or tested.
        mbatch: The current batch over all devices: images, labels, task labels.
        mb_output: The answers to it.
        loss: Its loss.
        dataloader: The batches of the current pass.
        adapted_dataset: The experience's samples.
        is_training: Whether it is learned.
        current_eval_stream: The experiences that are tested.
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
        """Whether it is tested."""
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
        """Tells metrics and loggers that a point of the loop is reached.

        Args:
            hook: Avalanche's name of it, such as ``after_training_iteration``.
        """
        getattr(self.evaluator, hook)(self)
        # The clock comes last, as in a strategy: metrics see the count from before.
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
        """Continues where `state` was called."""
        evaluator = self.evaluator
        evaluator.metrics = state["metrics"]
        evaluator.last_metric_results = state["last"]
        evaluator.all_metric_results = state["all"]
        self.clock = state["clock"]
        self.plugins[-1] = self.clock
