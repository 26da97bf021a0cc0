"""Runs one experiment with Avalanche: trains over the stream and tests after each experience."""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments import report, run_folders, storage
from avalanche_dgm.experiments.building import (
    build_stream,
    resolve_device,
    seed_everything,
)
from avalanche_dgm.experiments.config import ExperimentConfig
from avalanche_dgm.experiments.gan_files import GeneratorRecorder
from avalanche_dgm.experiments.log_settings import LogSettings
from avalanche_dgm.experiments.methods import (
    check_options,
    find_method,
    is_joint,
)
from avalanche_dgm.experiments.panels import RunPanels
from avalanche_dgm.experiments.progress import (
    EpochMeansLogger,
    ExperienceStartLogger,
    ProgressLogger,
)
from avalanche_dgm.experiments.results import RunResult, Step
from avalanche_dgm.experiments.run_spec import (
    RunSpec,
    add_method_stats,
    measured,
    print_progress,
    sizes_held,
)
from avalanche_dgm.experiments.strategies import build_strategy
from avalanche_dgm.plugins.accuracies import ExperienceAccuracies
from avalanche_dgm.plugins.checkpoints import maybe_load_checkpoint, save_checkpoint
from avalanche_dgm.plugins.fingerprint import store_fingerprint
from avalanche_dgm.plugins.metrics import MemoryMetrics


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
    """Runs one experiment.

    The random seed of each experience depends on the run's seed and its position only, so a run
    that resumes has the result of an uninterrupted one.

    Args:
        config: The run's settings.
        folder: Folder for a checkpoint and the results after each experience, and for the files of
            `report.write_run` at the end; nothing is written without it. A finished run of the
            same settings is kept until the new one is complete.
        resume: Resume the run in ``folder``.
        overwrite: Replace the run in ``folder``.
        progress: Show a line for each experience on stderr, and bars if that is a terminal.
        command: The command line, saved with the results.
        log: Where to log panels; ``None`` for files in ``folder``.

    Returns:
        The measurements and a few generated images of each class.

    Raises:
        ConfigError: The settings are invalid, or differ from those of the run to resume; or the
            folder holds something else, or is in use.
        StorageError: A file cannot be written; the run can be resumed.
        AvalancheDGMError: The data cannot be learned, or a generator diverges.
    """
    check_options(config)
    device = resolve_device(config.device)
    seed_everything(config.seed)
    benchmark = build_stream(config)
    with run_folders.claim(folder, config, resume=resume, overwrite=overwrite) as (target, saved):
        # In a log file, a line for each experience is enough.
        bars = progress and sys.stderr.isatty()
        experiment = AvalancheRun(config, benchmark, device, bars, target)
        result = saved or experiment.empty_result(str(device), command)
        start = len(result.steps)
        experiment.panels = RunPanels(experiment, target, log or LogSettings())
        strategy = None if is_joint(find_method(config.method)) else experiment.strategy()
        if strategy is not None and target is not None:
            if 0 < start < len(result.order):
                experiment.load(strategy, storage.checkpoint(target, start))
            elif not start:
                store_fingerprint(strategy, experiment.learned)
        if strategy is not None and (plugin := replay_plugin(strategy)) is not None:
            result.method_settings = plugin.method.settings.to_dict()
        if target is not None and saved is None:
            run_folders.begin(target, result)
        try:
            for position in range(start, len(result.order)):
                strategy = experiment.learn(strategy, result, position)
                experiment.show(strategy, result)
                if target is not None and not result.complete:
                    experiment.save(strategy, result, target)
                if progress:
                    print_progress(result)
        finally:
            experiment.logger.close()
            experiment.panels.close()
        if start < len(result.order):
            plugin = replay_plugin(strategy)
            result.samples = experiment.sample_images(plugin.method) if plugin is not None else {}
            if target is not None:
                report.write_run(target, result)
        if folder is not None and target is not None:
            run_folders.finish(folder, target, result)
    return result


