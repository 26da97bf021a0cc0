"""The strategy stand-in that Avalanche's metrics and loggers see in `fit_stream`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from avalanche.training.plugins.clock import Clock
from avalanche.training.templates.problem_type import SupervisedProblem
from torch import Tensor

from avalanche_dgm.lightning.ranks import Ranks
from avalanche_dgm.plugins.base import MethodPlugin

if TYPE_CHECKING:
    from avalanche_dgm.lightning.stream_run import StreamRun


class StrategyView(SupervisedProblem):
    """A stand-in for a strategy in a run, with the attributes that metrics and loggers read.

    Metrics see the full batches of all devices. Without an evaluator, the view does nothing. Its
    plugins are those that metrics look up; their hooks are not called.

    Attributes:
        should_stop: Whether a metric called `stop_training` in this experience.
    """

    def __init__(self, run: StreamRun) -> None:
        module, trainer, evaluator = run.module, run.trainer, run.evaluator
        self.evaluator, self.model, self._criterion = evaluator, module.model, module.criterion
        # Functions: metrics that measure a strategy's attributes must not reach the Trainer.
        self._gather = partial(Ranks.of(trainer).gather, trainer)
        self._reduce = trainer.strategy.reduce
        self.train_epochs, self.train_mb_size = run.epochs, run.data.batch_size
        self.eval_mb_size, self.eval_every = run.data.eval_batch_size, -1
        self.clock = Clock()
        plugin = MethodPlugin(module.method, oracle=run.data.oracle)
        self.plugins: list[Any] = [plugin, evaluator, self.clock]
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
        self.should_stop = False

    @property
    def is_eval(self) -> bool:
        """The opposite of `is_training`."""
        return not self.is_training

    def stop_training(self) -> None:
        """Stops training on the current experience after this batch."""
        self.should_stop = True

    def fire(self, hook: str) -> None:
        """Calls a hook of the metrics and loggers."""
        if self.evaluator is None:
            return
        getattr(self.evaluator, hook)(self)
        # The clock is last, as in a strategy: metrics see its counts from before the step.
        if hasattr(self.clock, hook):
            getattr(self.clock, hook)(self)

    def begin(self, experience: Any, *, training: bool) -> None:
        """Sets the experience and its dataset, and calls the hooks of dataset adaptation."""
        self.is_training, self.experience, self.should_stop = training, experience, False
        kind = "train" if training else "eval"
        self.fire(f"before_{kind}_dataset_adaptation")
        self.adapted_dataset = getattr(experience.dataset, kind)()
        self.fire(f"after_{kind}_dataset_adaptation")

    def set_batch(self, batch: Sequence[Tensor], n: int, *, shard: bool) -> None:
        """Sets the batch, of ``n`` samples over all devices, or this process's shard of it."""
        if self.evaluator is not None:
            self.mbatch = [self._gather(c, n) if shard else c for c in batch]

    def set_outputs(self, outputs: Tensor, n: int) -> None:
        """Sets the current batch's logits, gathered from the shards of all processes."""
        if self.evaluator is not None:
            self.mb_output = self._gather(outputs.detach(), n)

    def set_loss(self, loss: Tensor) -> None:
        """Sets the current batch's loss to the mean over processes."""
        if self.evaluator is not None:
            self.loss = self._reduce(loss.detach().clone(), reduce_op="mean")

    def last_metrics(self) -> dict[str, Any]:
        """The latest value of each metric, by name."""
        return {} if self.evaluator is None else self.evaluator.get_last_metrics()

    def state(self) -> dict[str, Any] | None:
        """The state of metrics and clock, for `set_state`."""
        if self.evaluator is None:
            return None
        return {
            "metrics": self.evaluator.metrics,
            "last": self.evaluator.last_metric_results,
            "all": self.evaluator.all_metric_results,
            "clock": self.clock,
        }

    def set_state(self, state: dict[str, Any] | None) -> None:
        """Restores what `state` returned; does nothing without an evaluator."""
        if self.evaluator is None or state is None:
            return
        self.evaluator.metrics = state["metrics"]
        self.evaluator.last_metric_results = state["last"]
        self.evaluator.all_metric_results = state["all"]
        self.plugins[-1] = self.clock = state["clock"]
