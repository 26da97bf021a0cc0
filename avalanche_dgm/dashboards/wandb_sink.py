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

#: The rows of tables: by key, each behind its point.
Tables = dict[str, list[tuple[int, Sequence[Cell]]]]


class WandbSink(Sink):
    """Logs panels to a run, each over its own axis.

    W&B counts steps of its own, and drops what is logged to an earlier one: the point of an axis is
    a number logged beside the values, and `define_metric` says which axis a key lies on. What is
    logged again after an interruption cannot replace what the run has already; it stands beside it.

    Args:
        run: A run that ``wandb.init`` began.
        tables: Rows of tables that an interrupted run had logged: what `tables` was then.
    """

    def __init__(self, run: Any, *, tables: Tables | None = None) -> None:
        self.run = run
        #: A table is logged as a whole each time, since a run shows only what it was given last.
        self.tables: Tables = {} if tables is None else tables
        self._defined: set[str] = set()
        for axis in keys.AXES:
            run.define_metric(axis)

    def log(self, values: Mapping[str, Any], *, axis: str, at: int) -> None:
        """Logs what ``run.log`` takes: a row of the run's history.

        Args:
            values: By key; any key, also others than those of `avalanche_dgm.dashboards.keys`.
            axis: Name of the axis.
            at: Point on it, from 0.
        """
        for key in values:
            self._define(key, axis)
        self.run.log({**values, axis: at})

    def _define(self, key: str, axis: str) -> None:
        """Says which axis a key lies on.

        Each key by itself: of several patterns that fit W&B takes any, and a Trainer's logger has
        one for all keys.
        """
        if key in self._defined:
            return
        self._defined.add(key)
        # The key of a metric may end with a star, but hold none elsewhere.
        if "*" not in key:
            self.run.define_metric(key, step_metric=axis)

    def scalars(self, values: Mapping[str, float], *, axis: str, at: int) -> None:
        """See `Sink.scalars`."""
        self.log(values, axis=axis, at=at)

    def image(self, key: str, pixels: Pixels, *, axis: str, at: int, caption: str = "") -> None:
        """See `Sink.image`."""
        self.log({key: _picture(pixels, caption)}, axis=axis, at=at)

    def histogram(self, key: str, counts: Mapping[int, int], *, axis: str, at: int) -> None:
        """See `Sink.histogram`: a bin for each label, or for a few of them if they are many."""
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
        """See `Sink.file`: a version of an artifact, which also has the point for its name."""
        import wandb

        # Artifacts belong to a project: those of other runs have other names.
        name = re.sub(r"[^\w.-]", "-", f"{key}-{self.run.id}")
        artifact = wandb.Artifact(name, type="checkpoint", metadata={axis: at})
        if path.is_dir():
            artifact.add_dir(str(path))
        else:
            artifact.add_file(str(path), name=path.name)
        self.run.log_artifact(artifact, aliases=["latest", f"{axis}-{at:03d}"])

    def flush(self) -> None:
        """Does nothing: W&B sends what it was given by itself."""

    def close(self) -> None:
        """See `Sink.close`; waits until everything was sent."""
        self.run.finish()


class FailSafeWandbSink(FailSafeSink):
    """A guarded `WandbSink`, and a guard for what only W&B can show.

    Args:
        sink: The place.
    """

    sink: WandbSink

    def __init__(self, sink: WandbSink) -> None:
        super().__init__(sink)

    def attempt(self, what: str, call: Callable[[], None]) -> None:
        """Lets training go on where a call fails; the first failure is said in a warning.

        Args:
            what: What could not be logged then, for the message.
            call: Logs it.
        """
        self._try(what, call)


def _picture(pixels: Pixels, caption: str | None = None) -> Any:
    import wandb
    from PIL import Image

    # Of an array W&B would guess the range.
    return wandb.Image(Image.fromarray(np.ascontiguousarray(pixels)), caption=caption or None)


def _uniform_cells(cells: Sequence[Cell]) -> list[Any]:
    """A column of a table, whose cells have to be of one kind for W&B, or ``None``."""
    if any(isinstance(cell, np.ndarray) for cell in cells):
        return [_picture(cell) if isinstance(cell, np.ndarray) else None for cell in cells]
    if any(isinstance(cell, str) and cell for cell in cells):
        return [str(cell) for cell in cells]
    return [None if isinstance(cell, str) or cell != cell else cell for cell in cells]
