"""Sinks: where panels are logged."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from avalanche_dgm.dashboards import keys
from avalanche_dgm.deprecated import former_names

#: An image: uint8 array (H, W, 3).
Pixels = NDArray[np.uint8]
#: A table's cell.
Cell = int | float | str | Pixels


class Sink(ABC):
    """A backend that panels are logged to; see `avalanche_dgm.dashboards.keys` for their names.

    Every call names an axis and a point on it. Points of an axis increase, except when a run
    resumes: then points are logged again and replace the former ones.
    """

    def settings(self, values: Mapping[str, Any]) -> None:
        """Logs the settings of the run's method: as a table, unless there is a better place.

        Args:
            values: Values that JSON has, by names such as ``method/stm_size``.
        """
        rows: list[list[Cell]] = [
            [name, value if isinstance(value, (int, float, str)) else str(value)]
            for name, value in values.items()
        ]
        self.table(keys.SETTINGS, ("setting", "value"), rows, axis=keys.START, at=0)

    @abstractmethod
    def scalars(self, values: Mapping[str, float], *, axis: str, at: int) -> None:
        """Logs scalars.

        Args:
            values: Scalars by key, without NaN.
            axis: Name of the axis.
            at: Point on it, from 0.
        """

    @abstractmethod
    def image(self, key: str, pixels: Pixels, *, axis: str, at: int, caption: str = "") -> None:
        """Logs an image.

        Args:
            key: Name of the panel.
            pixels: uint8 array (H, W, 3).
            axis: Name of the axis.
            at: Point on it, from 0.
            caption: Caption of the image.
        """

    @abstractmethod
    def histogram(self, key: str, counts: Mapping[int, int], *, axis: str, at: int) -> None:
        """Logs a histogram of labels.

        Args:
            key: Name of the panel.
            counts: Counts by label; may be empty.
            axis: Name of the axis.
            at: Point on it, from 0.
        """

    @abstractmethod
    def table(
        self,
        key: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[Cell]],
        *,
        axis: str,
        at: int,
    ) -> None:
        """Adds rows to a table, which is a single one for each key, over all points.

        Args:
            key: Name of the panel.
            columns: Names of the columns, always the same for a key.
            rows: The rows of this point.
            axis: Name of the axis.
            at: Point on it, from 0.
        """

    @abstractmethod
    def file(self, key: str, path: Path, *, axis: str, at: int) -> None:
        """Logs a file, such as a checkpoint, or its path.

        Args:
            key: Name of the panel.
            path: The file.
            axis: Name of the axis.
            at: Point on it, from 0.
        """

    @abstractmethod
    def flush(self) -> None:
        """Writes everything that was logged so far."""

    def close(self) -> None:
        """Closes the sink; nothing is logged after it."""
        self.flush()


class FailSafeSink(Sink):
    """Turns errors of a sink into warnings, so that training goes on: no network, no space.

    The first error of each kind of call is a warning; later calls are tried again, silently, as a
    full disk may have room later.

    Args:
        sink: The sink.
        required: Whether the run is incomplete without this sink: then an ``OSError`` is raised,
            so that the run can resume when there is room.
    """

    def __init__(self, sink: Sink, *, required: bool = False) -> None:
        self.sink, self._required = sink, required
        self._warned: set[str] = set()

    def _try(self, what: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            if self._required and isinstance(error, OSError):
                raise
            if what in self._warned:
                return
            self._warned.add(what)
            warnings.warn(
                f"{type(self.sink).__name__} could not log {what}:"
                f" {type(error).__name__}: {' '.join(str(error).split())[:300]}. Training goes on;"
                " this is said once.",
                RuntimeWarning,
                stacklevel=3,
            )

    def settings(self, values: Mapping[str, Any]) -> None:
        """See `Sink.settings`."""
        self._try("settings", lambda: self.sink.settings(values))

    def scalars(self, values: Mapping[str, float], *, axis: str, at: int) -> None:
        """See `Sink.scalars`."""
        self._try("numbers", lambda: self.sink.scalars(values, axis=axis, at=at))

    def image(self, key: str, pixels: Pixels, *, axis: str, at: int, caption: str = "") -> None:
        """See `Sink.image`."""
        self._try("images", lambda: self.sink.image(key, pixels, axis=axis, at=at, caption=caption))

    def histogram(self, key: str, counts: Mapping[int, int], *, axis: str, at: int) -> None:
        """See `Sink.histogram`."""
        self._try("histograms", lambda: self.sink.histogram(key, counts, axis=axis, at=at))

    def table(
        self,
        key: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[Cell]],
        *,
        axis: str,
        at: int,
    ) -> None:
        """See `Sink.table`."""
        self._try("tables", lambda: self.sink.table(key, columns, rows, axis=axis, at=at))

    def file(self, key: str, path: Path, *, axis: str, at: int) -> None:
        """See `Sink.file`."""
        self._try("files", lambda: self.sink.file(key, path, axis=axis, at=at))

    def flush(self) -> None:
        """See `Sink.flush`."""
        self._try("what it had kept back", self.sink.flush)

    def close(self) -> None:
        """See `Sink.close`."""
        self._try("the end of the run", self.sink.close)


if not TYPE_CHECKING:
    __getattr__ = former_names(__name__, {"Guarded": "FailSafeSink"})
