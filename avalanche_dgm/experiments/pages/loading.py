"""Finds the runs below some folders and reads what they left: results, panels, older logs."""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from avalanche_dgm.dashboards import keys
from avalanche_dgm.dashboards.file_sink import IMAGES, SCALARS
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments.storage import PANELS, RESULTS, STAGING, load_json
from avalanche_dgm.metrics.stream_accuracies import StreamAccuracies

#: Parts of a mask that runs record.
MASK_PARTS = ("reserved", "reused", "free")

Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, le=1e18)]
Count = Annotated[int, Field(ge=0, le=10**18)]


class _Read(BaseModel):
    """Part of a file: values of another type are refused, fields of other versions are not."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class Step(_Read):
    """What was measured after an experience; see `avalanche_dgm.experiments.results.Step`."""

    experience: Count
    accuracy: list[Share | None]
    stream_accuracy: Share | None = None
    seconds: Amount
    eval_seconds: Amount
    phases: dict[str, Amount]
    replayed: Count
    histogram: dict[int, Count]
    stm_occupancy: Count
    sleeps: Count
    sleep_seconds: Amount
    memory_bytes: Count | None
    peak_bytes: Count | None = None

    @property
    def held_bytes(self) -> int | None:
        """Bytes that are held beside the classifier; ``None`` if they are not known."""
        # Versions that did not count the peak wrote 0 also of methods that they could not count.
        counted = self.memory_bytes or "peak_bytes" in self.model_fields_set
        return self.memory_bytes if counted else None


class Config(_Read):
    """The settings of a run; those that the page does not know are kept as they are."""

    model_config = ConfigDict(extra="allow")

    method: str
    stream: str
    seed: Count
    stream_options: dict[str, Any] = {}
    method_options: dict[str, Any] = {}
    trainer: dict[str, Any] = {}
    revisit: list[Count] = []


class Provenance(_Read):
    """Where a result comes from."""

    started: str | None = None
    command: str | None = None
    platform: str | None = None
    device: str | None = None
    gpu: str | None = None
    versions: dict[str, str] = {}


class Result(_Read):
    """What a run measured."""

    config: Config
    tasks: list[str]
    order: list[Count]
    steps: list[Step]
    provenance: Provenance

    @model_validator(mode="after")
    def _fits(self) -> Result:
        n = len(self.tasks)
        if len(self.steps) > len(self.order):
            raise ValueError(f"{len(self.steps)} steps exceed {len(self.order)} experiences")
        if any(len(step.accuracy) != n for step in self.steps):
            raise ValueError(f"a step has not one accuracy for each of {n} tasks")
        if any(j >= n for j in (*self.order, *(step.experience for step in self.steps))):
            raise ValueError(f"an experience is not one of {n} tasks")
        return self


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
        folder: Where it lies.
        name: The folder's name, with that of the folder that was given.
        result: What it measured.
        scalars: Recorded numbers by point of their axis, for each key.
        axes: The axis of each of these keys.
        pictures: Recorded pictures, in order.
    """

    folder: Path
    name: str
    result: Result
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
    def complete(self) -> bool:
        """Whether every experience was learned."""
        return len(self.steps) == len(self.result.order)

    @property
    def progress(self) -> str:
        """How far it came, such as "6 of 10 experiences"."""
        return f"{len(self.steps)} of {len(self.result.order)} experiences"

    @property
    def seconds(self) -> float:
        """Training time, without tests."""
        return sum(step.seconds for step in self.steps)

    @cached_property
    def summaries(self) -> list[dict[str, float]]:
        """What the accuracies say after each experience, by names of `metrics.functional`."""
        order = [step.experience for step in self.steps]
        order += self.result.order[len(order) :]
        accuracies = StreamAccuracies([step.accuracy for step in self.steps], order)
        return [accuracies.first(k + 1).summaries() for k in range(len(self.steps))]

    def keep(self, axis: str, at: int, key: str, value: float) -> None:
        """Adds a recorded number; one that is not finite is left out."""
        if math.isfinite(value):
            self.scalars.setdefault(key, {})[at] = value
            self.axes[key] = axis


