"""Panels in a run of Weights & Biases."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from avalanche_dgm.dashboards import keys
from avalanche_dgm.dashboards.sinks import Cell, FailSafeSink, Pixels, Sink

#: The most bins that a histogram of W&B may have.
_MOST_BINS = 512

#: The rows of tables by key, each with its point.
Tables = dict[str, list[tuple[int, Sequence[Cell]]]]


class WandbSink(Sink):
    """Logs panels to a run, each over its own axis.

    W&B drops values that are logged to an earlier step of its own. So the point of an axis is
    logged as a number beside the values, and ``define_metric`` sets the axis of each key. Points
    that a resumed run logs again are added to those that the run has; W&B cannot replace them.

    Args:
        run: A run of ``wandb.init``.
        tables: Rows of tables that an interrupted run had logged, its `tables`.
    """

    def __init__(self, run: Any, *, tables: Tables | None = None) -> None:
        self.run = run
        #: A table is logged with all its rows each time, as W&B shows the last one only.
        self.tables: Tables = {} if tables is None else tables
        self._defined: set[str] = set()
        for axis in keys.AXES:
            run.define_metric(axis)

    def log(self, values: Mapping[str, Any], *, axis: str, at: int) -> None:
        """Logs a row of the run's history.

        Args:
            values: Values that ``run.log`` takes, by any key.
            axis: Name of the axis.
            at: Point on it, from 0.
        """
        for key in values:
            self._define(key, axis)
        self.run.log({**values, axis: at})

    def _define(self, key: str, axis: str) -> None:
        """Sets the axis of a key.

        Each key is defined by itself: if several patterns match, W&B takes any of them, and a
        Trainer's logger has one that matches all keys.
        """
        if key in self._defined:
            return
        self._defined.add(key)
        # A metric's key may have a star at its end only.
        if "*" not in key:
            self.run.define_metric(key, step_metric=axis)

    def settings(self, values: Mapping[str, Any]) -> None:
        """Adds the settings to the run's config."""
        self.run.config.update(dict(values), allow_val_change=True)

    def scalars(self, values: Mapping[str, float], *, axis: str, at: int) -> None:
        """See `Sink.scalars`."""
        self.log(values, axis=axis, at=at)

    def image(self, key: str, pixels: Pixels, *, axis: str, at: int, caption: str = "") -> None:
        """See `Sink.image`."""
        self.log({key: _picture(pixels, caption)}, axis=axis, at=at)

    def histogram(self, key: str, counts: Mapping[int, int], *, axis: str, at: int) -> None:
        """See `Sink.histogram`: a bin for each label, or for several if there are many."""
        import wandb

        if not counts:
            return
        first, last = min(counts), max(counts)
        width = -(-(last - first + 1) // _MOST_BINS)
        bins = [0] * -(-(last - first + 1) // width)
        for label, count in counts.items():
            bins[(label - first) // width] += count
        edges = [first - 0.5 + width * i for i in range(len(bins) + 1)]
        shown = wandb.Histogram(np_histogram=(np.array(bins), np.array(edges)))
        self.log({key: shown}, axis=axis, at=at)

    def table(
        self,
        key: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[Cell]],
        *,
        axis: str,
        at: int,
    ) -> None:
        """See `Sink.table`: all its rows so far."""
        import wandb

        before = [(point, row) for point, row in self.tables.get(key, []) if point < at]
        self.tables[key] = [*before, *((at, row) for row in rows)]
        shown = [
            _uniform_cells([row[i] for _, row in self.tables[key]]) for i in range(len(columns))
        ]
        data = [list(row) for row in zip(*shown, strict=True)]
        self.log({key: wandb.Table(columns=list(columns), data=data)}, axis=axis, at=at)

    def file(self, key: str, path: Path, *, axis: str, at: int) -> None:
        """See `Sink.file`: a version of an artifact, with the point as an alias."""
        import wandb

        # Artifacts belong to a project, so their names hold the run's id.
        name = re.sub(r"[^\w.-]", "-", f"{key}-{self.run.id}")
        artifact = wandb.Artifact(name, type="checkpoint", metadata={axis: at})
        if path.is_dir():
            artifact.add_dir(str(path))
        else:
            artifact.add_file(str(path), name=path.name)
        self.run.log_artifact(artifact, aliases=["latest", f"{axis}-{at:03d}"])

    def flush(self) -> None:
        """Does nothing: W&B uploads by itself."""

    def close(self) -> None:
        """See `Sink.close`; waits until everything is uploaded."""
        self.run.finish()


class FailSafeWandbSink(FailSafeSink):
    """A fail-safe `WandbSink`, also for calls that only W&B has.

    Args:
        sink: The sink.
    """

    sink: WandbSink

    def __init__(self, sink: WandbSink) -> None:
        super().__init__(sink)

    def attempt(self, what: str, call: Callable[[], None]) -> None:
        """Runs a call; its first error is a warning.

        Args:
            what: Name of what is logged, for the warning.
            call: The call.
        """
        self._try(what, call)


def _picture(pixels: Pixels, caption: str | None = None) -> Any:
    import wandb
    from PIL import Image

    # For an array W&B would guess the range.
    return wandb.Image(Image.fromarray(np.ascontiguousarray(pixels)), caption=caption or None)


def _uniform_cells(cells: Sequence[Cell]) -> list[Any]:
    """A table's column with cells of one type, or ``None``, as W&B needs."""
    if any(isinstance(cell, np.ndarray) for cell in cells):
        return [_picture(cell) if isinstance(cell, np.ndarray) else None for cell in cells]
    if any(isinstance(cell, str) and cell for cell in cells):
        return [str(cell) for cell in cells]
    return [None if isinstance(cell, str) or cell != cell else cell for cell in cells]
