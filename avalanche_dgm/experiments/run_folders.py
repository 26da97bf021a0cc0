"""Claiming a run's folder, and replacing the finished run in it.

A run that replaces a finished one is written to the subfolder ``.new`` until it is complete, unless
the user asked to overwrite.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from avalanche_dgm import files
from avalanche_dgm.errors import AvalancheDGMError, ConfigError, StorageError
from avalanche_dgm.experiments import recipes, storage
from avalanche_dgm.experiments.config import ExperimentConfig
from avalanche_dgm.experiments.results import RunResult

if TYPE_CHECKING:
    from avalanche_dgm.experiments.runner import RunOptions

#: File in ``.new`` that lists the files of the earlier run to remove.
_SWAP = ".swap"


@contextmanager
def claim(
    folder: Path | None, config: ExperimentConfig, options: RunOptions
) -> Iterator[tuple[Path | None, RunResult | None]]:
    """Locks a run's folder, and chooses the folder to write to.

    Args:
        folder: The run folder, or ``None`` for a run that writes nothing.
        config: The settings of the run.
        options: How the run is started; only the first process locks.

    Yields:
        The folder to write to, which is a subfolder if the run folder has a finished run; and the
        result so far of the run to resume, or ``None``.

    Raises:
        ConfigError: See `storage.check_folder`; or another process uses the folder.
    """
    if folder is None:
        yield None, None
        return
    if not options.is_global_zero:
        yield _target(folder, options)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"Cannot create {folder}: {error.strerror}. Choose another --out."
        ) from error
    with files.lock(folder):
        storage.check_folder(folder, config, options)
        target, saved = _target(folder, options)
        try:
            yield target, saved
        except AvalancheDGMError as error:
            begun = None if isinstance(error, StorageError) else storage.read_result(target)
            if saved is None and begun is not None and not begun.steps:
                # Nothing to resume.
                _clear(target, begun)
            raise


def _target(folder: Path, options: RunOptions) -> tuple[Path, RunResult | None]:
    """The folder to write to, and the result so far of the run to resume."""
    if options.overwrite:
        return folder, None
    saved = storage.read_result(folder)
    if saved is not None and saved.complete:
        folder = folder / storage.STAGING
        saved = storage.read_result(folder)
    return folder, saved if options.resume else None


def begin(folder: Path, result: RunResult) -> None:
    """Removes the previous run; writes the empty result of the new one, which claims the folder.

    Raises:
        ConfigError: The run would replace a file that no run wrote.
    """
    if folder.name == storage.STAGING:
        _clear(folder)
    else:
        try:
            old = storage.read_result(folder)
        except ConfigError:
            old = None
        previous = storage.run_files(folder, old) if (folder / storage.RESULTS).exists() else []
        # Partial files, of which a killed run may have left one, are replaced by none.
        foreign = sorted(
            str(p.relative_to(folder))
            for p in {*storage.run_files(folder, result)} - {*previous}
            if files.final_name(p) == p.name
        )
        if foreign:
            raise ConfigError(
                f"{folder} has {storage.first_names(foreign)}, which the previous run did not write"
                " and this one would replace. Move it, or choose another --name."
            )
        _clear(folder / storage.STAGING)
        storage.remove(folder, previous)
    storage.write_result(folder, result)


def write_config(folder: Path, config: ExperimentConfig) -> None:
    """Writes the settings of a run, also of a resumed one, that was perhaps killed before."""
    files.write_text(folder / recipes.FILE, recipes.dump({config.method: [config]}))


def _clear(folder: Path, result: RunResult | None = None) -> None:
    """Removes an unfinished run, and its subfolder."""
    storage.remove(folder, storage.run_files(folder, result))
    if folder.name == storage.STAGING:
        with suppress(OSError):
            folder.rmdir()


def finish(folder: Path, target: Path, result: RunResult) -> None:
    """Removes the checkpoints of a complete run, and replaces the previous finished run.

    If the process is killed in between, one of the two results remains, and the next call completes
    the replacement.

    Raises:
        ConfigError: A file that no run wrote would be replaced; nothing was moved.
    """
    storage.drop_checkpoints(target, result, keep=None)
    left = [p for p in storage.run_files(target, result) if files.final_name(p) != p.name]
    storage.remove(target, left)
    if target == folder:
        return
    swap, last = target / _SWAP, target / storage.RESULTS
    found = [p for p in target.rglob("*") if p.is_symlink() or p.is_file()]
    moved = [p.relative_to(target) for p in sorted(found) if p not in (swap, last)]
    if not swap.exists():
        old = [
            p.relative_to(folder) for p in storage.run_files(folder, storage.read_result(folder))
        ]
        own = {*old, *(path for path in moved if path.parts[0] == "wandb")}
        foreign = [str(p) for p in moved if os.path.lexists(folder / p) and p not in own]
        if foreign:
            raise ConfigError(
                f"The run is complete, in {target}, but {folder} has"
                f" {storage.first_names(foreign)}, which the previous run did not write. Move it,"
                " then finish with --resume."
            )
        kept = {*moved, Path(storage.RESULTS)}
        files.write_text(swap, "\n".join(p.as_posix() for p in old if p not in kept))
    gone = swap.read_text(encoding="utf-8").splitlines()
    storage.remove(folder, [folder / name for name in gone])
    for path in [*moved, last.relative_to(target)]:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(target / path, folder / path)
    swap.unlink()
    for below in sorted([target, *target.glob("**/")], reverse=True):
        with suppress(OSError):
            below.rmdir()