def find_runs(folders: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Reads all runs in some folders and below them.

    Returns:
        The runs, each once, and a sentence for each that could not be read.

    Raises:
        ConfigError: A folder is not there or holds no run, or none of them can be read.
    """
    runs: dict[Path, Run] = {}
    notes: list[str] = []
    for given in folders:
        found = []
        for path in results_below(given):
            try:
                result = read_result(path)
            except (ValueError, OSError, RecursionError) as error:
                notes.append(_unreadable(path, error))
                continue
            run = Run(path.parent, _name(given, path.parent), result)
            _read_generator_log(run)
            _read_panels(run)
            found.append(run)
        # In the order in which they were run: a comparison's methods as they were named.
        for run in sorted(found, key=lambda run: run.result.provenance.started or ""):
            runs.setdefault(run.folder.resolve(), run)
    if not runs:
        raise ConfigError(f"No run in {', '.join(map(str, folders))} can be read. {notes[0]}")
    return list(runs.values()), notes


def results_below(given: Path) -> list[Path]:
    """The results of all runs in a folder and below it.

    Args:
        given: A run folder, one above it, or the file with the results itself.

    Raises:
        ConfigError: The folder is not there or holds no run.
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
        # Folders and links of that name too: that they are no result is said.
        found += [Path(place, name) for name in (*folders, *names) if name == RESULTS]
    if not found:
        raise ConfigError(
            f"{given} holds no run: there is no {RESULTS} in it or below it. Name the folder of a"
            " run, or one above it, as `avalanche-dgm run`, `compare` and `demo` write them."
        )
    return sorted(found)


def read_result(path: Path) -> Result:
    """Reads a file of results; see `load_json`."""
    # Names of files may hold halves of characters, which no page can.
    text = json.dumps(load_json(path), ensure_ascii=False).encode(errors="replace")
    return Result.model_validate_json(text)


def _unreadable(path: Path, error: Exception) -> str:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return f"{path} could not be read: it is not a result of this version ({reason})."


def _name(given: Path, folder: Path) -> str:
    top = given.parent if given.name == RESULTS else given
    below = folder.relative_to(top).as_posix()
    return top.resolve().name if below == "." else f"{top.resolve().name}/{below}"


def _read_panels(run: Run) -> None:
    """Adds the panels of a `FileSink`; lines that an interruption cut off are left out."""
    panels = run.folder / PANELS
    for row in _rows(panels / "scalars.csv", SCALARS):
        run.keep(row["axis"], int(row["at"]), row["key"], float(row["value"]))
    pictures = {}
    for row in _rows(panels / "images.csv", IMAGES):
        path = panels / row["file"]
        # A list may come from elsewhere: it names nothing outside the run's folder.
        if path.resolve().is_relative_to(panels.resolve()) and path.is_file():
            at = int(row["at"])
            pictures[row["key"], at] = Picture(row["key"], at, path, row["caption"], row["axis"])
    run.pictures = list(pictures.values())
    if not any(picture.key == keys.SAMPLES for picture in run.pictures):
        run.pictures += _samples(run.folder, len(run.steps))
    run.pictures.sort(key=lambda picture: (picture.key, picture.at))


def _samples(folder: Path, learned: int) -> list[Picture]:
    """What a generator's log or the end of a run left: pictures in the run folder itself."""
    numbers = {
        path: re.fullmatch(r"samples-(\d+)", path.stem)
        for path in sorted(folder.glob("samples-*.png"))
    }
    # The log counts from 0, panels say how many experiences were learned.
    found = [Picture(keys.SAMPLES, int(n[1]) + 1, path) for path, n in numbers.items() if n]
    last = folder / "samples.png"
    if not found and last.is_file():
        found.append(Picture(keys.SAMPLES, learned, last))
    return found


def _read_generator_log(run: Run) -> None:
    """Adds what `GeneratorLog` wrote of sizes and masks, under the names of the panels."""
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
    """The rows of a CSV file that are whole and whose numbers are numbers."""
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
