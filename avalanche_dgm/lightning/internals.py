"""What is private in Lightning, PyTorch and Avalanche and has no public counterpart.

No other module of this folder touches a private attribute of an object that is not ours. A test for
each function fails where a release has changed what it needs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from avalanche.benchmarks.utils import data_loader
from torch import nn

from avalanche_dgm.lightning.package import pl

_TRAINING = "train"


# Processes


def starts_copies(trainer: pl.Trainer) -> bool:
    """Whether a Trainer starts copies of this process, rather than the script again."""
    kind = pl.strategies.launchers._MultiProcessingLauncher
    return isinstance(trainer.strategy.launcher, kind)


def forks(trainer: pl.Trainer) -> bool:
    """Whether these copies share the memory of this process."""
    launcher: Any = trainer.strategy.launcher
    return bool(launcher._start_method == "fork")


def forget_launcher(trainer: pl.Trainer) -> None:
    """Lets a Trainer start no further processes."""
    trainer.strategy._launcher = None


def ignore_in_ddp(module: nn.Module, names: Iterable[str]) -> None:
    """Names the parameters and buffers that DistributedDataParallel leaves alone."""
    module._ddp_params_and_buffers_to_ignore = list(names)  # type: ignore[assignment]


def ignored_in_ddp(module: nn.Module) -> list[str]:
    """What `ignore_in_ddp` named."""
    names: Any = module._ddp_params_and_buffers_to_ignore
    return list(names)


def finds_unused(trainer: pl.Trainer) -> bool | None:
    """Whether DDP was told to expect unused parameters; ``None`` if nothing was said."""
    options = getattr(trainer.strategy, "_ddp_kwargs", {})
    return options.get("find_unused_parameters")


@contextmanager
def finding_unused(trainer: pl.Trainer) -> Iterator[None]:
    """Lets DDP expect that some parameters get no gradient."""
    strategy: Any = trainer.strategy
    options = strategy._ddp_kwargs
    options["find_unused_parameters"] = True
    try:
        yield
    finally:
        del options["find_unused_parameters"]


# Loops


def start_at_epoch(trainer: pl.Trainer, epoch: int) -> None:
    """Lets the next fit count from an epoch; the steps go on."""
    loop: Any = trainer.fit_loop
    loop.epoch_progress.reset()
    progress = loop.epoch_progress.current
    progress.ready = progress.started = progress.processed = progress.completed = epoch
    loop.epoch_loop.batch_progress.reset()


def set_steps(trainer: pl.Trainer, steps: int) -> None:
    """Sets the optimiser steps that a Trainer and its loggers count from, its ``global_step``."""
    loop: Any = trainer.fit_loop.epoch_loop
    total = loop.automatic_optimization.optim_progress.optimizer.step.total
    total.ready = total.completed = steps
    loop._batches_that_stepped = steps


def takes_step(trainer: pl.Trainer) -> bool:
    """Whether the current batch ends with an optimiser step, rather than being accumulated."""
    return not trainer.fit_loop._should_accumulate()


def may_stop(trainer: pl.Trainer) -> bool:
    """Whether the least number of epochs is reached."""
    return bool(trainer.fit_loop._can_stop_early)


# Signals and time


def requeue_signal(trainer: pl.Trainer) -> Any:
    """The signal before SLURM ends a job that it queues again; ``None`` elsewhere, 0 by default."""
    environment: Any = getattr(trainer._accelerator_connector, "cluster_environment", None)
    if not getattr(environment, "auto_requeue", False):
        return None
    return environment.requeue_signal or 0


def slurm_checkpoint(trainer: pl.Trainer) -> Any:
    """The file of an earlier job that Lightning would load into every fit, or ``None``."""
    return trainer._checkpoint_connector._hpc_resume_path


@contextmanager
def without_sigterm_notifier(trainer: pl.Trainer) -> Iterator[None]:
    """Lets a process that gets SIGTERM not talk to the others in the middle of what they do."""
    connector: Any = trainer._signal_connector
    connector._sigterm_notifier_fn = lambda *_: None
    try:
        yield
    finally:
        del connector._sigterm_notifier_fn


def time_limit(timer: pl.callbacks.Timer) -> float | None:
    """A ``Timer``'s limit, seconds."""
    return timer._duration


