"""Makes `driver`, `nets`, `backends` importable: pytest's importlib mode leaves the path alone."""

import gc
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "contracts"))

# Python looks for cycles after 700 new objects, and among all that PyTorch and others have loaded.
gc.set_threshold(20_000)


def pytest_collection_finish():
    gc.freeze()


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    """Tables do not break into parts: processes of a parallel run have a narrow terminal."""
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(scope="session", autouse=True)
def steps_after_the_user_s():
    """DGR takes no steps after the user's few, in fixtures of modules neither; see below."""
    with pytest.MonkeyPatch.context() as patch:
        from avalanche_dgm.methods import finetuning

        defaults = {name: getattr(finetuning, name) for name in ("ENOUGH_STEPS", "LEAST_STEPS")}
        for name in defaults:
            patch.setattr(finetuning, name, 0)
        yield defaults


@pytest.fixture(autouse=True)
def as_many_steps_as_asked_for(request, monkeypatch, steps_after_the_user_s):
    """Tests marked ``finetuned`` have the default."""
    if "finetuned" in request.keywords:
        for name, value in steps_after_the_user_s.items():
            monkeypatch.setattr(f"avalanche_dgm.methods.finetuning.{name}", value)


@pytest.fixture(scope="module", autouse=True)
def no_picture_of_each_run(request):
    """Drawing takes half a second a run; `test_cli.py` looks at these pictures."""
    with pytest.MonkeyPatch.context() as patch:
        if request.path.parent.name in ("experiments", "papers"):
            from avalanche_dgm.dashboards.drawing import new_figure
            from avalanche_dgm.experiments import figures

            patch.setattr(figures, "accuracy_curves", lambda result: new_figure(1, 1))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_gpu_is_looked_for():
    """Each step of an optimizer looks for GPUs, by loading their driver's library.

    Where there is none, that is a third of a small step.
    """
    import torch  # Not at the head, which the process that hands out tests runs, too.

    if not torch.cuda.is_available():
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
