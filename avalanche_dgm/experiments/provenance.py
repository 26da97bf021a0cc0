"""The provenance of a result: versions, machine and command line."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = {
    "avalanche_dgm": "avalanche-dgm",
    "avalanche": "avalanche-lib",
    "torch": "torch",
    "torchvision": "torchvision",
    "pytorch_lightning": "pytorch-lightning",
    "numpy": "numpy",
    "scikit-learn": "scikit-learn",
}


def package_version(distribution: str) -> str:
    """Returns a distribution's version, or "not installed"."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


def cpu_model() -> str:
    """Returns the name of the processor, or its architecture if it is not known."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def command_line(argv: Sequence[str]) -> str:
    """Returns the command line, quoted for a shell.

    Args:
        argv: The arguments after the program's name.
    """
    return shlex.join(["avalanche-dgm", *argv])


def collect(device: str, command: str | None = None) -> dict[str, Any]:
    """Collects versions, platform, threads and time for a results file."""
    import torch

    gpu = torch.cuda.get_device_name() if device.startswith("cuda") else None
    return {
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "versions": {
            "python": platform.python_version(),
            **{name: package_version(dist) for name, dist in _PACKAGES.items()},
        },
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device,
        "gpu": gpu,
    }
