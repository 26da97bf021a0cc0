"""Runs one experiment: trains over the stream, evaluates after each experience, can continue."""

from __future__ import annotations

import re
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import concat_datasets
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments import provenance, storage
from avalanche_dgm.experiments.building import (
    build_model,
    build_optimizer,
    resolve_device,
    seed_everything,
)
from avalanche_dgm.experiments.config import ExperimentConfig
from avalanche_dgm.experiments.methods import METHODS, Setup, build_strategy, check_options
from avalanche_dgm.experiments.progress import ProgressLogger
from avalanche_dgm.experiments.results import RunResult, Step
from avalanche_dgm.experiments.streams import (
    build_stream,
    learning_order,
    task_names,
    tested_as,
)
from avalanche_dgm.plugins.checkpoints import maybe_load_checkpoint, save_checkpoint
from avalanche_dgm.plugins.metrics import memory_metrics

_SAMPLES_A_CLASS = 10


def run(
    config: ExperimentConfig,
    *,
    folder: Path | None = None,
    resume: bool = False,
    progress: bool = False,
    command: str | None = None,
) -> RunResult:
    """Runs one experiment to its end.

    Every experience starts from random numbers that depend on the seed and its position only, so a
    run that was interrupted and continued ends as an uninterrupted one does.

    Args:
        config: What to run.
        folder: Where to keep a checkpoint and the results so far after each experience; nothing is
            written without it.
        resume: Continue from what ``folder`` holds.
        progress: Show progress bars and a line an experience on stderr.
        command: The command line, kept with the results.

    Returns:
        The measurements and a few generated images of each class.

    Raises:
        ConfigError: The settings cannot be run, or do not match what is to be continued.
        AvalancheDGMError: The data cannot be learned, or a generator diverges.
    """
    check_options(config)
    device = resolve_device(config.device)
    seed_everything(config.seed)
    benchmark = build_stream(config)
    experiment = _Experiment(config, benchmark, device, progress)
    result = experiment.empty_result(command)
    start = 0
    if resume and folder is not None:
        saved = storage.read_result(folder)
        if saved is not None:
            result = saved
            start = len(result.steps)
    elif folder is not None:
        storage.prepare(folder)
    strategy = None if METHODS[config.method].joint else experiment.strategy()
    if strategy is not None and 0 < start < len(result.order) and folder is not None:
        experiment.load(strategy, storage.checkpoint(folder, start))
    try:
        for position in range(start, len(result.order)):
            strategy = experiment.learn(strategy, result, position)
            if folder is not None:
                experiment.save(strategy, result, folder)
            experiment.report(result)
    finally:
        experiment.logger.close()
    result.samples = experiment.generate(strategy) if start < len(result.order) else {}
    return result


