"""Scripts in processes of their own that need not import PyTorch and Avalanche again.

That takes six seconds. The processes are forked from the one that runs the tests; what must begin
from nothing, as on a user's machine, is started by `subprocess`.
"""

import multiprocessing
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch


class Script:
    """A script that runs in a forked process.

    Args:
        path: Its file.
        arguments: Words of its command line.
        folder: Where it runs, if not here.
        variables: What is different in its environment.
    """

    def __init__(self, path, *arguments, folder=None, **variables):
        self.words = [str(path), *map(str, arguments)]
        self._folder, self._variables = folder, variables
        self._said = [
            tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
            for _ in range(2)
        ]
        self._process = multiprocessing.get_context("fork").Process(target=self._run)
        with warnings.catch_warnings():
            # Python's, of threads that are not in the child. Nothing waits for them there.
            warnings.simplefilter("ignore")
            self._process.start()

    def _run(self):
        os.setsid()  # Whatever it starts ends with it, and nobody else does.
        # A shell that runs the tests in the background lets its children ignore Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for i, name in enumerate(("stdout", "stderr"), start=1):
            os.dup2(self._said[i - 1].fileno(), i)
            setattr(sys, name, open(i, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
        os.chdir(self._folder or ".")
        for variable in [name for name in os.environ if name.startswith("PYTEST")]:
            del os.environ[variable]
        os.environ.update(self._variables)
        sys.argv = self.words
        sys.path.insert(0, str(Path(self.words[0]).parent))
        # A pool of threads that was used does not survive the fork.
        torch.set_num_threads(1)
        random.seed(0)
        torch.manual_seed(0)
        runpy.run_path(self.words[0], run_name="__main__")

    def interrupt(self, after, timeout=100, number=signal.SIGINT):
        """Presses Ctrl-C, or sends another signal, once the script has said something on stderr."""
        end = time.monotonic() + timeout
        while after not in os.pread(self._said[1].fileno(), 1 << 20, 0).decode(errors="replace"):
            assert time.monotonic() < end, after
            time.sleep(0.01)
        os.kill(self._process.pid, number)

    def wait(self, timeout=300):
        """Waits for its end; what it returned and said."""
        self._process.join(timeout)
        if self._process.is_alive():
            os.killpg(self._process.pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(self.words, timeout)
        said = []
        for file in self._said:
            file.seek(0)
            said.append(file.read())
            file.close()
        return subprocess.CompletedProcess(self.words, self._process.exitcode, *said)


def run(path, *arguments, timeout=300, **options):
    """Runs a script to its end, as `subprocess.run` does."""
    return Script(path, *arguments, **options).wait(timeout)


def run_ranks(path, *, n=2):
    """Runs a script in n processes that find each other as those of torchrun; what they printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(n)}
    ranks = [Script(path, RANK=str(rank), **place) for rank in range(n)]
    ended = [rank.wait() for rank in ranks]
    assert [one.returncode for one in ended] == [0] * n, ended[0].stderr[-3000:]
    return [one.stdout for one in ended]
