"""The script that is prepared for a machine with a GPU works, on the CPU."""

import json
import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.slow
def test_what_a_gpu_is_worth(tmp_path, monkeypatch):
    out = tmp_path / "gpu.json"
    words = ["gpu.py", "--fast", "--device", "cpu", "--out", str(out), "--data-root", "nowhere"]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    runpy.run_path(str(BENCHMARKS / "gpu.py"), run_name="__main__")
    found = json.loads(out.read_text())
    assert {"error" for values in found.values() if "error" in values} == set()
    loops = found["inner loops"]
    assert {loop["largest difference of logits"] for loop in loops.values()} == {0.0}
    (first, second) = [v for name, v in found.items() if "settings" in name]
    # The folder has no data: both commands ended with an error of ours.
    assert first["experiences"] == second["experiences"] == 0
