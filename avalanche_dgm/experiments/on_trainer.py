"""Runs one experiment with a Lightning Trainer, with the same results as `runner.run`.

Lightning is imported only when such a run starts, through `avalanche_dgm.lightning`.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments import report, run_folders, storage
from avalanche_dgm.experiments.building import (
    build_model,
    build_stream,
    optimizer_of,
    seed_everything,
)
from avalanche_dgm.experiments.config import ExperimentConfig
from avalanche_dgm.experiments.gan_files import MEASURED, GeneratorRecorder
from avalanche_dgm.experiments.log_settings import LogSettings
from avalanche_dgm.experiments.methods import (
    METHODS,
    Reference,
    check_options,
    hyper_parameters,
    is_joint,
    is_stock,
    method_of,
)
from avalanche_dgm.experiments.panels import RunPanels
from avalanche_dgm.experiments.results import RunResult, Step
from avalanche_dgm.experiments.run_spec import (
    RunSpec,
    add_method_stats,
    measured,
    print_progress,
    sizes_held,
)
from avalanche_dgm.methods.registry import NamedMethod

if TYPE_CHECKING:
    from avalanche_dgm.lightning import MethodModule, StreamResult

_ACCELERATORS = {"cpu": "cpu", "cuda": "gpu", "auto": "auto"}
_EVAL_BATCH = 512


def check(config: ExperimentConfig) -> bool:
    """Checks, before data are loaded, that a Trainer can run a config.

    Args:
        config: The run's settings.

    Returns:
        Whether this process has global rank 0, so that it reports.

    Raises:
        ConfigError: The method does not run on this backend, or no such Trainer can be made here.
    """
    _check_method(config)
    return _trainer(config).is_global_zero


def run(
    config: ExperimentConfig,
    *,
    folder: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    command: str | None = None,
    log: LogSettings | None = None,
) -> RunResult:
    """Runs one experiment; called in each process of the Trainer.

    An interrupted run resumes in the middle of an experience, with the result of an uninterrupted
    one.

    Args:
        config: The run's settings.
        folder: Folder for checkpoints and results; see `runner.run`.
        resume: Resume the run in ``folder``.
        overwrite: Replace the run in ``folder``.
        progress: See `runner.run`.
        command: The command line, saved with the results.
        log: Where to log panels; ``None`` for files in ``folder``.

    Returns:
        The measurements and, in the first process, a few generated images of each class.

    Raises:
        ConfigError: The settings cannot be run, or not in this folder.
        StorageError: Something cannot be written; what was saved before can be continued.
        AvalancheDGMError: The data cannot be learned, or a generator diverges.
    """
    check_options(config)
    _check_method(config)
    trainer = _trainer(config)
    is_global_zero, device = trainer.is_global_zero, str(trainer.strategy.root_device)
    seed_everything(config.seed)
    spec = RunSpec(config, build_stream(config))
    processes = trainer.num_devices * trainer.num_nodes
    kept = run_folders.claim(
        folder, config, resume=resume, overwrite=overwrite, is_global_zero=is_global_zero
    )
    with kept as (target, saved):
        result = saved or spec.empty_result(device, command)
        result.provenance.setdefault("training_processes", processes)
        panels = RunPanels(spec, target if is_global_zero else None, log or LogSettings())
        lightning_run = LightningRun(
            spec, result, target, resume, is_global_zero, progress, processes, panels
        )
        if target is not None and is_global_zero and saved is None:
            run_folders.begin(target, result)
        learned = saved is not None and saved.complete
        try:
            if not learned:
                with _quiet():
                    lightning_run.learn()
        finally:
            panels.close()
        if not result.complete:
            # A signal stopped it, as Ctrl-C does: it can be resumed.
            raise KeyboardInterrupt
        if folder is not None and target is not None and is_global_zero:
            if not learned:
                report.write_run(target, result)
            run_folders.finish(folder, target, result)
    return result


def _check_method(config: ExperimentConfig) -> None:
    if is_stock(method_of(config)):
        able = ", ".join(name for name, method in METHODS.items() if not is_stock(method))
        raise ConfigError(
            f"{config.method} trains its generator in a loop of Avalanche's, which a Trainer cannot"
            f" run. With --backend lightning there are: {able}."
        )


def _trainer(config: ExperimentConfig) -> Any:
    from avalanche_dgm.lightning.trainers import make_trainer

    with _quiet():
        return make_trainer(trainer_arguments(config, progress=False))


def trainer_arguments(config: ExperimentConfig, *, progress: bool) -> dict[str, Any]:
    """Returns the arguments of the Trainer that a config asks for.

    Args:
        config: The run's settings.
        progress: Whether to show bars, on a terminal.
    """
    settings = config.trainer
    return {
        "accelerator": settings.accelerator or _ACCELERATORS[config.device],
        "devices": settings.devices,
        "strategy": settings.strategy,
        "num_nodes": settings.num_nodes,
        "precision": settings.precision,
        "accumulate_grad_batches": settings.accumulate,
        "gradient_clip_val": settings.clip,
        # Not in a log file: there, a line for each experience is enough.
        "enable_progress_bar": progress and sys.stderr.isatty(),
        "max_epochs": config.epochs,
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps standard output for the results, and silences Lightning's messages."""
    import avalanche_dgm.lightning  # noqa: F401 - sets the level of its logger

    names = ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric")
    loggers = [(logger, logger.level) for logger in map(logging.getLogger, names)]
    for logger, _ in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with redirect_stdout(sys.stderr), warnings.catch_warnings():
            # Tasks are tested before they are learned on purpose.
            warnings.filterwarnings("ignore", message="Test task .* was never learned")
            # Lightning's use of PyTorch.
            warnings.filterwarnings("ignore", message=".*all_gather is deprecated")
            yield
    finally:
        for logger, level in loggers:
            logger.setLevel(level)


