"""Runs on Avalanche's training loop."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avalanche.logging import BaseLogger
from tqdm import tqdm

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments import storage
from avalanche_dgm.experiments.building import resolve_device, seed_everything
from avalanche_dgm.experiments.config import ExperimentConfig
from avalanche_dgm.experiments.gan_files import GeneratorRecorder
from avalanche_dgm.experiments.methods import is_joint
from avalanche_dgm.experiments.results import RunResult
from avalanche_dgm.experiments.run_spec import add_method_stats
from avalanche_dgm.experiments.strategies import accuracies_by_epoch, build_strategy, measured_step
from avalanche_dgm.plugins.checkpoints import maybe_load_checkpoint, save_checkpoint
from avalanche_dgm.plugins.epoch_means import EpochMeans
from avalanche_dgm.plugins.fingerprint import store_fingerprint

if TYPE_CHECKING:
    from avalanche_dgm.experiments.runner import Run


class AvalancheEngine:
    """Trains with an Avalanche strategy; joint training creates a new one for each experience.

    The random seed of each experience only depends on the run's seed and the experience's position.
    """

    is_global_zero = True

    def __init__(self, config: ExperimentConfig) -> None:
        self._device = resolve_device(config.device)
        self.device = str(self._device)

    def prepare(self, run: Run) -> None:
        """See `runner.Engine.prepare`."""
        spec, result = run.spec, run.result
        self.run = run
        # Without bars in a log file.
        self.bars = run.options.progress and sys.stderr.isatty()
        self.generator = GeneratorRecorder(spec, run.folder)
        self.logger = RunLogger(
            spec.label,
            len(spec.order),
            bars=self.bars,
            on_epoch=run.panels.log_training,
            on_start=lambda strategy: self.generator.watch(replay_plugin(strategy)),
        )
        self.strategy = self._build()
        if run.folder is not None and not is_joint(spec.method):
            if result.steps:
                self._load(storage.checkpoint(run.folder, len(result.steps)))
            else:
                store_fingerprint(self.strategy, self._learned)
        if (plugin := replay_plugin(self.strategy)) is not None:
            result.method_settings = plugin.method.settings.to_dict()

    def learn(self, run: Run) -> bool:
        """See `runner.Engine.learn`."""
        try:
            for position in range(len(run.result.steps), len(run.spec.order)):
                self.learn_experience(position)
                plugin = replay_plugin(self.strategy)
                run.publish(plugin.method if plugin is not None else None, self._save)
        finally:
            self.logger.close()
        if plugin is not None:
            run.result.samples = run.spec.sample_images(plugin.method)
        run.keep(plugin.method if plugin is not None else self.strategy.model)
        return True

    def learn_experience(self, position: int) -> None:
        """Trains on an experience, evaluates on all experiences and appends a step."""
        spec, result = self.run.spec, self.run.result
        if is_joint(spec.method):
            self.strategy = self._build()
        experience = spec.train_experience(position)
        self.logger.position = position
        seed_everything(spec.config.seed, position + 1)
        start = time.perf_counter()
        within = [spec.test_experiences()] if spec.config.every_epoch else []
        self.strategy.train(experience, eval_streams=within, num_workers=0)
        trained, plugin = time.perf_counter(), replay_plugin(self.strategy)
        awake = plugin.stats.sleep_seconds if plugin is not None else 0.0
        self.strategy.eval(spec.test_experiences(), num_workers=0)
        # A sleep before an evaluation counts as training.
        slept = plugin.stats.sleep_seconds - awake if plugin is not None else 0.0
        step = measured_step(
            self.strategy,
            spec.tested,
            spec.sizes,
            spec.kept_bytes(position),
            experience=result.order[position],
            seconds=trained - start + slept,
            eval_seconds=time.perf_counter() - trained - slept,
            by_epoch=accuracies_by_epoch(self.strategy, spec.tested),
        )
        if plugin is not None:
            add_method_stats(step, plugin.stats)
            for name, value in self.generator.note(plugin, position).items():
                setattr(step, name, value)
        result.steps.append(step)

    def _build(self) -> Any:
        """Builds network, optimiser and strategy from the seed."""
        seed_everything(self.run.spec.config.seed)
        return build_strategy(self.run.spec, [self.logger], device=self._device, progress=self.bars)

    @property
    def _learned(self) -> list[Any]:
        """The training experiences, in order of learning."""
        return [self.run.spec.benchmark.train_stream[i] for i in self.run.spec.order]

    def _save(self, folder: Path, result: RunResult) -> None:
        """Writes the checkpoint, then the results that refer to it; removes the previous one."""
        n = len(result.steps)
        if not is_joint(self.run.spec.method):
            save_checkpoint(self.strategy, storage.checkpoint(folder, n))
        storage.write_result(folder, result)
        storage.drop_checkpoints(folder, result, keep=n)

    def _load(self, path: Path) -> None:
        if not path.exists():
            raise ConfigError(
                f"The checkpoint {path} is missing, so this run cannot continue. Start it again"
                " with --overwrite."
            )
        maybe_load_checkpoint(self.strategy, path, map_location=self._device, stream=self._learned)
        # The checkpoint has replaced the evaluator and the settings of progress bars.
        self.strategy.evaluator.loggers = [self.logger]
        for plugin in self.strategy.plugins:
            if hasattr(plugin, "progress"):
                plugin.progress = self.bars


def replay_plugin(strategy: Any) -> Any | None:
    """The plugin of a strategy's method, which has ``stats``, or ``None``."""
    return next((p for p in strategy.plugins if hasattr(p, "stats")), None)


