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

from avalanche_dgm.dashboards import drawing, keys, views
from avalanche_dgm.dashboards.sinks import Cell, FailSafeSink, Pixels, Sink
from avalanche_dgm.dashboards.views import Class, Examples
from avalanche_dgm.methods import Method, MethodStats
from avalanche_dgm.metrics.cost import (
    memory_bytes_of,
    memory_parameters_of,
    phase_kind,
    stored_samples_of,
)
from avalanche_dgm.metrics.summaries import summaries
from avalanche_dgm.settings import whole

#: Most rows of an image of samples; of more classes the first ones are shown.
_MOST_ROWS = 40
#: Most test images whose latents are embedded.
_MOST_POINTS = 500


@dataclass
class LearnedExperience:
    """An experience that was learned.

    Attributes:
        experiences: Number of experiences learned so far, including this one.
        seconds: Seconds of training on it, NaN if not known.
        shown: Samples that the classifier was trained on in it, over all epochs.
        n_classes: Approximate number of classes learned so far.
        shape: Shape of one sample, to tell samples from latents; ``None`` if not known.
        stats: The method's statistics; ``None`` reads them from the method.
    """

    experiences: int
    seconds: float
    shown: int
    n_classes: int = 10
    shape: tuple[int, ...] | None = None
    stats: MethodStats | None = None


