"""The specification of a run: training order and test experiences, for both backends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from avalanche.benchmarks.utils import concat_datasets

from avalanche_dgm.errors import UnknownTaskError
from avalanche_dgm.experiments import provenance
from avalanche_dgm.experiments.building import (
    learning_order,
    task_names,
    tested_as,
    tested_beside,
)
from avalanche_dgm.experiments.config import ExperimentConfig
from avalanche_dgm.experiments.methods import find_method, is_joint
from avalanche_dgm.experiments.results import RunResult, Step
from avalanche_dgm.held import held_bytes
from avalanche_dgm.methods import Method, MethodStats
from avalanche_dgm.methods.abilities import Inspectable
from avalanche_dgm.metrics.functional import stream_accuracy
from avalanche_dgm.streams.tensors import assemble

_SAMPLES_A_CLASS = 10


class RunSpec:
    """The training and test experiences of a run.

    Args:
        config: The run's settings.
        benchmark: Its stream.

    Attributes:
        method: The config's method.
        shape: Shape of one image, (channels, height, width).
        order: Indices of the training experiences, in order of learning.
        tested: Indices of the test experiences, each once.
        label: Name of the run.

    Raises:
        ConfigError: The stream has fewer experiences.
    """

    def __init__(self, config: ExperimentConfig, benchmark: Any) -> None:
        self.config, self.benchmark = config, benchmark
        self.method = find_method(config.method)
        self.shape = tuple(benchmark.train_stream[0].dataset[0][0].shape)
        self.order = learning_order(config, benchmark)
        self._tested_as = tested_as(benchmark)
        # Only the test experiences of learned tasks.
        beside = tested_beside(benchmark, self.order, self._tested_as)
        self.tested = sorted({*(self._tested_as[i] for i in self.order), *beside})
        self.label = f"{config.method}, seed {config.seed}"

    @property
    def n_images(self) -> int:
        """Training images of the stream."""
        return sum(len(e.dataset) for e in self.benchmark.train_stream)

    def empty_result(self, device: str, command: str | None) -> RunResult:
        """The result without steps."""
        return RunResult(
            config=self.config,
            tasks=[task_names(self.benchmark)[j] for j in self.tested],
            order=self.columns,
            provenance=provenance.collect(device, command),
            shape=self.shape,
        )

    @property
    def columns(self) -> list[int]:
        """The column of the accuracy matrix for each experience in order of learning."""
        return [self.tested.index(self._tested_as[index]) for index in self.order]

    def train_experience(self, position: int) -> Any:
        """The experience at a position; for ``joint``, all up to it as one experience."""
        if not is_joint(self.method):
            return self.benchmark.train_stream[self.order[position]]
        so_far = sorted(set(self.order[: position + 1]))
        datasets = [self.benchmark.train_stream[i].dataset for i in so_far]
        return assemble({"train": [(concat_datasets(datasets), None)]}).train_stream[0]

    def test_experiences(self) -> list[Any]:
        """The test experiences."""
        return [self.benchmark.test_stream[j] for j in self.tested]

    def kept_bytes(self, position: int) -> int | None:
        """Bytes of the images stored for training: for ``joint``, all experiences so far."""
        return held_bytes(self.train_experience(position).dataset) if is_joint(self.method) else 0

    @cached_property
    def sizes(self) -> list[int]:
        """Images of each test experience."""
        return [len(e.dataset) for e in self.test_experiences()]

    def sample_images(self, method: Method) -> dict[int, np.ndarray]:
        """Samples a few images of each class, (n, C, H, W) arrays; empty without a generator."""
        learned = [self.benchmark.train_stream[i] for i in set(self.order)]
        n_classes = len({c for e in learned for c in e.classes_in_this_experience})
        if not isinstance(method, Inspectable):
            return {}
        try:
            replay = method.sample(4 * _SAMPLES_A_CLASS * n_classes)
        except UnknownTaskError:  # A method without samples.
            return {}
        if len(self.shape) != 3 or replay.images[0].numel() != math.prod(self.shape):
            return {}  # Features or latents.
        images = replay.images.detach().cpu().numpy().reshape(-1, *self.shape)
        labels = replay.labels.cpu().numpy()
        return {
            int(label): images[labels == label][:_SAMPLES_A_CLASS] for label in np.unique(labels)
        }


def measured(row: Sequence[float | None], sizes: Sequence[int]) -> dict[str, Any]:
    """The accuracies of a `Step`.

    Args:
        row: Accuracies on the test experiences; NaN or ``None`` if not measured.
        sizes: Number of images of each test experience.
    """
    known = [None if value is None or math.isnan(value) else value for value in row]
    over_all = stream_accuracy(known, sizes)
    return {"accuracy": known, "stream_accuracy": None if math.isnan(over_all) else over_all}


def sizes_held(held: int | None, peak: int | None, kept: int | None = 0) -> dict[str, Any]:
    """The bytes of a `Step`.

    Args:
        held: Size of the memory after an experience, in bytes; ``None`` if not known.
        peak: Largest size during the experience, in bytes.
        kept: Bytes of images that are stored outside of the memory.
    """
    if held is None or peak is None or kept is None:
        return {"memory_bytes": None, "peak_bytes": None}
    return {"memory_bytes": int(held + kept), "peak_bytes": int(max(held, peak) + kept)}


def add_method_stats(step: Step, stats: MethodStats) -> None:
    """Adds a method's statistics to a step."""
    step.phases = {name: float(s) for name, s in stats.phase_seconds.items()}
    step.replayed = int(stats.replayed)
    step.histogram = {int(label): int(count) for label, count in stats.histogram.items()}
    step.stm_occupancy = int(stats.stm_occupancy)
    step.sleeps = int(stats.sleeps)
    step.sleep_seconds = float(stats.sleep_seconds)
