"""Pairs of processes that are started once for all tests of a session."""

import os
import sys
from pathlib import Path

import pytest
from filelock import FileLock

sys.path.insert(0, str(Path(__file__).parent))

import pairs


@pytest.fixture(scope="session")
def started(tmp_path_factory):
    """Starts processes by `pairs.start`, once for each name: also by several workers of xdist."""
    base = tmp_path_factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def once(name, *arguments, **options):
        folder = root / name
        with FileLock(root / f"{name}.lock"):
            if not folder.exists():
                folder.mkdir()
                pairs.start(folder, *arguments, **options)
        return folder

    return once


@pytest.fixture(scope="session")
def two(started):
    """Started as Lightning starts processes: the script again."""
    return started("two", 2, "ddp", *pairs.PAIRS["two"])


@pytest.fixture(scope="session")
def more(started):
    """The same with what is slow."""
    return started("more", 2, "ddp", *pairs.PAIRS["more"])


@pytest.fixture(scope="session")
def one(started):
    """A single process, which starts two others at the end."""
    return started("one", 1, "ddp", *pairs.EQUAL, "dgr@spawn")
