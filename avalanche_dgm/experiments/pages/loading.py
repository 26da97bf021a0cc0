"""Finds runs in folders and reads their results, panels and older logs."""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from avalanche_dgm.dashboards import keys
from avalanche_dgm.dashboards.file_sink import IMAGES, SCALARS
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments.pages.quantities import ALL
from avalanche_dgm.experiments.results import RunResult, Step
from avalanche_dgm.experiments.storage import PANELS, RESULTS, STAGING, load_json

#: Parts of a mask in recorded panels.
MASK_PARTS = ("reserved", "reused", "free")
# Numbers of panels that results have, too, besides those of `QUANTITIES`.
_IN_RESULTS = re.compile(rf"accuracy/experience_\d+|time/phase/.+|{keys.SLEEP_SECONDS}")


@dataclass(frozen=True)
class Picture:
    """A picture of a panel: its key, the point and the name of its axis, the file, a caption."""

    key: str
    at: int
    path: Path
    caption: str = ""
    axis: str = keys.EXPERIENCE


@dataclass
class Run:
    """One run.

    Attributes:
        folder: Its folder.
        name: Path of the folder from the given one.
        result: Its measurements.
        scalars: Numbers of the results and of panels by point of their axis, for each key.
        axes: The axis of each key.
        pictures: Recorded pictures, in order.
    """

    folder: Path
    name: str
    result: RunResult
    scalars: dict[str, dict[int, float]] = field(default_factory=dict)
    axes: dict[str, str] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.result.config.seed

    @property
    def steps(self) -> list[Step]:
        """Measurements after each experience."""
        return self.result.steps

    @property
    def started(self) -> str:
        """Date and time in UTC, empty if not known."""
        return self.result.provenance.get("started") or ""

    def keep(self, axis: str, at: int, key: str, value: float) -> None:
        """Adds a scalar unless it is not finite."""
        if math.isfinite(value):
            self.scalars.setdefault(key, {})[at] = value
            self.axes[key] = axis


