"""Panels, and the places that they are logged to."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from avalanche_dgm.dashboards import keys

#: Pixels of an image: uint8 array (H, W, 3).
Pixels = NDArray[np.uint8]
#: A table's cell.
Cell = int | float | str | Pixels


@dataclass(frozen=True)
class Picture:
    """An image.

    Attributes:
        pixels: uint8 array (H, W, 3).
        caption: What it shows.
    """

    pixels: Pixels
    caption: str = ""


@dataclass(frozen=True)
class Histogram:
    """How often each label occurs.

    Attributes:
        counts: Counts by label; may be empty.
    """

    counts: Mapping[int, int]


@dataclass(frozen=True)
class Table:
    """Rows that are appended to the table of a key.

    Attributes:
        columns: Names of the columns, always the same for a key.
        rows: The rows of this point.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


#: What is logged under a key. A path is a file or folder, such as a checkpoint.
Panel = float | Picture | Histogram | Table | Path

#: Types of panels, in words for a message.
_WORDS: dict[str, Any] = {
    "images": Picture,
    "histograms": Histogram,
    "tables": Table,
    "files": Path,
    "numbers": (int, float),
}


class Sink(ABC):
    """A place that panels are logged to; see `avalanche_dgm.dashboards.keys` for their names.

    Points of an axis increase, except when a run resumes: then points are logged again and replace
    the former ones.
    """

    @abstractmethod
    def log(self, panels: Mapping[str, Panel], *, axis: str, at: int) -> None:
        """Logs panels at a point of an axis.

        Args:
            panels: Panels by key; numbers are finite.
            axis: Name of the axis.
            at: Point on it, from 0.
        """

    def settings(self, values: Mapping[str, Any]) -> None:
        """Logs the settings of the run: as a table, unless there is a better place.

        Args:
            values: Values that JSON has, in groups such as ``{"method": {"stm_size": 3}}``.
        """
        rows = list(_flat(values))
        self.log({keys.SETTINGS: Table(("setting", "value"), rows)}, axis=keys.START, at=0)

    def flush(self) -> None:  # noqa: B027
        """Writes everything that was logged so far, if it is not written at once."""

    def close(self) -> None:
        """Closes the sink; nothing is logged after it."""
        self.flush()


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, int | float | str]]:
    """Settings by names such as ``method/stm_size``."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value if isinstance(value, (int, float, str)) else str(value)


class FailSafeSink(Sink):
    """Turns errors of a sink into warnings, so that training goes on: no network, no space.

    The first error with each kind of panel is a warning; later ones are tried again, silently, as
    a full disk may have room later.

    Args:
        sink: The sink.
        required: Whether the run is incomplete without this sink: then an ``OSError`` is raised,
            so that the run can resume when there is room.
    """

    def __init__(self, sink: Sink, *, required: bool = False) -> None:
        self.sink, self._required = sink, required
        self._warned: set[str] = set()

    def attempt(self, what: str, call: Callable[[], Any]) -> None:
        """Runs a call; its first error is a warning."""
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

    def log(self, panels: Mapping[str, Panel], *, axis: str, at: int) -> None:
        """See `Sink.log`; each kind of panel by itself."""
        kinds: dict[str, dict[str, Panel]] = {}
        for key, panel in panels.items():
            word = next((w for w, kind in _WORDS.items() if isinstance(panel, kind)), "values")
            kinds.setdefault(word, {})[key] = panel
        for word, mine in kinds.items():
            self.attempt(word, partial(self.sink.log, mine, axis=axis, at=at))

    def settings(self, values: Mapping[str, Any]) -> None:
        """See `Sink.settings`."""
        self.attempt("settings", lambda: self.sink.settings(values))

    def flush(self) -> None:
        """See `Sink.flush`."""
        self.attempt("what it had kept back", self.sink.flush)

    def close(self) -> None:
        """See `Sink.close`."""
        self.attempt("the end of the run", self.sink.close)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name != "Guarded":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        message = f"{__name__}.Guarded is deprecated; use {__name__}.FailSafeSink."
        warnings.warn(message, FutureWarning, stacklevel=2)
        return FailSafeSink
