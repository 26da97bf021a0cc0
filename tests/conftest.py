"""Makes `driver`, `nets`, `backends` importable: pytest's importlib mode leaves the path alone."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "contracts"))


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    """Tables do not break into parts: processes of a parallel run have a narrow terminal."""
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(autouse=True)
def no_more_steps_than_asked_for(request, monkeypatch):
    """DGR takes no steps after the user's few, unless a test asks for it or is about it."""
    if "finetuned" not in request.keywords:
        for name in ("ENOUGH_STEPS", "LEAST_STEPS"):
            monkeypatch.setattr(f"avalanche_dgm.methods.finetuning.{name}", 0)


@pytest.fixture(scope="session", autouse=True)
def no_gpu_is_looked_for():
    """Each step of an optimizer looks for GPUs, by loading their driver's library.

    Where there is none, that is a third of a small step.
    """
    import torch  # Not at the head, which the process that hands out tests runs, too.

    if not torch.cuda.is_available():
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
