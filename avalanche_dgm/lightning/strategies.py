"""Any Avalanche strategy, with its plugins, metrics and loggers, under a Lightning Trainer."""

from __future__ import annotations

import pickle
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.lightning.callbacks import reset_callbacks
from avalanche_dgm.lightning.distributed_plugins import check_strategy
from avalanche_dgm.lightning.limits import smoke_batches
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.ranks import broadcast_state, check_identical, lock_folder
from avalanche_dgm.lightning.stopping import STOPS, report_stop
from avalanche_dgm.lightning.strategy_checkpoints import RunCheckpoint
from avalanche_dgm.lightning.strategy_session import StrategySession
from avalanche_dgm.lightning.trainers import TrainerLike, launch, make_trainer
from avalanche_dgm.plugins.checkpoints import load_copy, save_checkpoint
from avalanche_dgm.plugins.metrics import find_plugins


def run_on_trainer(
    strategy: Any,
    benchmark: Any,
    *,
    trainer: TrainerLike = None,
    callbacks: pl.Callback | Sequence[pl.Callback] = (),
    test_stream: Any = None,
    eval_streams: Sequence[Any] | None = None,
    checkpoint_dir: str | Path | None = None,
    resume: bool = False,
    check_ranks: bool = True,
    allow: Collection[type] = (),
    **loader_options: Any,
) -> list[dict[str, Any]]:
    """Trains a strategy on a stream with a Trainer, and evaluates it after each experience.

    It does what ``strategy.train(experience)`` and ``strategy.eval(benchmark.test_stream)`` do in
    a loop, with the same hooks in the same order, but the batches run in the Trainer's loops, with
    its devices, precision, accumulation, clipping, callbacks and loggers. With one process and 32
    bits, weights and metrics equal those of Avalanche's loop bit by bit. On several devices, batch
    sizes still count all samples of a step, and metrics are computed over all of them::

        strategy = EWC(model=net, optimizer=optimizer, criterion=loss, ewc_lambda=1.0)
        results = run_on_trainer(strategy, benchmark, trainer=dict(devices=4, strategy="ddp"))

    The strategy's ``train_epochs`` count, not the Trainer's ``max_epochs``. On several devices,
    criteria must be means over samples, and plugins must be known to work there. Afterwards the
    strategy can be used as after Avalanche's loop, on the Trainer's device.

    Args:
        strategy: A ``SupervisedTemplate`` with Avalanche's usual loop over epochs and batches.
        benchmark: A benchmark, or experiences to train on.
        trainer: A Trainer, or the arguments of one.
        callbacks: Further callbacks; those that stop early or save are reset for each experience.
            They can monitor ``train/loss``.
        test_stream: The stream to evaluate on after each experience; the benchmark's by default,
            none for a list of experiences.
        eval_streams: Evaluated in training if the strategy has ``eval_every``; see
            ``strategy.train``. Each process evaluates all of it.
        checkpoint_dir: Folder for a checkpoint after each experience; none is saved by default.
        resume: Whether to resume from that checkpoint, with the result of an uninterrupted run. A
            checkpoint is a pickle, which can run code when it is loaded: resume only from files
            that you trust.
        check_ranks: Whether to check that all processes read the same batches and have the same
            state.
        allow: Classes of plugins or strategies that you know to work on several devices.
        **loader_options: For ``strategy.train``: ``shuffle``, ``num_workers``, ``drop_last``...

    Returns:
        The evaluator's last metrics after each experience, the same in every process except for
        times. If a time limit stopped the stream early there are fewer, with a warning.

    Raises:
        ConfigError: Strategy, plugins, Trainer or folder do not fit together.
        CheckpointError: A checkpoint cannot be read or written.
        RanksDifferError: The processes' batches or states differ.
    """
    made = make_trainer(trainer, callbacks=callbacks)
    check_strategy(strategy, made, allow=allow)
    train = _experiences(benchmark)
    if test_stream is None:
        test_stream = getattr(benchmark, "test_stream", None)
    if smoke_batches(made):
        checkpoint_dir = None
    if getattr(made, "overfit_batches", 0):
        # The same batches in each epoch.
        loader_options = {**loader_options, "shuffle": False}
    saved = RunCheckpoint(checkpoint_dir, n_experiences=len(train), resume=resume)
    job = _Job(strategy, train, test_stream, eval_streams, saved, check_ranks, loader_options)
    if not isinstance(made.strategy.launcher, pl.strategies.launchers._MultiProcessingLauncher):
        return launch(made, _run, job)
    results, state = launch(made, _run_copy, _for_sending(job, made))
    load_copy(strategy, BytesIO(state), made.strategy.root_device)
    return results


