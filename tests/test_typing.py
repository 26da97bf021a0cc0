"""What a type checker sees of the package: every name and every argument, and what is wrong.

This is pyright; mypy reads the same cases in `make types`."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CASES = Path(__file__).parent / "typing_cases"


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """The cases, and the README's script."""
    folder = tmp_path_factory.mktemp("scripts")
    for path in CASES.glob("*.py"):
        (folder / path.name).write_text(path.read_text())
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.S | re.M)
    (script,) = (block for block in blocks if "import torch\n" in block)
    (folder / "readme.py").write_text(script)
    return folder


def by_pyright(folder):
    """Lines with errors, by the name of the script."""
    if importlib.util.find_spec("pyright") is None:
        pytest.skip("pyright is not installed: pip install 'pyright[nodejs]'")
    settings = {"extraPaths": [str(ROOT)], "typeCheckingMode": "standard"}
    # Avalanche's own annotations are not all true.
    settings |= {"useLibraryCodeForTypes": False, "reportMissingTypeStubs": False}
    settings |= {"reportMissingModuleSource": False, "enableTypeIgnoreComments": False}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    words = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    if not done.stdout.startswith("{"):
        pytest.skip(f"pyright cannot run here: {done.stderr[-300:]}")
    found = {path.name: {} for path in folder.glob("*.py")}
    for said in json.loads(done.stdout)["generalDiagnostics"]:
        if said["severity"] == "error":
            name, line = Path(said["file"]).name, said["range"]["start"]["line"] + 1
            found[name][line] = said["message"]
    return found


def test_what_is_wrong_is_an_error_and_nothing_else(scripts):
    found = by_pyright(scripts)
    lines = (scripts / "wrong.py").read_text().splitlines()
    expected = {i for i, line in enumerate(lines, start=1) if line.endswith("# type: ignore")}
    assert set(found["wrong.py"]) == expected, found["wrong.py"]
    assert found["right.py"] == {}
    assert found["readme.py"] == {}


def test_the_stubs_are_those_of_the_settings():
    pytest.importorskip("ruff")
    path = ROOT / "tools" / "make_stubs.py"
    spec = importlib.util.spec_from_file_location("make_stubs", path)
    make_stubs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_stubs)
    for folder in make_stubs.STUBS:
        stub, text = make_stubs.made(folder)
        assert stub.read_text() == text, f"{stub} is out of date: run python tools/make_stubs.py"
