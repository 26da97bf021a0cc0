"""Files that are replaced as a whole, and folders that one process uses at a time."""

import errno
import io
import os
import signal
import subprocess
import sys

import pytest
import torch

from avalanche_dgm import files
from avalanche_dgm.errors import AvalancheDGMError, ConfigError, StorageError

HOLD = """
import sys, time
from avalanche_dgm.files import lock
with lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_file_is_replaced_when_it_is_complete(tmp_path):
    path = tmp_path / "below" / "file"
    with files.replacing(path) as file:
        file.write(b"one")
        assert not path.exists()
    with files.replacing(path) as file:
        file.write(b"other")
        file.flush()
        assert path.read_bytes() == b"one"
    assert path.read_bytes() == b"other"
    assert os.listdir(path.parent) == ["file"]


def full(monkeypatch, after):
    """A disk with room for so many more bytes in files that are replaced."""
    left = [after]

    class Disk(io.FileIO):
        def write(self, data):
            if len(data) > left[0]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            left[0] -= len(data)
            return super().write(data)

    monkeypatch.setattr(files, "_Raw", type("Raw", (files._Raw, Disk), {}))


@pytest.mark.parametrize(
    "write",
    [
        lambda file: file.write(b"x" * 100_000),
        # Behind an error of PyTorch's own, which says nothing of the disk.
        lambda file: torch.save({"weights": torch.zeros(100_000)}, file),
    ],
)
@pytest.mark.parametrize("room", [0, 20_000])
def test_a_full_disk_is_the_reason(write, room, tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    full(monkeypatch, room)
    said = r"file: No space left on device.*saved before"
    with pytest.raises(StorageError, match=said) as found, files.replacing(path) as file:
        write(file)
    assert found.value.errno == errno.ENOSPC
    assert isinstance(found.value, OSError)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(KeyError), files.replacing(tmp_path / "file"):
        raise KeyError("mine")
    assert not os.listdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Cannot write"):
        files.write_text(tmp_path / "file" / "below", "")


def test_an_interruption_stays_one(tmp_path, monkeypatch):
    """PyTorch answers a Ctrl-C in the middle of its file with an error of its own."""

    def interrupted(raw, data):
        raise KeyboardInterrupt

    monkeypatch.setattr(files._Raw, "write", interrupted)
    with pytest.raises(KeyboardInterrupt), files.replacing(tmp_path / "file") as file:
        torch.save({"weights": torch.zeros(10_000)}, file)
    assert os.listdir(tmp_path) == []


def test_text_is_added_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.append_text(path, "one\n")
    files.append_text(path, "zwölf\n")
    assert path.read_text(encoding="utf-8") == "one\nzwölf\n"
    resource = pytest.importorskip("resource")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        with pytest.raises(StorageError, match="Cannot write"):
            files.append_text(path, "x" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text(encoding="utf-8") == "one\nzwölf\n"


def test_a_lock_is_of_one_and_leaves_nothing(tmp_path):
    with files.lock(tmp_path / "a"), files.lock(tmp_path / "b"):
        said = rf"in use by another run \(process {os.getpid()} on"
        with pytest.raises(ConfigError, match=said), files.lock(tmp_path / "a"):
            pass
        with pytest.raises(ConfigError, match="in use"):
            files.check_unlocked(tmp_path / "a")
    assert not os.listdir(tmp_path / "a")
    with files.lock(tmp_path / "a"):
        pass
    files.check_unlocked(tmp_path / "none")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_a_lock_dies_with_its_process(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    said = f"process {holder.pid} on"
    with pytest.raises(AvalancheDGMError, match=said), files.lock(tmp_path):
        pass
    holder.kill()
    holder.wait()
    with files.lock(tmp_path):
        assert os.listdir(tmp_path) == [files.LOCK]
    assert not os.listdir(tmp_path)


def test_what_a_killed_process_left_has_the_file_s_name(tmp_path):
    assert files.final_name(tmp_path / "a.pt.123.partial") == "a.pt"
    assert files.final_name(tmp_path / "a.partial") == "a.partial"
