"""`run_on_trainer`: starts a strategy on a stream in each process of a Trainer."""

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
from avalanche_dgm.lightning.strategies.session import StrategyRun, StrategySession, bytes_of
from avalanche_dgm.lightning.trainers import TrainerLike, launch, make_trainer
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
    if resume and checkpoint_dir is None:
        raise ConfigError("resume=True needs the checkpoint_dir of the run that shall go on.")
    folder = Path(checkpoint_dir) if checkpoint_dir is not None else None
    if smoke_batches(made):
        folder = None
    if getattr(made, "overfit_batches", 0):
        # The same batches in each epoch.
        loader_options = {**loader_options, "shuffle": False}
    run = StrategyRun(
        strategy, train, test_stream, eval_streams, folder, resume, check_ranks, loader_options
    )
    if not internals.starts_copies(made):
        return launch(made, _run, run)
    results, state = launch(made, _run_copy, _for_sending(run, made))
    load_copy(strategy, BytesIO(state), made.strategy.root_device)
    return results


def _experiences(benchmark: Any) -> list[Any]:
    train = getattr(benchmark, "train_stream", benchmark)
    train = list(train) if isinstance(train, Iterable) else [train]
    if not train:
        raise ConfigError("There is no experience to train on: the stream is empty.")
    return train


def _for_sending(run: StrategyRun, trainer: pl.Trainer) -> StrategyRun | bytes:
    if internals.forks(trainer):
        return run
    try:
        # As bytes: otherwise the processes would share the memory of all tensors.
        return pickle.dumps(run)
    except Exception as error:
        raise ConfigError(
            f"The strategy or the stream cannot be sent to spawned processes: {error}. Use"
            " strategy='ddp', which starts your script in each process instead."
        ) from error


def _run(trainer: pl.Trainer, run: StrategyRun) -> list[dict[str, Any]]:
    return StrategySession(trainer, run).run()


def _run_copy(trainer: pl.Trainer, sent: StrategyRun | bytes) -> tuple[list[dict[str, Any]], bytes]:
    run: StrategyRun = pickle.loads(sent) if isinstance(sent, bytes) else sent
    results = _run(trainer, run)
    return results, bytes_of(run.strategy) if trainer.is_global_zero else b""
