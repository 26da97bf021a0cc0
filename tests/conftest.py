"""Makes `driver`, `nets`, `backends` importable: pytest's importlib mode leaves the path alone."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "contracts"))


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    """Tables do not break into parts: processes of a parallel run have a narrow terminal."""
    monkeypatch.setenv("COLUMNS", "200")
