"""The tutorial's notebook is made of its page, can be opened, and prints what the page shows."""

import importlib.util
import json
import re
from pathlib import Path

import forked

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "own_photographs.md"
NOTEBOOK = ROOT / "examples" / "notebooks" / "own_photographs.ipynb"


def cells():
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def test_the_notebook_is_made_of_the_page():
    spec = importlib.util.spec_from_file_location("make", ROOT / "tools" / "make_notebook.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    assert NOTEBOOK.read_text(encoding="utf-8") == make.made(), "run python tools/make_notebook.py"


def test_the_notebook_is_of_format_4_5():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert set(notebook) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    ids = [cell["id"] for cell in cells()]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", one) for one in ids)
    common = {"cell_type", "id", "metadata", "source"}
    for cell in cells():
        code = cell["cell_type"] == "code"
        assert set(cell) == (common | {"execution_count", "outputs"} if code else common)
        assert all(line.endswith("\n") for line in cell["source"][:-1])
        if code:
            assert (cell["execution_count"], cell["outputs"]) == (None, [])


def run_the_cells(folder):
    """What the code cells print, run one after the other in an empty folder."""
    code = ["".join(cell["source"]) for cell in cells() if cell["cell_type"] == "code"]
    (folder / "cells.py").write_text("\n\n".join(code), encoding="utf-8")
    done = forked.run(folder / "cells.py", folder=folder, MPLBACKEND="agg")
    assert done.returncode == 0, done.stderr
    assert (folder / "own_photographs.png").stat().st_size > 10_000
    return done.stdout


def without_numbers(text):
    """The lines of a text, with any number the same and without spaces."""
    lines = re.sub(r"\d+\.?\d*", "0", text).splitlines()
    return ["".join(line.split()) for line in lines]


def test_the_cells_print_what_the_page_shows_and_only_the_plain_network_forgets(tmp_path):
    output = run_the_cells(tmp_path)
    shown = re.findall(r"^```text\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert without_numbers(output) == without_numbers("".join(shown))
    rows = re.findall(r"^(\S.*?) +(0\.\d+) +(0\.\d+) +\d+ +[\d.]+$", output, re.MULTILINE)
    accuracy = {name: float(value) for name, value, _ in rows}
    lost = {name: float(value) for name, _, value in rows}
    assert accuracy.pop("no memory") < 0.3
    assert lost.pop("no memory") > 0.9
    assert len(accuracy) == 5
    assert min(accuracy.values()) > 0.6
    assert max(lost.values()) < 0.4
