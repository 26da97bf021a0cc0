"""Stream callbacks, and the handling of Lightning's own callbacks in a stream."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.results import StreamResult

#: The attributes of callbacks before their first use.
_initial: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()


class StreamCallback(pl.Callback):
    """A callback with further hooks for the start of a stream, optimiser steps and experiences."""

    def logs_to(self, logger: pl.loggers.Logger) -> bool:
        """Whether the callback logs accuracies to a logger in place of `fit_stream`."""
        return False

    def on_stream_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, benchmark: Any, result: StreamResult
    ) -> None:
        """Called in every process before the first experience, also when a run resumes.

        The result so far is updated in place during the stream.
        """

    def on_step_end(self, trainer: pl.Trainer, module: pl.LightningModule, *, stops: bool) -> None:
        """Called in every process after each optimiser step of the classifier or a phase.

        It is called after the module's ``on_train_batch_end``; that of callbacks comes before it.
        If the stream ``stops`` between two epochs, there is an extra call.
        """

    def on_experience_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, result: StreamResult
    ) -> None:
        """Called in every process after an experience was added to the result."""


def stream_callbacks(trainer: pl.Trainer) -> list[StreamCallback]:
    """The stream callbacks of a Trainer."""
    untyped: Any = trainer
    return [c for c in untyped.callbacks if isinstance(c, StreamCallback)]


def experience_callbacks(trainer: pl.Trainer) -> list[Any]:
    """The callbacks that are reset for each experience: early stopping and checkpoints.

    ``OnExceptionCheckpoint`` has no state and is not reset.
    """
    untyped: Any = trainer
    kinds = (pl.callbacks.EarlyStopping, pl.callbacks.Checkpoint)
    stateless = pl.callbacks.OnExceptionCheckpoint
    return [c for c in untyped.callbacks if isinstance(c, kinds) and not isinstance(c, stateless)]


def reset_callbacks(trainer: pl.Trainer) -> None:
    """Resets the callbacks of `experience_callbacks` in place.

    Otherwise they would compare an experience with the best value of the previous one. The path of
    the last checkpoint is kept, so that ``last.ckpt`` is that of the stream.
    """
    for callback in experience_callbacks(trainer):
        # All attributes: the ``state_dict`` of a ModelCheckpoint is not complete.
        initial = _initial.setdefault(callback, copy.deepcopy(vars(callback)))
        last = {name: v for name, v in vars(callback).items() if name == "last_model_path"}
        vars(callback).update(copy.deepcopy(initial) | last)


@contextmanager
def check_integer_buffers(module: nn.Module, trained: nn.Module) -> Iterator[None]:
    """Checks that a fit changes no integer buffers, such as labels, but those of what it trains.

    Callbacks that average weights would silently average these, too.

    Raises:
        ConfigError: An integer buffer was changed; it was restored.
    """

    def integers() -> dict[str, Tensor]:
        found = module.named_buffers()
        # Not uint8: stored images, which are large.
        return {n: b for n, b in found if b.dtype in (torch.int8, torch.int32, torch.int64)}

    own = {id(buffer) for buffer in trained.buffers()}
    before = {n: b.clone() for n, b in integers().items() if id(b) not in own}
    yield
    after = integers()
    changed = [name for name, value in before.items() if not torch.equal(value, after[name])]
    for name in changed:
        after[name].copy_(before[name])
    if changed:
        raise ConfigError(
            f"A callback of the Trainer has changed {', '.join(changed[:3])}, integer buffers that"
            " are not trained. They were restored. Remove callbacks that average or replace all"
            " buffers of a module."
        )
