"""The run folder: results, checkpoints, and safe writing of both.

A run removes and replaces only files that a run of this package wrote.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avalanche_dgm import files
from avalanche_dgm.dashboards import file_sink
from avalanche_dgm.errors import AvalancheDGMError, ConfigError
from avalanche_dgm.experiments.config import ExperimentConfig
from avalanche_dgm.experiments.results import RunResult

if TYPE_CHECKING:
    from avalanche_dgm.experiments.runner import RunOptions

RESULTS = "results.json"
#: Subfolder of a run with its panels.
PANELS = "panels"
#: File of a run's memory; see `avalanche_dgm.save_memory`.
MEMORY = "memory.safetensors"
_OF_RUN = ("config", "order", "steps", "provenance")
#: Subfolder of a run that will replace a finished one.
STAGING = ".new"
#: Files of a sweep of several runs.
COMPARISON = ("summary.json", "comparison.png", "tasks.png", "config.yaml")
#: Maximum bytes of a `results.json`; one of 1000 experiences has about 20 million.
_MOST_BYTES = 64_000_000
# Files of all runs, of those with samples, and of those with a GAN: `GeneratorLog`.
_WRITTEN = re.compile(
    r"results\.json|memory\.safetensors|config\.yaml|accuracy\.csv|accuracy\.png|wandb-run\.txt"
    r"|tensorboard/events\.out\.tfevents\..+"
    r"|checkpoints/(after-\d+\.pt|(\d{3}/)?(\d{4}-\d{3}-\d{9}\.rank\d+\.pt|\.lock)|strategy\.ckpt)"
)
_SAMPLES = re.compile(r"samples\.png")
_OF_GAN = re.compile(r"(usage|masks|samples|sizes|quality)\.csv|usage\.png|samples-(\d{3})\.png")


def run_folder(out: Path, name: str) -> Path:
    """Returns the folder of a run, which must be inside that of all runs.

    Args:
        out: The folder of all runs.
        name: Name of the run.

    Raises:
        ConfigError: The folder is outside, by its name or a link.
    """
    folder = out / name
    try:
        inside = folder.resolve().is_relative_to(out.resolve())
        folder.exists()  # Fails for a name that is too long.
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(f"'{name}' cannot be the name of a folder in {out}: {error}.") from error
    if not inside or STAGING in folder.parts:
        raise ConfigError(
            f"'{name}' is outside of {out}, at {folder.resolve()}, or is a reserved name. Choose a"
            " --name without '..', a root or a link, or another --out."
        )
    return folder


def checkpoint(folder: Path, n_learned: int) -> Path:
    """Returns the path of the checkpoint after a number of experiences."""
    return folder / "checkpoints" / f"after-{n_learned}.pt"


def write_result(folder: Path, result: RunResult) -> None:
    """Writes the measurements so far."""
    text = json.dumps(json_safe(result.to_json()), indent=2) + "\n"
    files.write_text(folder / RESULTS, text)


def read_result(folder: Path) -> RunResult | None:
    """Reads the result in a run folder, or ``None`` if there is none.

    Raises:
        ConfigError: The file is not a result.
    """
    path = folder / RESULTS
    if not os.path.lexists(path):
        return None
    try:
        return RunResult.from_json(load_json(path))
    except (AvalancheDGMError, OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} is not a result of this version ({error}). Choose another --name, or remove"
            " it; --overwrite replaces it if a run wrote it."
        ) from error


def load_json(path: Path) -> Any:
    """Reads a file of results.

    Raises:
        ValueError: It is not a file, too large, or not JSON.
        OSError: It cannot be read.
        RecursionError: It is nested too deeply.
    """
    if not path.is_file():
        raise ValueError("it is not a file")
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"it has {path.stat().st_size:,} bytes, which is too much")
    return json.loads(path.read_text(encoding="utf-8"))


def run_files(folder: Path, result: RunResult | None) -> list[Path]:
    """The files of a run in its folder.

    Args:
        folder: The run folder.
        result: Result of the run; ``None`` if it cannot be read.
    """
    from avalanche_dgm.experiments.methods import METHODS, Reference, has_gan

    # An unknown method may have any files.
    method = METHODS.get(result.config.method) if result is not None else None
    names = [_WRITTEN]
    names += [_SAMPLES] if not isinstance(method, Reference) else []
    names += [_OF_GAN] if method is None or has_gan(method) else []
    most = 10**9 if result is None else len(result.order)
    panels = {p.relative_to(folder).as_posix() for p in file_sink.panel_files(folder / PANELS)}
    paths = []
    for path, name in _files(folder, "", "checkpoints", PANELS, "tensorboard"):
        matches = any(known.fullmatch(name) for known in names)
        numbers = re.findall(r"(?:after|samples)-(\d+)\.", name)
        if (matches and all(int(n) <= most for n in numbers)) or name in panels:
            paths.append(path)
    return paths


def _files(folder: Path, *places: str) -> Iterator[tuple[Path, str]]:
    """Files in subfolders, recursive except for the first, and their names relative to the folder.

    Links are not followed. Partial files of killed processes have their final names.
    """
    for top in places:
        for place, folders, names in os.walk(folder / top):
            if Path(place) != folder and Path(place).is_symlink():
                break
            if not top:
                folders.clear()
            for path in (Path(place, name) for name in names):
                if not path.is_symlink():
                    final = path.with_name(files.final_name(path))
                    yield path, final.relative_to(folder).as_posix()


def remove(folder: Path, paths: Sequence[Path]) -> None:
    """Removes files, and then empty folders of a run."""
    for path in paths:
        path.unlink(missing_ok=True)
    places = [folder / name for name in ("checkpoints", PANELS, "tensorboard")]
    below = [p for place in places if not place.is_symlink() for p in place.glob("**/")]
    # From the innermost; removing a folder that is not empty fails.
    for place in sorted([*below, *places], reverse=True):
        with suppress(OSError):
            place.rmdir()


def drop_checkpoints(folder: Path, result: RunResult, keep: int | None) -> None:
    """Removes the checkpoints of a run, except the one to keep."""
    kept = None if keep is None else checkpoint(folder, keep)
    place = folder / "checkpoints"
    checkpoints = [path for path in run_files(folder, result) if path.is_relative_to(place)]
    remove(folder, [path for path in checkpoints if path != kept])


def check_folder(folder: Path, config: ExperimentConfig, options: RunOptions) -> RunResult | None:
    """Checks, before training, that a run may use its folder; only in the first process.

    Returns:
        The complete result with the same settings if ``resume``, else ``None``.

    Raises:
        ConfigError: The folder has other files, another run, or an unfinished run that would be
            lost.
    """
    if not options.is_global_zero:
        saved = read_result(folder) if options.resume else None
        staged = (folder / STAGING / RESULTS).exists()
        return saved if saved is not None and saved.complete and not staged else None
    _refuse_foreign(folder)
    if options.overwrite:
        return None
    saved = read_result(folder)
    if saved is None:
        return None
    changes = config.differences(saved.config)
    if changes:
        raise ConfigError(
            f"{folder} has a run with other settings: {', '.join(changes)}. Choose another --name,"
            " or replace it with --overwrite."
        )
    begun = read_result(folder / STAGING) if saved.complete else saved
    if options.resume:
        return saved if begun is None else None
    if begun is not None:
        raise ConfigError(
            f"{folder} has an unfinished run ({begun.progress}). Continue it with --resume, or"
            " replace it with --overwrite."
        )
    return None


def _refuse_foreign(folder: Path) -> None:
    """Checks that a folder with files has a run."""
    names = _entries(folder)
    if not names or _has_keys(folder / RESULTS, *_OF_RUN):
        return
    if _is_comparison(folder):
        raise ConfigError(
            f"{folder} has several runs, each in a folder. Choose another --name for a single run."
        )
    content = (
        f"a {RESULTS} that no run wrote or that is damaged"
        if RESULTS in names
        else f"{first_names(names)}, and no run"
    )
    raise ConfigError(
        f"{folder} has {content}. It is not changed, even with --overwrite: choose another --name"
        " or --out, or empty the folder."
    )


def _has_keys(path: Path, *keys: str) -> bool:
    """Whether a JSON file has the keys of a file of this package, of any version."""
    try:
        content = load_json(path)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and set(keys) <= content.keys()


def _is_comparison(folder: Path) -> bool:
    return _has_keys(folder / COMPARISON[0], "stream", "methods", "provenance")


def check_comparison(folder: Path, runs: Sequence[Path]) -> None:
    """Checks that a comparison may use its folder, in which each run has a subfolder.

    Raises:
        ConfigError: The folder has files that neither a run nor a comparison wrote.
    """
    names = _entries(folder)
    if _has_keys(folder / RESULTS, *_OF_RUN):
        saved = read_result(folder)
        method = "" if saved is None else f", of {saved.config.method}"
        raise ConfigError(
            f"{folder} has the files of one run{method}; {len(runs)} runs need a folder for each"
            " in it. Choose another --name."
        )
    if _is_comparison(folder):
        return
    foreign = [name for name in names if name in COMPARISON]
    if not foreign and any(_has_keys(place / RESULTS, *_OF_RUN) for place in runs):
        return
    if names:
        raise ConfigError(
            f"{folder} has {first_names(foreign or names)}, and no readable {COMPARISON[0]} of a"
            " comparison. Choose another --name or --out, or move these files."
        )


def _entries(folder: Path) -> list[str]:
    """The entries of a folder, without those of a run that was killed before its first result."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder. Choose another --name or --out.")
    if not folder.exists():
        return []
    left = {files.LOCK, RESULTS}
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.name == RESULTS or files.final_name(path) not in left
    )


def first_names(names: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def json_safe(value: Any) -> Any:
    """Replaces NaN and infinities, which JSON does not have, by ``None``."""
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, dict):
        return {key: json_safe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(item) for item in value]
    return value
