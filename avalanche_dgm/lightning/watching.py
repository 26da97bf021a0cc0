"""Reports of training epochs and experiences, for dashboards and result files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from avalanche_dgm.dashboards import keys
from avalanche_dgm.lightning.callbacks import StreamCallback
from avalanche_dgm.lightning.learning import LearningStage
from avalanche_dgm.lightning.module import MethodModule
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.results import StreamResult


class ReportingCallback(StreamCallback):
    """Reports from the first process; a resumed experience is reported again.

    Args:
        trained: Called after each epoch of the classifier with the epoch's mean loss and accuracy
            over all processes, by key, and the classifier's optimiser steps so far.
        learned: Called after each experience, before the checkpoint, with the result so far.
        monitor: Logs a generator: ``watch(module)`` is called before each training;
            ``note(module, experience)`` after each experience, counted from 0, returns values for
            the result's ``metrics``; ``state`` and ``set_state`` are for checkpoints.
    """

    def __init__(
        self,
        trained: Callable[[dict[str, float], int], None],
        *,
        learned: Callable[[StreamResult], None] | None = None,
        monitor: Any = None,
    ) -> None:
        super().__init__()
        self._report_epoch, self._report, self._monitor = trained, learned, monitor
        self._result = StreamResult()
        #: Accuracy and number of the classifier's last epoch in this experience.
        self._epoch: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        state = {} if self._monitor is None else self._monitor.state()
        return {**state, "epoch": self._epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._epoch = state_dict.get("epoch", {})
        if self._monitor is not None:
            self._monitor.set_state(state_dict)

    def on_stream_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, benchmark: Any, result: StreamResult
    ) -> None:
        """Stores the result, which holds the steps of earlier experiences."""
        self._result = result

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._monitor is not None and trainer.is_global_zero:
            self._monitor.watch(pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reports an epoch of the classifier; phases are ignored."""
        stage = pl_module.stage if isinstance(pl_module, MethodModule) else None
        if not isinstance(stage, LearningStage):
            return
        device = trainer.strategy.root_device
        reduced = {
            key: trainer.strategy.reduce(value.to(device), reduce_op="mean")
            for key, value in stage.epoch_means().items()
        }
        means = {key: float(value) for key, value in reduced.items()}
        self._epoch = {"train_accuracy": means[keys.TRAIN_ACCURACY], "epochs": stage.epoch + 1}
        if trainer.is_global_zero:
            step = sum(self._result.iterations) + stage.iterations
            self._report_epoch(means, step)

    def on_experience_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, result: StreamResult
    ) -> None:
        """Adds the last epoch and the monitor's values to the result, and reports it."""
        result.metrics[-1].update(self._epoch)
        self._epoch = {}
        if not trainer.is_global_zero:
            return
        if self._monitor is not None:
            result.metrics[-1].update(self._monitor.note(module, len(result) - 1))
        if self._report is not None:
            self._report(result)
