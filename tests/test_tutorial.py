"""The notebooks of the tutorials are made of their pages, open, and print what the pages show."""

import importlib.util
import json
import re
from pathlib import Path

import forked
import pytest

from avalanche_dgm.methods.registry import METHODS

ROOT = Path(__file__).parent.parent


def _tool():
    spec = importlib.util.spec_from_file_location("make", ROOT / "tools" / "make_notebook.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    return make


MAKE = _tool()
TUTORIALS = pytest.mark.parametrize("page", MAKE.PAGES, ids=lambda page: page.stem)


def notebook(page):
    return json.loads((MAKE.NOTEBOOKS / f"{page.stem}.ipynb").read_text(encoding="utf-8"))


def test_there_is_a_notebook_for_each_tutorial_and_no_other():
    assert {p.stem for p in MAKE.NOTEBOOKS.iterdir()} == {page.stem for page in MAKE.PAGES}


@TUTORIALS
def test_the_notebook_is_made_of_the_page(page):
    text = (MAKE.NOTEBOOKS / f"{page.stem}.ipynb").read_text(encoding="utf-8")
    assert text == MAKE.made(page), "run python tools/make_notebook.py"


@TUTORIALS
def test_the_links_of_the_notebook_lead_somewhere(page):
    for cell in notebook(page)["cells"]:
        text = "".join(cell["source"]) if cell["cell_type"] == "markdown" else ""
        for target in re.findall(r"\]\((\.\.[^)#\s]*)", text):
            assert (MAKE.NOTEBOOKS / target).exists(), target


@TUTORIALS
def test_the_notebook_is_of_format_4_5(page):
    made = notebook(page)
    assert (made["nbformat"], made["nbformat_minor"]) == (4, 5)
    assert set(made) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    ids = [cell["id"] for cell in made["cells"]]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", one) for one in ids)
    common = {"cell_type", "id", "metadata", "source"}
    for cell in made["cells"]:
        code = cell["cell_type"] == "code"
        assert set(cell) == (common | {"execution_count", "outputs"} if code else common)
        assert all(line.endswith("\n") for line in cell["source"][:-1])
        if code:
            assert (cell["execution_count"], cell["outputs"]) == (None, [])


def run_the_cells(page, folder):
    """What the code cells print, run one after the other in an empty folder."""
    cells = notebook(page)["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    (folder / "cells.py").write_text("\n\n".join(code), encoding="utf-8")
    done = forked.run(folder / "cells.py", folder=folder, MPLBACKEND="agg")
    assert done.returncode == 0, done.stderr
    assert (folder / f"{page.stem}.png").stat().st_size > 10_000
    return done.stdout


def without_numbers(text):
    """The lines of a text, with any number the same and without spaces."""
    lines = re.sub(r"-?\d+\.?\d*", "0", text).splitlines()
    return ["".join(line.split()) for line in lines]


def ran(page, folder):
    """What the cells print, which is what the page shows but for the numbers."""
    output = run_the_cells(page, folder)
    shown = re.findall(r"^```text\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert without_numbers(output) == without_numbers("".join(shown))
    return output


def find(stem):
    return next(page for page in MAKE.PAGES if page.stem == stem)


def test_your_first_stream(tmp_path):
    output = ran(find("first_stream"), tmp_path)
    found = re.findall(r"^(alone|DGR): accuracy (\S+), forgetting (\S+)$", output, re.MULTILINE)
    (_, plain, lost), (_, replayed, kept) = found
    assert float(plain) < 0.3
    assert float(lost) > 0.9
    assert float(replayed) > 0.9
    assert float(kept) < 0.1
    assert "stored images: 0" in output


def test_on_a_trainer(tmp_path):
    output = ran(find("on_a_trainer"), tmp_path)
    found = dict(re.findall(r"^(alone|DGR): accuracy (\S+),", output, re.MULTILINE))
    assert float(found["alone"]) < 0.3
    assert float(found["DGR"]) > 0.9


def test_write_your_own(tmp_path, monkeypatch):
    # The same method as tests have, which may be in this process, too.
    monkeypatch.delitem(METHODS, "class-means", raising=False)
    output = ran(find("write_your_own"), tmp_path)
    found = re.findall(r"^(?:no memory|class means|DGR) +(\d\.\d+)$", output, re.MULTILINE)
    plain, means, replayed = map(float, found)
    assert plain < 0.3 < 0.7 < means < replayed


def test_reading_the_dashboard(tmp_path):
    output = ran(find("reading_the_dashboard"), tmp_path)
    accuracy = output.splitlines()[0].split()[1:]
    assert 0.4 < float(accuracy[-1]) < 0.85  # The page explains why it is so low.


def test_own_photographs(tmp_path):
    output = ran(find("own_photographs"), tmp_path)
    rows = re.findall(r"^(\S.*?) +(0\.\d+) +(0\.\d+) +\d+ +[\d.]+$", output, re.MULTILINE)
    accuracy = {name: float(value) for name, value, _ in rows}
    lost = {name: float(value) for name, _, value in rows}
    assert accuracy.pop("no memory") < 0.3
    assert lost.pop("no memory") > 0.9
    assert len(accuracy) == 5
    assert min(accuracy.values()) > 0.6
    assert max(lost.values()) < 0.4
