"""Access to private members of Lightning, PyTorch and Avalanche that have no public counterpart.

No other module of this folder uses private attributes of other packages. Each function has a test
that fails if a release changes the attributes it uses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

from avalanche.benchmarks.utils import data_loader
from torch import nn

from avalanche_dgm.lightning.package import pl

_TRAINING = "train"


@contextmanager
def replaced(owner: Any, **members: Any) -> Iterator[None]:
    """Temporarily replaces members of an object or module."""
    before = {name: vars(owner)[name] for name in members if name in vars(owner)}
    for name, member in members.items():
        setattr(owner, name, member)
    try:
        yield
    finally:
        for name in members.keys() - before.keys():
            delattr(owner, name)
        for name, member in before.items():
            setattr(owner, name, member)


# Processes


def uses_multiprocessing(trainer: pl.Trainer) -> bool:
    """Whether a Trainer forks or spawns processes, rather than starting the script again."""
    kind = pl.strategies.launchers._MultiProcessingLauncher
    return isinstance(trainer.strategy.launcher, kind)


def forks(trainer: pl.Trainer) -> bool:
    """Whether a Trainer that uses multiprocessing forks its processes."""
    launcher: Any = trainer.strategy.launcher
    return bool(launcher._start_method == "fork")


def remove_launcher(trainer: pl.Trainer) -> None:
    """Prevents a Trainer from starting further processes."""
    trainer.strategy._launcher = None


def ignore_in_ddp(module: nn.Module, names: Iterable[str]) -> None:
    """Sets the parameters and buffers that DistributedDataParallel ignores."""
    module._ddp_params_and_buffers_to_ignore = list(names)  # type: ignore[assignment]


def ignored_in_ddp(module: nn.Module) -> list[str]:
    """The names set by `ignore_in_ddp`."""
    names: Any = module._ddp_params_and_buffers_to_ignore
    return list(names)


def finds_unused_parameters(trainer: pl.Trainer) -> bool | None:
    """DDP's option ``find_unused_parameters``; ``None`` if it is not set."""
    options = getattr(trainer.strategy, "_ddp_kwargs", {})
    return options.get("find_unused_parameters")


def find_unused_parameters(trainer: pl.Trainer) -> AbstractContextManager[None]:
    """Temporarily sets DDP's option ``find_unused_parameters``."""
    strategy: Any = trainer.strategy
    return replaced(strategy, _ddp_kwargs={**strategy._ddp_kwargs, "find_unused_parameters": True})


# Loops


def start_at_epoch(trainer: pl.Trainer, epoch: int) -> None:
    """Starts the next fit at an epoch; the number of steps is kept."""
    loop: Any = trainer.fit_loop
    loop.epoch_progress.reset()
    progress = loop.epoch_progress.current
    progress.ready = progress.started = progress.processed = progress.completed = epoch
    loop.epoch_loop.batch_progress.reset()


def loading_nothing(trainer: pl.Trainer) -> AbstractContextManager[None]:
    """Keeps fits and tests from loading a checkpoint.

    Otherwise Lightning loads that of an ``OnExceptionCheckpoint`` or of a requeued SLURM job, from
    an earlier fit or even another run.
    """
    return replaced(trainer._checkpoint_connector, _select_ckpt_path=lambda *_, **__: None)


def set_steps(trainer: pl.Trainer, steps: int) -> None:
    """Sets a Trainer's ``global_step``, also for its loggers."""
    loop: Any = trainer.fit_loop.epoch_loop
    total = loop.automatic_optimization.optim_progress.optimizer.step.total
    total.ready = total.completed = steps
    loop._batches_that_stepped = steps


def takes_step(trainer: pl.Trainer) -> bool:
    """Whether an optimiser step follows the current batch, rather than accumulation."""
    return not trainer.fit_loop._should_accumulate()


def may_stop(trainer: pl.Trainer) -> bool:
    """Whether ``min_epochs`` and ``min_steps`` are reached."""
    return bool(trainer.fit_loop._can_stop_early)


# Signals and time


def requeue_signal(trainer: pl.Trainer) -> Any:
    """The signal for requeueing a SLURM job: 0 for the default, ``None`` without requeueing."""
    environment: Any = getattr(trainer._accelerator_connector, "cluster_environment", None)
    if not getattr(environment, "auto_requeue", False):
        return None
    return environment.requeue_signal or 0


def without_sigterm_notifier(trainer: pl.Trainer) -> AbstractContextManager[None]:
    """Turns off Lightning's broadcast of SIGTERM, which could interrupt other collectives."""
    return replaced(trainer._signal_connector, _sigterm_notifier_fn=lambda *_: None)


