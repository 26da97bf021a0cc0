"""A Trainer's limits and debugging flags; they apply to training on experiences, not to phases."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.lightning import internals
from avalanche_dgm.lightning.batches import Batches
from avalanche_dgm.lightning.package import pl


def smoke_batches(trainer: pl.Trainer) -> int:
    """The Trainer's ``fast_dev_run`` as a number of batches; 0 if it is off."""
    untyped: Any = trainer
    return int(untyped.fast_dev_run)


def check_limits(trainer: pl.Trainer) -> None:
    """Checks a Trainer's limits; lets ``fast_dev_run`` cover the whole stream.

    Raises:
        ConfigError: The Trainer limits the number of steps, has no training batches, splits the
            model among devices, changes the dtype of weights, or has a profiler that fails in a
            second fit.
    """
    loop: Any = trainer.fit_loop
    n = smoke_batches(trainer)
    if n:
        # Lightning would stop the stream after its first step.
        loop.epoch_loop.max_steps = -1
        warnings.warn(
            f"fast_dev_run: a smoke test of the whole stream, with one epoch and {n}"
            f" batch{'es' * (n != 1)} of each training, phase and test. Its metrics are"
            " meaningless; no logs or checkpoints are written.",
            UserWarning,
            stacklevel=4,
        )
    if trainer.max_steps != -1:
        raise ConfigError(
            f"The Trainer stops after max_steps={trainer.max_steps}, but a stream is many fits"
            " of different lengths. Set max_epochs, the epochs per experience, instead."
        )
    if loop.min_steps:
        raise ConfigError(
            f"The Trainer takes at least min_steps={loop.min_steps}, but a stream is many fits."
            " Set min_epochs, the least epochs per experience, instead."
        )
    if trainer.limit_train_batches == 0:
        raise ConfigError("With limit_train_batches=0 nothing would be learned. Use 1 or more.")
    if trainer.precision not in ("32-true", "16-mixed", "bf16-mixed"):
        raise ConfigError(
            f"precision={trainer.precision!r} changes the dtype of weights, which images and"
            " memories would not match. Use '32-true', 'bf16-mixed' or '16-mixed'."
        )
    made: Any = trainer
    if isinstance(made.profiler, pl.profilers.PyTorchProfiler):
        raise ConfigError(
            "Lightning's PyTorchProfiler records one fit and fails in the next, but a stream is"
            " many fits. Use profiler='simple' or 'advanced', or call this inside of"
            " torch.profiler.profile()."
        )
    strategy, kinds = trainer.strategy, pl.strategies
    whole = isinstance(strategy, (kinds.SingleDeviceStrategy, kinds.DDPStrategy))
    if not whole or isinstance(strategy, kinds.DeepSpeedStrategy):
        raise ConfigError(
            f"strategy={type(strategy).__name__} splits the model among devices, but each device"
            " needs the full memory. Use 'ddp', 'ddp_spawn' or 'auto'."
        )


def apply_limit(loaders: Sequence[Batches], limit: int | float) -> list[Batches]:
    """Shortens loaders in place to a Trainer's limit, such as ``limit_test_batches``."""
    for batches in loaders:
        batches.stop = limited_length(len(batches), limit)
    return list(loaders)


def limited_length(n: int, limit: int | float) -> int:
    """Returns ``n`` batches cut to a Trainer's limit, at least 1."""
    return min(n, limit) if isinstance(limit, int) else max(int(n * limit), 1)


def without_limits(
    trainer: pl.Trainer, loader: Any, *, phase: bool
) -> AbstractContextManager[None]:
    """Turns a Trainer's limits off: `apply_limit` applies them, and phases have none.

    Phases also ignore ``val_check_interval``, which is otherwise at most the training loader's
    length, and leave validation out.
    """
    untyped: Any = trainer
    limits = {
        "limit_train_batches": 1.0,
        # A phase is not validated, even if the module has a val_dataloader() of its own.
        "limit_val_batches": 0.0 if phase else 1.0,
        "limit_test_batches": 1.0,
        "overfit_batches": 0.0,
    }
    # Lightning does not set it if the interval is a time.
    interval = getattr(untyped, "val_check_interval", None)
    if isinstance(interval, int) and untyped.check_val_every_n_epoch is not None:
        # The experience may be shorter than the interval.
        interval = min(interval, len(loader))
    if interval is not None:
        limits["val_check_interval"] = 1.0 if phase else interval
    return internals.replaced(trainer, **limits)
