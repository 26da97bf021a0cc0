"""One Trainer for a whole stream: started once, fitted many times."""

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

#: What a Trainer is made with unless the user says otherwise: quiet, as it fits again and again.
_DEFAULTS: dict[str, Any] = {
    "max_epochs": 1,
    "logger": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


def make_trainer(
    trainer: TrainerLike, *, callbacks: pl.Callback | Sequence[pl.Callback] = ()
) -> pl.Trainer:
    """Returns a Trainer that a stream can be learned with.

    Raises:
        ConfigError: The Trainer limits the number of steps, or is not a Trainer; or Lightning
            cannot make one of the arguments; or something is of Lightning's other package; or a
            callback cannot be used in a stream.
    """
    check_package(trainer, callbacks)
    made: Any  # Lightning sets some attributes where type checkers do not see it.
    if trainer is None or isinstance(trainer, Mapping):
        check_package(*(trainer or {}).values())
        made = _build({**(trainer or {})}, _listed(callbacks))
        wanted = made.callbacks
    elif isinstance(trainer, pl.Trainer):
        made = trainer
        present = {id(c) for c in made.callbacks}
        added = [c for c in _listed(callbacks) if id(c) not in present]
        everything = [*added, *made.callbacks]
        # As Lightning orders them: what saves sees what the others did.
        saving = [c for c in everything if isinstance(c, pl.callbacks.Checkpoint)]
        wanted = [c for c in everything if c not in saving] + saving
    else:
        raise ConfigError(
            f"trainer is a {type(trainer).__name__}; a {pl.__name__}.Trainer or a dictionary"
            " with its arguments is needed."
        )
    check_package(made.loggers, made.profiler)
    check_callbacks(made, wanted)
    check_limits(made)
    # Models that grow do so for a test, too; what is made in inference mode cannot be trained.
    for loop in (made.validate_loop, made.test_loop, made.predict_loop):
        loop.inference_mode = False
    made.callbacks = [with_stage_names(callback) for callback in wanted]
    return made


def _listed(callbacks: pl.Callback | Iterable[pl.Callback]) -> list[pl.Callback]:
    return [callbacks] if isinstance(callbacks, pl.Callback) else list(callbacks)


def _build(arguments: dict[str, Any], callbacks: list[pl.Callback]) -> pl.Trainer:
    callbacks += _listed(arguments.pop("callbacks", None) or [])
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
        # What the machine or this version of Lightning cannot do.
        raise ConfigError(f"The Trainer cannot be made: {str(error).rstrip('.')}.") from error


def launch(trainer: pl.Trainer, function: Callable[..., T], *arguments: Any) -> T:
    """Runs a function in every process of a Trainer, once for a whole stream.

    Args:
        trainer: The Trainer; its strategy decides how processes are started.
        function: Called in each process, with a Trainer that starts no further ones, and with the
            arguments. Where processes are spawned, all of it must be picklable.
        *arguments: Its other arguments.

    Returns:
        What it returned in the first process.
    """
    launcher = trainer.strategy.launcher
    os.environ[VARIABLE] = PACKAGE  # For processes that import in another order.
    try:
        if launcher is None:
            return _in_process(trainer, function, arguments)
        if internals.starts_copies(trainer):
            # Through a file: the launcher reads what is sent only once the processes have ended,
            # which they do not do before more than a few kilobytes are read.
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "result"
                launcher.launch(_in_spawned_process, trainer, path, function, arguments)
                return torch.load(path, weights_only=False)
        return launcher.launch(_in_process, trainer, function, arguments)
    except SystemExit as end:
        # A Trainer turns Ctrl-C into an exit; whoever called may want to say how to go on.
        if trainer.interrupted and not isinstance(end, pl.utilities.exceptions.SIGTERMException):
            raise KeyboardInterrupt from end
        raise


def _in_process(trainer: pl.Trainer, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
    # With several processes each fit would begin with the random numbers of seed_everything again.
    seed = os.environ.pop("PL_GLOBAL_SEED", None)
    try:
        trainer.strategy.setup_environment()
        with catching_signals(trainer), internals.stream_timers(timers_of(trainer)):
            return function(trainer, *arguments)
    finally:
        if seed is not None:
            os.environ["PL_GLOBAL_SEED"] = seed


def _in_spawned_process(
    trainer: pl.Trainer, path: Path, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    internals.forget_launcher(trainer)
    result = _in_process(trainer, function, arguments)
    if trainer.local_rank == 0:
        torch.save(result, path)


def test(trainer: pl.Trainer, module: pl.LightningModule, loaders: Any) -> None:
    """Runs a test epoch; the module stays on its device."""
    with quiet(), internals.loading_nothing(trainer), without_limits(trainer, [], phase=True):
        trainer.test(module, dataloaders=loaders, verbose=False)
    module.to(trainer.strategy.root_device)


def may_fuse(trainer: pl.Trainer) -> bool:
    """Whether an optimiser may take its step in one call.

    A fused one undoes the scaling of gradients itself, which is too late to limit them; Lightning
    also refuses to limit those of bfloat16, which are not scaled.
    """
    if trainer.precision == "16-mixed":
        return False
    return trainer.precision != "bf16-mixed" or not trainer.gradient_clip_val


@contextmanager
def quiet() -> Iterator[None]:
    """Leaves out what is true of every fit of a stream and says nothing."""
    # Of all Lightning packages in a process the one that was imported last says where it logs.
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
                # Lightning's use of PyTorch, which no user can change.
                ".*treespec.*is deprecated.*",
                ".*all_gather is deprecated.*",
            ):
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        logger.removeFilter(_is_informative)


def _is_informative(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(("`Trainer.fit` stopped", "LOCAL_RANK:", "💡"))