def time_limit(timer: pl.callbacks.Timer) -> float | None:
    """The time limit of a ``Timer``, seconds."""
    return timer._duration


@contextmanager
def stream_timers(timers: Iterable[Any]) -> Iterator[None]:
    """Lets each ``Timer`` count the time within the context, rather than that of one fit."""
    for timer in timers:
        timer._offset, timer._end_time[_TRAINING] = 0, None
        timer._start_time[_TRAINING] = time.monotonic()
    try:
        yield
    finally:
        for timer in timers:
            timer._end_time[_TRAINING] = time.monotonic()


@contextmanager
def fit_timers(timers: Iterable[Any]) -> Iterator[None]:
    """Lets each ``Timer`` of `stream_timers` continue counting in a fit, which would reset it."""
    starts = [(timer, timer.start_time(_TRAINING)) for timer in timers]
    for timer, _ in starts:
        timer._offset, timer._start_time[_TRAINING] = timer.time_elapsed(_TRAINING), None
    try:
        yield
    finally:
        for timer, start in starts:
            timer._offset, timer._end_time[_TRAINING] = 0, None
            timer._start_time[_TRAINING] = start


# Loggers


@contextmanager
def one_event_file(trainer: pl.Trainer) -> Iterator[None]:
    """Keeps the files of TensorBoard open: each fit or test would close one and begin another."""
    loggers: list[Any] = [
        logger for logger in trainer.loggers if isinstance(logger, pl.loggers.TensorBoardLogger)
    ]
    with ExitStack() as stack:
        for logger in loggers:
            stack.callback(logger.finalize, "finished")
            saving = replaced(logger, finalize=lambda _, save=logger.save: save())
            stack.enter_context(saving)
        yield


# Progress bars


def bar_settings(bar: pl.Callback) -> dict[str, Any]:
    """The constructor arguments of one of Lightning's own progress bars."""
    untyped: Any = bar
    settings = {"refresh_rate": untyped.refresh_rate, "leave": untyped._leave}
    if isinstance(bar, pl.callbacks.RichProgressBar):
        return {**settings, "theme": untyped.theme, "console_kwargs": untyped._console_kwargs}
    return {**settings, "process_position": untyped.process_position}


# Avalanche's strategies


def fire(strategy: Any, hook: str, **options: Any) -> None:
    """Calls a hook of a strategy and its plugins, such as ``before_forward``."""
    getattr(strategy, f"_{hook}")(**options)


def skip_distributed_check(strategy: Any) -> None:
    """Turns off a strategy's warning about plugins on several devices; ours are checked."""
    strategy._distributed_check = True


def criterion_of(strategy: Any) -> Any:
    """The ``criterion`` argument of a strategy."""
    return strategy._criterion


def stop_requested(strategy: Any) -> bool:
    """Whether a plugin has called ``stop_training``."""
    return bool(strategy._stop_training)


def clear_stop_request(strategy: Any) -> None:
    """Resets `stop_requested`."""
    strategy._stop_training = False


def reset_loss(strategy: Any) -> None:
    """Sets a strategy's loss to 0."""
    strategy.loss = strategy._make_empty_loss()


def unpack_batch(strategy: Any) -> None:
    """Moves a strategy's batch to its device."""
    strategy._unpack_minibatch()


def train_with_own_loop(strategy: Any, experience: Any, streams: Any, **options: Any) -> None:
    """Trains on an experience with the strategy's own loop."""
    type(strategy)._train_exp(strategy, experience, streams, **options)


def with_loops(
    strategy: Any, *, train: Callable[..., None], evaluate: Callable[..., None]
) -> AbstractContextManager[None]:
    """Temporarily replaces a strategy's loops over an experience's batches."""
    return replaced(strategy, _train_exp=train, eval_epoch=evaluate)


def with_updates(evaluator: Any, around: Callable[[str], Any]) -> AbstractContextManager[None]:
    """Enters the context ``around(hook)`` at each update of an evaluator's metrics.

    The evaluator's method is replaced, not the evaluator, as plugins hold references to it.
    """
    update = evaluator._update_metrics_and_loggers

    def wrapped(strategy: Any, hook: str) -> Any:
        with around(hook):
            return update(strategy, hook)

    return replaced(evaluator, _update_metrics_and_loggers=wrapped)


def full_batch_loaders() -> AbstractContextManager[None]:
    """Lets Avalanche's loaders read full batches in each process."""
    single_process = SimpleNamespace(is_distributed=False)
    return replaced(data_loader, DistributedHelper=single_process)
