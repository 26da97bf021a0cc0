"""Finds the runs below some folders and reads what they left."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments.pages.recorded import Recorded, read_recorded
from avalanche_dgm.experiments.results import RunResult
from avalanche_dgm.experiments.storage import RESULTS, STAGING, read_result


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        folder: Where it lies.
        name: The folder's name, with that of the folder that was given.
        result: What it measured.
        recorded: Its panels.
    """

    folder: Path
    name: str
    result: RunResult
    recorded: Recorded

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.result.config.seed

    @property
    def progress(self) -> str:
        """How far it came, such as "6 of 10 experiences"."""
        return f"{len(self.result.steps)} of {len(self.result.order)} experiences"


def find_runs(folders: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Reads all runs in some folders and below them.

    Args:
        folders: Run folders, or folders above them.

    Returns:
        The runs, each once, and a sentence for each that could not be read.

    Raises:
        ConfigError: A folder is not there or holds no run, or none of them can be read.
    """
    runs: dict[Path, Run] = {}
    notes: list[str] = []
    for given in folders:
        before = len(notes)
        found = [run for path in _results(given) if (run := _read(given, path, notes))]
        if not found and len(notes) == before:
            raise ConfigError(_nothing(given))
        # In the order in which they were run: a comparison's methods as they were named.
        for run in sorted(found, key=lambda run: str(run.result.provenance.get("started", ""))):
            runs.setdefault(run.folder.resolve(), run)
    if not runs:
        raise ConfigError(f"No run in {', '.join(map(str, folders))} can be read. {notes[0]}")
    return list(runs.values()), notes


def _read(given: Path, path: Path, notes: list[str]) -> Run | None:
    folder = path.parent
    try:
        result = read_result(folder)
    except ConfigError as error:
        reason = str(error.__cause__ or error)
        reason = " ".join(reason.split())[:300]
        notes.append(f"{path} could not be read: it is not a result of this version ({reason}).")
        return None
    if result is None:
        return None
    return Run(folder, _name(given, folder), result, read_recorded(folder, len(result.steps)))


def _results(given: Path) -> Iterable[Path]:
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
    return sorted(found)


def _nothing(given: Path) -> str:
    return (
        f"{given} holds no run: there is no {RESULTS} in it or below it. Name the folder of a run,"
        " or one above it, as `avalanche-dgm run`, `compare` and `demo` write them."
    )


def _name(given: Path, folder: Path) -> str:
    top = given.parent if given.name == RESULTS else given
    below = folder.relative_to(top).as_posix()
    return top.resolve().name if below == "." else f"{top.resolve().name}/{below}"
