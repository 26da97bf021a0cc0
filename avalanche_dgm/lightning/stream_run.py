"""The run over a stream, in one process of a Trainer."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
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
from avalanche_dgm.fitting import Phase, pending
from avalanche_dgm.lightning import internals, trainers
from avalanche_dgm.lightning.callbacks import (
    experience_callbacks,
    reset_callbacks,
    stream_callbacks,
)
from avalanche_dgm.lightning.checkpointer import StreamCheckpointer
from avalanche_dgm.lightning.data import StreamDataModule
from avalanche_dgm.lightning.evaluation import StrategyView
from avalanche_dgm.lightning.learning import LearningStage
from avalanche_dgm.lightning.limits import apply_limit, smoke_batches
from avalanche_dgm.lightning.module import MethodModule
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.ranks import (
    Ranks,
    broadcast_state,
    check_identical,
    lock_folder,
    reduce_counts,
)
from avalanche_dgm.lightning.results import StreamResult
from avalanche_dgm.lightning.stages import PhaseStage, Stage
from avalanche_dgm.lightning.stopping import STOPS, report_stop
from avalanche_dgm.lightning.testing import StreamTest
from avalanche_dgm.memories.classifiers import width_of
from avalanche_dgm.methods.abilities import LatentInputs, Routing
from avalanche_dgm.metrics import AccuracyMatrix
from avalanche_dgm.metrics.cost import memory_bytes_of
from avalanche_dgm.plugins.experiences import (
    check_boundaries,
    check_training_shape,
    is_augmented,
)
from avalanche_dgm.plugins.fingerprint import Fingerprint, of_module
from avalanche_dgm.plugins.learned import order_of
from avalanche_dgm.plugins.loop import check_model
from avalanche_dgm.plugins.samples import with_class_labels


@dataclass  # Not frozen: Lightning cannot pass frozen dataclasses to spawned processes.
class StreamRun:
    """Trains and tests over a stream; see `avalanche_dgm.lightning.fit_stream`."""

    module: MethodModule
    data: StreamDataModule
    evaluator: EvaluationPlugin | None
    epochs: int
    until: float | None
    test: str
    checkpoint_dir: Path | None
    resume: bool
    save_every: int
    check_ranks: bool
    after_experience: Callable[[StreamResult], None] | None

    def run(self, trainer: pl.Trainer) -> tuple[StreamResult, dict[str, Any] | None]:
        """Learns the rest of the stream, unless a time limit or a signal stops it.

        Returns:
            The result, and the module's state if the processes were spawned.
        """
        spawned = trainer.strategy.launcher is None and trainer.world_size > 1
        silent = self.evaluator is not None and (trainer.global_rank or smoke_batches(trainer))
        logging: AbstractContextManager[None] = nullcontext()
        if silent:
            logging = internals.replaced(self.evaluator, loggers=[])
        with logging, lock_folder(trainer, self.checkpoint_dir):
            self._set_up(trainer)
            # Before the callbacks' states are loaded.
            reset_callbacks(trainer)
            added = [] if self.checkpointer is None else [self.checkpointer]
            with internals.replaced(trainer, callbacks=[*self.trainer.callbacks, *added]):
                self._begin()
                try:
                    for i in range(len(self.result), self.n):
                        self._experience(i)
                except STOPS as stop:
                    learned, folder = len(self.result), self.checkpoint_dir
                    self.result.stopped = report_stop(
                        trainer, stop, learned=learned, n=self.n, folder=folder
                    )
        state = self.module.state_dict() if spawned else {}
        cpu = {k: v.cpu() if isinstance(v, torch.Tensor) else v for k, v in state.items()}
        return self.result, cpu or None

    def _set_up(self, trainer: pl.Trainer) -> None:
        module, data = self.module, self.data
        self.trainer: Any = trainer
        self.method, self.benchmark = module.method, data.benchmark
        self.device = trainer.strategy.root_device
        train_stream, test_stream = self.benchmark.train_stream, self.benchmark.test_stream
        self.n = len(train_stream)
        for i, experience in enumerate(train_stream):
            check_boundaries(experience, data.oracle, self.method)
            if self.checkpoint_dir is not None and data.is_part(i):
                raise ConfigError(
                    "A run over parts of experiences cannot be saved: a checkpoint cannot hold an"
                    " unfinished task. Remove checkpoint_dir, or learn whole experiences."
                )
        module.trainer = data.trainer = trainer
        self.matrix = AccuracyMatrix(max(self.n, len(test_stream))).to(self.device)
        self.result = StreamResult(order=order_of(list(train_stream), list(test_stream)))
        self.view = StrategyView(self)
        self.checkpointer: StreamCheckpointer | None = None
        if self.checkpoint_dir is not None:
            settings = self._fingerprint()
            self.checkpointer = StreamCheckpointer(self, self.checkpoint_dir, settings)

    def tested(self, i: int) -> range:
        """Indices of the test experiences to evaluate after training experience ``i``."""
        n = len(self.data.benchmark.test_stream)
        return range(min({"all": n, "seen": i + 1, "none": 0}[self.test], n))

    def adapt(self, n: int) -> None:
        """Grows a dynamic model to its size after ``n`` experiences and their tests."""
        model, benchmark = self.module.model, self.data.benchmark
        model.train()
        for i in range(n):
            avalanche_model_adaptation(model, with_class_labels(benchmark.train_stream[i]))
            for j in self.tested(i):
                avalanche_model_adaptation(model, with_class_labels(benchmark.test_stream[j]))

    def _fingerprint(self) -> Fingerprint:
        """The settings that must be equal when a run resumes."""
        trainer = self.trainer
        return {
            "method": type(self.module).__name__,
            "epochs": self.epochs,
            "until": self.until,
            "batch_size": self.data.batch_size,
            "shuffle": self.data.shuffle,
            "experiences": self.n,
            "processes": trainer.world_size,
            "tests": self.test,
            "precision": str(trainer.precision),
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
            "gradient_clip_val": trainer.gradient_clip_val,
            "limit_train_batches": trainer.limit_train_batches,
            **of_module(self.module, self.benchmark.train_stream),
        }

    def _begin(self) -> None:
        saved = None
        if self.checkpointer is not None:
            saved = self.checkpointer.load(resume=self.resume)
        if saved is None:
            self.module.to(self.device)
            broadcast_state(self.trainer, self.module, self.method.random)
            self._save()
        else:
            self._restore(saved)
        for callback in stream_callbacks(self.trainer):
            callback.on_stream_start(self.trainer, self.module, self.benchmark, self.result)

    def _save(self) -> None:
        learner = self.method.active
        optimizer = self.module.current_optimizer
        if optimizer is not None:
            # A test may grow the learner, and a method may freeze layers. Without a learner
            # between experiences, the optimiser is empty.
            self.module.learning_optimizer(learner if learner is not None else nn.Identity())
        if self.checkpointer is None:
            return
        run = {
            "module": self.module.state_dict(),
            "optimizer": optimizer.state_dict() if optimizer and learner is not None else None,
            "matrix": self.matrix.metric_state,
            "result": self.result,
        }
        self.checkpointer.save_experience(len(self.result), run)

    def _restore(self, saved: dict[str, Any]) -> None:
        module, result = self.module, saved["result"]
        # Initialising the weights to be loaded must not change later random draws.
        with torch.random.fork_rng(devices=[]):
            self.adapt(len(result))
            module.load_state_dict(saved["module"])
        module.to(self.device)
        learner = self.method.active
        if saved["optimizer"] is not None and learner is not None:
            module.learning_optimizer(learner).load_state_dict(saved["optimizer"])
        for name, value in saved["matrix"].items():
            setattr(self.matrix, name, value.to(self.device))
        self.result = result

    def _experience(self, i: int) -> None:
        try:
            seconds = self._learn(i)
            started = time.perf_counter()
            if self.check_ranks:
                check_identical(self.trainer, self.module, when=f"after {self.label}")
            tested = self.tested(i)
            if tested:
                StreamTest(self, i, tested).test()
            self._record(i, seconds, time.perf_counter() - started)
        except BaseException:
            # Also on Ctrl-C: an unfinished experience is rolled back.
            self.method.undo()
            raise
        # Before the checkpoint: after an interruption here, the experience is repeated.
        for callback in stream_callbacks(self.trainer):
            callback.on_experience_end(self.trainer, self.module, self.result)
        self._save()
        if self.after_experience is not None and self.trainer.is_global_zero:
            self.after_experience(self.result)

    def _learn(self, i: int) -> float:
        """Trains on an experience; returns the seconds."""
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
            if not self.data.reads_once("train", i):
                check_training_shape(method, experience.dataset, data)
            if isinstance(method, Routing):
                self._phases(method.make_room(data.key))
            method.begin(data)
        avalanche_model_adaptation(module.model, with_class_labels(experience))
        module.to(self.device)
        width = width_of(module.model, data, task_aware=module.task_aware)
        check_labels(data, width)
        method.criterion.set(module.criterion, module.model, width=width, classes=data.classes)
        if method.active is not None:
            # Raises for an unusable optimiser before anything is trained.
            module.learning_optimizer(method.active, fused=trainers.may_fuse(trainer))
        if starts:
            self._phases(method.before_learning(data))
        view.fire("before_training_exp")
        reset_callbacks(trainer)
        self.iterations = self.shown = 0
        if method.active is None:
            # Avalanche's loop calls this hook, too, before it skips the epoch.
            view.fire("before_training_epoch")
        else:
            stage = self._learning_stage(method.active, data, i, width)
            self._stage(stage)
            self.iterations, self.shown = stage.iterations, stage.shown
        if ends:
            self._phases(method.after_learning(data))
            method.end(data)
        view.fire("after_training_exp")
        view.fire("after_training")
        if ends and isinstance(method, Routing):
            self._phases(method.before_predicting())
        return time.perf_counter() - started

    def _phases(self, phases: Iterator[Phase]) -> None:
        excluded = experience_callbacks(self.trainer)
        for phase in pending(phases):
            name = f"{self.label}: {phase.name}"
            # Phases do not log the values that these callbacks monitor.
            callbacks = [c for c in self.trainer.callbacks if c not in excluded]
            with internals.replaced(self.trainer, callbacks=callbacks):
                self._stage(PhaseStage(phase, self.method, self.trainer, name=name))

    def _stage(self, stage: Stage) -> None:
        checkpointer = self.checkpointer
        if checkpointer is not None and checkpointer.skip(self.module, stage):
            return
        seconds = self.module.run(self.trainer, stage)
        if isinstance(stage, PhaseStage):
            self.method.stats.add_phase(stage.phase.name, seconds)
        if checkpointer is not None:
            checkpointer.save_stage(stage)

    def _learning_stage(
        self, learner: nn.Module, data: ExperienceData, i: int, width: int
    ) -> LearningStage:
        trainer, dataset = self.trainer, self.benchmark.train_stream[i].dataset
        prepared = None
        part = self.data.is_part(i)
        if isinstance(self.method, LatentInputs) and not part:
            prepared = self.method.prepare(data, augmented=lambda: is_augmented(dataset))
        batches = self.data.train_batches(
            i, ranks=Ranks.of(trainer), whole=True, data=None if prepared is data else prepared
        )
        apply_limit([batches], trainer.limit_train_batches)
        validation = self.data.val_dataloader() if trainer.limit_val_batches else []
        return LearningStage(
            self,
            learner,
            batches=batches,
            validation=apply_limit(validation, trainer.limit_val_batches),
            width=width,
            read=None if part else data,
        )

    def _record(self, i: int, seconds: float, test_seconds: float) -> None:
        result, trainer = self.result, self.trainer
        n_test = len(self.benchmark.test_stream)
        if self.test == "none":
            result.accuracy = torch.full((i + 1, n_test), torch.nan)
        else:
            # torchmetrics returns a matrix of one number as a scalar.
            result.accuracy = torch.atleast_2d(self.matrix.compute())[: i + 1, :n_test].cpu()
        result.metrics.append(self.view.last_metrics())
        reduce_counts(trainer, self.method)
        result.records.append(copy.deepcopy(replace(self.method.stats.read(), counts=None)))
        result.seconds.append(seconds)
        result.iterations.append(self.iterations)
        result.shown.append(self.shown)
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
