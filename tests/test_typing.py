"""What type checkers see of the package: every name and every argument, and what is wrong."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CASES = Path(__file__).parent / "typing_cases"
#: Avalanche comes without type information; errors in what is imported are not the script's.
MYPY = ["--strict", "--ignore-missing-imports", "--follow-imports=silent", "--no-error-summary"]


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


def run(command, folder):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "MYPYPATH": str(ROOT), "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def by_mypy(folder):
    """Lines with errors, by the name of the script."""
    pytest.importorskip("mypy")
    config = folder / "mypy.ini"
    config.write_text("[mypy]\n[mypy-avalanche.*]\nfollow_imports = skip\n")
    files = sorted(path.name for path in folder.glob("*.py"))
    done = run(["mypy", *MYPY, f"--config-file={config}", "--cache-dir=cache", *files], folder)
    assert done.returncode in (0, 1), done.stderr
    found = {name: {} for name in files}
    for name, line, text in re.findall(r"^(\w+\.py):(\d+): error: (.*)$", done.stdout, re.M):
        found[name][int(line)] = text
    return found


def by_pyright(folder):
    """Lines with errors, by the name of the script."""
    if importlib.util.find_spec("pyright") is None:
        pytest.skip("pyright is not installed: pip install 'pyright[nodejs]'")
    settings = {"extraPaths": [str(ROOT)], "typeCheckingMode": "standard"}
    # Avalanche's own annotations are not all true.
    settings |= {"useLibraryCodeForTypes": False, "reportMissingTypeStubs": False}
    settings |= {"reportMissingModuleSource": False}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    done = run(["pyright", "--outputjson", "--pythonpath", sys.executable], folder)
    if not done.stdout.startswith("{"):
        pytest.skip(f"pyright cannot run here: {done.stderr[-300:]}")
    found = {path.name: {} for path in folder.glob("*.py")}
    for said in json.loads(done.stdout)["generalDiagnostics"]:
        if said["severity"] == "error":
            name, line = Path(said["file"]).name, said["range"]["start"]["line"] + 1
            found[name][line] = said["message"]
    return found


@pytest.mark.parametrize("check", [by_mypy, by_pyright], ids=["mypy", "pyright"])
def test_what_is_wrong_is_an_error_and_nothing_else(check, scripts):
    found = check(scripts)
    lines = (scripts / "wrong.py").read_text().splitlines()
    expected = {i for i, line in enumerate(lines, start=1) if line.endswith("# error")}
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
