"""The run over a stream, in one process of a Trainer."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from avalanche.models.utils import avalanche_model_adaptation
from avalanche.training.plugins import EvaluationPlugin
from torch import nn

from avalanche_dgm.dashboards import keys
from avalanche_dgm.data import ExperienceData, check_labels
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.fitting import Phase
from avalanche_dgm.lightning import trainers
from avalanche_dgm.lightning.callbacks import (
    reset_callbacks,
    stream_callbacks,
    with_callback,
    without_experience_callbacks,
)
from avalanche_dgm.lightning.checkpointer import StreamCheckpointer
from avalanche_dgm.lightning.data import StreamDataModule
from avalanche_dgm.lightning.evaluation import StrategyView
from avalanche_dgm.lightning.learning import LearningStage
from avalanche_dgm.lightning.limits import apply_limit
from avalanche_dgm.lightning.module import MethodModule
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.ranks import Ranks, broadcast_state, check_identical, reduce_counts
from avalanche_dgm.lightning.results import StreamResult
from avalanche_dgm.lightning.stages import PhaseStage, Stage
from avalanche_dgm.lightning.stopping import STOPS, report_stop
from avalanche_dgm.lightning.testing import StreamTest
from avalanche_dgm.memories.classifiers import width_of
from avalanche_dgm.methods.abilities import LatentInputs, Routing
from avalanche_dgm.metrics import AccuracyMatrix
from avalanche_dgm.metrics.cost import memory_bytes_of
from avalanche_dgm.plugins.base import MethodPlugin
from avalanche_dgm.plugins.checks import check_model
from avalanche_dgm.plugins.experiences import check_boundaries, is_augmented
from avalanche_dgm.plugins.fingerprint import Fingerprint, of_module
from avalanche_dgm.plugins.learned import order_of
from avalanche_dgm.plugins.samples import with_class_labels


@dataclass  # Not frozen: Lightning refuses to hand such to spawned processes.
class StreamOptions:
    """Arguments of `avalanche_dgm.lightning.fit_stream`."""

    epochs: int
    until: float | None
    test: str
    checkpoint_dir: Path | None
    resume: bool
    save_every: int
    check_ranks: bool
    after_experience: Callable[[StreamResult], None] | None


def tested_experiences(i: int, n: int, *, test: str) -> range:
    """Which of ``n`` test experiences are evaluated after experience ``i``.

    Args:
        i: The experience learned last, from 0.
        n: Number of test experiences.
        test: ``"all"``, ``"seen"`` (as many as were learned) or ``"none"``.
    """
    return range(min({"all": n, "seen": i + 1, "none": 0}[test], n))


def adapt(module: MethodModule, data: StreamDataModule, n: int, *, test: str) -> None:
    """Grows a dynamic model to its size after ``n`` experiences and their tests.

    Args:
        module: The module whose model is adapted.
        data: The streams.
        n: Number of experiences learned.
        test: See `tested_experiences`.
    """
    module.model.train()
    train_stream, test_stream = data.benchmark.train_stream, data.benchmark.test_stream
    for i in range(n):
        avalanche_model_adaptation(module.model, with_class_labels(train_stream[i]))
        for j in tested_experiences(i, len(test_stream), test=test):
            avalanche_model_adaptation(module.model, with_class_labels(test_stream[j]))


class StreamRun:
    """Trains and tests over a stream, in one process; see `avalanche_dgm.lightning.fit_stream`."""

    def __init__(
        self,
        trainer: pl.Trainer,
        module: MethodModule,
        data: StreamDataModule,
        evaluator: EvaluationPlugin | None,
        options: StreamOptions,
    ) -> None:
        self.trainer, self.module, self.data, self.options = trainer, module, data, options
        self.method, self.benchmark = module.method, data.benchmark
        self.device = trainer.strategy.root_device
        self.n = len(self.benchmark.train_stream)
        for i, experience in enumerate(self.benchmark.train_stream):
            check_boundaries(experience, data.oracle, self.method)
            if options.checkpoint_dir is not None and data.is_part(i):
                raise ConfigError(
                    "A run over parts of experiences cannot be saved: a checkpoint holds no"
                    " unfinished task. Leave checkpoint_dir out, or learn whole experiences."
                )
        module.trainer = data.trainer = trainer
        self.matrix = AccuracyMatrix(max(self.n, len(self.benchmark.test_stream)))
        self.matrix.to(self.device)
        order = order_of(list(self.benchmark.train_stream), list(self.benchmark.test_stream))
        self.result = StreamResult(order=order)
        self.view = StrategyView(
            evaluator,
            module.model,
            trainer=trainer,
            plugins=[MethodPlugin(self.method, oracle=data.oracle)],
            criterion=module.criterion,
            train_epochs=options.epochs,
            train_mb_size=data.batch_size,
            eval_mb_size=data.eval_batch_size,
        )
        self.checkpointer: StreamCheckpointer | None = None
        if options.checkpoint_dir is not None:
            self.checkpointer = StreamCheckpointer(
                options.checkpoint_dir,
                trainer=trainer,
                method=self.method,
                view=self.view,
                save_every=options.save_every,
                settings=self._fingerprint(),
            )
        self.label = ""
        self._iterations = self._shown = 0

    def _fingerprint(self) -> Fingerprint:
        """The settings that must be equal when a run resumes."""
        trainer: Any = self.trainer
        return {
            "method": type(self.module).__name__,
            "epochs": self.options.epochs,
            "until": self.options.until,
            "batch_size": self.data.batch_size,
            "shuffle": self.data.shuffle,
            "experiences": self.n,
            "processes": trainer.world_size,
            "tests": self.options.test,
            "precision": str(trainer.precision),
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
            "gradient_clip_val": trainer.gradient_clip_val,
            "limit_train_batches": trainer.limit_train_batches,
            **of_module(self.module, self.benchmark.train_stream),
        }

    def run(self) -> StreamResult:
        """Learns the rest of the stream, unless a time limit or a signal ends it early."""
        # Before the callbacks' states are loaded.
        reset_callbacks(self.trainer)
        with with_callback(self.trainer, self.checkpointer):
            return self._run()

    def _run(self) -> StreamResult:
        saved = None
        if self.checkpointer is not None:
            saved = self.checkpointer.load(resume=self.options.resume)
        if saved is None:
            self.module.to(self.device)
            broadcast_state(self.trainer, self.module, self.method.random)
            self._save()
        else:
            self._restore(saved)
        for callback in stream_callbacks(self.trainer):
            callback.on_stream_start(self.trainer, self.module, self.benchmark, self.result)
        try:
            self._learn()
        except STOPS as stop:
            self.result.stopped = report_stop(
                self.trainer,
                stop,
                learned=len(self.result),
                n=self.n,
                folder=self.options.checkpoint_dir,
            )
        return self.result

    def _learn(self) -> None:
        for i in range(len(self.result), self.n):
            try:
                self._experience(i)
            except BaseException:
                # Also on Ctrl-C: an unfinished experience is undone.
                self.method.undo()
                raise
            # Before saving: an interruption here repeats the whole experience.
            for callback in stream_callbacks(self.trainer):
                callback.on_experience_end(self.trainer, self.module, self.result)
            self._save()
            after_experience = self.options.after_experience
            if after_experience is not None and self.trainer.is_global_zero:
                after_experience(self.result)

    def _save(self) -> None:
        learner = self.method.active
        optimizer = self.module.optimizer_so_far
        if optimizer is not None:
            # A test may have grown the learner, and the method may have frozen parts of it. Some
            # methods have no learner between experiences: then the optimiser is empty.
            self.module.learning_optimizer(learner if learner is not None else nn.Identity())
        if self.checkpointer is None:
            return
        run = {
            "module": self.module.state_dict(),
            # Without a learner there is no state to save.
            "optimizer": optimizer.state_dict() if optimizer and learner is not None else None,
            "matrix": self.matrix.metric_state,
            "result": self.result,
        }
        self.checkpointer.save_experience(len(self.result), run)

    def _restore(self, saved: dict[str, Any]) -> None:
        module, result = self.module, saved["result"]
        # New weights are drawn before they are loaded: that must not change later draws.
        with torch.random.fork_rng(devices=[]):
            adapt(module, self.data, len(result), test=self.options.test)
            module.load_state_dict(saved["module"])
        module.to(self.device)
        learner = self.method.active
        if saved["optimizer"] is not None and learner is not None:
            module.learning_optimizer(learner).load_state_dict(saved["optimizer"])
        for name, value in saved["matrix"].items():
            setattr(self.matrix, name, value.to(self.device))
        self.result = result

    def _experience(self, i: int) -> None:
        started = time.perf_counter()
        trainer, module, method, view = self.trainer, self.module, self.method, self.view
        experience = self.benchmark.train_stream[i]
        self.data.set_experience(i)
        data = self.data.experience_data(i)
        self.label = f"experience {i + 1}/{self.n} ({data.name})"
        if self.checkpointer is not None:
            self.checkpointer.begin_experience(i)
        module.model.train()
        view.is_training, view.experience = True, experience
        view.fire("before_training")
        view.begin(experience, training=True)
        method.attach(module.model, task_aware=module.task_aware)
        starts, ends = self.data.first_part(i) == i, self.data.ends_task(i)
        if starts:
            method.check(data)
            check_model(method, module.model, data, experience)
            if isinstance(method, Routing):
                self._phases(method.make_room(data.key))
            method.begin(data)
        avalanche_model_adaptation(module.model, with_class_labels(experience))
        module.to(self.device)
        width = width_of(module.model, data, task_aware=module.task_aware)
        check_labels(data, width)
        method.criterion.set(module.criterion, module.model, width=width, classes=data.classes)
        if method.active is not None:
            # Refuses an unusable optimiser before anything is trained.
            module.learning_optimizer(method.active, fused=trainers.may_fuse(trainer))
        if starts:
            self._phases(method.before_learning(data))
        view.fire("before_training_exp")
        reset_callbacks(trainer)
        self._learner(data, i, width)
        if ends:
            self._phases(method.after_learning(data))
            method.end(data)
        view.fire("after_training_exp")
        view.fire("after_training")
        if ends and isinstance(method, Routing):
            self._phases(method.before_predicting())
        trained = time.perf_counter()
        if self.options.check_ranks:
            check_identical(trainer, module, when=f"after {self.label}")
        self._test(i)
        self._note(i, trained - started, time.perf_counter() - trained)

    def _phases(self, phases: Iterator[Phase]) -> None:
        for phase in phases:
            if phase.steps < 1:
                phase.finish()
                continue
            name = f"{self.label}: {phase.name}"
            with without_experience_callbacks(self.trainer):
                stage = PhaseStage(phase, self.method, self.trainer, name=name)
                self._stage(stage)

    def _stage(self, stage: Stage) -> None:
        saved = self.checkpointer
        if saved is not None and saved.skip(self.module, stage):
            return
        seconds = self.module.run(self.trainer, stage)
        if isinstance(stage, PhaseStage):
            self.method.stats.add_phase(stage.phase.name, seconds)
        if saved is not None:
            saved.save_stage(self.module, stage)

    def _learner(self, data: ExperienceData, i: int, width: int) -> None:
        learner = self.method.active
        self._iterations = self._shown = 0
        if learner is None:
            # As in Avalanche's loop, which begins an epoch before it is told to skip it.
            self.view.fire("before_training_epoch")
            return
        dataset = self.benchmark.train_stream[i].dataset
        prepared = None
        if isinstance(self.method, LatentInputs) and not self.data.is_part(i):
            prepared = self.method.prepare(data, augmented=lambda: is_augmented(dataset))
        batches = self.data.train_batches(
            i,
            ranks=Ranks.of(self.trainer),
            whole=True,
            data=None if prepared is data else prepared,
        )
        apply_limit([batches], self.trainer.limit_train_batches)
        validation = self.data.val_dataloader() if self.trainer.limit_val_batches else []
        stage = LearningStage(
            f"{self.label}: learning",
            self.module,
            learner,
            batches=batches,
            validation=apply_limit(validation, self.trainer.limit_val_batches),
            epochs=self.options.epochs,
            until=self.options.until,
            width=width,
            trainer=self.trainer,
            view=self.view,
        )
        self._stage(stage)
        self._iterations, self._shown = stage.iterations, stage.shown

    def _test(self, i: int) -> None:
        tested = tested_experiences(i, len(self.benchmark.test_stream), test=self.options.test)
        if not tested:
            return
        test = StreamTest(
            self.trainer, self.data, matrix=self.matrix, row=i, view=self.view, experiences=tested
        )
        self.module.stream_test = test
        try:
            # Here, as a metric may use the model before the first batch.
            modes = [(m, m.training) for m in self.module.modules()]
            self.module.eval()
            test.begin(self.module)
            trainers.test(self.trainer, self.module, test.loaders)
            test.end()
            for part, mode in modes:
                part.training = mode
        finally:
            self.module.stream_test = None

    def _note(self, i: int, seconds: float, test_seconds: float) -> None:
        result, trainer = self.result, self.trainer
        n_test = len(self.benchmark.test_stream)
        if self.options.test == "none":
            result.accuracy = torch.full((i + 1, n_test), torch.nan)
        else:
            result.accuracy = self.matrix.compute()[: i + 1, :n_test].cpu()
        result.metrics.append(self.view.last_metrics())
        reduce_counts(trainer, self.method)
        result.records.append(copy.deepcopy(replace(self.method.stats.read(), counts=None)))
        result.seconds.append(seconds)
        result.iterations.append(self._iterations)
        result.shown.append(self._shown)
        result.test_seconds.append(test_seconds)
        result.memory_bytes.append(memory_bytes_of(self.method))
        best = getattr(trainer.checkpoint_callback, "best_model_path", "")
        result.best_checkpoints.append(str(best))
        values = {f"{keys.STREAM}{name}": value for name, value in result.continual.items()}
        for j, value in enumerate(result.accuracy[i].tolist()):
            if value == value:
                values[keys.ACCURACY.format(j)] = value
        values[keys.EXPERIENCE] = i + 1.0
        for logger in trainer.loggers:
            if any(callback.logs_to(logger) for callback in stream_callbacks(trainer)):
                continue
            logger.log_metrics(values, step=trainer.global_step)
            logger.save()
