"""How a run takes a folder, and the target of the finished run that is there.

A run that is to replace a finished one is written in the folder ``.new`` within it until it is
complete, unless the user said to overwrite it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from avalanche_dgm import files
from avalanche_dgm.errors import AvalancheDGMError, ConfigError, StorageError
from avalanche_dgm.experiments import storage
from avalanche_dgm.experiments.config import ExperimentConfig
from avalanche_dgm.experiments.results import RunResult

#: In ``.new``: which files of the earlier run have no successor, once they are about to go.
_SWAP = ".swap"


@contextmanager
def claim(
    folder: Path | None,
    config: ExperimentConfig,
    *,
    resume: bool,
    overwrite: bool,
    is_global_zero: bool = True,
) -> Iterator[tuple[Path | None, RunResult | None]]:
    """Keeps a run's folder from other processes, and says where the run is written.

    Args:
        folder: The run folder, or ``None`` for a run that leaves nothing.
        config: The settings of the run.
        resume: Whether to continue.
        overwrite: Whether to replace the run that is there.
        is_global_zero: Whether this is the first process; the others only look.

    Yields:
        The folder to write to, which is not the run folder while that holds a finished run, and
        the result so far of what is to be continued, or ``None``.

    Raises:
        ConfigError: See `storage.check_folder`; or another process uses the folder.
    """
    if folder is None:
        yield None, None
        return
    if not is_global_zero:
        target = _target(folder, overwrite=overwrite)
        yield target, storage.read_result(target) if resume and not overwrite else None
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"Cannot make {folder}: {error.strerror}. Choose another --out."
        ) from error
    with files.lock(folder):
        storage.check_folder(folder, config, resume=resume, overwrite=overwrite)
        target = _target(folder, overwrite=overwrite)
        saved = storage.read_result(target) if resume and not overwrite else None
        try:
            yield target, saved
        except AvalancheDGMError as error:
            begun = None if isinstance(error, StorageError) else storage.read_result(target)
            if saved is None and begun is not None and not begun.steps:
                # Nothing was learned that could be continued.
                _clear(target, begun)
            raise


def _target(folder: Path, *, overwrite: bool) -> Path:
    finished = None if overwrite else storage.read_result(folder)
    return folder / storage.STAGING if finished is not None and finished.complete else folder


def begin(folder: Path, result: RunResult) -> None:
    """Removes the run that is replaced, and says whose folder it is from now on.

    Args:
        folder: Where the run is written.
        result: Of the run, of which nothing is learned yet.

    Raises:
        ConfigError: A file that no run wrote has a name that this one needs.
    """
    if folder.name == storage.STAGING:
        _clear(folder)
    else:
        try:
            old = storage.read_result(folder)
        except ConfigError:
            old = None
        mine = storage.run_files(folder, old) if (folder / storage.RESULTS).exists() else []
        foreign = sorted(
            str(p.relative_to(folder)) for p in {*storage.run_files(folder, result)} - {*mine}
        )
        if foreign:
            raise ConfigError(
                f"{folder} holds {storage.first_names(foreign)}, which the run before did not write"
                " and this one would replace. Move it, or choose another --name."
            )
        _clear(folder / storage.STAGING)
        storage.remove(folder, mine)
    storage.write_result(folder, result)


def _clear(folder: Path, result: RunResult | None = None) -> None:
    """Removes a run that was begun; the folder too, if it is one of ours."""
    storage.remove(folder, storage.run_files(folder, result))
    if folder.name == storage.STAGING:
        with suppress(OSError):
            folder.rmdir()


def finish(folder: Path, target: Path, result: RunResult) -> None:
    """Drops the checkpoints of a complete run, and lets it replace the finished one before it.

    A kill in between leaves one of the two results, and is made good by the next call.

    Args:
        folder: The run folder.
        target: Where the run was written.
        result: The complete result.

    Raises:
        ConfigError: A file that no run wrote is in the way; nothing was moved.
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
                f"The run is complete, in {target}, but {folder} holds"
                f" {storage.first_names(foreign)}, which the run before did not write. Move it,"
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