@dataclass
class LightningRun:
    """A run with a Trainer, in one of its processes.

    Attributes:
        spec: The run's experiences.
        result: The result, filled during the run.
        folder: The run folder, or ``None``.
        resume: Whether to resume the run in it.
        is_global_zero: Whether this is the first process.
        progress: Whether to show progress.
        processes: Number of processes.
        panels: The dashboard.
    """

    spec: RunSpec
    result: RunResult
    folder: Path | None
    resume: bool
    is_global_zero: bool
    progress: bool
    processes: int
    panels: RunPanels

    def learn(self) -> None:
        """Learns the rest of the stream."""
        method = method_of(self.spec.config)
        if is_joint(method):
            self._joint()
        elif isinstance(method, Reference) and method.plugin is not None:
            self._by_strategy()
        else:
            self._by_module()

    def _by_module(self) -> None:
        spec, result = self.spec, self.result
        module = self._module()
        is_named = isinstance(spec.method, NamedMethod)
        if is_named:
            result.method_settings = module.method.settings.to_dict()
        report = StepReporter(
            result, self.spec.sizes, self.folder, self.progress, module, panels=self.panels
        )
        order = [spec.train_experience(position) for position in range(len(spec.order))]
        outcome = self._fit(module, order, report=report)
        result.steps = report.steps(outcome)
        if is_named and self.is_global_zero:
            result.samples = spec.sample_images(module.method)

    def _joint(self) -> None:
        """Trains a new model for each experience, on a stream of length one."""
        spec, result = self.spec, self.result
        for position in range(len(result.steps), len(spec.order)):
            seed_everything(spec.config.seed, position + 1)
            report = StepReporter(result, self.spec.sizes, None, False)
            outcome = self._fit(
                self._module(), [spec.train_experience(position)], part=f"{position:03d}"
            )
            (step,) = report.steps(outcome)
            held = sizes_held(step.memory_bytes, step.peak_bytes, spec.kept_bytes(position))
            result.steps.append(replace(step, experience=spec.columns[position], **held))
            if self.is_global_zero:
                # Before the result is written: after an interruption it is logged again.
                self.panels.log_experience(result, None)
                _publish(result, self.folder, self.progress, result.steps)

    def _module(self) -> MethodModule:
        """The classifier with its method."""
        import avalanche_dgm.lightning as lightning

        config, spec = self.spec.config, self.spec
        model = build_model(config, spec.benchmark, spec.shape)
        optimizer = optimizer_of(config)
        method = method_of(config)
        if isinstance(method, Reference):
            return lightning.NaiveModule(model, optimizer=optimizer, seed=config.seed)
        kind: Any = lightning.module_of(method.kind)
        hyper = hyper_parameters(config, spec.n_images)
        made: MethodModule = kind(model, optimizer=optimizer, **hyper)
        return made

    def _fit(
        self,
        module: MethodModule,
        experiences: Sequence[Any],
        *,
        part: str = "",
        report: StepReporter | None = None,
    ) -> StreamResult:
        from avalanche_dgm.lightning import fit_stream
        from avalanche_dgm.lightning.watching import ReportingCallback

        config = self.spec.config
        generator = GeneratorRecorder(self.spec, self.folder)
        reporting = ReportingCallback(
            self.panels.log_training,
            learned=report,
            monitor=generator if generator.active else None,
        )
        folder = self.folder / "checkpoints" / part if self.folder is not None else None
        return fit_stream(
            module,
            SimpleNamespace(
                train_stream=list(experiences), test_stream=self.spec.test_experiences()
            ),
            trainer=self._arguments(module),
            callbacks=[reporting],
            epochs=config.epochs,
            batch_size=config.batch_size,
            eval_batch_size=_EVAL_BATCH,
            seed=config.seed,
            checkpoint_dir=folder,
            resume=self.resume and folder is not None,
            save_every=config.trainer.save_every,
        )

    def _arguments(self, module: MethodModule) -> dict[str, Any]:
        arguments = trainer_arguments(self.spec.config, progress=self.progress)
        strategy = arguments["strategy"]
        if module.task_aware and self.processes > 1 and strategy in ("auto", "ddp", "ddp_spawn"):
            # Each step uses one of many heads, and DDP would wait for the others' gradients.
            base = "ddp" if strategy == "auto" else strategy
            arguments["strategy"] = f"{base}_find_unused_parameters_true"
        return arguments

    def _by_strategy(self) -> None:
        import torch

        from avalanche_dgm.experiments.strategies import StepLogger, build_strategy
        from avalanche_dgm.lightning import run_on_trainer

        spec, result = self.spec, self.result
        report = partial(_publish_shown, result, self.folder, self.progress, self.panels)
        logger = None
        if self.is_global_zero:
            logger = StepLogger(spec.columns, spec.tested, spec.sizes, report)
        loggers = [logger] if logger is not None else []
        strategy = build_strategy(spec, loggers, device=torch.device("cpu"))
        run_on_trainer(
            strategy,
            [spec.train_experience(position) for position in range(len(spec.order))],
            test_stream=spec.test_experiences(),
            trainer=trainer_arguments(spec.config, progress=self.progress),
            checkpoint_dir=self.folder / "checkpoints" if self.folder is not None else None,
            resume=self.resume and self.folder is not None,
            num_workers=0,
        )
        # The logger may come from a checkpoint or another process.
        for found in strategy.evaluator.loggers:
            result.steps = found.steps


