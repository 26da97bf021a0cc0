"""Training over a stream with a Trainer: each phase of each experience is a fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from avalanche.evaluation.metrics.forward_transfer import GenericExperienceForwardTransfer
from avalanche.training.plugins import EvaluationPlugin

from avalanche_dgm.checks import number, one_of, whole
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.lightning import internals
from avalanche_dgm.lightning.builtin_callbacks import check_monitors
from avalanche_dgm.lightning.data import StreamDataModule, check_hooks
from avalanche_dgm.lightning.limits import smoke_batches
from avalanche_dgm.lightning.module import MethodModule
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.results import StreamResult
from avalanche_dgm.lightning.stream_run import StreamRun
from avalanche_dgm.lightning.trainers import (
    TrainerLike,
    callbacks_of,
    launch,
    make_trainer,
    unchanged,
)


def fit_stream(
    module: MethodModule,
    benchmark: Any,
    *,
    trainer: TrainerLike = None,
    evaluator: EvaluationPlugin | None = None,
    callbacks: pl.Callback | Sequence[pl.Callback] = (),
    epochs: int | None = None,
    until: float | None = None,
    test: str = "all",
    checkpoint_dir: str | Path | None = None,
    resume: bool = False,
    save_every: int = 1000,
    check_ranks: bool = True,
    after_experience: Callable[[StreamResult], None] | None = None,
    **data: Any,
) -> StreamResult:
    """Trains a module on a stream with a Trainer, experience by experience.

    Args:
        module: The classifier and its method, trained in place.
        benchmark: An Avalanche benchmark, or a `StreamDataModule`.
        trainer: A Trainer, or its arguments: devices, strategy, precision, logger, ...
        evaluator: Avalanche's metrics and loggers. Metrics see full batches, over all devices;
            loggers write in the first process only.
        callbacks: Lightning's callbacks. Early stopping and checkpoint callbacks see only the
            classifier's training and are reset for each experience; the others also see phases.
        epochs: Epochs per experience; the Trainer's ``max_epochs`` by default.
        until: End an experience early, once the running training accuracy of an epoch reaches this
            value, above 0 and at most 1. With ``OptimizerSpec(schedule="cosine")`` the learning
            rate then falls to 0 over half as many epochs; see `TargetAccuracyPlugin`.
        test: Which test experiences are evaluated after each learned one: ``"all"``, ``"seen"``
            (as many as were learned), or ``"none"``.
        checkpoint_dir: Folder for checkpoints of the run, for `resume`.
        resume: Resume the run in ``checkpoint_dir`` from its last checkpoint, with the result of
            an uninterrupted run; an empty folder starts a new run. Checkpoints are pickles, which
            can run code when they are loaded: resume only from a folder that you trust.
        save_every: Optimiser steps between two saves within a training or phase.
        check_ranks: After each experience, check that all processes have the same state.
        after_experience: Called in the first process with the result so far, after its checkpoint;
            a resumed run does not call it again for saved experiences. See `StreamCallback`.
        **data: Arguments of `StreamDataModule`, such as ``batch_size`` and ``shuffle``. Batch sizes
            are counted over all devices.

    Returns:
        Accuracies, Avalanche's metrics and the method's statistics. A time limit (``max_time``, a
        ``Timer``) stops the stream early: see ``stopped``. So does a signal, which then ends the
        process.

    Raises:
        ConfigError: The arguments cannot be used together; nothing was trained.
        DataError: An experience cannot be learned; earlier experiences are kept.
        DivergenceError: A phase's loss was not finite; its module's weights were rolled back.
        RanksDifferError: The processes' states differ.
    """
    with unchanged(trainer):
        made = make_trainer(trainer, callbacks=callbacks)
        source = benchmark
        if not isinstance(benchmark, StreamDataModule):
            source = StreamDataModule(benchmark, **data)
        elif data:
            raise ConfigError(
                f"{', '.join(sorted(data))} are arguments of StreamDataModule; pass them to it."
            )
        run = StreamRun(
            module,
            source,
            evaluator,
            epochs=(made.max_epochs or 0) if epochs is None else epochs,
            until=until,
            test=test,
            # Absolute, as the current folder may change between two experiences.
            checkpoint_dir=Path(checkpoint_dir).absolute() if checkpoint_dir is not None else None,
            resume=resume,
            save_every=save_every,
            check_ranks=check_ranks,
            after_experience=after_experience,
        )
        _check(run)
        _check_trainer(made, module)
        with callbacks_of(module, made):
            return _train(made, run)


def _train(trainer: pl.Trainer, run: StreamRun) -> StreamResult:
    module, validation = run.module, getattr(run.data.benchmark, "valid_stream", None)
    check_monitors(trainer, module, validated=bool(validation))
    if smoke_batches(trainer):
        run.epochs, run.checkpoint_dir = 1, None
    if not trainer.limit_test_batches:
        run.test = "none"
    result, state = launch(trainer, _run, run)
    if state is not None:
        # Spawned processes trained a copy of the module.
        run.adapt(len(result))
        module.load_state_dict(state)
    module.eval()
    return result


def _check(run: StreamRun) -> None:
    module: Any = run.module
    evaluator: Any = run.evaluator
    check_hooks(run.data)
    if not isinstance(module, MethodModule):
        raise ConfigError(
            f"fit_stream trains the modules of this package, such as DGRModule(model), not a"
            f" {type(module).__name__}. Use run_on_trainer for Avalanche strategies."
        )
    if evaluator is not None and not isinstance(evaluator, EvaluationPlugin):
        raise ConfigError(
            f"evaluator is a {type(evaluator).__name__}; Avalanche's EvaluationPlugin is needed."
        )
    made: Any = module.configure_optimizers
    if getattr(made, "__func__", None) is not MethodModule.configure_optimizers:
        # A subclass, or LightningCLI's option --optimizer.
        raise ConfigError(
            "configure_optimizers of the module is replaced, but each training of a stream has its"
            " own optimiser, which is saved with the run. Give the module the classifier's instead:"
            " optimizer=OptimizerSpec('sgd', 0.1), or a function from parameters to an optimiser."
        )
    if not module.automatic_optimization:
        raise ConfigError(
            "The module has automatic_optimization=False, so its training_step would learn nothing:"
            " it returns a loss for the Trainer to optimise. Leave it True."
        )
    metrics = evaluator.metrics if evaluator is not None else []
    if any(isinstance(metric, GenericExperienceForwardTransfer) for metric in metrics):
        raise ConfigError(
            "Forward transfer needs the accuracy before the first experience, but fit_stream tests"
            " only after experiences. Leave forward_transfer_metrics out, or train a strategy with"
            " eval_every=0 by run_on_trainer."
        )
    whole("epochs", run.epochs, otherwise="; the default is the Trainer's max_epochs")
    if run.until is not None:
        number("until", run.until, above=0, most=1)
    one_of("test", run.test, "all", "seen", "none")
    whole("save_every", run.save_every)
    if run.resume and run.checkpoint_dir is None:
        raise ConfigError("resume=True needs checkpoint_dir, the folder of the interrupted run.")


def _check_trainer(trainer: pl.Trainer, module: MethodModule) -> None:
    several = isinstance(trainer.strategy, pl.strategies.DDPStrategy) and module.task_aware
    if several and not internals.finds_unused_parameters(trainer):
        raise ConfigError(
            "The model has a head for each task. In each step most heads get no gradient, for"
            " which DDP would wait forever. Use strategy='ddp_find_unused_parameters_true'."
        )


def _run(trainer: pl.Trainer, run: StreamRun) -> tuple[StreamResult, dict[str, Any] | None]:
    # A function: with spawned processes, Lightning unshares the memory of modules in arguments, but
    # not in the object of a bound method.
    return run.run(trainer)