class _Experiment:
    """The parts of one run: they outlive the strategy, which may be made anew."""

    def __init__(
        self, config: ExperimentConfig, benchmark: Any, device: torch.device, progress: bool
    ) -> None:
        self.config = config
        self.benchmark = benchmark
        self.device = device
        self.progress = progress
        self.method = METHODS[config.method]
        first = benchmark.train_stream[0]
        self.shape = tuple(first.dataset[0][0].shape)
        self.order = learning_order(config, benchmark)
        self.tested_as = tested_as(benchmark)
        # The test experiences of what is learned: all, unless only a part of the stream is.
        self.tested = sorted({self.tested_as[i] for i in self.order})
        self.label = f"{config.method}, seed {config.seed}"
        self.logger = ProgressLogger(
            enabled=progress, n_experiences=len(self.order), label=self.label
        )

    def empty_result(self, command: str | None) -> RunResult:
        return RunResult(
            config=self.config,
            tasks=[task_names(self.benchmark)[j] for j in self.tested],
            order=[self._column(index) for index in self.order],
            provenance=provenance.collect(str(self.device), command),
            shape=self.shape,
        )

    def strategy(self) -> Any:
        """Builds network, optimiser and strategy from the seed."""
        seed_everything(self.config.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            evaluator = EvaluationPlugin(
                *accuracy_metrics(experience=True, stream=True),
                *memory_metrics(),
                loggers=[self.logger],
                collect_all=False,
            )
        model = build_model(self.config, self.benchmark, self.shape).to(self.device)
        return build_strategy(
            Setup(
                config=self.config,
                model=model,
                optimizer=build_optimizer(self.config, model),
                evaluator=evaluator,
                device=self.device,
                shape=self.shape,
                n_images=sum(len(e.dataset) for e in self.benchmark.train_stream),
                progress=self.progress,
            )
        )

    def learn(self, strategy: Any, result: RunResult, position: int) -> Any:
        """Trains on one experience, evaluates on all of them and appends a step."""
        index = self.order[position]
        if self.method.joint:
            strategy = self.strategy()
            experience = self._joined(sorted(set(self.order[: position + 1])))
        else:
            experience = self.benchmark.train_stream[index]
        self.logger.position = position
        seed_everything(self.config.seed, position + 1)
        start = time.perf_counter()
        strategy.train(experience, eval_streams=[], num_workers=0)
        trained = time.perf_counter()
        test = [self.benchmark.test_stream[j] for j in self.tested]
        with warnings.catch_warnings():
            # Here tasks are tested before they are learned on purpose.
            warnings.filterwarnings("ignore", message="Test task .* was never learned")
            metrics = strategy.eval(test, num_workers=0)
        done = time.perf_counter()
        step = Step(
            experience=self._column(index),
            accuracy=experience_accuracies(metrics, self.tested),
            stream_accuracy=_stream_accuracy(metrics),
            seconds=trained - start,
            eval_seconds=done - trained,
        )
        _add_record(step, strategy)
        result.steps.append(step)
        return strategy

    def report(self, result: RunResult) -> None:
        """Says on stderr what was learned last."""
        n, step = len(result.steps), result.steps[-1]
        if self.progress:
            print(
                f"{self.label}: experience {n}/{len(self.order)}"
                f" ({result.tasks[step.experience]}) learned in {step.seconds:.1f} s,"
                f" average accuracy {result.average():.3f}",
                file=sys.stderr,
            )

    def _column(self, index: int) -> int:
        """Returns the column of the accuracy matrix that belongs to a training experience."""
        return self.tested.index(self.tested_as[index])

    def _joined(self, indices: list[int]) -> Any:
        datasets = [self.benchmark.train_stream[i].dataset for i in indices]
        joined = benchmark_from_datasets(train=[concat_datasets(datasets)])
        return joined.train_stream[0]

    def save(self, strategy: Any, result: RunResult, folder: Path) -> None:
        """Writes the checkpoint first, then the results that name it, then drops the last one."""
        n = len(result.steps)
        if not self.method.joint and not result.complete:
            path = storage.checkpoint(folder, n)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_checkpoint(strategy, path)
        storage.write_result(folder, result)
        storage.drop_checkpoints(folder, keep=None if result.complete else n)

    def load(self, strategy: Any, path: Path) -> None:
        if not path.exists():
            raise ConfigError(
                f"The checkpoint {path} is missing, so this run cannot continue. Start it again"
                " with --overwrite."
            )
        maybe_load_checkpoint(strategy, path, map_location=self.device)
        # The checkpoint brought its own evaluator, logger and settings of progress bars along.
        self.logger.enabled = self.progress
        strategy.evaluator.loggers = [self.logger]
        for plugin in strategy.plugins:
            if hasattr(plugin, "progress"):
                plugin.progress = self.progress

    def generate(self, strategy: Any) -> dict[int, np.ndarray]:
        """Draws a few images of each class, (n, C, H, W) arrays, if the method can."""
        plugin = replay_plugin(strategy)
        sample: Callable[[int], Any] | None = getattr(
            getattr(plugin, "method", None), "sample", None
        )
        if sample is None:
            return {}
        learned = [self.benchmark.train_stream[i] for i in set(self.order)]
        n_classes = len({c for e in learned for c in e.classes_in_this_experience})
        replay = sample(4 * _SAMPLES_A_CLASS * n_classes)
        images = replay.images.detach().cpu().numpy().reshape(-1, *self.shape)
        labels = replay.labels.cpu().numpy()
        return {
            int(label): images[labels == label][:_SAMPLES_A_CLASS] for label in np.unique(labels)
        }


def replay_plugin(strategy: Any) -> Any | None:
    """Returns the plugin that remembers (it keeps a record of its replay), or ``None``.

    Args:
        strategy: An Avalanche strategy.
    """
    return next((p for p in strategy.plugins if hasattr(p, "record")), None)


def _add_record(step: Step, strategy: Any) -> None:
    plugin = replay_plugin(strategy)
    if plugin is None:
        return
    record = plugin.record
    step.phases = {name: float(s) for name, s in record.phase_seconds.items()}
    step.replayed = int(record.replayed)
    step.histogram = {int(label): int(count) for label, count in record.histogram.items()}
    step.stm_occupancy = int(record.stm_occupancy)
    step.sleeps = int(record.sleeps)
    step.sleep_seconds = float(record.sleep_seconds)
    step.memory_bytes = int(plugin.memory_bytes())


def experience_accuracies(metrics: dict[str, Any], tested: list[int]) -> list[float | None]:
    """Reads the accuracy on each test experience from Avalanche's metric names.

    Args:
        metrics: What ``strategy.eval`` returned.
        tested: The test experiences, in the order of the answer.
    """
    found = {}
    for name, value in metrics.items():
        match = re.fullmatch(r"Top1_Acc_Exp/eval_phase/.*Exp(\d+)", name)
        if match:
            found[int(match.group(1))] = float(value)
    return [found.get(j) for j in tested]


def _stream_accuracy(metrics: dict[str, Any]) -> float | None:
    values = [float(v) for k, v in metrics.items() if k.startswith("Top1_Acc_Stream/eval_phase")]
    return values[-1] if values else None
