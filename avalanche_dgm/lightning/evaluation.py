"""Avalanche's metrics and loggers in a run with a Trainer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.plugins.clock import Clock
from avalanche.training.templates.problem_type import SupervisedProblem
from torch import Tensor, nn

from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.ranks import Ranks


class StrategyView(SupervisedProblem):
    """A stand-in for a strategy, with the attributes that metrics and loggers read.

    Metrics see full batches: those of all devices.

    Args:
        evaluator: Avalanche's evaluation plugin; ``None`` for a view that nobody looks at.
        model: The user's model.
        trainer: The Trainer, in each of its processes.
        plugins: Further plugins that metrics look up; they are not called.
        criterion: The loss, from logits and labels.
        train_epochs: Passes over an experience.
        train_mb_size: Samples a step.
        eval_mb_size: Samples a batch of a test.

    Attributes:
        experience: The current experience of training or testing.
        mbatch: The current batch: images, labels, task labels.
        mb_output: Its outputs.
        loss: Its loss.
        dataloader: The batches of the current epoch.
        adapted_dataset: The experience's samples.
        is_training: Whether it is training.
        current_eval_stream: The experiences under test.
        clock: Avalanche's counters.
        stops: Whether a metric asked for no further batches of this experience.
    """

    def __init__(
        self,
        evaluator: EvaluationPlugin | None,
        model: nn.Module,
        *,
        trainer: pl.Trainer,
        plugins: Sequence[Any] = (),
        criterion: Any,
        train_epochs: int,
        train_mb_size: int,
        eval_mb_size: int,
    ) -> None:
        self.evaluator, self.model, self._criterion = evaluator, model, criterion
        # Functions: whoever measures what hangs on a strategy must not find the Trainer.
        self._gather = partial(Ranks.of(trainer).gather, trainer)
        self._reduce = trainer.strategy.reduce
        self.train_epochs, self.train_mb_size = train_epochs, train_mb_size
        self.eval_mb_size, self.eval_every = eval_mb_size, -1
        self.clock = Clock()
        self.plugins: list[Any] = [*plugins, evaluator, self.clock]
        self.optimizer: torch.optim.Optimizer | None = None
        self.device = trainer.strategy.root_device
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

    def stop_training(self) -> None:
        """Asks for no further batches of this experience."""
        self.stops = True

    def fire(self, hook: str) -> None:
        """Calls a hook of the metrics and loggers."""
        if self.evaluator is None:
            return
        getattr(self.evaluator, hook)(self)
        # The clock comes last, as in a strategy: metrics see the count before the step.
        if hasattr(self.clock, hook):
            getattr(self.clock, hook)(self)

    def begin(self, experience: Any, *, training: bool) -> None:
        """Tells the metrics of an experience and its samples."""
        self.is_training, self.experience, self.stops = training, experience, False
        kind = "train" if training else "eval"
        self.fire(f"before_{kind}_dataset_adaptation")
        self.adapted_dataset = getattr(experience.dataset, kind)()
        self.fire(f"after_{kind}_dataset_adaptation")

    def show_batch(self, batch: Sequence[Tensor], n: int, *, shard: bool) -> None:
        """Sets the current batch.

        Args:
            batch: Its columns.
            n: Its size over all devices.
            shard: Whether the columns are this process's shard.
        """
        if self.evaluator is not None:
            self.mbatch = [self._gather(c, n) if shard else c for c in batch]

    def show_outputs(self, outputs: Tensor, n: int) -> None:
        """Sets the outputs for the current batch from this process's shard of them."""
        if self.evaluator is not None:
            self.mb_output = self._gather(outputs.detach(), n)

    def show_loss(self, loss: Tensor) -> None:
        """Sets the loss of the current batch to the mean over processes."""
        if self.evaluator is not None:
            self.loss = self._reduce(loss.detach().clone(), reduce_op="mean")

    def last_metrics(self) -> dict[str, Any]:
        """The last values of all metrics, by name."""
        return {} if self.evaluator is None else self.evaluator.get_last_metrics()

    def state(self) -> dict[str, Any] | None:
        """Metrics, their values so far, and the clock, for `set_state`."""
        if self.evaluator is None:
            return None
        return {
            "metrics": self.evaluator.metrics,
            "last": self.evaluator.last_metric_results,
            "all": self.evaluator.all_metric_results,
            "clock": self.clock,
        }

    def set_state(self, state: dict[str, Any] | None) -> None:
        """Restores what `state` returned, unless one of both had no metrics."""
        if self.evaluator is None or state is None:
            return
        self.evaluator.metrics = state["metrics"]
        self.evaluator.last_metric_results = state["last"]
        self.evaluator.all_metric_results = state["all"]
        self.plugins[-1] = self.clock = state["clock"]
