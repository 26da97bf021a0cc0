"""Reads what a run left beside its results: panels of a `FileSink`, or an older run's files."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from avalanche_dgm.dashboards import keys
from avalanche_dgm.dashboards.file_sink import IMAGES, SCALARS

#: The folder beside a run's results.
PANELS = "panels"
_MASK_PARTS = ("reserved", "reused", "free")


@dataclass(frozen=True)
class Picture:
    """A picture of a panel.

    Attributes:
        key: Name of the panel.
        at: Where on its axis.
        path: The file.
        caption: What it shows, or "".
        axis: Name of the axis.
    """

    key: str
    at: int
    path: Path
    caption: str = ""
    axis: str = keys.EXPERIENCE


@dataclass
class Recorded:
    """Numbers and pictures beside the results.

    Labels that were replayed, and accuracies, are in the results themselves.

    Attributes:
        scalars: For each key, number by point of the axis.
        axes: The axis of each of these keys.
        pictures: In order.
    """

    scalars: dict[str, dict[int, float]] = field(default_factory=dict)
    axes: dict[str, str] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)

    def keep(self, axis: str, at: int, key: str, value: float) -> None:
        """Adds a number; one that is not finite is left out, one at the same point replaced."""
        if math.isfinite(value):
            self.scalars.setdefault(key, {})[at] = value
            self.axes[key] = axis


def read_recorded(folder: Path, learned: int) -> Recorded:
    """Reads the panels of a run; lines that an interruption cut off are left out.

    Args:
        folder: The run folder.
        learned: Experiences that it learned.
    """
    recorded = Recorded()
    _read_generator_log(folder, recorded)
    panels = folder / PANELS
    for row in _rows(panels / "scalars.csv", SCALARS):
        recorded.keep(row["axis"], int(row["at"]), row["key"], float(row["value"]))
    pictures = {}
    for row in _rows(panels / "images.csv", IMAGES):
        path = panels / row["file"]
        # A list may come from elsewhere: it names nothing outside the run's folder.
        if path.resolve().is_relative_to(panels.resolve()) and path.is_file():
            at = int(row["at"])
            pictures[row["key"], at] = Picture(row["key"], at, path, row["caption"], row["axis"])
    recorded.pictures = list(pictures.values())
    if not any(picture.key == keys.SAMPLES for picture in recorded.pictures):
        recorded.pictures += _samples(folder, learned)
    recorded.pictures.sort(key=lambda picture: (picture.key, picture.at))
    return recorded


def _rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """The rows of a list that are whole and whose numbers are numbers."""
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            lines = [row for row in csv.reader(file) if len(row) == len(columns)]
    except (OSError, csv.Error):
        return
    for line in lines[1:]:
        row = dict(zip(columns, line, strict=True))
        try:
            int(row["at"])
            float(row.get("value", "0"))
        except ValueError:
            continue
        yield row


def _samples(folder: Path, learned: int) -> list[Picture]:
    """What a generator's log or the end of a run left: pictures in the run folder itself."""
    found = []
    for path in sorted(folder.glob("samples-*.png")):
        number = re.fullmatch(r"samples-(\d+)", path.stem)
        if number:
            # The log counts from 0, panels say how many experiences were learned.
            found.append(Picture(keys.SAMPLES, int(number[1]) + 1, path))
    last = folder / "samples.png"
    if not found and last.is_file():
        found.append(Picture(keys.SAMPLES, learned, last))
    return found


def _read_generator_log(folder: Path, recorded: Recorded) -> None:
    """Adds what `GeneratorLog` wrote of sizes and masks, under the names of the panels."""
    sizes = {"capacity_ratio": keys.CAPACITY, "parameters": keys.MEMORY_PARAMETERS}
    for _, at, row in _log(folder / "sizes.csv", tuple(sizes)):
        for column, key in sizes.items():
            recorded.keep(keys.EXPERIENCE, at, key, row[column])
    for layer, at, row in _log(folder / "usage.csv", ("width", *_MASK_PARTS)):
        for part in _MASK_PARTS:
            key = keys.MASK.format(layer=layer, part=part)
            recorded.keep(keys.EXPERIENCE, at, key, row[part] / max(1.0, row["width"]))


def _log(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, int, dict[str, float]]]:
    """The rows of a generator's log that are whole: layer, experiences learned, numbers."""
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            rows = list(csv.DictReader(file))
    except (OSError, csv.Error):
        return
    for row in rows:
        try:
            numbers = {column: float(row[column]) for column in columns}
            at = int(row["experience"]) + 1
        except (KeyError, TypeError, ValueError):
            continue
        yield row.get("layer") or "", at, numbers
