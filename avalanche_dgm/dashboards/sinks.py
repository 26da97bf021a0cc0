"""Panels, and the sinks that they are logged to."""

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
        caption: Caption.
    """

    pixels: Pixels
    caption: str = ""


@dataclass(frozen=True)
class Histogram:
    """Counts of labels.

    Attributes:
        counts: Counts by label; may be empty.
    """

    counts: Mapping[int, int]


@dataclass(frozen=True)
class Table:
    """Rows that are appended to the table of a key.

    Attributes:
        columns: Names of the columns, the same at all points of a key.
        rows: The rows of this point.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


#: A value logged under a key. A path is a file or folder, such as a checkpoint.
Panel = float | Picture | Histogram | Table | Path

#: Types of panels by their names in messages.
_KINDS: dict[str, Any] = {
    "images": Picture,
    "histograms": Histogram,
    "tables": Table,
    "files": Path,
    "numbers": (int, float),
}


class Sink(ABC):
    """A backend that panels are logged to; see `avalanche_dgm.dashboards.keys` for their names.

    Points on an axis increase, except if a resumed run logs points again, which then replace those
    logged before.
    """

    @abstractmethod
    def log(self, panels: Mapping[str, Panel], *, axis: str, at: int) -> None:
        """Logs panels at a point of an axis.

        Args:
            panels: Panels by key; numbers are finite.
            axis: Name of the axis.
            at: Point on the axis, from 0.
        """

    def settings(self, values: Mapping[str, Any]) -> None:
        """Logs the settings of the run, by default as a table.

        Args:
            values: JSON values in nested dictionaries such as ``{"method": {"stm_size": 3}}``.
        """
        rows = list(_flat(values))
        self.log({keys.SETTINGS: Table(("setting", "value"), rows)}, axis=keys.START, at=0)

    def flush(self) -> None:  # noqa: B027
        """Writes buffered panels, if the sink has a buffer."""

    def close(self) -> None:
        """Closes the sink; it is not used afterwards."""
        self.flush()


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, int | float | str]]:
    """Flattens settings to names such as ``method/stm_size``."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value if isinstance(value, (int, float, str)) else str(value)


class FailSafeSink(Sink):
    """Turns errors of a sink, such as a full disk, into warnings, so that training continues.

    Only the first error for each kind of panel is a warning. Later panels are still logged, as the
    error may be temporary.

    Args:
        sink: The sink.
        required: Whether to raise an ``OSError`` instead, if the run is incomplete without this
            sink; the run can then be resumed.
    """

    def __init__(self, sink: Sink, *, required: bool = False) -> None:
        self.sink, self._required = sink, required
        self._warned: set[str] = set()

    def attempt(self, what: str, call: Callable[[], Any]) -> None:
        """Calls a function; the first error for ``what`` is a warning, later ones are ignored."""
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
                f" {type(error).__name__}: {' '.join(str(error).split())[:300]}. Training"
                " continues; this warning is shown once.",
                RuntimeWarning,
                stacklevel=3,
            )

    def log(self, panels: Mapping[str, Panel], *, axis: str, at: int) -> None:
        """See `Sink.log`; logs each kind of panel separately."""
        by_kind: dict[str, dict[str, Panel]] = {}
        for key, panel in panels.items():
            name = next((n for n, kind in _KINDS.items() if isinstance(panel, kind)), "values")
            by_kind.setdefault(name, {})[key] = panel
        for name, group in by_kind.items():
            self.attempt(name, partial(self.sink.log, group, axis=axis, at=at))

    def settings(self, values: Mapping[str, Any]) -> None:
        """See `Sink.settings`."""
        self.attempt("settings", lambda: self.sink.settings(values))

    def flush(self) -> None:
        """See `Sink.flush`."""
        self.attempt("its buffered panels", self.sink.flush)

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