class Dashboard:
    """Logs a run as panels; see `avalanche_dgm.dashboards.keys` for their names and axes.

    Training is not changed: samples are drawn from separate random numbers. A sink that fails does
    not stop the run (`FailSafeSink`).

    Args:
        sinks: Where to log panels.
        samples_per_class: Samples of each class in images, at least 1.
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
        #: The settings that were logged.
        self._settings: dict[str, Any] = {}

    def log_settings(self, method: Method) -> None:
        """Logs a method's settings, once.

        Args:
            method: The method.
        """
        values = keys.settings_of(method)
        if values != self._settings:
            for sink in self.sinks:
                sink.settings(values)
        self._settings = values

    def log_training(self, values: Mapping[str, float], *, step: int) -> None:
        """Logs scalars of the classifier's training.

        Args:
            values: Scalars by key, such as ``train/loss``.
            step: Optimiser steps of the classifier so far.
        """
        self._scalars(values, keys.STEP, step)

    def log_experience(self, experience: LearnedExperience, method: Method | None) -> None:
        """Logs the method's memory after an experience, and its cost; waits for the device.

        Args:
            experience: The experience.
            method: The method, or ``None`` for strategies without one.
        """
        if not self.sinks:
            return
        at, values = experience.experiences, {keys.TIME_LEARN: experience.seconds}
        if experience.seconds > 0 and experience.shown:
            values[keys.SAMPLES_PER_SECOND] = experience.shown / experience.seconds
        if method is None:
            self._scalars(values, keys.EXPERIENCE, at)
            return
        stats = experience.stats if experience.stats is not None else method.stats.read()
        values |= _memory_values(method, stats)
        if stats.histogram:
            for sink in self.sinks:
                sink.histogram(keys.REPLAY_LABELS, stats.histogram, axis=keys.EXPERIENCE, at=at)
        pictures = _ExperienceImages(self, method, at)
        pictures.samples(experience.n_classes, experience.shape)
        values |= pictures.masks()
        self._scalars(values, keys.EXPERIENCE, at)

    def log_sleep(self, stats: MethodStats, *, before: int, at: int) -> None:
        """Logs a sleep, if there was one.

        Args:
            stats: The method's statistics.
            before: Number of sleeps logged before.
            at: Experiences learned so far.
        """
        if stats.sleeps > before:
            values = {keys.SLEEP_SECONDS: stats.sleep_seconds, keys.SLEEP_AFTER: float(at)}
            self._scalars(values, keys.SLEEP, stats.sleeps)

    def log_examples(self, method: Method, seen: Examples, *, at: int, last: bool) -> None:
        """Logs reconstructions and latents of test images.

        Args:
            method: The method.
            seen: Test images of the experiences learned so far.
            at: Experiences learned so far.
            last: Whether the stream is complete: then latents are embedded, if asked for.
        """
        if not self.sinks or not len(seen.images):
            return
        pictures = _ExperienceImages(self, method, at)
        error = pictures.reconstructions(seen)
        if error is not None:
            self._scalars({keys.RECONSTRUCTION_ERROR: error}, keys.EXPERIENCE, at)
        if last and self.latents:
            pictures.latents(seen)
        for sink in self.sinks:
            sink.flush()

    def log_test(
        self,
        matrix: Tensor,
        *,
        columns: Sequence[int | None],
        names: Sequence[str] | None = None,
        experiences: Sequence[int] | None = None,
        seconds: float | None = None,
    ) -> None:
        """Logs the accuracies after an experience.

        Args:
            matrix: Float tensor (T, S): accuracies, 0 to 1, on each of S test experiences after
                each of the T experiences learned so far; NaN where not tested. The image leaves
                out columns that are all NaN.
            columns: The column of each of the T experiences; ``None`` for one without a test
                experience.
            names: Names of the test experiences.
            experiences: Their positions in the test stream, if the columns are not all of it.
            seconds: Seconds of the last test.
        """
        if not self.sinks:
            return
        matrix = matrix.detach().float().cpu()
        at, n_tests = matrix.shape
        names = list(names) if names is not None else [str(j) for j in range(n_tests)]
        numbers = experiences if experiences is not None else range(n_tests)
        last: list[float] = matrix[-1].tolist()
        values = {keys.ACCURACY.format(j): v for j, v in zip(numbers, last, strict=True)}
        values |= {f"{keys.STREAM}{k}": v for k, v in summaries(matrix, columns).items()}
        if seconds is not None:
            values[keys.TIME_TEST] = seconds
        self._scalars(values, keys.EXPERIENCE, at)
        tested: list[int] = (~matrix.isnan()).any(dim=0).nonzero().flatten().tolist()
        after = [f"({i})" if j is None else names[j] for i, j in enumerate(columns, start=1)]
        array, shown = matrix[:, tested].numpy(), [names[j] for j in tested]
        if tested:
            self._image(keys.MATRIX, drawing.heat_map(array, shown, after), at, "accuracy matrix")
        # A table has the same columns in all rows, also for untested experiences.
        row: list[Cell] = [after[-1], *(round(value, 6) for value in last)]
        for sink in self.sinks:
            sink.table(keys.MATRIX_TABLE, ["after", *names], [row], axis=keys.EXPERIENCE, at=at)
            sink.flush()

    def log_checkpoint(self, path: Path, *, at: int) -> None:
        """Logs a checkpoint file, or its path.

        Args:
            path: The file.
            at: Experiences learned so far.
        """
        for sink in self.sinks:
            sink.file(keys.CHECKPOINT, path, axis=keys.EXPERIENCE, at=at)

    def close(self) -> None:
        """Closes all sinks."""
        for sink in self.sinks:
            sink.close()

    def _scalars(self, values: Mapping[str, float], axis: str, at: int) -> None:
        numbers = {key: value for key, value in values.items() if math.isfinite(value)}
        if numbers:
            for sink in self.sinks:
                sink.scalars(numbers, axis=axis, at=at)

    def _image(self, key: str, pixels: Pixels, at: int, caption: str) -> None:
        for sink in self.sinks:
            sink.image(key, pixels, axis=keys.EXPERIENCE, at=at, caption=caption)


class _ExperienceImages:
    """The images after one experience."""

    def __init__(self, dashboard: Dashboard, method: Method, at: int) -> None:
        self.dashboard, self.method, self.at = dashboard, method, at
        self.n, self.seed = dashboard.samples_per_class, dashboard.seed

    def samples(self, n_classes: int, shape: tuple[int, ...] | None) -> None:
        """Samples of every class, as an image and as rows of a table."""
        rows: dict[Class, NDArray[Any]] = {}
        found = views.samples(self.method, self.n, n_classes=n_classes, seed=self.seed)
        for one, images in list(found.items())[:_MOST_ROWS]:
            # Latents may have three dimensions, too, but are no images.
            is_image = shape is None or images.shape[1:].numel() == math.prod(shape)
            row = _drawable(images) if is_image else None
            if row is not None:
                rows[one] = row
        if not rows:
            return
        # All classes on the same intensity scale.
        low = min(float(row.min()) for row in rows.values())
        high = max(float(row.max()) for row in rows.values())
        picture = drawing.grid(list(rows.values()), low=low, high=high)
        labels = ", ".join(_name(one) for one in rows)
        self.dashboard._image(keys.SAMPLES, picture, self.at, f"remembered, by rows: {labels}")
        table: list[list[Cell]] = [
            [self.at, _name(one), drawing.grid([row], low=low, high=high)]
            for one, row in rows.items()
        ]
        columns = ("experience", "class", "samples")
        for sink in self.dashboard.sinks:
            sink.table(keys.SAMPLES_TABLE, columns, table, axis=keys.EXPERIENCE, at=self.at)

    def reconstructions(self, seen: Examples) -> float | None:
        """Test images beside their reconstructions; returns the mean squared error."""
        made = views.reconstructions(self.method, seen.images, seen.tasks, seed=self.seed)
        if made is None:
            return None
        made = made.to(seen.images)
        error = float((made - seen.images).square().mean())
        rows = []
        for one in seen.classes()[:_MOST_ROWS]:
            mine = seen.rows_of(one)[: max(self.n // 2, 1)]
            pairs = torch.stack([seen.images[mine], made[mine]], dim=1).flatten(0, 1)
            row = _drawable(pairs)
            rows += [row] if row is not None else []
        if rows:
            caption = "test images, each beside its reconstruction; a row for each class"
            self.dashboard._image(keys.RECONSTRUCTIONS, drawing.grid(rows), self.at, caption)
        return error

    def latents(self, seen: Examples) -> None:
        """A 2-D embedding of test latents."""
        step = -(-len(seen.images) // _MOST_POINTS)
        some = Examples(
            seen.images[::step], seen.labels[::step], seen.tasks[::step], seen.experiences[::step]
        )
        points = views.embedding(self.method, some, seed=self.seed)
        if points is not None:
            picture = drawing.scatter(points, some.labels.cpu().numpy())
            caption = "latents of test images (t-SNE), coloured by class"
            self.dashboard._image(keys.LATENTS, picture, self.at, caption)

    def masks(self) -> dict[str, float]:
        """Use of masks, as an image; returns the scalars of the last experience."""
        shares = views.mask_shares(self.method)
        if not shares:
            return {}
        caption = "use of each layer's mask, by experience"
        self.dashboard._image(keys.MASKS, drawing.usage_bars(shares), self.at, caption)
        memory: Any = self.method
        values = {keys.CAPACITY: float(memory.generator.network.capacity_ratio)}
        for layer, entries in shares.items():
            for part, share in entries[-1].items():
                values[keys.MASK.format(layer=layer, part=part)] = share
        return values


def _memory_values(method: Method, stats: MethodStats) -> dict[str, float]:
    """Scalars of the memory, and of the method's statistics in the experience."""
    values = {
        keys.MEMORY_BYTES: float(memory_bytes_of(method)),
        keys.MEMORY_PARAMETERS: float(memory_parameters_of(method)),
        keys.MEMORY_STORED: float(stored_samples_of(method)),
        keys.STM_OCCUPANCY: float(stats.stm_occupancy),
        keys.REPLAYED: float(stats.replayed),
    }
    for name, seconds in stats.phase_seconds.items():
        # Phases of different tasks, such as "sleep: tasks 3, 4", share a key.
        key = keys.TIME_PHASE.format(phase_kind(name))
        values[key] = values.get(key, 0.0) + seconds
    return values


def _drawable(images: Tensor) -> NDArray[Any] | None:
    """Images (n, C, H, W) as an array; flat samples are made square, if possible."""
    if images.ndim == 2:
        side = math.isqrt(images.shape[1])
        if side * side != images.shape[1] or side < 4:
            return None
        images = images.reshape(len(images), 1, side, side)
    if images.ndim != 4 or not len(images):
        return None
    return np.asarray(images.detach().float().cpu().numpy())


def _name(one: Class) -> str:
    task, label = one
    return f"{task}:{label}" if task else str(label)