@dataclass
class _Job:
    """The arguments of `run_on_trainer`, for every process."""

    strategy: Any
    train: list[Any]
    test: Any
    eval_streams: Sequence[Any] | None
    saved: RunCheckpoint
    check_ranks: bool
    options: dict[str, Any]


def _experiences(benchmark: Any) -> list[Any]:
    train = getattr(benchmark, "train_stream", benchmark)
    train = list(train) if isinstance(train, Iterable) else [train]
    if not train:
        raise ConfigError("There is no experience to train on: the stream is empty.")
    return train


def _for_sending(job: _Job, trainer: pl.Trainer) -> _Job | bytes:
    if trainer.strategy.launcher._start_method == "fork":  # type: ignore[union-attr]
        return job
    try:
        # As bytes: otherwise the processes would share the memory of all tensors.
        return pickle.dumps(job)
    except Exception as error:
        raise ConfigError(
            f"The strategy or the stream cannot be sent to spawned processes: {error}. Use"
            " strategy='ddp', which starts your script in each process instead."
        ) from error


def _run_copy(trainer: pl.Trainer, sent: _Job | bytes) -> tuple[list[dict[str, Any]], bytes]:
    job: _Job = pickle.loads(sent) if isinstance(sent, bytes) else sent
    results = _run(trainer, job)
    buffer = BytesIO()
    if trainer.is_global_zero:
        save_checkpoint(job.strategy, buffer)
    return results, buffer.getvalue()


def _run(trainer: pl.Trainer, job: _Job) -> list[dict[str, Any]]:
    """Learns the stream, in each process."""
    with lock_folder(trainer, job.saved.path.parent if job.saved.path is not None else None):
        return _run_alone(trainer, job)


def _run_alone(trainer: pl.Trainer, job: _Job) -> list[dict[str, Any]]:
    strategy, pl_strategy = job.strategy, trainer.strategy
    strategy.device = pl_strategy.root_device
    # Avalanche's own check would warn of plugins that `check_strategy` has accepted.
    strategy._distributed_check = True
    results = job.saved.load(trainer, strategy, job.train)
    if results is None:
        results = []
        sources = [plugin.method.random for plugin in find_plugins(strategy)]
        broadcast_state(trainer, strategy.model, *sources)
    loggers = strategy.evaluator.loggers
    if smoke_batches(trainer):
        strategy.evaluator.loggers = []
    try:
        _learn(trainer, job, results)
    except STOPS as stop:
        path, n = job.saved.path, len(job.train)
        folder = path.parent if path is not None else None
        report_stop(trainer, stop, learned=len(results), n=n, folder=folder)
    finally:
        if smoke_batches(trainer):
            strategy.evaluator.loggers = loggers
    return results


def _learn(trainer: pl.Trainer, job: _Job, results: list[dict[str, Any]]) -> None:
    strategy = job.strategy
    for number, experience in enumerate(job.train[len(results) :], start=len(results) + 1):
        name = f"experience {number}/{len(job.train)}"
        session = StrategySession(trainer, strategy, name=name, check_ranks=job.check_ranks)
        reset_callbacks(trainer)
        with session.installed():
            session.train(experience, job.eval_streams, **job.options)
            if job.check_ranks:
                # Before the test, as a Trainer broadcasts the weights of rank 0 for it.
                _check(trainer, strategy, when=f"after experience {number}")
            tested = job.test if trainer.limit_test_batches else None
            metrics = session.test(tested, **job.options)
        results.append(metrics)
        _log(trainer, results[-1])
        job.saved.save(trainer, strategy, results)


def _check(trainer: pl.Trainer, strategy: Any, *, when: str) -> None:
    check_identical(trainer, strategy.model, when=when)
    for plugin in find_plugins(strategy):
        check_identical(trainer, plugin.method, when=when)


def _log(trainer: pl.Trainer, metrics: dict[str, Any]) -> None:
    """Logs the metrics that are numbers to the Trainer's loggers."""
    numbers = {k: float(v) for k, v in metrics.items() if isinstance(v, (int, float))}
    for logger in trainer.loggers:
        logger.log_metrics(numbers, step=trainer.global_step)
