"""Where panels are shown."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from avalanche_dgm.deprecated import former_names

#: A picture: uint8 array (H, W, 3).
Pixels = NDArray[np.uint8]
#: What may stand in a table.
Cell = int | float | str | Pixels


class Sink(ABC):
    """A place to show panels; see `avalanche_dgm.dashboards.keys` for their names.

    Every call says the axis and the point on it. Points of an axis never go back, except after an
    interruption, when the points from there on come again: the later ones count.
    """

    @abstractmethod
    def scalars(self, values: Mapping[str, float], *, axis: str, at: int) -> None:
        """Shows numbers.

        Args:
            values: By key; NaN is left out by the caller.
            axis: Name of the axis.
            at: Point on it, from 0.
        """

    @abstractmethod
    def image(self, key: str, pixels: Pixels, *, axis: str, at: int, caption: str = "") -> None:
        """Shows a picture.

        Args:
            key: Name of the panel.
            pixels: uint8 array (H, W, 3).
            axis: Name of the axis.
            at: Point on it, from 0.
            caption: What it shows.
        """

    @abstractmethod
    def histogram(self, key: str, counts: Mapping[int, int], *, axis: str, at: int) -> None:
        """Shows how often each label came.

        Args:
            key: Name of the panel.
            counts: By label; empty if there were none.
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
        """Adds rows to a table: each key has one, which all points make together.

        Args:
            key: Name of the panel.
            columns: Their names, always the same ones for a key.
            rows: Those of this point, as many cells each.
            axis: Name of the axis.
            at: Point on it, from 0.
        """

    @abstractmethod
    def file(self, key: str, path: Path, *, axis: str, at: int) -> None:
        """Keeps a file, such as a checkpoint, with the run, or says where it is.

        Args:
            key: Name of what it is.
            path: The file.
            axis: Name of the axis.
            at: Point on it, from 0.
        """

    @abstractmethod
    def flush(self) -> None:
        """Makes sure that what was shown so far can be seen."""

    def close(self) -> None:
        """Ends; nothing is shown after it."""
        self.flush()


class FailSafeSink(Sink):
    """Lets training go on where a place to show panels fails: no network, no account, no space.

    What fails first of each kind of call is said in one warning; the calls after it are tried
    again, silently, since a full disk may have room later.

    Args:
        sink: The place.
        required: Whether the run is incomplete without this sink: then a file that cannot be
            written ends it, so that it can be continued when there is room.
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
