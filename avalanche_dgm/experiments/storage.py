"""The run folder: results so far, checkpoints, and what makes writing them safe."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments.config import ExperimentConfig
from avalanche_dgm.experiments.results import RunResult

RESULTS = "results.json"
#: What a run leaves beside its results; of a generator as `avalanche_dgm.metrics.GeneratorLog`.
_PICTURES = ("accuracy.csv", "accuracy.png", "samples.png", "usage.png")
_GENERATOR = (
    *("usage.csv", "masks.csv", "samples.csv", "sizes.csv", "quality.csv"),
    "samples-[0-9][0-9][0-9].png",
)
#: Panels of the run, and the name of its run in W&B.
_PANELS = (
    "panels/*.csv",
    "panels/images/*.png",
    "panels/tables/*",
    "tensorboard/events.*",
    "wandb-run.txt",
)
#: What both backends leave in the folder of checkpoints.
_CHECKPOINTS = ("after-*.pt", "**/*.rank*.pt", "**/strategy.ckpt", "**/*.partial")


def checkpoint(folder: Path, n_learned: int) -> Path:
    """Returns where the checkpoint after a number of learned experiences lies.

    Args:
        folder: The run folder.
        n_learned: Experiences learned so far.
    """
    return folder / "checkpoints" / f"after-{n_learned}.pt"


def write_text(path: Path, text: str) -> None:
    """Replaces a file in one step, so that an interruption leaves the old or the new one.

    Args:
        path: The file; its folder is made.
        text: The new content.

    Raises:
        ConfigError: The folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise ConfigError(
            f"Cannot write {path}: {error.strerror}. Choose another --out."
        ) from error


def write_result(folder: Path, result: RunResult) -> None:
    """Writes the measurements so far.

    Args:
        folder: The run folder.
        result: The measurements.
    """
    write_text(folder / RESULTS, json.dumps(json_safe(result.to_json()), indent=2) + "\n")


def read_result(folder: Path) -> RunResult | None:
    """Reads the measurements that a run folder holds, ``None`` if it holds none.

    Args:
        folder: The run folder.

    Raises:
        ConfigError: The file cannot be read as a result.
    """
    path = folder / RESULTS
    if not path.exists():
        return None
    try:
        return RunResult.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is not a result of this version ({error}). Remove it, choose another --name,"
            " or replace it with --overwrite."
        ) from error


def drop_checkpoints(folder: Path, keep: int | None) -> None:
    """Removes the checkpoints of a run, all or all but the one to keep.

    Args:
        folder: The run folder.
        keep: Experiences learned at the checkpoint to keep, or ``None``.
    """
    kept = None if keep is None else checkpoint(folder, keep)
    place = folder / "checkpoints"
    for pattern in _CHECKPOINTS:
        for path in list(place.glob(pattern)):
            if path != kept:
                path.unlink(missing_ok=True)
    # From the innermost; what is not empty stays.
    for path in sorted([place, *place.glob("**/")], reverse=True):
        with suppress(OSError):
            path.rmdir()


def prepare(folder: Path) -> None:
    """Makes the folder of a new run and removes what an earlier run left; files of others stay.

    Args:
        folder: The run folder.

    Raises:
        ConfigError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"Cannot make {folder}: {error.strerror}. Choose another --out."
        ) from error
    drop_checkpoints(folder, keep=None)
    for pattern in (RESULTS, *_PICTURES, *_GENERATOR, *_PANELS):
        for path in list(folder.glob(pattern)):
            path.unlink()


def check_folder(
    folder: Path, config: ExperimentConfig, *, resume: bool, overwrite: bool, leads: bool = True
) -> RunResult | None:
    """Decides, before anything is computed, whether a run may use its folder.

    Only the first of several processes does: the others may find it begun already.

    Args:
        folder: The run folder.
        config: The settings of the run.
        resume: Whether the user asked to continue.
        overwrite: Whether the user asked to replace what is there.
        leads: Whether this is the first process.

    Returns:
        The complete result of the same settings if that is to be resumed, else ``None``.

    Raises:
        ConfigError: The folder holds another run, or an unfinished one that would be lost.
    """
    if overwrite or not (leads or resume):
        return None
    saved = read_result(folder)
    if saved is None or not leads:
        return saved if saved is not None and saved.complete else None
    changes = config.differences(saved.config)
    if changes:
        raise ConfigError(
            f"{folder} holds a run with other settings: {', '.join(changes)}. Choose another"
            " --name, or replace it with --overwrite."
        )
    if resume:
        return saved if saved.complete else None
    if not saved.complete:
        raise ConfigError(
            f"{folder} holds an unfinished run ({len(saved.steps)} of {len(saved.order)}"
            " experiences). Continue it with --resume, or replace it with --overwrite."
        )
    return None


def json_safe(value: Any) -> Any:
    """Replaces NaN and infinities, which JSON does not have, by ``None``.

    Args:
        value: Nested dictionaries, lists and numbers.
    """
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, dict):
        return {key: json_safe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(item) for item in value]
    return value
