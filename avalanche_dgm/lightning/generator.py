"""Looking at what a generator becomes under a Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from avalanche_dgm.lightning.callbacks import StreamCallback
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.results import StreamResult


class GeneratorMonitor(Protocol):
    """What looks at a generator."""

    def watch(self, method: Any) -> None:
        """Something is about to be trained."""

    def note(self, method: Any, experience: int) -> Mapping[str, float]:
        """An experience is over."""

    def state(self) -> dict[str, Any]:
        """What was seen of an experience that is not over."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on within an experience."""


class GeneratorCallback(StreamCallback):
    """Says, in the first process, when something is trained and when an experience is over.

    What is interrupted while it looks at an experience comes again, and is looked at again. What it
    finds is kept with the run and is there when that goes on.

    Args:
        monitor: Looks at it. ``watch`` is called with the module before each training of it or of a
            part; ``note`` with the module and the position of the experience learned last, from 0,
            and the numbers that it returns become a part of the result's ``metrics``. What
            ``state`` returns of an experience that is not over is saved with the run, and handed to
            ``set_state`` when that goes on.
    """

    def __init__(self, monitor: GeneratorMonitor) -> None:
        super().__init__()
        self._monitor = monitor

    def state_dict(self) -> dict[str, Any]:
        """What was seen of an experience that is not over."""
        return self._monitor.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on within an experience."""
        self._monitor.set_state(state_dict)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Says that something is about to be trained."""
        if trainer.is_global_zero:
            self._monitor.watch(pl_module)

    def on_experience_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, result: StreamResult
    ) -> None:
        """Says that an experience was learned and tested."""
        if trainer.is_global_zero:
            result.metrics[-1].update(self._monitor.note(module, len(result) - 1))