class AvalancheRun(RunSpec):
    """A run with an Avalanche strategy; joint training makes a new one for each experience."""

    def __init__(
        self,
        config: ExperimentConfig,
        benchmark: Any,
        device: torch.device,
        progress: bool,
        folder: Path | None,
    ) -> None:
        super().__init__(config, benchmark)
        self.device = device
        self.progress = progress
        self.panels: RunPanels | None = None
        self.generator = GeneratorRecorder(self, folder)
        self.logger = ProgressLogger(
            enabled=progress, n_experiences=len(self.order), label=self.label
        )

    def strategy(self) -> Any:
        """Builds network, optimiser and strategy from the seed."""
        seed_everything(self.config.seed)
        return build_strategy(self, self._loggers(), device=self.device, progress=self.progress)

    def _loggers(self) -> list[Any]:
        loggers: list[Any] = [self.logger]
        if self.panels is not None:
            loggers.append(EpochMeansLogger(self.panels.log_training))
        if self.generator.active:
            loggers.append(ExperienceStartLogger(lambda s: self.generator.watch(replay_plugin(s))))
        return loggers

    def show(self, strategy: Any, result: RunResult) -> None:
        """Logs the panels of the last step."""
        plugin = replay_plugin(strategy)
        if self.panels is not None:
            self.panels.log_experience(result, plugin.method if plugin is not None else None)

    def learn(self, strategy: Any, result: RunResult, position: int) -> Any:
        """Trains on one experience, tests on all of them and appends a step."""
        if is_joint(self.method):
            strategy = self.strategy()
        experience = self.train_experience(position)
        self.logger.position = position
        seed_everything(self.config.seed, position + 1)
        start = time.perf_counter()
        strategy.train(experience, eval_streams=[], num_workers=0)
        trained = time.perf_counter()
        with warnings.catch_warnings():
            # Tasks are tested before they are learned on purpose.
            warnings.filterwarnings("ignore", message="Test task .* was never learned")
            strategy.eval(self.test_experiences(), num_workers=0)
        done = time.perf_counter()
        accuracies = ExperienceAccuracies.of(strategy)
        step = Step(
            experience=result.order[position],
            **measured([accuracies.get(j) for j in self.tested], self.sizes),
            **sizes_held(*MemoryMetrics.of(strategy), self.kept_bytes(position)),
            seconds=trained - start,
            eval_seconds=done - trained,
        )
        plugin = replay_plugin(strategy)
        if plugin is not None:
            add_method_stats(step, plugin.stats)
            for name, value in self.generator.note(plugin, position).items():
                setattr(step, name, value)
        result.steps.append(step)
        return strategy

    def save(self, strategy: Any, result: RunResult, folder: Path) -> None:
        """Writes the checkpoint, then the results that name it, then removes the former one."""
        n = len(result.steps)
        if not is_joint(self.method):
            save_checkpoint(strategy, storage.checkpoint(folder, n))
        storage.write_result(folder, result)
        storage.drop_checkpoints(folder, result, keep=n)

    @property
    def learned(self) -> list[Any]:
        """The training experiences, in order of learning."""
        return [self.benchmark.train_stream[i] for i in self.order]

    def load(self, strategy: Any, path: Path) -> None:
        """Loads the strategy from a checkpoint."""
        if not path.exists():
            raise ConfigError(
                f"The checkpoint {path} is missing, so this run cannot continue. Start it again"
                " with --overwrite."
            )
        maybe_load_checkpoint(strategy, path, map_location=self.device, stream=self.learned)
        # The checkpoint has replaced evaluator, loggers and progress bars.
        self.logger.enabled = self.progress
        strategy.evaluator.loggers = self._loggers()
        for plugin in strategy.plugins:
            if hasattr(plugin, "progress"):
                plugin.progress = self.progress


def replay_plugin(strategy: Any) -> Any | None:
    """Returns the plugin of a method (it has statistics of its replay), or ``None``.

    Args:
        strategy: An Avalanche strategy.
    """
    return next((p for p in strategy.plugins if hasattr(p, "stats")), None)
