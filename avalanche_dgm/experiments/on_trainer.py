"""Runs on a Lightning Trainer. Lightning is imported only when such a run starts."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from avalanche.logging import BaseLogger

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments.building import build_model, optimizer_of, seed_everything
from avalanche_dgm.experiments.config import ExperimentConfig
from avalanche_dgm.experiments.gan_files import MEASURED, GeneratorRecorder
from avalanche_dgm.experiments.methods import (
    METHODS,
    Reference,
    hyper_parameters,
    is_joint,
    is_stock,
    method_of,
)
from avalanche_dgm.experiments.results import Step
from avalanche_dgm.experiments.run_spec import RunSpec, add_method_stats, measured, sizes_held
from avalanche_dgm.experiments.strategies import build_strategy, measured_step
from avalanche_dgm.methods.registry import NamedMethod

if TYPE_CHECKING:
    from avalanche_dgm.experiments.runner import Run
    from avalanche_dgm.lightning import MethodModule, StreamResult

_ACCELERATORS = {"cpu": "cpu", "cuda": "gpu", "auto": "auto"}
_EVAL_BATCH = 512
#: Fields of `Step` that `ReportingCallback` records.
_TRAINED = ("train_accuracy", "epochs")


def trainer_arguments(config: ExperimentConfig, *, progress: bool) -> dict[str, Any]:
    """Returns the arguments of a config's Trainer."""
    settings = config.trainer
    return {
        "accelerator": settings.accelerator or _ACCELERATORS[config.device],
        "devices": settings.devices,
        "strategy": settings.strategy,
        "num_nodes": settings.num_nodes,
        "precision": settings.precision,
        "accumulate_grad_batches": settings.accumulate,
        "gradient_clip_val": settings.clip,
        # Without bars in a log file.
        "enable_progress_bar": progress and sys.stderr.isatty(),
        "max_epochs": config.epochs,
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Redirects standard output to stderr, and silences Lightning's messages."""
    import avalanche_dgm.lightning  # noqa: F401 - sets the level of its logger

    names = ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric")
    loggers = [(logger, logger.level) for logger in map(logging.getLogger, names)]
    for logger, _ in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with redirect_stdout(sys.stderr), warnings.catch_warnings():
            # A warning about Lightning's use of PyTorch.
            warnings.filterwarnings("ignore", message=".*all_gather is deprecated")
            yield
    finally:
        for logger, level in loggers:
            logger.setLevel(level)


class LightningEngine:
    """Trains with a Trainer, in one of its processes.

    Raises:
        ConfigError: The method does not run on a Trainer, or such a Trainer cannot be created.
    """

    def __init__(self, config: ExperimentConfig) -> None:
        if is_stock(method_of(config)):
            able = ", ".join(name for name, method in METHODS.items() if not is_stock(method))
            raise ConfigError(
                f"{config.method} has its own Avalanche training loop, which a Trainer cannot run."
                f" With --backend lightning use one of: {able}."
            )
        from avalanche_dgm.lightning.trainers import make_trainer

        with _quiet():
            trainer = make_trainer(trainer_arguments(config, progress=False))
        self.is_global_zero = trainer.is_global_zero
        self.device = str(trainer.strategy.root_device)
        self.processes = trainer.num_devices * trainer.num_nodes

    def prepare(self, run: Run) -> None:
        """See `runner.Engine.prepare`."""
        method = method_of(run.spec.config)
        run.result.provenance.setdefault("training_processes", self.processes)
        self._learn: Callable[[Run], bool]
        if is_joint(method):
            self._learn = self._joint
        elif isinstance(method, Reference) and method.plugin is not None:
            self._learn = self._by_strategy
        else:
            with _quiet():
                module = _module(run.spec)
            if isinstance(method, NamedMethod):
                run.result.method_settings = module.method.settings.to_dict()
            self._learn = partial(self._by_module, module)

    def learn(self, run: Run) -> bool:
        """See `runner.Engine.learn`."""
        with _quiet():
            return self._learn(run)

    def _by_module(self, module: MethodModule, run: Run) -> bool:
        spec = run.spec
        order = [spec.train_experience(position) for position in range(len(spec.order))]
        outcome = self._fit(run, module, order, report=partial(_report, run, module))
        run.result.steps = _steps(run, outcome)
        if isinstance(spec.method, NamedMethod) and self.is_global_zero:
            run.result.samples = spec.sample_images(module.method)
        if run.result.complete:
            run.keep(module.method)
        return run.result.complete

    def _joint(self, run: Run) -> bool:
        """Trains a new model for each experience, as a stream of length one."""
        spec, result = run.spec, run.result
        for position in range(len(result.steps), len(spec.order)):
            seed_everything(spec.config.seed, position + 1)
            module = _module(spec)
            outcome = self._fit(
                run, module, [spec.train_experience(position)], part=f"{position:03d}"
            )
            if not len(outcome):
                return False
            (step,) = _steps(run, outcome)
            held = sizes_held(step.memory_bytes, step.peak_bytes, spec.kept_bytes(position))
            result.steps.append(replace(step, experience=spec.columns[position], **held))
            if self.is_global_zero:
                run.publish()
        run.keep(module.method)
        return True

    def _fit(
        self,
        run: Run,
        module: MethodModule,
        experiences: Sequence[Any],
        *,
        part: str = "",
        report: Callable[[StreamResult], None] | None = None,
    ) -> StreamResult:
        from avalanche_dgm.lightning import fit_stream
        from avalanche_dgm.lightning.watching import ReportingCallback

        config = run.spec.config
        generator = GeneratorRecorder(run.spec, run.folder)
        reporting = ReportingCallback(
            run.panels.log_training,
            learned=report,
            monitor=generator if generator.active else None,
        )
        folder = run.folder / "checkpoints" / part if run.folder is not None else None
        return fit_stream(
            module,
            SimpleNamespace(
                train_stream=list(experiences), test_stream=run.spec.test_experiences()
            ),
            trainer=self._arguments(run, module),
            callbacks=[reporting],
            epochs=config.epochs,
            until=config.until,
            batch_size=config.batch_size,
            eval_batch_size=_EVAL_BATCH,
            seed=config.seed,
            checkpoint_dir=folder,
            resume=run.options.resume and folder is not None,
            save_every=config.trainer.save_every,
        )

    def _arguments(self, run: Run, module: MethodModule) -> dict[str, Any]:
        arguments = trainer_arguments(run.spec.config, progress=run.options.progress)
        strategy = arguments["strategy"]
        if module.task_aware and self.processes > 1 and strategy in ("auto", "ddp", "ddp_spawn"):
            # Each step uses one of several heads, but DDP waits for gradients of all parameters.
            base = "ddp" if strategy == "auto" else strategy
            arguments["strategy"] = f"{base}_find_unused_parameters_true"
        return arguments

    def _by_strategy(self, run: Run) -> bool:
        """Runs an Avalanche strategy with an Avalanche plugin."""
        from avalanche_dgm.lightning import run_on_trainer

        spec = run.spec
        loggers = [StepLogger(run)] if self.is_global_zero else []
        strategy = build_strategy(spec, loggers, device=torch.device("cpu"))
        results = run_on_trainer(
            strategy,
            [spec.train_experience(position) for position in range(len(spec.order))],
            test_stream=spec.test_experiences(),
            trainer=trainer_arguments(spec.config, progress=run.options.progress),
            checkpoint_dir=run.folder / "checkpoints" if run.folder is not None else None,
            resume=run.options.resume and run.folder is not None,
            num_workers=0,
        )
        # The logger may be that of a checkpoint or another process.
        for logger in strategy.evaluator.loggers:
            run.result.steps = logger.steps
        learned = len(results) == len(spec.order)
        if learned:
            run.keep(strategy.model)
        return learned


def _module(spec: RunSpec) -> MethodModule:
    """The LightningModule of the classifier and the method."""
    import avalanche_dgm.lightning as lightning

    config = spec.config
    model = build_model(config, spec.benchmark, spec.shape)
    optimizer = optimizer_of(config)
    method = method_of(config)
    if isinstance(method, Reference):
        return lightning.NaiveModule(model, optimizer=optimizer, seed=config.seed)
    kind: Any = lightning.module_of(method.kind)
    hyper = hyper_parameters(config, spec.n_images)
    module: MethodModule = kind(model, optimizer=optimizer, **hyper)
    return module


def _report(run: Run, module: MethodModule, outcome: StreamResult) -> None:
    """Publishes the last experience of `fit_stream`; called in the first process."""
    run.result.steps = _steps(run, outcome)
    run.publish(module.method)


def _steps(run: Run, outcome: StreamResult) -> list[Step]:
    """The measurements of `fit_stream` after each experience."""
    steps = []
    for i, row in enumerate(outcome.accuracy.tolist()):
        metrics = outcome.metrics[i]
        step = Step(
            experience=run.result.order[i],
            **measured(row, run.spec.sizes),
            **sizes_held(outcome.memory_bytes[i], outcome.records[i].peak_bytes),
            seconds=outcome.seconds[i],
            eval_seconds=outcome.test_seconds[i],
            **{name: metrics[name] for name in (*MEASURED, *_TRAINED) if name in metrics},
        )
        add_method_stats(step, outcome.records[i])
        steps.append(step)
    return steps


class StepLogger(BaseLogger):
    """Publishes a step after each experience of a strategy.

    It is pickled with the strategy, into checkpoints and to other processes.
    """

    #: The run of this process, as that of a logger from a checkpoint would be outdated.
    _run: ClassVar[Run | None] = None

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self._mine: Run | None = run
        self._started = self._trained = self._tested = 0.0
        StepLogger._run = run

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # In a spawned process, the first logger was sent there; others come from checkpoints.
        if StepLogger._run is None:
            StepLogger._run = self._mine

    def before_training(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Starts timing the training."""
        self._started = time.perf_counter()

    def after_training(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Stops timing the training."""
        self._trained = time.perf_counter() - self._started

    def before_eval(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Starts timing the evaluation."""
        self._tested = time.perf_counter()

    def after_eval(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Adds and publishes a step, after all metrics were computed."""
        run = StepLogger._run
        if run is None:
            return
        step = measured_step(
            strategy,
            run.spec.tested,
            run.spec.sizes,
            experience=run.spec.columns[len(self.steps)],
            seconds=self._trained,
            eval_seconds=time.perf_counter() - self._tested,
        )
        self.steps.append(step)
        run.result.steps = list(self.steps)
        run.publish()