class RunLogger(BaseLogger):
    """Shows and reports the progress of the classifier's training; not saved in checkpoints.

    It also avoids Avalanche's warning about an evaluator without loggers.

    Args:
        label: Label of the progress bars.
        n_experiences: Length of the stream.
        bars: Whether to show a progress bar for each experience on stderr.
        on_epoch: Called after each epoch with the mean loss and accuracy by key, and the
            classifier's optimiser steps so far.
        on_start: Called with the strategy when plugins have started an experience, before any
            training.
    """

    position = 0
    """Position of the current experience."""

    def __init__(
        self,
        label: str,
        n_experiences: int,
        *,
        bars: bool,
        on_epoch: Callable[[dict[str, float], int], None],
        on_start: Callable[[Any], None],
    ) -> None:
        super().__init__()
        self._label, self._n_experiences, self._bars = label, n_experiences, bars
        self._on_epoch, self._on_start = on_epoch, on_start
        self._means = EpochMeans()
        self._bar: tqdm[Any] | None = None

    def after_train_dataset_adaptation(
        self, strategy: Any, metric_values: Any, **kwargs: Any
    ) -> None:
        """Reports the start of an experience, after plugins have started it."""
        self._on_start(strategy)

    def before_training_epoch(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Resets the means; opens the experience's progress bar, or updates its label."""
        self._means.start()
        name = (
            f"{self._label}, experience {self.position + 1}/{self._n_experiences}"
            f", epoch {strategy.clock.train_exp_epochs + 1}/{strategy.train_epochs}"
        )
        if self._bar is None:
            total = len(strategy.dataloader) * strategy.train_epochs
            self._bar = tqdm(
                total=total,
                desc=name,
                unit="it",
                disable=not self._bars,
                leave=False,
                file=sys.stderr,
                dynamic_ncols=True,
            )
        self._bar.set_description(name, refresh=False)

    def after_training_iteration(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Adds a batch."""
        self._means.add(strategy)
        if self._bar is not None:
            self._bar.update()

    def after_training_epoch(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Reports the means, which synchronises with the device.

        Closes the bar after the last epoch, as the method's phases have other bars.
        """
        if values := self._means.values():
            self._on_epoch(values, strategy.clock.train_iterations)
        if strategy.clock.train_exp_epochs + 1 >= strategy.train_epochs:
            self.close()

    def after_training_exp(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Closes the bar if training stopped early."""
        self.close()

    def close(self) -> None:
        """Removes the bar, also after an interruption."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __getstate__(self) -> dict[str, Any]:
        # A resumed run has another logger.
        return {}
