"""`run_on_trainer`: trains a strategy on a stream with a Trainer."""

from __future__ import annotations

import pickle
from collections.abc import Collection, Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.lightning import internals
from avalanche_dgm.lightning.limits import smoke_batches
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.strategies.checks import check_strategy
from avalanche_dgm.lightning.strategies.session import StrategyRun, bytes_of
from avalanche_dgm.lightning.trainers import TrainerLike, launch, make_trainer, unchanged
from avalanche_dgm.plugins.checkpoints import load_copy


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

    Equivalent to a loop of ``strategy.train(experience)`` and
    ``strategy.eval(benchmark.test_stream)``, with the same hooks in the same order. Batches of
    training and of the evaluation between experiences run in the Trainer's loops, with its devices,
    precision, accumulation, clipping, callbacks and loggers. In a single process with 32 bits,
    weights and metrics are bitwise equal to those of Avalanche's loop. With several processes,
    batch sizes and metrics are over all devices::

        strategy = EWC(model=net, optimizer=optimizer, criterion=loss, ewc_lambda=1.0)
        results = run_on_trainer(strategy, benchmark, trainer=dict(devices=4, strategy="ddp"))

    The strategy's ``train_epochs`` is used, not the Trainer's ``max_epochs``. With several
    processes the criterion must be a mean over samples, and plugins must be known to be correct on
    several devices. Afterwards the strategy is on the Trainer's device and can be used further.

    Args:
        strategy: A ``SupervisedTemplate`` with Avalanche's usual loop over epochs and batches.
        benchmark: A benchmark, or experiences to train on.
        trainer: A Trainer, or its arguments.
        callbacks: Further callbacks; early stopping and checkpoint callbacks are reset for each
            experience and can monitor ``train/loss``.
        test_stream: Test experiences to evaluate after each experience; by default the
            benchmark's, if ``benchmark`` is one.
        eval_streams: Evaluated in training if the strategy has ``eval_every``; see
            ``strategy.train``. Each process evaluates all of it.
        checkpoint_dir: Folder for a checkpoint after each experience; none by default.
        resume: Resume from the checkpoint in ``checkpoint_dir``, with the result of an
            uninterrupted run. Checkpoints are pickles, which can run code when they are loaded:
            resume only from files that you trust.
        check_ranks: Check that all processes read the same batches and have the same state.
        allow: Classes of plugins or strategies that you know to be correct on several devices.
        **loader_options: For ``strategy.train``: ``shuffle``, ``num_workers``, ``drop_last``...

    Returns:
        The evaluator's latest metrics after each experience; the same in every process, except for
        measured times. If a time limit stops the stream, only those so far, with a warning.

    Raises:
        ConfigError: Strategy, plugins, Trainer or folder cannot be used together.
        CheckpointError: A checkpoint cannot be read, or the strategy cannot be saved.
        RanksDifferError: Batches or states differ between processes.
    """
    with unchanged(trainer):
        made = make_trainer(trainer, callbacks=callbacks)
        check_strategy(strategy, made, allow=allow)
        train = _experiences(benchmark)
        if test_stream is None:
            test_stream = getattr(benchmark, "test_stream", None)
        if resume and checkpoint_dir is None:
            raise ConfigError(
                "resume=True needs checkpoint_dir, the folder of the interrupted run."
            )
        folder = Path(checkpoint_dir).absolute() if checkpoint_dir is not None else None
        if smoke_batches(made):
            folder = None
        if getattr(made, "overfit_batches", 0):
            # Overfitting needs the same batches in each epoch.
            loader_options = {**loader_options, "shuffle": False}
        run = StrategyRun(
            strategy, train, test_stream, eval_streams, folder, resume, check_ranks, loader_options
        )
        if not internals.uses_multiprocessing(made):
            return launch(made, _run, run)
        results, state = launch(made, _run_copy, _pickled(run, made))
        load_copy(strategy, BytesIO(state), made.strategy.root_device)
        return results


def _experiences(benchmark: Any) -> list[Any]:
    train = getattr(benchmark, "train_stream", benchmark)
    train = list(train) if isinstance(train, Iterable) else [train]
    if not train:
        raise ConfigError("There is no experience to train on: the stream is empty.")
    return train


def _pickled(run: StrategyRun, trainer: pl.Trainer) -> StrategyRun | bytes:
    if internals.forks(trainer):
        return run
    try:
        # As bytes: otherwise the processes would share the memory of all tensors.
        return pickle.dumps(run)
    except Exception as error:
        raise ConfigError(
            f"The strategy or the stream cannot be pickled for spawned processes: {error}. Use"
            " strategy='ddp', which starts your script in each process instead."
        ) from error


def _run(trainer: pl.Trainer, run: StrategyRun) -> list[dict[str, Any]]:
    return run.run(trainer)


def _run_copy(trainer: pl.Trainer, sent: StrategyRun | bytes) -> tuple[list[dict[str, Any]], bytes]:
    run: StrategyRun = pickle.loads(sent) if isinstance(sent, bytes) else sent
    results = _run(trainer, run)
    return results, bytes_of(run.strategy) if trainer.is_global_zero else b""
