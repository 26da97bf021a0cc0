"""One Trainer for a whole stream: launched once, with many fits."""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning_utilities.core import rank_zero

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.lightning import internals
from avalanche_dgm.lightning.builtin_callbacks import check_callbacks
from avalanche_dgm.lightning.limits import check_limits, without_limits
from avalanche_dgm.lightning.package import PACKAGE, VARIABLE, check_package, pl
from avalanche_dgm.lightning.progress import StreamProgressBar, with_stage_names
from avalanche_dgm.lightning.stopping import catching_signals, timers_of

MisconfigurationException = pl.utilities.exceptions.MisconfigurationException

T = TypeVar("T")
TrainerLike = pl.Trainer | Mapping[str, Any] | None

#: Default arguments of a Trainer; quiet, as a stream has many fits.
_DEFAULTS: dict[str, Any] = {
    "max_epochs": 1,
    "logger": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


def make_trainer(
    trainer: TrainerLike, *, callbacks: pl.Callback | Sequence[pl.Callback] = ()
) -> pl.Trainer:
    """Returns a Trainer for a stream, from a Trainer or its arguments, with further callbacks.

    Raises:
        ConfigError: The arguments are invalid; or an object is from Lightning's other package; or
            a limit or callback cannot be used in a stream.
    """
    if torch.is_inference_mode_enabled():
        raise ConfigError("Inference mode is on. Do not train within torch.inference_mode().")
    check_package(trainer, callbacks)
    result: Any  # Lightning sets some attributes where type checkers do not see it.
    if trainer is None or isinstance(trainer, Mapping):
        check_package(*(trainer or {}).values())
        result = _build({**(trainer or {})}, _as_list(callbacks))
        ordered = result.callbacks
    elif isinstance(trainer, pl.Trainer):
        result = trainer
        present = {id(c) for c in result.callbacks}
        added = [c for c in _as_list(callbacks) if id(c) not in present]
        ordered = _in_order([*added, *result.callbacks])
    else:
        raise ConfigError(
            f"trainer is a {type(trainer).__name__}; a {pl.__name__}.Trainer or a dictionary"
            " with its arguments is needed."
        )
    check_package(result.loggers, result.profiler)
    check_callbacks(result, ordered)
    check_limits(result)
    # A test may grow the model; parameters made in inference mode cannot be trained.
    for loop in (result.validate_loop, result.test_loop, result.predict_loop):
        loop.inference_mode = False
    result.callbacks = [with_stage_names(callback) for callback in ordered]
    return result


@contextmanager
def unchanged(trainer: TrainerLike) -> Iterator[None]:
    """Restores the epochs and callbacks of a Trainer of the user's, which a stream changes."""
    if not isinstance(trainer, pl.Trainer):
        yield
        return
    untyped: Any = trainer
    epochs = internals.replaced(trainer.fit_loop, max_epochs=trainer.max_epochs)
    with epochs, internals.replaced(trainer, callbacks=untyped.callbacks):
        yield


@contextmanager
def callbacks_of(module: pl.LightningModule, trainer: pl.Trainer) -> Iterator[None]:
    """Adds the module's own callbacks, in place of those of the same type, once for all fits.

    Lightning would make new ones in each fit.

    Raises:
        ConfigError: A callback cannot be used in a stream.
    """
    untyped: Any = trainer
    own = _as_list(module.configure_callbacks())
    check_callbacks(trainer, own)
    kinds = {type(callback) for callback in own}
    others = [c for c in untyped.callbacks if type(c) not in kinds]
    untyped.callbacks = _in_order([*others, *own])
    with internals.replaced(module, configure_callbacks=list):
        yield


def _in_order(callbacks: list[pl.Callback]) -> list[pl.Callback]:
    """In Lightning's order: checkpoint callbacks come last."""
    saving = [c for c in callbacks if isinstance(c, pl.callbacks.Checkpoint)]
    return [c for c in callbacks if c not in saving] + saving


def _as_list(callbacks: pl.Callback | Iterable[pl.Callback]) -> list[pl.Callback]:
    return [callbacks] if isinstance(callbacks, pl.Callback) else list(callbacks)


def _build(arguments: dict[str, Any], callbacks: list[pl.Callback]) -> pl.Trainer:
    callbacks += _as_list(arguments.pop("callbacks", None) or [])
    arguments = {**_DEFAULTS, **arguments}
    if arguments.get("max_epochs") is None:
        arguments["max_epochs"] = 1
    if "enable_checkpointing" not in arguments:
        arguments["enable_checkpointing"] = any(
            isinstance(c, pl.callbacks.Checkpoint) for c in callbacks
        )
    bar = arguments.get("enable_progress_bar", not arguments.get("barebones"))
    if bar and not any(isinstance(c, pl.callbacks.ProgressBar) for c in callbacks):
        callbacks.append(StreamProgressBar())
    try:
        with quiet():
            return pl.Trainer(callbacks=callbacks, **arguments)
    except (TypeError, ValueError, ImportError, MisconfigurationException) as error:
        raise ConfigError(f"The Trainer cannot be made: {str(error).rstrip('.')}.") from error


def launch(trainer: pl.Trainer, function: Callable[..., T], *arguments: Any) -> T:
    """Runs a function in every process of a Trainer, once for a whole stream.

    Args:
        trainer: The Trainer; its strategy starts the processes.
        function: Called in each process with a Trainer that starts no further processes, and with
            the arguments. For spawned processes, function and arguments must be picklable.
        *arguments: Further arguments of the function.

    Returns:
        The function's return value in the first process.
    """
    launcher = trainer.strategy.launcher
    os.environ[VARIABLE] = PACKAGE  # The order of imports may differ in the new processes.
    try:
        if launcher is None:
            return _in_process(trainer, function, arguments)
        if internals.uses_multiprocessing(trainer):
            # Through a file: the launcher joins the processes before it reads their queue, which
            # deadlocks for results of more than a few kilobytes.
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "result"
                launcher.launch(_in_spawned_process, trainer, path, function, arguments)
                return torch.load(path, weights_only=False)
        return launcher.launch(_in_process, trainer, function, arguments)
    except SystemExit as end:
        # A Trainer turns Ctrl-C into an exit; callers may report how to resume.
        if trainer.interrupted and not isinstance(end, pl.utilities.exceptions.SIGTERMException):
            raise KeyboardInterrupt from end
        raise


def _in_process(trainer: pl.Trainer, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
    # With several processes each fit would restart the generators with seed_everything's seed.
    seed = os.environ.pop("PL_GLOBAL_SEED", None)
    try:
        trainer.strategy.setup_environment()
        with (
            catching_signals(trainer),
            internals.stream_timers(timers_of(trainer)),
            internals.one_event_file(trainer),
        ):
            return function(trainer, *arguments)
    finally:
        if seed is not None:
            os.environ["PL_GLOBAL_SEED"] = seed


def _in_spawned_process(
    trainer: pl.Trainer, path: Path, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    internals.remove_launcher(trainer)
    result = _in_process(trainer, function, arguments)
    if trainer.local_rank == 0:
        torch.save(result, path)


def test(trainer: pl.Trainer, module: pl.LightningModule, loaders: Any) -> None:
    """Runs a test epoch; the module stays on its device."""
    with quiet(), internals.loading_nothing(trainer), without_limits(trainer, [], phase=True):
        trainer.test(module, dataloaders=loaders, verbose=False)
    module.to(trainer.strategy.root_device)


def may_fuse(trainer: pl.Trainer) -> bool:
    """Whether fused optimisers can be used.

    With 16-mixed precision they unscale gradients in the step itself, after gradient clipping.
    With bf16-mixed precision Lightning refuses to clip gradients for them.
    """
    if trainer.precision == "16-mixed":
        return False
    return trainer.precision != "bf16-mixed" or not trainer.gradient_clip_val


@contextmanager
def quiet() -> Iterator[None]:
    """Hides messages and warnings of Lightning that do not apply to the fits of a stream."""
    # If both packages are imported, the last one sets this logger.
    logger: logging.Logger = rank_zero.log
    logger.addFilter(_is_informative)
    try:
        with warnings.catch_warnings():
            for message in (
                ".*does not have many workers.*",
                ".*is smaller than the logging interval.*",
                ".*but have no `val_dataloader`.*",
                ".*Found .* module.* in eval mode.*",
                ".*exists and is not empty.*",
                # Deprecated calls within Lightning.
                ".*treespec.*is deprecated.*",
                ".*all_gather is deprecated.*",
            ):
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        logger.removeFilter(_is_informative)


def _is_informative(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(("`Trainer.fit` stopped", "LOCAL_RANK:", "💡"))
