"""Panels as plain files: CSV and PNG."""

from __future__ import annotations

import contextlib
import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from avalanche_dgm import files
from avalanche_dgm.dashboards import keys
from avalanche_dgm.dashboards.keys import file_name
from avalanche_dgm.dashboards.sinks import Cell, Pixels, Sink
from avalanche_dgm.errors import ConfigError

#: Columns of the index files.
SCALARS = ("axis", "at", "key", "value")
HISTOGRAMS = ("axis", "at", "key", "label", "count")
IMAGES = ("axis", "at", "key", "file", "caption")
FILES = ("axis", "at", "key", "path")
INDEX_FILES = ("scalars.csv", "histograms.csv", "images.csv", "files.csv")


class FileSink(Sink):
    """Writes panels into a folder, from which `avalanche-dgm report` makes a page.

    ``scalars.csv``, ``histograms.csv``, ``images.csv``
        A row for each scalar, label and image, in the order in which they were logged.
    ``images/KEY-NNN.png``
        The images.
    ``tables/KEY.csv``
        The rows of each table after their axis and point; an image is given by its file name.

    A run that resumes logs some points again: when a point comes again, all rows of its axis from
    this point on are removed from all files.

    Args:
        folder: Where to write; made when the first panel is logged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._before: dict[str, int] | None = None
        self._last: dict[str, int] = {}
        #: The columns of each file that was written.
        self._columns: dict[str, list[str]] = {}
        #: File and key of the panels at the last point of each axis.
        self._shown_at_last: dict[str, set[tuple[str, str]]] = {}

    def scalars(self, values: Mapping[str, float], *, axis: str, at: int) -> None:
        """See `Sink.scalars`."""
        rows = [(axis, at, key, repr(float(value))) for key, value in values.items()]
        self._add("scalars.csv", SCALARS, rows, axis, at)

    def image(self, key: str, pixels: Pixels, *, axis: str, at: int, caption: str = "") -> None:
        """See `Sink.image`."""
        name = f"images/{file_name(key, at)}.png"
        self._add("images.csv", IMAGES, [(axis, at, key, name, caption)], axis, at)
        self._png(name, pixels)

    def histogram(self, key: str, counts: Mapping[int, int], *, axis: str, at: int) -> None:
        """See `Sink.histogram`."""
        rows = [(axis, at, key, label, count) for label, count in sorted(counts.items())]
        self._add("histograms.csv", HISTOGRAMS, rows, axis, at)

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
        stem = f"tables/{file_name(key, at)}"
        pictures: dict[str, Pixels] = {}
        written: list[list[int | float | str]] = []
        for i, row in enumerate(rows):
            cells: list[int | float | str] = [axis, at]
            for j, cell in enumerate(row):
                if isinstance(cell, np.ndarray):
                    name = f"{stem}-{i}-{j}.png"
                    pictures[name] = cell
                    cells.append(name)
                else:
                    cells.append(cell)
            written.append(cells)
        self._add(_table_name(key), ("axis", "at", *columns), written, axis, at)
        for name, pixels in pictures.items():
            self._png(name, pixels)

    def file(self, key: str, path: Path, *, axis: str, at: int) -> None:
        """Writes the file's path; the file is not copied."""
        self._add("files.csv", FILES, [(axis, at, key, str(path))], axis, at)

    def flush(self) -> None:
        """Does nothing: everything is written at once."""

    def _png(self, name: str, pixels: Pixels) -> None:
        from PIL import Image

        with files.replacing(self.folder / name, sync=False) as file:
            Image.fromarray(pixels).save(file, format="png")

    def _add(
        self,
        name: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[object]],
        axis: str,
        at: int,
    ) -> None:
        self._rewind(axis, at)
        path, columns, rows = self.folder / name, list(columns), list(rows)
        if self._columns.get(name) != columns or not path.exists():
            header = self._read(name)[0]
            if header and header[:2] != columns[:2]:
                raise ConfigError(f"{path} holds no panels. Choose another folder, or move it.")
            if header != columns:
                # A new file, or one of another run with other columns.
                self._replace(name, columns, [])
            self._columns[name] = columns
        shown = {(name, _key_of(name, row)) for row in rows}
        here = self._shown_at_last.setdefault(axis, set())
        if shown & here:
            # A panel that is logged again at the same point replaces the former one.
            kept = [
                row
                for row in self._read(name)[1]
                if row[:2] != [axis, str(at)] or (name, _key_of(name, row)) not in shown
            ]
            self._replace(name, columns, kept)
        here |= shown
        files.append_text(path, _csv(rows))

    def _rewind(self, axis: str, at: int) -> None:
        """Removes the rows of an axis from a point on, if that point comes again."""
        if self._before is None:
            self._before = self._found()
        # This process may add to its last point; rows of earlier processes are replaced.
        again = at <= self._before.pop(axis, -1) or at < self._last.get(axis, -1)
        if again or at != self._last.get(axis):
            self._shown_at_last[axis] = set()
        self._last[axis] = at
        if not again:
            return
        for name in self._index_files():
            header, rows = self._read(name)
            if header:
                kept = [row for row in rows if row[0] != axis or int(row[1]) < at]
                self._replace(name, header, kept)

    def _found(self) -> dict[str, int]:
        """The last point of each axis in existing files."""
        last: dict[str, int] = {}
        for name in self._index_files():
            header, rows = self._read(name)
            if header and not (self.folder / name).read_bytes().endswith(b"\n"):
                # Removes an incomplete last row, to which the next one would be joined.
                self._replace(name, header, rows)
            for row in rows:
                last[row[0]] = max(last.get(row[0], -1), int(row[1]))
        return last

    def _index_files(self) -> list[str]:
        tables = sorted(self.folder.glob("tables/*.csv"))
        names = [*INDEX_FILES, *(str(path.relative_to(self.folder)) for path in tables)]
        # Ignores other files in the folder.
        return [name for name in names if self._read(name)[0][:2] == ["axis", "at"]]

    def _read(self, name: str) -> tuple[list[str], list[list[str]]]:
        path = self.folder / name
        if not path.exists():
            return [], []
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            text = file.read()
        header, *rows = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
        if rows and not text.endswith("\n"):
            # The last row is incomplete: a process was killed while it wrote it.
            del rows[-1]
        return header, [row for row in rows if len(row) == len(header) and row[1].isdecimal()]

    def table_rows(self, key: str) -> list[tuple[int, Sequence[Cell]]]:
        """Reads a table: the point and the cells of each row.

        Args:
            key: Name of the panel.
        """
        _, rows = self._read(_table_name(key))
        return [(int(row[1]), [self._read_cell(text) for text in row[2:]]) for row in rows]

    def _read_cell(self, text: str) -> Cell:
        path = self.folder / text
        if text.startswith("tables/") and text.endswith(".png") and path.is_file():
            from PIL import Image

            # An incomplete file is no image.
            with contextlib.suppress(OSError):
                return np.asarray(Image.open(path, formats=["PNG"]).convert("RGB"))
        for kind in (int, float):
            # A name such as 01 is no number.
            with contextlib.suppress(ValueError):
                if repr(kind(text)) == text:
                    return kind(text)
        return text

    def _replace(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        files.write_text(self.folder / name, _csv([columns, *rows]), sync=False)

    def __getstate__(self) -> dict[str, Any]:
        # Read again after unpickling: the files may be ahead of a checkpoint.
        return {**self.__dict__, "_before": None, "_last": {}, "_shown_at_last": {}, "_columns": {}}


def panel_files(folder: Path) -> list[Path]:
    """The files that a `FileSink` wrote into a folder: index files, and the images they name.

    Args:
        folder: The folder.
    """
    sink = FileSink(folder)
    names = {*INDEX_FILES, *map(_table_name, keys.TABLES)}
    for name in sorted(names):
        for row in sink._read(name)[1]:
            names |= {cell for cell in row if re.fullmatch(r"(images|tables)/[^/]+\.png", cell)}
    return [path for name in sorted(names) if (path := folder / name).is_file()]


def _csv(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _table_name(key: str) -> str:
    return f"tables/{key.replace('/', '-')}.csv"


def _key_of(name: str, row: Sequence[object]) -> str:
    """The panel that a row belongs to: index files hold many, a table file is a single one."""
    return str(row[2]) if name in INDEX_FILES else ""
