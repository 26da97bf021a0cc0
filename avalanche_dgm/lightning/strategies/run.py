"""`run_on_trainer`: a strategy on a stream, in each process of a Trainer."""

from __future__ import annotations

import pickle
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.lightning import internals
from avalanche_dgm.lightning.callbacks import reset_callbacks
from avalanche_dgm.lightning.limits import smoke_batches
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.ranks import broadcast_state, check_identical, lock_folder
from avalanche_dgm.lightning.run_folder import RunFolder
from avalanche_dgm.lightning.stopping import STOPS, report_stop
from avalanche_dgm.lightning.strategies.checks import check_strategy
from avalanche_dgm.lightning.strategies.session import StrategySession
from avalanche_dgm.lightning.trainers import TrainerLike, launch, make_trainer
from avalanche_dgm.plugins.checkpoints import load_copy, maybe_load_checkpoint, save_checkpoint
from avalanche_dgm.plugins.fingerprint import store_fingerprint
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
    if resume and checkpoint_dir is None:
        raise ConfigError("resume=True needs the checkpoint_dir of the run that shall go on.")
    folder = Path(checkpoint_dir) if checkpoint_dir is not None else None
    if smoke_batches(made):
        folder = None
    if getattr(made, "overfit_batches", 0):
        # The same batches in each epoch.
        loader_options = {**loader_options, "shuffle": False}
    job = _Job(
        strategy, train, test_stream, eval_streams, folder, resume, check_ranks, loader_options
    )
    if not internals.starts_copies(made):
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
    folder: Path | None
    resume: bool
    check_ranks: bool
    options: dict[str, Any]


def _experiences(benchmark: Any) -> list[Any]:
    train = getattr(benchmark, "train_stream", benchmark)
    train = list(train) if isinstance(train, Iterable) else [train]
    if not train:
        raise ConfigError("There is no experience to train on: the stream is empty.")
    return train


def _for_sending(job: _Job, trainer: pl.Trainer) -> _Job | bytes:
    if internals.forks(trainer):
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
    return results, _bytes_of(job.strategy) if trainer.is_global_zero else b""


def _bytes_of(strategy: Any) -> bytes:
    buffer = BytesIO()
    save_checkpoint(strategy, buffer)
    return buffer.getvalue()


def _run(trainer: pl.Trainer, job: _Job) -> list[dict[str, Any]]:
    """Learns the stream, in each process."""
    with lock_folder(trainer, job.folder):
        return _Run(trainer, job).run()


class _Run:
    """A run in one process, between experiences."""

    def __init__(self, trainer: pl.Trainer, job: _Job) -> None:
        self.trainer, self.job, self.strategy = trainer, job, job.strategy
        self.folder = RunFolder(job.folder, trainer) if job.folder is not None else None
        self.results: list[dict[str, Any]] = []

    def run(self) -> list[dict[str, Any]]:
        trainer, strategy = self.trainer, self.strategy
        strategy.device = trainer.strategy.root_device
        internals.skip_distributed_check(strategy)
        if not self._load():
            sources = [plugin.method.random for plugin in find_plugins(strategy)]
            broadcast_state(trainer, strategy.model, *sources)
        loggers = strategy.evaluator.loggers
        if smoke_batches(trainer):
            strategy.evaluator.loggers = []
        try:
            self._learn()
        except STOPS as stop:
            learned, n = len(self.results), len(self.job.train)
            report_stop(trainer, stop, learned=learned, n=n, folder=self.job.folder)
        finally:
            if smoke_batches(trainer):
                strategy.evaluator.loggers = loggers
        return self.results

    def _learn(self) -> None:
        trainer, strategy, job = self.trainer, self.strategy, self.job
        for i in range(len(self.results), len(job.train)):
            name = f"experience {i + 1}/{len(job.train)}"
            session = StrategySession(trainer, strategy, name=name, check_ranks=job.check_ranks)
            reset_callbacks(trainer)
            with session.installed():
                session.train(job.train[i], job.eval_streams, **job.options)
                if job.check_ranks:
                    # Before a test, for which a Trainer gives all processes the first's weights.
                    for module in (strategy.model, *(p.method for p in find_plugins(strategy))):
                        check_identical(trainer, module, when=f"after experience {i + 1}")
                tested = job.test if trainer.limit_test_batches else None
                self.results.append(session.test(tested, **job.options))
            numbers = {
                name: float(value)
                for name, value in self.results[-1].items()
                if isinstance(value, (int, float))
            }
            for logger in trainer.loggers:
                logger.log_metrics(numbers, step=trainer.global_step)
            self._save()

    def _save(self) -> None:
        if self.folder is not None:
            content = {
                "strategy": _bytes_of(self.strategy),
                "results": self.results,
                "experiences": len(self.job.train),
                "steps": self.trainer.global_step,
            }
            self.folder.write_alone((len(self.results), 0, 0), content)

    def _load(self) -> bool:
        """Whether there was a run to go on with."""
        if self.folder is None:
            return False
        latest = self.folder.latest(resume=self.job.resume)
        if latest is None:
            store_fingerprint(self.strategy, self.job.train)
            return False
        content, n = self.folder.read(latest), len(self.job.train)
        saved, device = BytesIO(content["strategy"]), self.strategy.device
        maybe_load_checkpoint(self.strategy, saved, map_location=device, stream=self.job.train)
        if content["experiences"] != n:
            raise ConfigError(
                f"The run in {self.job.folder} is over {content['experiences']} experiences, not"
                f" {n}. Go on with the same stream, or name another folder."
            )
        internals.set_steps(self.trainer, content["steps"])
        self.results = list(content["results"])
        return True
