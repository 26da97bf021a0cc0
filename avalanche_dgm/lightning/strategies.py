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
    """Trains a strategy on a stream under a Trainer, and evaluates it after each experience.

    It does what ``strategy.train(experience)`` and ``strategy.eval(benchmark.test_stream)`` do in
    a loop, with the same hooks in the same order; the batches of training and of the evaluation
    between experiences run in loops of the Trainer, so that its devices, precision, accumulation,
    clipping, callbacks and loggers are used. With one process of 32 bits the weights and
    metrics are those of Avalanche's loop, bit by bit. With several, batch sizes still count all
    samples of a step, and metrics are computed over all of them::

        strategy = EWC(model=net, optimizer=optimizer, criterion=loss, ewc_lambda=1.0)
        results = run_on_trainer(strategy, benchmark, trainer=dict(devices=4, strategy="ddp"))

    The Trainer's ``max_epochs`` is not used: the strategy knows its ``train_epochs``. Where several
    processes are started, criteria must be means over samples, and plugins must be known to be
    right there. Afterwards the strategy can be used as after Avalanche's loop, on the Trainer's
    device.

    Args:
        strategy: A ``SupervisedTemplate`` with Avalanche's usual loop over epochs and batches.
        benchmark: A benchmark, or experiences to train on.
        trainer: A Trainer, or the arguments of one.
        callbacks: Further callbacks; those that stop early or save begin anew in each experience.
            ``train/loss`` can be watched.
        test_stream: What is evaluated after each experience; the benchmark's by default, and
            nothing for mere experiences.
        eval_streams: Evaluated in training if the strategy has ``eval_every``; see
            ``strategy.train``. Each process evaluates all of it.
        checkpoint_dir: Where to save everything after each experience; nothing is by default.
        resume: Whether to go on with what is saved there. The result is that of a run that was
            never interrupted. A checkpoint is a pickle, which can run code when it is loaded: go
            on only with files that you trust.
        check_ranks: Whether to check that the processes read the same and remember the same.
        allow: Classes of plugins or strategies of which you know that they are right on several
            devices.
        **loader_options: For ``strategy.train``: ``shuffle``, ``num_workers``, ``drop_last``...

    Returns:
        The evaluator's last metrics after each experience, the same in every process but for
        times and the like. There are fewer, with a warning, if a limit of time ended the stream.

    Raises:
        ConfigError: Strategy, plugins, Trainer or folder do not fit together.
        CheckpointError: What is saved cannot be read, or something cannot be saved.
        RanksDifferError: The processes read or remember different things.
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
    """What every process is told to do; see `run_on_trainer`."""

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
    # Avalanche's own check would complain of plugins that have been checked already.
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
                # Before a test, for which a Trainer gives all processes the first one's weights.
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
    """Passes the numbers among the metrics on to the Trainer's loggers."""
    numbers = {k: float(v) for k, v in metrics.items() if isinstance(v, (int, float))}
    for logger in trainer.loggers:
        logger.log_metrics(numbers, step=trainer.global_step)