def find_runs(folders: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Reads all runs in some folders and below them.

    Returns:
        The runs, each once, and a sentence for each that could not be read.

    Raises:
        ConfigError: A folder does not exist or has no run, or no run can be read.
    """
    runs: dict[Path, Run] = {}
    notes: list[str] = []
    for given in folders:
        found = []
        for path in results_below(given):
            try:
                result = RunResult.from_json(load_json(path))
            except (ConfigError, ValueError, OSError, RecursionError) as error:
                notes.append(_unreadable(path, error))
                continue
            run = Run(path.parent, _name(given, path.parent), result)
            _read_results(run)
            _read_generator_log(run)
            _read_panels(run)
            found.append(run)
        # In the order in which they were started, that of a comparison's methods.
        for run in sorted(found, key=lambda run: run.started):
            runs.setdefault(run.folder.resolve(), run)
    if not runs:
        raise ConfigError(f"No run in {', '.join(map(str, folders))} can be read. {notes[0]}")
    return list(runs.values()), notes


def results_below(given: Path) -> list[Path]:
    """The results of all runs in a folder and below it.

    Args:
        given: A run folder, a parent of it, or the results file.

    Raises:
        ConfigError: The folder does not exist or has no run.
    """
    if given.name == RESULTS and given.is_file():
        return [given]
    if not given.is_dir():
        raise ConfigError(
            f"There is no folder {given}. Name the folder of a run, or one above it, such as"
            " runs/demo, as `avalanche-dgm run`, `compare` and `demo` write them."
        )
    found = []
    for place, folders, names in os.walk(given):
        if STAGING in folders:
            folders.remove(STAGING)
        # Folders and links of that name too: they are reported as unreadable.
        found += [Path(place, name) for name in (*folders, *names) if name == RESULTS]
    if not found:
        raise ConfigError(
            f"{given} has no run: there is no {RESULTS} in it or below it. Name the folder of a"
            " run, or one above it, as `avalanche-dgm run`, `compare` and `demo` write them."
        )
    return sorted(found)


def _unreadable(path: Path, error: Exception) -> str:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return f"{path} could not be read: it is not a result of this version ({reason})."


def _name(given: Path, folder: Path) -> str:
    top = given.parent if given.name == RESULTS else given
    below = folder.relative_to(top).as_posix()
    return top.resolve().name if below == "." else f"{top.resolve().name}/{below}"


def _read_results(run: Run) -> None:
    """Adds the fields and metrics of each step under the names of panels."""
    accuracies = run.result.accuracies
    for at, step in enumerate(run.steps, 1):
        values = {**vars(step), **accuracies.first(at).summaries()}
        for quantity in ALL:
            value = values.get(quantity.field)
            if value is not None:
                run.keep(keys.EXPERIENCE, at, quantity.key, value)


def _read_panels(run: Run) -> None:
    """Adds the panels of a `FileSink`, without lines truncated by an interruption."""
    panels = run.folder / PANELS
    of_results = {quantity.key for quantity in ALL if quantity.field}
    for row in _rows(panels / "scalars.csv", SCALARS):
        if row["key"] not in of_results and not _IN_RESULTS.fullmatch(row["key"]):
            run.keep(row["axis"], int(row["at"]), row["key"], float(row["value"]))
    pictures = {}
    for row in _rows(panels / "images.csv", IMAGES):
        path = panels / row["file"]
        # Untrusted lists cannot refer to files outside of the run's folder.
        if path.resolve().is_relative_to(panels.resolve()) and path.is_file():
            at = int(row["at"])
            pictures[row["key"], at] = Picture(row["key"], at, path, row["caption"], row["axis"])
    run.pictures = list(pictures.values())
    if not any(picture.key == keys.SAMPLES for picture in run.pictures):
        run.pictures += _samples(run.folder, len(run.steps))
    run.pictures.sort(key=lambda picture: (picture.key, picture.at))


def _samples(folder: Path, learned: int) -> list[Picture]:
    """Pictures of generated samples by a generator's log or the end of a run."""
    numbers = {
        path: re.fullmatch(r"samples-(\d+)", path.stem)
        for path in sorted(folder.glob("samples-*.png"))
    }
    # The log counts experiences from 0, panels from 1.
    found = [Picture(keys.SAMPLES, int(n[1]) + 1, path) for path, n in numbers.items() if n]
    last = folder / "samples.png"
    if not found and last.is_file():
        found.append(Picture(keys.SAMPLES, learned, last))
    return found


def _read_generator_log(run: Run) -> None:
    """Adds the sizes and masks of a `GeneratorLog` under the names of panels."""
    sizes = {"capacity_ratio": keys.CAPACITY, "parameters": keys.MEMORY_PARAMETERS}
    for row in _rows(run.folder / "sizes.csv", ("experience", *sizes)):
        for column, key in sizes.items():
            run.keep(keys.EXPERIENCE, int(row["experience"]) + 1, key, float(row[column]))
    for row in _rows(run.folder / "usage.csv", ("experience", "width", *MASK_PARTS)):
        for part in MASK_PARTS:
            key = keys.MASK.format(layer=row.get("layer") or "", part=part)
            value = float(row[part]) / max(1.0, float(row["width"]))
            run.keep(keys.EXPERIENCE, int(row["experience"]) + 1, key, value)


_TEXTS = ("axis", "key", "file", "caption")


def _rows(path: Path, columns: Iterable[str]) -> Iterator[dict[str, str]]:
    """The complete rows of a CSV file with valid numbers."""
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            rows = list(csv.DictReader(file))
    except (OSError, csv.Error):
        return
    for row in rows:
        try:
            for column in columns:
                if column in ("at", "experience"):
                    int(row[column])
                elif column not in _TEXTS:
                    float(row[column])
        except (KeyError, TypeError, ValueError):
            continue
        if None not in row.values():
            yield row
