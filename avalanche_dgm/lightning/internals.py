"""What is private in Lightning, PyTorch and Avalanche and has no public counterpart.

No other module of this folder touches a private attribute of an object that is not ours. A test for
each function fails where a release has changed what it needs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import SimpleNamespace
from typing import Any

from avalanche.benchmarks.utils import data_loader
from torch import nn

from avalanche_dgm.lightning.package import pl

_TRAINING = "train"


@contextmanager
def replaced(owner: Any, **members: Any) -> Iterator[None]:
    """Puts other members in place of an object's or a module's own for a while."""
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


def loading_nothing(trainer: pl.Trainer) -> AbstractContextManager[None]:
    """Lets fits and tests take the module as it is.

    Otherwise Lightning loads what an ``OnExceptionCheckpoint``, or a job of SLURM that was queued
    again, left of an earlier fit, even of another run.
    """
    return replaced(trainer._checkpoint_connector, _select_ckpt_path=lambda *_, **__: None)


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


def without_sigterm_notifier(trainer: pl.Trainer) -> AbstractContextManager[None]:
    """Lets a process that gets SIGTERM not talk to the others in the middle of what they do."""
    return replaced(trainer._signal_connector, _sigterm_notifier_fn=lambda *_: None)


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


def with_loops(
    strategy: Any, *, train: Callable[..., None], evaluate: Callable[..., None]
) -> AbstractContextManager[None]:
    """Puts other loops over an experience's batches in place of a strategy's own."""
    return replaced(strategy, _train_exp=train, eval_epoch=evaluate)


def with_updates(evaluator: Any, around: Callable[[str], Any]) -> AbstractContextManager[None]:
    """Enters a context around each update of an evaluator's metrics.

    All hooks go through one method. It is replaced, as the evaluator must stay the object that
    plugins look for.
    """
    update = evaluator._update_metrics_and_loggers

    def updated(strategy: Any, hook: str) -> Any:
        with around(hook):
            return update(strategy, hook)

    return replaced(evaluator, _update_metrics_and_loggers=updated)


def full_batch_loaders() -> AbstractContextManager[None]:
    """Lets Avalanche's loaders read whole batches in each process."""
    alone = SimpleNamespace(is_distributed=False)
    return replaced(data_loader, DistributedHelper=alone)
