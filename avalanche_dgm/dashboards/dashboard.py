"""The dashboard: logs the events of a run as panels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avalanche_dgm.checks import whole
from avalanche_dgm.dashboards import drawing, keys, views
from avalanche_dgm.dashboards.sinks import (
    Cell,
    FailSafeSink,
    Histogram,
    Panel,
    Picture,
    Sink,
    Table,
)
from avalanche_dgm.dashboards.views import Examples
from avalanche_dgm.methods import Method, MethodStats
from avalanche_dgm.metrics.cost import (
    memory_bytes_of,
    memory_parameters_of,
    seconds_by_kind,
    stored_samples_of,
)
from avalanche_dgm.metrics.stream_accuracies import StreamAccuracies

#: Maximum number of rows in an image of samples, one per class.
_MAX_ROWS = 40
#: Maximum number of test images whose latents are embedded.
_MAX_POINTS = 500


@dataclass
class LearnedExperience:
    """A learned experience.

    Attributes:
        experiences: Number of experiences learned so far, including this one.
        seconds: Seconds of training on the experience, NaN if not known.
        shown: Samples that the classifier was trained on in the experience, over all epochs.
        n_classes: Approximate number of classes learned so far.
        stats: The method's statistics; ``None`` reads them from the method.
    """

    experiences: int
    seconds: float
    shown: int
    n_classes: int = 10
    stats: MethodStats | None = None


class Dashboard:
    """Logs a run as panels; see `avalanche_dgm.dashboards.keys` for their names and axes.

    Training is not changed: samples are drawn from separate random generators. A failing sink does
    not stop the run (`FailSafeSink`).

    Args:
        sinks: Where to log panels.
        samples_per_class: Samples per class in image grids, at least 1.
        latents: Whether to plot an embedding of test latents after the last experience, which
            takes a few seconds.
        seed: Seed of the samples in images.

    Raises:
        ConfigError: ``samples_per_class`` is below 1.
    """

    def __init__(
        self,
        sinks: Sequence[Sink],
        *,
        samples_per_class: int = 8,
        latents: bool = True,
        seed: int = 0,
    ) -> None:
        whole("samples_per_class", samples_per_class)
        self.sinks = [
            sink if isinstance(sink, FailSafeSink) else FailSafeSink(sink) for sink in sinks
        ]
        self.samples_per_class, self.latents, self.seed = samples_per_class, latents, seed
        #: Cache of test images, set by the caller of `log_examples`.
        self.examples: Examples | None = None
        #: The last logged settings.
        self._settings: dict[str, Any] = {}

    def log_settings(self, settings: Mapping[str, Any]) -> None:
        """Logs the run's settings if they have changed.

        Args:
            settings: JSON values in nested dictionaries: ``method`` (see `keys.settings_of`),
                ``strategy`` and so on.
        """
        if settings and settings != self._settings:
            for sink in self.sinks:
                sink.settings(settings)
            self._settings = dict(settings)

    def log_training(self, values: Mapping[str, float], *, step: int) -> None:
        """Logs scalars of the classifier's training."""
        self._log(values, keys.STEP, step)

    def log_experience(self, experience: LearnedExperience, method: Method | None) -> None:
        """Logs the method's memory and training time after an experience.

        Synchronises with the device.
        """
        if not self.sinks:
            return
        panels: dict[str, Panel] = {keys.TIME_LEARN: experience.seconds}
        if experience.seconds > 0 and experience.shown:
            panels[keys.SAMPLES_PER_SECOND] = experience.shown / experience.seconds
        if method is not None:
            stats = experience.stats if experience.stats is not None else method.stats.read()
            panels |= _memory_panels(method, stats)
            panels |= self._samples(method, experience)
            panels |= _mask_panels(method)
        self._log(panels, keys.EXPERIENCE, experience.experiences)

    def log_sleep(self, stats: MethodStats, *, before: int, at: int) -> None:
        """Logs a sleep, if there was one.

        Args:
            stats: The method's statistics.
            before: Number of sleeps at the last call.
            at: Experiences learned so far.
        """
        if stats.sleeps > before:
            values = {keys.SLEEP_SECONDS: stats.sleep_seconds, keys.SLEEP_AFTER: float(at)}
            self._log(values, keys.SLEEP, stats.sleeps)

    def log_examples(self, method: Method, seen: Examples, *, at: int, last: bool) -> None:
        """Logs reconstructions and latents of test images.

        Args:
            method: The method.
            seen: Test images of the experiences learned so far.
            at: Experiences learned so far.
            last: Whether the stream is complete; then latents are embedded if ``latents`` is set.
        """
        if not self.sinks or not len(seen.images):
            return
        panels = self._reconstructions(method, seen)
        if last and self.latents:
            panels |= self._latents(method, seen)
        self._log(panels, keys.EXPERIENCE, at)
        for sink in self.sinks:
            sink.flush()

    def log_test(
        self,
        accuracies: StreamAccuracies,
        *,
        names: Sequence[str] | None = None,
        experiences: Sequence[int] | None = None,
        seconds: float | None = None,
    ) -> None:
        """Logs the accuracies after an experience.

        Args:
            accuracies: Accuracies after each experience learned so far. The image leaves out test
                experiences that were never evaluated.
            names: Names of the test experiences.
            experiences: Positions of the columns in the test stream; by default all of it.
            seconds: Seconds of the last test.
        """
        if not self.sinks:
            return
        matrix = accuracies.values
        at, n_tests = matrix.shape
        names = list(names) if names is not None else [str(j) for j in range(n_tests)]
        numbers = experiences if experiences is not None else range(n_tests)
        last: list[float] = matrix[-1].tolist()
        panels: dict[str, Panel] = {
            keys.ACCURACY.format(j): value for j, value in zip(numbers, last, strict=True)
        }
        panels |= {f"{keys.STREAM}{k}": v for k, v in accuracies.summaries().items()}
        if seconds is not None:
            panels[keys.TIME_TEST] = seconds
        tested = [j for j in range(n_tests) if not np.isnan(matrix[:, j]).all()]
        learned = accuracies.order[:at]
        after = [f"({i})" if j is None else names[j] for i, j in enumerate(learned, start=1)]
        if tested:
            pixels = drawing.heat_map(matrix[:, tested], [names[j] for j in tested], after)
            panels[keys.MATRIX] = Picture(pixels, "accuracy matrix")
        # All rows of a table need the same columns, also for untested experiences.
        row: list[Cell] = [after[-1], *(round(value, 6) for value in last)]
        panels[keys.MATRIX_TABLE] = Table(["after", *names], [row])
        self._log(panels, keys.EXPERIENCE, at)
        for sink in self.sinks:
            sink.flush()

    def log_checkpoint(self, path: Path, *, at: int) -> None:
        """Logs a checkpoint file, or its path."""
        self._log({keys.CHECKPOINT: path}, keys.EXPERIENCE, at)

    def close(self) -> None:
        """Closes all sinks."""
        for sink in self.sinks:
            sink.close()

    def _log(self, panels: Mapping[str, Panel], axis: str, at: int) -> None:
        finite = {
            key: panel
            for key, panel in panels.items()
            if not isinstance(panel, (int, float)) or math.isfinite(panel)
        }
        for sink in self.sinks if finite else ():
            sink.log(finite, axis=axis, at=at)

    def _samples(self, method: Method, experience: LearnedExperience) -> dict[str, Panel]:
        """Samples of every class, as an image and as rows of a table."""
        by_class = views.samples(
            method, self.samples_per_class, n_classes=experience.n_classes, seed=self.seed
        )
        rows: dict[str, NDArray[Any]] = {}
        for (task, label), images in list(by_class.items())[:_MAX_ROWS]:
            row = _drawable(images)
            if row is not None:
                rows[f"{task}:{label}" if task else str(label)] = row
        if not rows:
            return {}
        # All classes on the same intensity scale.
        low = min(float(row.min()) for row in rows.values())
        high = max(float(row.max()) for row in rows.values())
        pixels = drawing.grid(list(rows.values()), low=low, high=high)
        at = experience.experiences
        table = [(at, n, drawing.grid([row], low=low, high=high)) for n, row in rows.items()]
        return {
            keys.SAMPLES: Picture(pixels, f"samples from the memory, by row: {', '.join(rows)}"),
            keys.SAMPLES_TABLE: Table(("experience", "class", "samples"), table),
        }

    def _reconstructions(self, method: Method, seen: Examples) -> dict[str, Panel]:
        """Test images and their reconstructions, and the mean squared error."""
        outputs = views.reconstructions(method, seen.images, seen.tasks, seed=self.seed)
        if outputs is None:
            return {}
        outputs = outputs.to(seen.images)
        error = float((outputs - seen.images).square().mean())
        panels: dict[str, Panel] = {keys.RECONSTRUCTION_ERROR: error}
        rows = []
        for pair in seen.classes()[:_MAX_ROWS]:
            index = seen.rows_of(pair)[: max(self.samples_per_class // 2, 1)]
            row = _drawable(torch.stack([seen.images[index], outputs[index]], dim=1).flatten(0, 1))
            rows += [row] if row is not None else []
        if rows:
            caption = "test images, each followed by its reconstruction; one row per class"
            panels[keys.RECONSTRUCTIONS] = Picture(drawing.grid(rows), caption)
        return panels

    def _latents(self, method: Method, seen: Examples) -> dict[str, Panel]:
        """A 2-D embedding of test latents."""
        subset = seen[:: -(-len(seen.images) // _MAX_POINTS)]
        points = views.embedding(method, subset, seed=self.seed)
        if points is None:
            return {}
        pixels = drawing.scatter(points, subset.labels.cpu().numpy())
        return {keys.LATENTS: Picture(pixels, "latents of test images (t-SNE), coloured by class")}


def _mask_panels(method: Any) -> dict[str, Panel]:
    """Mask usage: an image over all experiences, and scalars of the last one."""
    shares = views.mask_shares(method)
    if not shares:
        return {}
    caption = "use of each layer's mask, by experience"
    panels: dict[str, Panel] = {
        keys.MASKS: Picture(drawing.usage_bars(shares), caption),
        keys.CAPACITY: float(method.generator.network.capacity_ratio),
    }
    for layer, entries in shares.items():
        for part, share in entries[-1].items():
            panels[keys.MASK.format(layer=layer, part=part)] = share
    return panels


def _memory_panels(method: Method, stats: MethodStats) -> dict[str, Panel]:
    """Size of the memory, and the method's statistics in the experience."""
    panels: dict[str, Panel] = {
        keys.MEMORY_BYTES: float(memory_bytes_of(method)),
        keys.MEMORY_PARAMETERS: float(memory_parameters_of(method)),
        keys.MEMORY_STORED: float(stored_samples_of(method)),
        keys.STM_OCCUPANCY: float(stats.stm_occupancy),
        keys.REPLAYED: float(stats.replayed),
    }
    for kind, seconds in seconds_by_kind(stats.phase_seconds).items():
        panels[keys.TIME_PHASE.format(kind)] = seconds
    if stats.histogram:
        panels[keys.REPLAY_LABELS] = Histogram(stats.histogram)
    return panels


def _drawable(images: Tensor) -> NDArray[Any] | None:
    """Images as an array (n, C, H, W); flat samples become square images, if possible."""
    if images.ndim == 2:
        side = math.isqrt(images.shape[1])
        if side * side != images.shape[1] or side < 4:
            return None
        images = images.reshape(len(images), 1, side, side)
    if images.ndim != 4 or not len(images):
        return None
    return np.asarray(images.detach().float().cpu().numpy())
