"""Atomic writing of files, and locking of folders."""

from __future__ import annotations

import io
import os
import re
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from avalanche_dgm.errors import ConfigError, StorageError

#: Name of a folder's lock file.
LOCK = ".lock"


@contextmanager
def replacing(path: str | os.PathLike[str], *, sync: bool = True) -> Iterator[IO[bytes]]:
    """Opens a file for writing bytes that atomically replaces ``path`` when it is complete.

    After an error or an interruption the old file is unchanged.

    Args:
        path: The file to replace; its folder is created.
        sync: Whether to wait until the bytes are on the disk, so that a power failure does not
            damage the file; not needed for files that can be recreated.

    Raises:
        StorageError: It cannot be written, for example because the disk is full.
    """
    path = Path(path)
    # In the same folder, as replacing a file is only atomic within one file system.
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    raw: _Raw | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = _Raw(partial, "wb")
        with io.BufferedWriter(raw) as file:
            yield file
            file.flush()
            if sync:
                os.fsync(raw.fileno())
        os.replace(partial, path)
    except Exception as error:
        # Serialisers may replace the original error.
        interruption = _interruption_behind(error)
        if interruption is not None:
            raise interruption from None
        reason = raw.failed if raw is not None and raw.failed is not None else error
        if isinstance(reason, OSError) and not isinstance(reason, StorageError):
            raise cannot_write(path, reason) from reason
        raise
    finally:
        with suppress(OSError):
            partial.unlink()


def _interruption_behind(error: BaseException | None) -> KeyboardInterrupt | None:
    """The KeyboardInterrupt during whose handling an error was raised, if there was one."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error


def write_text(path: str | os.PathLike[str], text: str, *, sync: bool = True) -> None:
    """Replaces a file by UTF-8 text; see `replacing`."""
    with replacing(path, sync=sync) as file:
        file.write(text.encode())


def append_text(path: str | os.PathLike[str], text: str) -> None:
    """Appends text in UTF-8 to a file, all of it or, with a `StorageError`, nothing."""
    left = memoryview(text.encode())
    try:
        with open(path, "ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            try:
                while left:
                    left = left[file.write(left) :]
            except OSError:
                file.truncate(before)
                raise
    except OSError as error:
        raise cannot_write(Path(path), error) from error


def final_name(path: Path) -> str:
    """The name of a file; for a partial file of a killed process, its final name."""
    return re.sub(r"\.\d+\.partial$", "", path.name)


def cannot_write(path: Path, error: OSError) -> StorageError:
    """The error for a file or folder that cannot be written, for the system's error."""
    reason = error.strerror or str(error)
    wrapped = StorageError(
        f"Cannot write {path}: {reason}. Files saved before are unchanged. Free disk space, get"
        " permission to write there, or choose another folder."
    )
    wrapped.errno = error.errno
    return wrapped


@contextmanager
def lock(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Locks a folder, created if missing, against other processes; it ends with the process.

    Raises:
        ConfigError: Another process, or another part of this one, uses the folder.
        StorageError: The folder cannot be written.
    """
    path = Path(folder) / LOCK
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _held(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        with suppress(OSError):  # On a full disk the lock works, but does not name its process.
            os.truncate(path, 0)
            os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        # Removed before it is released, so that waiting processes create a new file.
        with suppress(OSError):
            path.unlink()
        os.close(file)


def check_unlocked(folder: Path) -> None:
    """Raises a `ConfigError` that names the process that has locked a folder; writes nothing."""
    if (folder / LOCK).exists():
        with lock(folder):
            pass


def _held(path: Path) -> int:
    """Opens a lock file and locks it."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            taken = _take(file)
            opened = os.fstat(file)
            # The previous holder may have removed it in between.
            if taken and path.exists() and os.path.samestat(opened, path.stat()):
                return file
            holder = "" if taken else os.pread(file, 200, 0).decode(errors="replace").strip()
        except BaseException:
            os.close(file)
            raise
        os.close(file)
        if not taken:
            raise ConfigError(
                f"{path.parent} is in use by another run ({holder or 'its process is not known'})."
                " Wait until it ends, or choose another folder."
            )


def _take(file: int) -> bool:
    """Locks an open file; ``False`` if it is locked already."""
    if os.name == "nt":
        import msvcrt

        os.lseek(file, 1 << 30, os.SEEK_SET)  # Beyond the text, which other processes read.
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        finally:
            os.lseek(file, 0, os.SEEK_SET)
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        warnings.warn(
            f"The file system cannot lock files ({error.strerror}): do not start two runs in one"
            " folder.",
            RuntimeWarning,
            stacklevel=5,
        )
    return True


class _Raw(io.FileIO):
    """A file that stores the first error of writing to it."""

    failed: OSError | None = None

    def write(self, data: object, /) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError as error:
            self.failed = self.failed or error
            raise
