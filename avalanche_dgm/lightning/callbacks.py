"""Callbacks of a stream, and what becomes of Lightning's own in one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.results import StreamResult


class StreamCallback(pl.Callback):
    """A callback that `fit_stream` also tells when the stream begins and an experience is over."""

    def logs_to(self, logger: pl.loggers.Logger) -> bool:
        """Whether it logs an experience's accuracies to a logger, which is then not given them.

        Args:
            logger: One of the Trainer's.
        """
        return False

    def on_stream_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, benchmark: Any, result: StreamResult
    ) -> None:
        """Called in every process before the first experience, also of what goes on.

        Args:
            trainer: The Trainer.
            module: The `MethodModule`.
            benchmark: What is learned: ``train_stream`` and ``test_stream``.
            result: What was learned before; it is the same object all the while.
        """

    def on_experience_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, result: StreamResult
    ) -> None:
        """Called in every process when an experience was learned and tested.

        Args:
            trainer: The Trainer.
            module: The `MethodModule`.
            result: What was learned so far, this experience included.
        """


class ReportCallback(StreamCallback):
    """Hands on the result after each experience, before that is saved.

    What is interrupted while it reports comes again, and is reported again.

    Args:
        report: Called in the first process with the result so far.
    """

    def __init__(self, report: Callable[[StreamResult], None]) -> None:
        super().__init__()
        self._report = report

    def on_experience_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, result: StreamResult
    ) -> None:
        """Reports."""
        if trainer.is_global_zero:
            self._report(result)


def experience_callbacks(trainer: pl.Trainer) -> list[Any]:
    """The callbacks whose state belongs to an experience: those that stop early or save.

    What saves when a fit fails has no state, and is of all fits.
    """
    made: Any = trainer
    kinds = (pl.callbacks.EarlyStopping, pl.callbacks.Checkpoint)
    always = pl.callbacks.OnExceptionCheckpoint
    return [c for c in made.callbacks if isinstance(c, kinds) and not isinstance(c, always)]


def reset_callbacks(trainer: pl.Trainer) -> None:
    """Lets callbacks that stop or save begin anew; called before each experience.

    Without this an experience would be compared with the best of the one before it.

    Args:
        trainer: The Trainer; each of its callbacks stays the object that the user made.
    """
    for callback in experience_callbacks(trainer):
        pristine = getattr(callback, "_avalanche_dgm_pristine", None)
        if pristine is None:
            kept = {k: v for k, v in vars(callback).items() if k != "_avalanche_dgm_pristine"}
            callback._avalanche_dgm_pristine = copy.deepcopy(kept)
        else:
            vars(callback).update(copy.deepcopy(pristine))


@contextmanager
def check_integer_buffers(module: nn.Module, trained: Collection[int]) -> Iterator[None]:
    """Checks that a fit leaves classes, labels and counts alone that it does not train.

    A callback that averages weights would average these, too, and nothing would show it.

    Args:
        module: The module that is fitted.
        trained: Ids of the tensors that are trained.

    Raises:
        ConfigError: A whole number was changed; it was put back.
    """

    def books() -> dict[str, Tensor]:
        found = module.named_buffers()
        # Stored images may be many, and are of type uint8.
        return {n: b for n, b in found if b.dtype in (torch.int8, torch.int32, torch.int64)}

    before = {n: b.clone() for n, b in books().items() if id(b) not in trained}
    yield
    after = books()
    changed = [name for name, value in before.items() if not torch.equal(value, after[name])]
    for name in changed:
        after[name].copy_(before[name])
    if changed:
        raise ConfigError(
            f"A callback of the Trainer has changed {', '.join(changed[:3])}, whole numbers that"
            " keep the books of what is remembered and were not trained. They were put back."
            " Leave out callbacks that average or replace all of a module's buffers."
        )


@contextmanager
def without_experience_callbacks(trainer: pl.Trainer) -> Iterator[None]:
    """Keeps the same callbacks away from a phase, which has none of the values they watch.

    Args:
        trainer: The Trainer.
    """
    made: Any = trainer
    callbacks, away = made.callbacks, experience_callbacks(trainer)
    made.callbacks = [c for c in callbacks if c not in away]
    try:
        yield
    finally:
        made.callbacks = callbacks
