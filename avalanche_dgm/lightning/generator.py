"""Looking at what a generator becomes under a Trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from avalanche_dgm.lightning.callbacks import StreamCallback
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.results import StreamResult


class GeneratorCallback(StreamCallback):
    """Says, in the first process, when something is trained and when an experience is over.

    What is interrupted while it looks at an experience comes again, and is looked at again. What it
    finds is kept with the run and is there when that goes on.

    Args:
        watch: Called with the module before each training of it or of a part.
        note: Called with the module and the position of the experience learned last, from 0. The
            numbers that it returns become a part of the result's ``metrics``.
    """

    def __init__(
        self, watch: Callable[[Any], None], note: Callable[[Any, int], Mapping[str, float]]
    ) -> None:
        super().__init__()
        self._watch, self._note = watch, note

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Says that something is about to be trained."""
        if trainer.is_global_zero:
            self._watch(pl_module)

    def on_experience_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, result: StreamResult
    ) -> None:
        """Says that an experience was learned and tested."""
        if trainer.is_global_zero:
            result.metrics[-1].update(self._note(module, len(result) - 1))
