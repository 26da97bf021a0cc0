"""The page of results, and the README's numbers, are what the files in docs/results say."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.papers.numbers import to_json

ROOT = Path(__file__).parent.parent.parent
_SPEC = importlib.util.spec_from_file_location("make_results", ROOT / "tools" / "make_results.py")
make_results = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(make_results)


def numbers(**changes):
    """What `avalanche-dgm paper fig7` writes, made up."""
    cell = {"row": "dgdmn", "column": "average of all tasks", "paper": "about .40"}
    machine = {"cpu": "A Processor", "gpu": None, "threads": 1, "versions": {"torch": "2.9"}}
    run = {"row": "dgdmn", "bytes": 4_000_000, "seconds": 90.0, "machine": 0}
    return {
        "exhibit": "kamra2017-fig7",
        "command": "avalanche-dgm paper kamra2017-fig7 --seeds 2",
        "made": "2026-01-01T00:00:00",
        "settings": "paper",
        "scale": 1.0,
        "fast": False,
        "only": [],
        "curves": {"accuracy": {"x": [1, 2], "rows": {"dgdmn": [[0.9, 0.41], [0.9, 0.43]]}}},
        "seeds": [0, 1],
        "rows": [{**cell, "values": [0.41, 0.43], "mean": 0.42, "half": 0.0127}],
        "differences": [
            {"row": "dgdmn", "less": "dgr", "column": "average of all tasks"}
            | {"values": [0.2, 0.3], "mean": 0.25, "half": 0.6}
        ],
        "runs": [run, {**run, "seconds": 110.0}],
        "machines": [machine],
        **changes,
    }


UNITS = (("kB", "memory"), ("s", "training time"))


def write(folder, found):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "numbers.json").write_text(to_json(found))


def test_the_page_is_what_the_files_say():
    page = make_results.page_of(make_results.read())
    assert make_results.PAGE.read_text(encoding="utf-8") == page, "run make results"


def test_the_readme_is_what_the_files_say():
    text = make_results.README.read_text(encoding="utf-8")
    assert make_results.filled(text, make_results.read()) == text, "run make results"


def test_files_name_no_place_of_this_machine():
    for path in make_results.RESULTS.glob("*.json"):
        assert not re.search(r"/(work|home|root|tmp)\b", path.read_text()), path


def test_newer_numbers_are_taken_over(tmp_path):
    runs, results = tmp_path / "runs", tmp_path / "results"
    write(runs / "kamra2017-fig7", numbers())
    (target,) = make_results.take_over(runs, results)
    assert target == results / "kamra2017-fig7.json"
    assert json.loads(target.read_text()) == numbers()
    assert make_results.take_over(runs, results) == [], "it is not newer"
    later = {"made": "2026-01-02T00:00:00"}
    for worse in ({"fast": True}, {"seeds": [0]}, {"rows": []}, {"exhibit": "kamra2017-fig99"}):
        write(runs / "kamra2017-fig7", numbers(**later, **worse))
        assert make_results.take_over(runs, results) == [], worse
    write(runs / "kamra2017-fig7", numbers(**later))
    assert make_results.take_over(runs, results) == [target]
    write(runs / "b", numbers(settings="defaults", scale=0.1))
    (other,) = make_results.take_over(runs, results)
    assert other.stem == "kamra2017-fig7-defaults-scale0.1"
    assert set(make_results.read(results)) == {target.stem, other.stem}


def test_further_seeds_are_added(tmp_path):
    """A machine need not run all of them."""
    runs, results = tmp_path / "runs", tmp_path / "results"
    write(runs / "kamra2017-fig7", numbers())
    make_results.take_over(runs, results)
    (cell,), (difference,) = numbers()["rows"], numbers()["differences"]
    (run, _), (machine,) = numbers()["runs"], numbers()["machines"]
    third = numbers(
        seeds=[2],
        made="2026-01-02T00:00:00",
        rows=[{**cell, "values": [0.45], "mean": 0.45, "half": None}],
        differences=[{**difference, "values": [0.4], "mean": 0.4, "half": None}],
        curves={"accuracy": {"x": [1, 2], "rows": {"dgdmn": [[0.9, 0.45]]}}},
        runs=[run],
        machines=[{**machine, "cpu": "Another"}],
    )
    write(runs / "kamra2017-fig7", third)
    (target,) = make_results.take_over(runs, results)
    found = json.loads(target.read_text())
    assert found["command"] == "avalanche-dgm paper kamra2017-fig7 --seeds 3"
    assert found["seeds"] == [0, 1, 2]
    (cell,), (difference,) = found["rows"], found["differences"]
    assert cell["values"] == [0.41, 0.43, 0.45]
    assert cell["mean"] == pytest.approx(0.43)
    # Student's t of two degrees of freedom is 4.303 at 97.5 %.
    assert cell["half"] == pytest.approx(4.3027 * 0.02 / 3**0.5, abs=1e-5)
    assert difference["values"] == [0.2, 0.3, 0.4]
    assert found["curves"]["accuracy"]["rows"]["dgdmn"][2] == [0.9, 0.45]
    assert [m["cpu"] for m in found["machines"]] == ["A Processor", "Another"]
    assert [r["machine"] for r in found["runs"]] == [0, 0, 1]
    assert make_results.take_over(runs, results) == [], "they are there"
    for other in ({"rows": []}, {"only": ["dgdmn"]}):
        write(runs / "kamra2017-fig7", {**third, "seeds": [3], **other})
        with pytest.raises(ConfigError):
            make_results.take_over(runs, results)


def test_rows_measured_again_replace_those_of_the_file(tmp_path):
    runs, results = tmp_path / "runs", tmp_path / "results"
    (cell,), (run, other_run) = numbers()["rows"], numbers()["runs"]
    dgr = {**cell, "row": "dgr", "values": [0.21, 0.13], "mean": 0.17, "half": 0.5}
    of_dgr = [{**run, "row": "dgr"}, {**other_run, "row": "dgr"}]
    whole = numbers(rows=[cell, dgr], runs=[*numbers()["runs"], *of_dgr])
    write(runs / "kamra2017-fig7", whole)
    make_results.take_over(runs, results)
    again = numbers(
        command="avalanche-dgm paper kamra2017-fig7 --seeds 2 --methods dgdmn",
        only=["dgdmn"],
        made="2026-01-02T00:00:00",
        rows=[{**cell, "values": [0.5, 0.6], "mean": 0.55, "half": 0.6}],
        differences=[],
        curves={"accuracy": {"x": [1, 2], "rows": {"dgdmn": [[0.9, 0.5], [0.9, 0.6]]}}},
        machines=[{**numbers()["machines"][0], "cpu": "Another"}],
    )
    write(runs / "kamra2017-fig7", again)
    (target,) = make_results.take_over(runs, results)
    found = json.loads(target.read_text())
    assert found["command"] == whole["command"]
    assert [c["values"] for c in found["rows"]] == [[0.5, 0.6], [0.21, 0.13]]
    (difference,) = found["differences"]
    assert difference["values"] == pytest.approx([0.29, 0.47])
    assert difference["mean"] == pytest.approx(0.38)
    assert found["curves"]["accuracy"]["rows"]["dgdmn"] == [[0.9, 0.5], [0.9, 0.6]]
    assert [(r["row"], r["machine"]) for r in found["runs"]] == [
        *[("dgr", 0)] * 2,
        *[("dgdmn", 1)] * 2,
    ]
    assert make_results.take_over(runs, results) == [], "they are there"
    unknown = {**again, "made": "2026-01-03T00:00:00", "curves": {}}
    write(runs / "kamra2017-fig7", unknown)
    with pytest.raises(ConfigError):
        make_results.take_over(runs, results)


def test_what_a_section_says():
    files = {
        "kamra2017-fig7-defaults": numbers(settings="defaults", seeds=[0]),
        "kamra2017-fig7": numbers(),
    }
    page = make_results.page_of(files)
    _, _, section = page.partition("### Figure")
    assert "about 80 % of the last ten" in section
    theirs, _, ours = section.partition("**Defaults of this package**, all images, 1 seed:")
    assert "**Paper's settings**, all images, 2 seeds:" in theirs
    for part in (theirs, ours):
        assert "| dgdmn | .420 ± .013 (paper about .40) | 4.0 MB | 100 s |" in part
        assert "- dgdmn less dgr, average of all tasks: .250 ± .600" in part
        assert "`avalanche-dgm paper kamra2017-fig7 --seeds 2`" in part
        assert "A Processor, 1 thread, PyTorch 2.9" in part
    assert "[kamra2017-fig7.json](results/kamra2017-fig7.json)" in theirs
    # What was not measured is there, too.
    assert "- `avalanche-dgm paper furlanello2016-fig1`: Figure 1" in page
    assert "`avalanche-dgm paper kamra2017-fig7`:" not in page


def test_numbers_in_a_text():
    mark = "<!-- kamra2017-fig7; dgdmn; average of all tasks -->"
    text = f"| TDigits | DGDMN .9 ± .1{mark}, (.5{mark}) | 3 |"
    expected = f"| TDigits | DGDMN .420 ± .013{mark}, (.420 ± .013{mark}) | 3 |"
    assert make_results.filled(text, {"kamra2017-fig7": numbers()}) == expected
    costs = "".join(f"|3 {u}<!-- kamra2017-fig7; dgdmn; {c} -->" for u, c in UNITS)
    filled = make_results.filled(costs, {"kamra2017-fig7": numbers()})
    assert filled == costs.replace("3 kB", "4.0 MB").replace("3 s", "100 s")
    for wrong in (mark.replace("fig7", "fig9"), mark.replace("dgdmn", "dgr")):
        with pytest.raises(KeyError):
            make_results.filled(f"a .9{wrong}", {"kamra2017-fig7": numbers()})
