"""Runs an experiment: trains on the stream and evaluates after each experience."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from avalanche.models.dynamic_modules import MultiTaskModule
from torch import nn

from avalanche_dgm.errors import CheckpointError
from avalanche_dgm.experiments import report, run_folders, storage
from avalanche_dgm.experiments.building import build_stream, seed_everything
from avalanche_dgm.experiments.config import ExperimentConfig
from avalanche_dgm.experiments.methods import check_options
from avalanche_dgm.experiments.panels import LogSettings, RunPanels
from avalanche_dgm.experiments.results import RunResult
from avalanche_dgm.experiments.run_spec import RunSpec
from avalanche_dgm.methods import Method, Naive
from avalanche_dgm.saving import save_memory


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How runs are started. It does not affect their results.

    Attributes:
        resume: Resume the unfinished run in a folder, and keep a finished one.
        overwrite: Replace the run in a folder.
        progress: Show a line for each experience on stderr, and bars if that is a terminal.
        command: The command line, saved with the results.
        log: Where to log panels; ``None`` for files in the run's folder.
        keep_memory: Save the trained method in the run's folder, see `avalanche_dgm.save_memory`;
            for a reference method, the classifier.
        is_global_zero: Whether this is the first process; the others write and print nothing.
    """

    resume: bool = False
    overwrite: bool = False
    progress: bool = False
    command: str | None = None
    log: LogSettings | None = None
    keep_memory: bool = False
    is_global_zero: bool = True


def run(
    config: ExperimentConfig,
    folder: Path | None = None,
    options: RunOptions | None = None,
    **given: Any,
) -> RunResult:
    """Runs an experiment; with a Trainer, this is called in each of its processes.

    A resumed run has the same result as an uninterrupted one. With Avalanche's loop it resumes
    after the last complete experience, with a Trainer within an experience.

    Args:
        config: The run's settings.
        folder: Folder for a checkpoint and the results after each experience, and for the files of
            `report.write_run` at the end; nothing is written without it. A finished run with the
            same settings is kept until the new one is complete.
        options: How to run it; whether this is the first process is found here.
        **given: Fields that replace those of ``options``.

    Returns:
        The measurements and, in the first process, a few generated images of each class.

    Raises:
        ConfigError: The settings cannot be run, or differ from those of the run to resume; or the
            folder has other files, or is in use.
        StorageError: A file cannot be written; the run can be resumed.
        AvalancheDGMError: The data cannot be learned, or a generator diverges.
    """
    check_options(config)
    engine = make_engine(config)
    first = engine.is_global_zero
    options = replace(options or RunOptions(), **{**given, "is_global_zero": first})
    seed_everything(config.seed)
    spec = RunSpec(config, build_stream(config))
    with run_folders.claim(folder, config, options) as (target, saved):
        result = saved or spec.empty_result(engine.device, options.command)
        if saved is None or not saved.complete:
            panels = RunPanels(spec, target if first else None, options.log or LogSettings())
            begun = Run(spec, result, target, panels, options)
            engine.prepare(begun)
            if target is not None and first:
                if saved is None:
                    run_folders.begin(target, result)
                run_folders.write_config(target, config)
            try:
                with warnings.catch_warnings():
                    # Tasks are evaluated before they are learned on purpose.
                    warnings.filterwarnings("ignore", message="Test task .* was never learned")
                    if config.fast:
                        # Expected, as training is too short.
                        warnings.filterwarnings("ignore", message="No unit of the generator's")
                    learned = engine.learn(begun)
            finally:
                panels.close()
            if not learned:
                # A signal stopped the Trainer, like Ctrl-C: the run can be resumed.
                raise KeyboardInterrupt
            if target is not None and first:
                report.write_run(target, result)
        if folder is not None and target is not None and first:
            run_folders.finish(folder, target, result)
    return result


class Run:
    """A started run on either backend.

    Args:
        spec: Its specification.
        result: The result so far; engines add its steps.
        folder: The folder to write to, or ``None``.
        panels: The dashboard.
        options: How it was started.
    """

    # Not a dataclass: Lightning would copy its fields to spawned processes.
    def __init__(
        self,
        spec: RunSpec,
        result: RunResult,
        folder: Path | None,
        panels: RunPanels,
        options: RunOptions,
    ) -> None:
        self.spec, self.result, self.folder, self.panels = spec, result, folder, panels
        self.options = options

    def publish(
        self,
        method: Method | None = None,
        save: Callable[[Path, RunResult], None] | None = None,
    ) -> None:
        """Logs the last step; saves the result, unless the run is complete.

        Args:
            method: The method, for panels of its memory.
            save: Saves result and checkpoint; ``None`` to save only the result.
        """
        result = self.result
        # First, as after an interruption it is logged again.
        self.panels.log_experience(result, method)
        if self.folder is not None and not result.complete:
            (save or storage.write_result)(self.folder, result)
        if self.options.progress:
            step = result.steps[-1]
            print(
                f"{self.spec.label}: experience {len(result.steps)}/{len(result.order)}"
                f" ({result.tasks[step.experience]}) learned in {step.seconds:.1f} s,"
                f" average accuracy {result.average():.3f}",
                file=sys.stderr,
                flush=True,
            )

    def keep(self, learned: Method | nn.Module) -> None:
        """Saves the trained method if ``keep_memory``; called after the last experience."""
        kept = self.options.keep_memory and self.options.is_global_zero
        if self.folder is None or not kept:
            return
        if not isinstance(learned, Method):
            network, learned = learned, Naive()
            learned.attach(network, task_aware=isinstance(network, MultiTaskModule))
        try:
            save_memory(learned, self.folder / storage.MEMORY)
        except CheckpointError as error:
            # Not an error, so that the run's result is not lost.
            warnings.warn(f"{self.spec.label}: no memory is saved: {error}", stacklevel=2)


class Engine(Protocol):
    """A training backend: Avalanche's loop, or a Trainer.

    Attributes:
        is_global_zero: Whether this is the first process, which writes and shows the result.
        device: Name of the device.
    """

    is_global_zero: bool
    device: str

    def prepare(self, run: Run) -> None:
        """Builds or loads the strategy or module. After an error an earlier run still exists."""

    def learn(self, run: Run) -> bool:
        """Learns the rest of the stream; adds and publishes a step after each experience.

        Returns:
            Whether the whole stream was learned. Processes other than the first may have no steps.
        """


def make_engine(config: ExperimentConfig) -> Engine:
    """Creates a config's engine, before data are loaded.

    Raises:
        ConfigError: The method does not run on this backend, or devices are missing.
    """
    if config.backend == "lightning":
        from avalanche_dgm.experiments.on_trainer import LightningEngine

        return LightningEngine(config)
    from avalanche_dgm.experiments.on_avalanche import AvalancheEngine

    return AvalancheEngine(config)
