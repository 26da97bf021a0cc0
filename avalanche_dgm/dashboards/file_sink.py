"""Panels in CSV and PNG files."""

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
from avalanche_dgm.dashboards.sinks import Cell, Histogram, Panel, Picture, Pixels, Sink, Table
from avalanche_dgm.errors import ConfigError

#: Columns of the index files, which hold many panels.
SCALARS = ("axis", "at", "key", "value")
HISTOGRAMS = ("axis", "at", "key", "label", "count")
IMAGES = ("axis", "at", "key", "file", "caption")
FILES = ("axis", "at", "key", "path")
INDEX_FILES = ("scalars.csv", "histograms.csv", "images.csv", "files.csv")

#: Rows of a file: axis, point on the axis, and further cells.
Rows = list[list[str]]


class FileSink(Sink):
    """Writes panels to a folder, for `avalanche-dgm report`.

    ``scalars.csv``, ``histograms.csv``, ``images.csv``, ``files.csv``
        A row per scalar, label, image and path, in the order of logging.
    ``images/KEY-NNN.png``
        The images.
    ``tables/KEY.csv``
        The rows of each table, with axis and point first; images are given by file name.

    If a resumed run logs a point again, its panels replace those logged before, and all later
    points of the axis are removed.

    Args:
        folder: Folder of the files; created with the first panel.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        #: Columns and rows by file name; ``None`` before the first access.
        self._read: dict[str, tuple[list[str], Rows]] | None = None
        self._last: dict[str, int] = {}

    def log(self, panels: Mapping[str, Panel], *, axis: str, at: int) -> None:
        """See `Sink.log`; files are logged as paths."""
        content, pictures = self._content(), dict[str, Pixels]()
        added: dict[str, tuple[Sequence[str], Rows]] = {}
        for key, panel in panels.items():
            name, columns, cells = _cells(key, panel, at, pictures)
            rows = [[str(cell) for cell in (axis, at, *row)] for row in cells]
            added.setdefault(name, (columns, []))[1].extend(rows)
        if at <= self._last.get(axis, -1):
            self._remove(axis, at, {(n, _key_of(n, row)) for n in added for row in added[n][1]})
        self._last[axis] = at
        for name, (columns, rows) in added.items():
            self._append(content, name, list(columns), rows)
        for name, pixels in pictures.items():
            from PIL import Image

            with files.replacing(self.folder / name, sync=False) as file:
                Image.fromarray(pixels).save(file, format="png")

    def _remove(self, axis: str, at: int, again: set[tuple[str, str]]) -> None:
        """Removes all later points, and at this point the panels that are logged again."""
        for name, (columns, rows) in self._content().items():
            kept = [
                row
                for row in rows
                if row[0] != axis
                or int(row[1]) < at
                or (int(row[1]) == at and (name, _key_of(name, row)) not in again)
            ]
            if len(kept) < len(rows):
                self._replace(name, columns, kept)

    def _append(self, content: dict[str, Any], name: str, columns: list[str], rows: Rows) -> None:
        if name not in content and (self.folder / name).exists():
            raise ConfigError(
                f"{self.folder / name} is not a file of panels. Choose another folder, or move it."
            )
        if name not in content or content[name][0] != columns:
            # A new file, or one of an earlier run with other columns.
            self._replace(name, columns, [])
        files.append_text(self.folder / name, _csv(rows))
        content[name][1].extend(rows)

    def _replace(self, name: str, columns: list[str], rows: Rows) -> None:
        files.write_text(self.folder / name, _csv([columns, *rows]), sync=False)
        self._content()[name] = columns, rows

    def _content(self) -> dict[str, tuple[list[str], Rows]]:
        """The contents of the panel files in the folder; other files are ignored."""
        if self._read is None:
            self._read = {}
            tables = [p.relative_to(self.folder) for p in sorted(self.folder.glob("tables/*.csv"))]
            for name in (*INDEX_FILES, *map(str, tables)):
                self._load(name)
            for _, rows in self._read.values():
                for axis, at, *_ in rows:
                    self._last[axis] = max(self._last.get(axis, -1), int(at))
        return self._read

    def _load(self, name: str) -> None:
        path = self.folder / name
        if not path.exists():
            return
        # Read as bytes: captions may contain line ends, which must not be converted.
        text = path.read_bytes().decode(errors="replace")
        columns, *rows = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
        if columns[:2] != ["axis", "at"]:
            return
        # A process killed while writing leaves an incomplete last row.
        complete = rows if text.endswith("\n") else rows[:-1]
        kept = [row for row in complete if len(row) == len(columns) and row[1].isdecimal()]
        if len(complete) < len(rows):
            self._replace(name, columns, kept)
        self._content()[name] = columns, kept

    def table_rows(self, key: str) -> list[tuple[int, Sequence[Cell]]]:
        """The rows of a table: point on the axis, and cells."""
        _, rows = self._content().get(_table_name(key), ([], []))
        return [(int(row[1]), [self._read_cell(text) for text in row[2:]]) for row in rows]

    def _read_cell(self, text: str) -> Cell:
        path = self.folder / text
        if text.startswith("tables/") and text.endswith(".png") and path.is_file():
            from PIL import Image

            # An incomplete image file raises OSError.
            with contextlib.suppress(OSError):
                return np.asarray(Image.open(path, formats=["PNG"]).convert("RGB"))
        for kind in (int, float):
            # A name such as 01 is not a number.
            with contextlib.suppress(ValueError):
                if repr(kind(text)) == text:
                    return kind(text)
        return text

    def __getstate__(self) -> dict[str, Any]:
        # Read again after unpickling: the files may be ahead of a checkpoint.
        return {"folder": self.folder, "_read": None, "_last": {}}


def panel_files(folder: Path) -> list[Path]:
    """The files of a `FileSink` in a folder: index files, tables, and the images they refer to."""
    content = FileSink(folder)._content()
    texts = {*INDEX_FILES, *map(_table_name, keys.TABLES)} & content.keys()
    cells = {cell for name in texts for row in content[name][1] for cell in row}
    names = texts | {cell for cell in cells if re.fullmatch(r"(images|tables)/[^/]+\.png", cell)}
    return [path for name in sorted(names) if (path := folder / name).is_file()]


def _cells(
    key: str, panel: Panel, at: int, pictures: dict[str, Pixels]
) -> tuple[str, Sequence[str], list[Sequence[object]]]:
    """A panel's file name, columns and rows; adds images to ``pictures`` by file name."""
    if isinstance(panel, Picture):
        name = f"images/{_flat(key)}-{at:03d}.png"
        pictures[name] = panel.pixels
        return "images.csv", IMAGES, [(key, name, panel.caption)]
    if isinstance(panel, Histogram):
        rows = [(key, label, count) for label, count in sorted(panel.counts.items())]
        return "histograms.csv", HISTOGRAMS, [*rows]
    if isinstance(panel, Path):
        return "files.csv", FILES, [(key, panel)]
    if not isinstance(panel, Table):
        return "scalars.csv", SCALARS, [(key, float(panel))]
    cells: list[list[object]] = [list(row) for row in panel.rows]
    for i, row in enumerate(panel.rows):
        for j, cell in enumerate(row):
            if isinstance(cell, np.ndarray):
                cells[i][j] = name = f"tables/{_flat(key)}-{at:03d}-{i}-{j}.png"
                pictures[name] = cell
    return _table_name(key), ("axis", "at", *panel.columns), [*cells]


def _csv(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _table_name(key: str) -> str:
    return f"tables/{_flat(key)}.csv"


def _flat(key: str) -> str:
    """A key as part of a file name."""
    return key.replace("/", "-")


def _key_of(name: str, row: Sequence[str]) -> str:
    """The key of a row's panel in an index file; empty in a table's file, which has one panel."""
    return row[2] if name in INDEX_FILES else ""
