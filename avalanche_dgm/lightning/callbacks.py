"""Callbacks of a stream, and the handling of Lightning's own callbacks in one."""

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

#: The attributes that callbacks had before they were first used.
_unused: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()


class StreamCallback(pl.Callback):
    """A callback with more hooks: at the start of a stream, in it, and after an experience."""

    def logs_to(self, logger: pl.loggers.Logger) -> bool:
        """Whether it logs accuracies to a logger itself, so that `fit_stream` does not."""
        return False

    def on_stream_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, benchmark: Any, result: StreamResult
    ) -> None:
        """Called in every process before the first experience, also when a run resumes.

        Args:
            trainer: The Trainer.
            module: The `MethodModule`.
            benchmark: The benchmark: ``train_stream`` and ``test_stream``.
            result: The result so far; the same object during the whole stream.
        """

    def on_step_end(self, trainer: pl.Trainer, module: pl.LightningModule, *, stops: bool) -> None:
        """Called in every process after each optimiser step of the classifier or a phase.

        Lightning calls ``on_train_batch_end`` of callbacks before the module's; this comes after
        it, when the step is complete.

        Args:
            trainer: The Trainer.
            module: The module; its ``stage`` is what is trained.
            stops: Whether the stream stops here. Between two epochs it stops in a call of its own.
        """

    def on_experience_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, result: StreamResult
    ) -> None:
        """Called in every process after an experience, which the result has by then."""


def stream_callbacks(trainer: pl.Trainer) -> list[StreamCallback]:
    """The Trainer's callbacks with hooks for a stream."""
    made: Any = trainer
    return [c for c in made.callbacks if isinstance(c, StreamCallback)]


def experience_callbacks(trainer: pl.Trainer) -> list[Any]:
    """The callbacks that are reset for each experience: those that stop early or save.

    ``OnExceptionCheckpoint`` has no state and is left alone.
    """
    made: Any = trainer
    kinds = (pl.callbacks.EarlyStopping, pl.callbacks.Checkpoint)
    always = pl.callbacks.OnExceptionCheckpoint
    return [c for c in made.callbacks if isinstance(c, kinds) and not isinstance(c, always)]


def reset_callbacks(trainer: pl.Trainer) -> None:
    """Resets callbacks that stop early or save, in place; called before each experience.

    Otherwise an experience would be compared with the best value of the one before it. The path of
    the last checkpoint stays, so that ``last.ckpt`` is that of the stream.
    """
    for callback in experience_callbacks(trainer):
        # All of it: the ``state_dict`` of a ModelCheckpoint lacks what it saved last.
        unused = _unused.setdefault(callback, copy.deepcopy(vars(callback)))
        last = {name: v for name, v in vars(callback).items() if name == "last_model_path"}
        vars(callback).update(copy.deepcopy(unused) | last)


@contextmanager
def check_integer_buffers(module: nn.Module, trained: nn.Module) -> Iterator[None]:
    """Checks that a fit does not change integer buffers, such as classes, labels and counts.

    A callback that averages weights would silently average these, too.

    Raises:
        ConfigError: An integer buffer was changed; it was restored.
    """

    def integers() -> dict[str, Tensor]:
        found = module.named_buffers()
        # Not uint8: these are stored images, and large.
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
            " are not trained. They were restored. Leave out callbacks that average or replace all"
            " of a module's buffers."
        )