@contextmanager
def stream_timers(timers: Iterable[Any]) -> Iterator[None]:
    """Lets each ``Timer`` count from here to the end; on its own it begins anew with each fit."""
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
    """Gives each ``Timer`` the time before a fit, which it does not count itself."""
    begun = [(timer, timer.start_time(_TRAINING)) for timer in timers]
    for timer, _ in begun:
        timer._offset, timer._start_time[_TRAINING] = timer.time_elapsed(_TRAINING), None
    try:
        yield
    finally:
        for timer, start in begun:
            timer._offset, timer._end_time[_TRAINING] = 0, None
            timer._start_time[_TRAINING] = start


# Progress bars


def bar_settings(bar: pl.Callback) -> dict[str, Any]:
    """The arguments that one of Lightning's own progress bars was made with."""
    shown: Any = bar
    settings = {"refresh_rate": shown.refresh_rate, "leave": shown._leave}
    if isinstance(bar, pl.callbacks.RichProgressBar):
        return {**settings, "theme": shown.theme, "console_kwargs": shown._console_kwargs}
    return {**settings, "process_position": shown.process_position}


# Avalanche's strategies


def fire(strategy: Any, hook: str, **options: Any) -> None:
    """Calls a hook of a strategy and its plugins, such as ``before_forward``."""
    getattr(strategy, f"_{hook}")(**options)


def skip_distributed_check(strategy: Any) -> None:
    """Lets a strategy not complain of plugins on several devices, which have been checked."""
    strategy._distributed_check = True


def criterion_of(strategy: Any) -> Any:
    """The criterion that a strategy was made with."""
    return strategy._criterion


def asked_to_stop(strategy: Any) -> bool:
    """Whether a plugin has called ``stop_training``."""
    return bool(strategy._stop_training)


def forget_stop(strategy: Any) -> None:
    """Takes back what `asked_to_stop` tells."""
    strategy._stop_training = False


def begin_loss(strategy: Any) -> None:
    """Sets a strategy's loss to that of nothing."""
    strategy.loss = strategy._make_empty_loss()


def unpack_batch(strategy: Any) -> None:
    """Puts a strategy's batch onto its device."""
    strategy._unpack_minibatch()


def train_alone(strategy: Any, experience: Any, streams: Any, **options: Any) -> None:
    """Trains on an experience by a strategy's own loop."""
    type(strategy)._train_exp(strategy, experience, streams, **options)


@contextmanager
def with_loops(
    strategy: Any, *, train: Callable[..., None], evaluate: Callable[..., None]
) -> Iterator[None]:
    """Puts other loops over an experience's batches in place of a strategy's own.

    Args:
        strategy: The strategy.
        train: In place of ``_train_exp``.
        evaluate: In place of ``eval_epoch``.
    """
    strategy._train_exp, strategy.eval_epoch = train, evaluate
    try:
        yield
    finally:
        del strategy._train_exp, strategy.eval_epoch


@contextmanager
def with_updates(evaluator: Any, around: Callable[[str], Any]) -> Iterator[None]:
    """Enters a context around each update of an evaluator's metrics.

    All hooks go through one method. It is replaced, as the evaluator must stay the object that
    plugins look for.

    Args:
        evaluator: The strategy's evaluator.
        around: From the hook's name to a context manager.
    """
    update = evaluator._update_metrics_and_loggers

    def updated(strategy: Any, hook: str) -> Any:
        with around(hook):
            return update(strategy, hook)

    evaluator._update_metrics_and_loggers = updated
    try:
        yield
    finally:
        del evaluator._update_metrics_and_loggers


class _NotDistributed:
    is_distributed = False


@contextmanager
def full_batch_loaders() -> Iterator[None]:
    """Lets Avalanche's loaders read whole batches in each process."""
    helper = data_loader.DistributedHelper
    data_loader.DistributedHelper = _NotDistributed()
    try:
        yield
    finally:
        data_loader.DistributedHelper = helper
