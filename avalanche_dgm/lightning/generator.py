"""Monitoring of a generator during training with a Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from avalanche_dgm.lightning.callbacks import StreamCallback
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.results import StreamResult


class GeneratorMonitor(Protocol):
    """A monitor of a generator, such as the one that writes its logs."""

    def watch(self, method: Any) -> None:
        """Called before each training of the module or a part of it."""

    def note(self, method: Any, experience: int) -> Mapping[str, float]:
        """Called after an experience; returns metrics by name."""

    def state(self) -> dict[str, Any]:
        """State within an unfinished experience, for checkpoints."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores what `state` returned."""


class GeneratorCallback(StreamCallback):
    """Calls a monitor in the first process, and saves its state with the run.

    Args:
        monitor: The monitor. ``watch`` gets the module; ``note`` gets the module and the position
            of the experience learned last, from 0, and the values that it returns are added to the
            result's ``metrics``.
    """

    def __init__(self, monitor: GeneratorMonitor) -> None:
        super().__init__()
        self._monitor = monitor

    def state_dict(self) -> dict[str, Any]:
        """The monitor's state."""
        return self._monitor.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the monitor's state."""
        self._monitor.set_state(state_dict)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Calls the monitor before a training."""
        if trainer.is_global_zero:
            self._monitor.watch(pl_module)

    def on_experience_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, result: StreamResult
    ) -> None:
        """Calls the monitor after an experience."""
        if trainer.is_global_zero:
            result.metrics[-1].update(self._monitor.note(module, len(result) - 1))