class StepReporter:
    """Converts the results of `fit_stream` to steps; called in the first process.

    Args:
        result: The run's result.
        sizes: Number of images of each test experience.
        folder: The run folder, or ``None``.
        progress: Whether to print each step.
        module: The module, for panels of its memory, or ``None``.
        panels: The dashboard, or ``None``.
    """

    # Not a dataclass: Lightning would copy its fields to spawned processes.
    def __init__(
        self,
        result: RunResult,
        sizes: list[int],
        folder: Path | None,
        progress: bool,
        module: MethodModule | None = None,
        *,
        panels: RunPanels | None = None,
    ) -> None:
        self.result, self.sizes = result, sizes
        self.folder, self.progress = folder, progress
        self.module, self.panels = module, panels

    def __call__(self, outcome: StreamResult) -> None:
        """Logs and writes the result so far."""
        self.result.steps = self.steps(outcome)
        if self.panels is not None and self.module is not None:
            self.panels.log_experience(self.result, self.module.method)
        _publish(self.result, self.folder, self.progress, self.result.steps)

    def steps(self, outcome: StreamResult) -> list[Step]:
        """The measurements after each experience.

        Args:
            outcome: The result of `fit_stream` so far.
        """
        steps = []
        for i, row in enumerate(outcome.accuracy.tolist()):
            metrics = outcome.metrics[i]
            step = Step(
                experience=self.result.order[i],
                **measured(row, self.sizes),
                **sizes_held(outcome.memory_bytes[i], outcome.records[i].peak_bytes),
                seconds=outcome.seconds[i],
                eval_seconds=outcome.test_seconds[i],
                **{name: metrics[name] for name in MEASURED if name in metrics},
            )
            add_method_stats(step, outcome.records[i])
            steps.append(step)
        return steps


def _publish(result: RunResult, folder: Path | None, progress: bool, steps: list[Step]) -> None:
    """Prints the last step and writes the result, unless the run is complete."""
    result.steps = list(steps)
    if progress:
        print_progress(result)
    if folder is not None and not result.complete:
        storage.write_result(folder, result)


def _publish_shown(
    result: RunResult, folder: Path | None, progress: bool, panels: RunPanels, steps: list[Step]
) -> None:
    """The same, and logs the panels of a strategy without a method."""
    result.steps = list(steps)
    panels.log_experience(result, None)
    _publish(result, folder, progress, steps)
