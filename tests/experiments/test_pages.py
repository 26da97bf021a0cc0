"""The page of `avalanche-dgm report`: the numbers in it, and what is said beside them."""

import base64
import copy
import hashlib
import json
import math
import re
import statistics
import subprocess
import sys
import warnings
from collections import Counter
from functools import partial
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs_on_disk import accuracies, all_panels, noise, pixels, result, write

from avalanche_dgm.cli import main
from avalanche_dgm.dashboards.file_sink import FileSink
from avalanche_dgm.dashboards.sinks import Picture
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments.pages import default_page, write_page
from avalanche_dgm.experiments.pages.groups import group_runs, settings_of
from avalanche_dgm.experiments.pages.images import embed, encode
from avalanche_dgm.experiments.pages.loading import find_runs
from avalanche_dgm.experiments.pages.quantities import AVERAGE
from avalanche_dgm.metrics import functional

EMPTY = {"meta", "link", "img", "input", "br", "rect"}
MEGABYTE = 1_000_000
PICTURE = re.compile(r"data:image/[^\"]*")


class Reader(HTMLParser):
    """Checks that elements are closed in turn, and keeps what they say."""

    def __init__(self):
        super().__init__()
        self.open, self.found, self.ids = [], [], []

    def handle_starttag(self, name, attributes):
        values = dict(attributes)
        self.found.append((name, values))
        if "id" in values:
            self.ids.append(values["id"])
        if name not in EMPTY:
            self.open.append(name)

    def handle_startendtag(self, name, attributes):
        self.found.append((name, dict(attributes)))

    def handle_endtag(self, name):
        assert self.open, f"</{name}> closes nothing"
        assert self.open.pop() == name


def read(text):
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    assert len(reader.ids) == len(set(reader.ids))
    return reader


def page_of(folders, tmp_path, **options):
    path = tmp_path / "page.html"
    write_page([folders] if not isinstance(folders, list) else folders, path, **options)
    text = path.read_text(encoding="utf-8")
    read(text)
    return text


def charts_of(text):
    """The rows of each chart, as dictionaries, by the chart's title."""
    (data,) = re.findall(r'<script type="application/json" id="charts">(.*?)</script>', text)
    charts = json.loads(data)
    return {
        chart["title"]: [dict(zip(chart["columns"], row, strict=True)) for row in chart["rows"]]
        for chart in charts
    }


def visible(text):
    """The text of the page without markup, scripts and styles."""
    body = re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.S)
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Two methods with three seeds each, one of them with panels."""
    folder = tmp_path_factory.mktemp("runs") / "compare"
    for method, panels in (("naive", None), ("dgdmn", all_panels)):
        for seed in range(3):
            made = result(method, seed)
            write(folder / method / f"seed{seed}", made, panels=panels)
    return folder


@pytest.fixture(scope="module")
def text(compared, tmp_path_factory):
    return page_of(compared, tmp_path_factory.mktemp("page"))


# Numbers.


def test_seeds_are_one_row(compared):
    runs, notes = find_runs([compared])
    (group,), left_out = group_runs(runs)
    assert (notes, left_out) == ([], [])
    rows = {row.label: row for row in group.rows}
    assert {label: [run.seed for run in row.runs] for label, row in rows.items()} == {
        "naive": [0, 1, 2],
        "dgdmn": [0, 1, 2],
    }
    curve = rows["naive"].curve(AVERAGE.points)
    assert [x for x, _ in curve] == [1, 2, 3, 4, 5]
    finals = [np.mean(accuracies(5, keep=0.5, seed=seed)[-1]) for seed in range(3)]
    last = curve[-1][1]
    assert last.mean == pytest.approx(np.mean(finals))
    half = 4.302653 * statistics.stdev(finals) / 3**0.5
    assert last.half == pytest.approx(half, rel=1e-5)


def test_courses_are_those_of_the_metrics(tmp_path):
    made = result(
        "dgr", order=[2, 0, 1, 2], n=3, matrix=[[0.1 * i, 0.5, 0.9 - 0.1 * i] for i in range(4)]
    )
    write(tmp_path / "a", made)
    (run,), _ = find_runs([tmp_path])
    for name in ("forgetting", "backward_transfer", "retention", "forward_transfer"):
        expected = [
            getattr(functional, name)(made.matrix[:k], order=made.order) for k in range(1, 5)
        ]
        found = run.scalars[f"stream/{name}"]
        for k, other in enumerate(expected, 1):
            assert found.get(k) == (None if np.isnan(other) else pytest.approx(other))


def test_settings_tell_rows_apart(tmp_path):
    write(tmp_path / "a", result("dgdmn", method_options={"stm_size": 3}))
    write(tmp_path / "b", result("dgdmn", method_options={"stm_size": 5}, epochs=7))
    write(tmp_path / "c", result("naive"))
    (group,), _ = group_runs(find_runs([tmp_path])[0])
    assert [row.label for row in group.rows] == [
        "dgdmn (epochs 5, stm_size 3)",
        "dgdmn (epochs 7, stm_size 5)",
        "naive",
    ]


def test_streams_are_groups_and_methods_keep_their_colour(tmp_path):
    write(tmp_path / "a", result("dgr"))
    write(tmp_path / "b", result("dgr", stream="digits"))
    write(tmp_path / "c", result("naive", stream="digits"))
    write(tmp_path / "d", result("naive", stream="digits", n=4))
    groups, _ = group_runs(find_runs([tmp_path])[0])
    assert [(group.title, [row.label for row in group.rows]) for group in groups] == [
        ("sklearn-digits", ["dgr"]),
        ("digits (5 experiences)", ["dgr", "naive"]),
        ("digits (4 experiences)", ["naive"]),
    ]
    assert [[row.index for row in group.rows] for group in groups] == [[0], [0, 1], [1]]
    page = page_of(tmp_path, tmp_path)
    assert page.count('<section class="group"') == 3


def test_a_seed_counts_once(tmp_path):
    write(tmp_path / "old", result("dgr", learned=3))
    write(tmp_path / "new", result("dgr"))
    (group,), notes = group_runs(find_runs([tmp_path])[0])
    assert [run.folder.name for run in group.rows[0].runs] == ["new"]
    assert "old is left out" in notes[0]
    assert "old is left out" in page_of(tmp_path, tmp_path)


# The page.


def test_numbers_in_the_page(text):
    finals = [np.mean(accuracies(5, keep=0.5, seed=seed)[-1]) for seed in range(3)]
    mean, sd = np.mean(finals), statistics.stdev(finals)
    assert f"{mean:.3f} ± {sd:.3f}" in text
    charts = charts_of(text)
    (last,) = (
        row
        for row in charts["Average accuracy on experiences seen"]
        if (row["name"], row["at"]) == ("naive", 5)
    )
    assert last["mean"] == pytest.approx(mean, abs=1e-5)
    assert last["half"] == pytest.approx(4.302653 * sd / 3**0.5, abs=1e-5)
    assert last["seeds"] == 3
    (cell,) = (
        row for row in charts["Accuracy matrix, naive"] if (row["after"], row["column"]) == (3, 2)
    )
    expected = np.mean([accuracies(5, keep=0.5, seed=seed)[2][1] for seed in range(3)])
    assert cell["accuracy"] == pytest.approx(expected, abs=1e-5)
    assert (cell["test"], cell["seen"]) == ("1", 1)
    replayed = [row for row in charts["Labels replayed, dgdmn"] if row["at"] == 5]
    assert [(row["name"], row["value"]) for row in replayed] == [
        (f"label {label}", 100) for label in range(4)
    ]
    # Seconds of all phases are those of learning.
    seconds = charts["Seconds of learning by phase"]
    for method in ("naive", "dgdmn"):
        whole = sum(row["value"] for row in seconds if row["name"] == method)
        assert whole == pytest.approx(5 * 10 + 10 + 5)


def test_everything_is_there(text):
    said = re.findall(r"<h3[^>]*>([^<]*)</h3>", text)
    assert said == [
        *("Result", "Accuracy", "Tasks", "Matrices", "Pictures", "Replay", "Memory", "Masks"),
        *("Time", "Training", "More numbers", "Runs"),
    ]
    said = visible(text)
    for words in (
        "avalanche-dgm run --method dgdmn --seed 2",
        "avalanche_dgm 0.1.0, torch 2.6.0, python 3.11.7",
        "2026-01-02",
        "95 % t confidence interval",
        "dgdmn (3 seeds)",
        "samples/grid, 4 learned",
        "layer narrow",
        "Latents",
    ):
        assert words in said, words
    # The page draws the matrix itself.
    assert "accuracy/matrix" not in said
    charts = charts_of(text)
    assert {"Short-term memories in use", "Training loss", "Reconstruction error"} <= charts.keys()
    assert all(charts.values()), "none is empty"


def test_the_best_is_marked(text):
    best = re.findall(r"<td class=best>([^<]*)<span", text)
    # Of eight numbers; both learn as well at first, and take as long.
    assert len(best) == 10
    assert "0 B" in best


def test_one_method_has_no_best(tmp_path):
    assert "(best)" not in page_of(write(tmp_path / "a", result()), tmp_path)


def test_memory_that_is_not_known_is_unknown(tmp_path):
    made = result("dgr")
    for step in made.steps:
        step.memory_bytes = step.peak_bytes = None
    write(tmp_path / "dgr", made)
    write(tmp_path / "dgdmn", result("dgdmn"))
    write(tmp_path / "naive", result("naive"))
    page = page_of(tmp_path, tmp_path)
    line = re.findall(r'<th scope="row"><svg.*?>dgr</th>(.*?)</tr>', page, flags=re.S)[0]
    assert "<td>unknown</td>" in line
    assert "0 B" not in line
    assert {row["name"] for row in charts_of(page)["Memory"]} == {"dgdmn"}
    assert "Unknown of dgr." in page


def test_nothing_is_said_of_memory_that_earlier_versions_did_not_count(tmp_path):
    folder = write(tmp_path / "a", result("naive"))
    values = json.loads((folder / "results.json").read_text())
    for step in values["steps"]:
        del step["peak_bytes"]
    (folder / "results.json").write_text(json.dumps(values))
    (run,), _ = find_runs([folder])
    assert [step.memory_bytes for step in run.steps] == [None] * 5


def test_limits_make_sense(tmp_path):
    # Two seeds that differ by much: the interval of their mean is six times as long.
    for seed, last in ((0, 0.1), (1, 0.7)):
        made = result("dgr", seed, n=2, matrix=[[0.9, 0.0], [last, 0.8]])
        write(tmp_path / str(seed), made)
    page = page_of(tmp_path, tmp_path)
    (row,) = charts_of(page)["Forgetting"]
    assert row["half"] > 3, "the numbers are all of it"
    (data,) = re.findall(r'id="charts">(.*?)</script>', page)
    (spec,) = (chart["spec"] for chart in json.loads(data) if chart["title"] == "Forgetting")
    limits = re.findall(r"(max|min)\((\S+),", json.dumps(spec["transform"]))
    assert {kind: float(value) for kind, value in limits} == pytest.approx(
        {"max": 0.25, "min": 0.75}
    )


def test_nothing_is_loaded(text):
    reader = read(text)
    for name, values in reader.found:
        assert name not in {"iframe", "object", "embed", "base"}
        assert not (name == "script" and "src" in values)
        assert not (name == "link" and values["href"] != "data:,")
        assert name != "img" or values["src"].startswith("data:image/")
        assert name != "a" or values["href"].startswith("#")
    (style,) = re.findall(r"<style>(.*?)</style>", text, flags=re.S)
    assert not re.findall(r"url\(|@import|https?:", style)
    policy = next(v["content"] for n, v in reader.found if v.get("http-equiv"))
    scripts = re.findall(r"<script>(.*?)</script>", text, flags=re.S)
    assert len(scripts) == 2
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    assert policy == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline';"
        f" script-src {allowed}; base-uri 'none'; form-action 'none'"
    )


def test_links_and_labels_lead_somewhere(text):
    reader = read(text)
    for name, values in reader.found:
        if name == "a":
            assert values["href"].removeprefix("#") in reader.ids
        if "for" in values:
            assert values["for"] in reader.ids
        if name in ("img", "div") and "data-chart" in values:
            assert values["aria-label"]
            assert values["tabindex"] == "0"
        assert name != "img" or values["alt"]


def test_pytorch_is_not_needed(compared, tmp_path):
    script = (
        "import sys; from avalanche_dgm.cli import main;"
        f" main(['report', {str(compared)!r}, '--out', {str(tmp_path / 'page.html')!r}]);"
        " print([name for name in ('torch', 'avalanche', 'lightning') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_what_users_write_is_text(tmp_path):
    bad = '</script><script>alert("1")</script>'

    def panels(sink, made):
        sink.log({f"masks/{bad}/free": 0.5, f"train/{bad}": 1.0}, axis="experience", at=1)
        sink.log({"samples/grid": Picture(pixels(40, 40, 0), bad)}, axis="experience", at=1)
        sink.log({"own/<b>": Picture(pixels(40, 40, 0))}, axis="experience", at=1)

    made = result("dgr", n=2, tasks=[bad, "&amp;"], method_options={bad: bad})
    made.provenance["command"] = bad
    made.steps[0].phases[bad] = 1.0
    write(tmp_path / "a", made, panels=panels)
    page = page_of(tmp_path, tmp_path, title=f"A title with {bad}")
    assert len(re.findall("<script", page)) == 3
    assert "<b>" not in re.sub(r"<script>.*?</script>", "", page, flags=re.S)
    assert f"A title with {bad}" not in page
    assert "&amp;amp;" in page
    assert {row["name"] for row in charts_of(page)["Accuracy on each task, dgr"]} == {
        *(bad, "&amp;", "average of seen")
    }


# Runs that are not whole.


def test_unfinished_runs(tmp_path):
    for seed in range(2):
        write(tmp_path / f"dgr{seed}", result("dgr", seed, n=10, learned=10 - 4 * seed))
    write(tmp_path / "naive", result("naive", n=10, learned=6))
    write(tmp_path / "ewc", result("ewc", n=10, learned=0))
    said = visible(page_of(tmp_path, tmp_path))
    assert "dgr is not finished, seed 1: 6 of 10 experiences (left out of the numbers)" in said
    assert (
        "naive is not finished, seed 0: 6 of 10 experiences (its numbers are intermediate)" in said
    )
    assert "ewc is not finished, seed 0: 0 of 10 experiences" in said
    # The finished seed alone is in the table.
    final = np.mean(accuracies(10, keep=0.95, seed=0)[-1])
    assert re.search(rf"dgr {final:.3f} [^±]*? 2 ewc", said)
    # Only one method is finished: there is no best.
    assert "(best)" not in said


def test_runs_without_panels_show_their_results(tmp_path):
    folder = write(tmp_path / "a", result("dgr"))
    page = page_of(folder, tmp_path)
    assert "Replay" in page
    assert not re.search(r"<h3[^>]*>(Pictures|Training|Masks)</h3>", page)
    assert '<img src="data' not in page


def test_pictures_and_masks_of_older_runs(tmp_path):
    folder = write(tmp_path / "a", result("dgr", n=3))
    (folder / "usage.csv").write_text(
        "experience,layer,width,reserved,reused,free\n0,wide,80,20,0,60\n1,wide,100,25,"
        "5,50\n1,wide,x\n"
    )
    (folder / "sizes.csv").write_text(
        "experience,classes,generator_bytes,memory_bytes,parameters,capacity_ratio\n0,1,9,9,5,1.5\n"
    )
    for i in range(2):
        Image.fromarray(pixels(60, 60, i)).save(folder / f"samples-{i:03d}.png")
    Image.fromarray(pixels(60, 60, 9)).save(folder / "samples.png")
    page = page_of(folder, tmp_path)
    assert page.count('<img src="data') == 2
    assert 'alt="dgr, seed 0, after experience 2"' in page
    charts = charts_of(page)
    used = {
        row["name"]: row["value"]
        for row in charts["Use of the mask, dgr, layer wide"]
        if row["at"] == 2
    }
    assert used == {"reserved": 0.25, "reused": 0.05, "held": pytest.approx(0.2), "free": 0.5}
    assert charts["Capacity"] == [{"name": "dgr", "at": 1, "mean": 1.5, "half": None, "seeds": 1}]
    for path in folder.glob("samples-*.png"):
        path.unlink()
    assert 'alt="dgr, seed 0, after experience 3"' in page_of(folder, tmp_path)


def test_lines_and_files_that_were_cut_off(tmp_path):
    folder = write(tmp_path / "a", result("dgr"), panels=all_panels)
    panels = folder / "panels"
    with (panels / "scalars.csv").open("a") as file:
        file.write("step,not a number,train/loss,1\nexperience,2,own/key,nan\nstep,3")
    with (panels / "images.csv").open("a") as file:
        file.write("experience,1,own/secret,../../secret.png,\nexperience,1,own/none,no.png,\n")
    (tmp_path / "secret.png").write_bytes((panels / "images" / "samples-grid-001.png").read_bytes())
    broken = panels / "images" / "samples-grid-002.png"
    broken.write_bytes(broken.read_bytes()[:60])
    page = page_of(folder, tmp_path)
    assert "own/" not in page
    assert "1 picture could not be read." in page


def test_results_that_cannot_be_read(tmp_path):
    write(tmp_path / "good", result())
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "results.json").write_text("{")
    (tmp_path / "worse").mkdir()
    (tmp_path / "worse" / "results.json").write_text("[1]")
    said = visible(page_of(tmp_path, tmp_path))
    assert "bad/results.json could not be read" in said
    with pytest.raises(ConfigError, match=r"No run in .*bad can be read"):
        find_runs([tmp_path / "bad"])


# Size.


def test_ten_runs_are_below_two_megabytes_without_pictures(tmp_path):
    rng = np.random.default_rng(0)
    # Noise cannot be compressed: worse than any picture of samples of that size.
    pictures = [rng.integers(0, 256, (200, 160, 3), dtype=np.uint8) for _ in range(5)]

    def incompressible(key, seed, at):
        return pictures[(seed + at) % len(pictures)]

    for seed in range(5):
        for method in ("dgr", "dgdmn"):
            made = result(method, seed, n=10)
            panels = partial(all_panels, picture=incompressible)
            write(tmp_path / method / f"seed{seed}", made, panels=panels)
    page = page_of(tmp_path, tmp_path)
    assert 3 * MEGABYTE < len(page.encode()) < 6 * MEGABYTE
    assert len(PICTURE.sub("", page).encode()) < 2 * MEGABYTE
    said = visible(page)
    shown, found = map(int, re.search(r"(\d+) of (\d+) pictures are shown", said).groups())
    assert found == 10 * 31
    assert shown == page.count('<img src="data') < found
    assert f"The other {found - shown} are in the run folders" in said
    # Every run keeps the last picture of its samples.
    last = re.findall(r'alt="[^"]*after experience 10: samples/grid', page)
    assert len(last) == 10


def test_many_pictures_are_thinned_evenly(tmp_path):
    def panels(sink, made):
        for at in range(1, 41):
            sink.log({"samples/grid": Picture(noise("", 0, at))}, axis="experience", at=at)

    folder = write(tmp_path / "a", result("dgr", n=40), panels=panels)
    album = embed(find_runs([folder])[0])
    (frames,) = (series["samples/grid"] for series in album.frames.values())
    assert len(frames) == 16
    assert (frames[0].at, frames[-1].at) == (1, 40)
    assert {b.at - a.at for a, b in pairwise(frames)} == {2, 3}
    assert album.found == 40
    # With next to no room the last one stays; with none, none.
    runs = find_runs([folder])[0]
    few = embed(runs, budget=int(1.2 * len(frames[-1].image.source)))
    assert [frame.at for frame in few.all()][-1] == 40
    assert len(few.all()) < 16
    assert embed(runs, budget=10).all() == []


def test_what_has_no_room_is_not_made_ready(tmp_path, monkeypatch):
    made = Counter()

    def counting(path, level):
        made[level] += 1
        return encode(path, level)

    folder = write(tmp_path / "a", result("dgr", n=10), panels=partial(all_panels, picture=noise))
    runs = find_runs([folder])[0]
    largest = max(len(encode(picture.path, 0).source) for picture in runs[0].pictures)
    monkeypatch.setattr("avalanche_dgm.experiments.pages.images.encode", counting)
    album = embed(runs, budget=largest)
    assert sum(len(frame.image.source) for frame in album.all()) <= largest
    assert album.found > 10 > made[0]


def test_many_tasks(tmp_path):
    folder = write(tmp_path / "a", result("dgr", n=60))
    page = page_of(folder, tmp_path)
    assert len(page) < 2 * MEGABYTE
    cells = charts_of(page)["Accuracy matrix, dgr"]
    found = np.zeros((60, 60))
    for cell in cells:
        found[cell["after"] - 1, cell["column"] - 1] = cell["accuracy"]
    np.testing.assert_allclose(found, accuracies(60, keep=0.95, seed=0), atol=1e-5)


# The command.


def test_the_command(compared, tmp_path, capsys, monkeypatch):
    path = tmp_path / "out" / "page.html"
    assert main(["report", str(compared), "--out", str(path), "--title", "Mine"]) == 0
    assert re.fullmatch(rf"{re.escape(str(path))}: 6 runs, \d\.\d MB\n", capsys.readouterr().out)
    assert "<h1>Mine</h1>" in path.read_text()
    # Without a folder those of `runs`; the page is with them.
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "runs" / "a", result())
    assert main(["report"]) == 0
    assert (tmp_path / "runs" / "report.html").is_file()
    capsys.readouterr()
    # The same runs twice are no more runs; the page of several folders is here.
    assert main(["report", str(compared), str(compared / "naive" / "seed0")]) == 0
    assert "report.html: 6 runs" in capsys.readouterr().out
    assert (tmp_path / "report.html").exists()


def test_where_the_page_lies(compared, tmp_path):
    assert default_page([compared]) == compared / "report.html"
    assert str(default_page([compared, tmp_path])) == "report.html"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path / "none", "There is no folder"),
        (lambda path: path, "has no run: there is no results.json"),
    ],
)
def test_folders_without_runs(make, said, tmp_path, capsys):
    assert main(["report", str(make(tmp_path))]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "avalanche-dgm run" in error
    assert error.count("\n") == 1


def test_a_page_that_cannot_be_written(compared, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["report", str(compared), "--out", str(tmp_path / "file" / "page.html")]) == 2
    assert "Cannot write" in capsys.readouterr().err


def test_the_results_file_stands_for_its_folder(tmp_path):
    folder = write(tmp_path / "a", result())
    runs, _ = find_runs([folder / "results.json"])
    assert [run.name for run in runs] == ["a"]


def test_panels_come_again_after_an_interruption(tmp_path):
    folder = write(tmp_path / "a", result("dgr", n=2))
    for loss in (1.0, 0.25):
        sink = FileSink(folder / "panels")
        sink.log({"train/loss": loss}, axis="step", at=4)
    (row,) = charts_of(page_of(folder, tmp_path))["Training loss"]
    assert (row["at"], row["mean"]) == (4, 0.25)


def test_many_updates_are_means(tmp_path):
    def panels(sink, made):
        for step in range(600):
            sink.log({"train/loss": float(step)}, axis="step", at=step)
        sink.log({"memory/stored_samples": 0.0}, axis="experience", at=1)

    page = page_of(write(tmp_path / "a", result("dgr"), panels=panels), tmp_path)
    # 600 points in at most 150 parts of the axis: the first is 0 to 3.
    assert "A point is the mean over 4 updates of the classifier." in page
    charts = charts_of(page)
    assert (charts["Training loss"][0]["at"], charts["Training loss"][0]["mean"]) == (2, 1.5)
    # A number that is 0 everywhere has no chart.
    assert "Stored samples" not in charts


def test_provenance_may_be_absent(tmp_path):
    made = result("dgr")
    made.provenance = {}
    folder = write(tmp_path / "a", made)
    assert json.loads((folder / "results.json").read_text())["provenance"] == {}
    assert "not known" in page_of(folder, tmp_path)


# Runs that are not all alike.


def test_a_method_s_option_is_not_the_classifier_s_setting(tmp_path):
    for batch, seed in ((16, 0), (64, 0), (64, 1)):
        made = result("dgdmn", seed, batch_size=batch, method_options={"batch_size": 32})
        write(tmp_path / f"b{batch}s{seed}", made)
    runs, _ = find_runs([tmp_path])
    (group,), left_out = group_runs(runs)
    assert not left_out
    assert {row.label: [run.seed for run in row.runs] for row in group.rows} == {
        "dgdmn (batch_size 16)": [0],
        "dgdmn (batch_size 64)": [0, 1],
    }
    settings = settings_of(runs[0].result.config)
    assert settings["batch_size"] in (16, 64)
    assert settings["method's batch_size"] == 32


def test_an_option_left_out_is_the_default(tmp_path):
    write(tmp_path / "a", result("dgr", 0))
    write(tmp_path / "b", result("dgr", 1, method_options={"replay_size": None}))
    (group,), _ = group_runs(find_runs([tmp_path])[0])
    assert [len(row.runs) for row in group.rows] == [2]


def test_seeds_that_record_at_other_points_are_one_line(tmp_path):
    for seed, every in ((0, 9), (1, 10)):

        def panels(sink, made, seed=seed, every=every):
            for i in (1, 2, 3):
                sink.log({"train/loss": 1.0 + seed}, axis="step", at=every * i)

        write(tmp_path / str(seed), result("dgr", seed), panels=panels)
    text = page_of(tmp_path, tmp_path)
    assert "A point is the mean over 10 updates of the classifier" in text
    rows = charts_of(text)["Training loss"]
    assert [(row["mean"], row["seeds"]) for row in rows] == [(1.5, 2)] * 3


def test_a_band_ends_where_one_seed_is_left(tmp_path):
    write(tmp_path / "a", result("dgr", 0, n=4))
    write(tmp_path / "b", result("dgr", 1, n=4, learned=2))
    rows = charts_of(page_of(tmp_path, tmp_path))["Average accuracy on experiences seen"]
    assert [row["seeds"] for row in rows] == [2, 2, 1, 1]
    assert [row["half"] is None for row in rows] == [False, False, True, True]


def test_keys_of_one_s_own_are_shown(tmp_path):
    own = ("replay/own_loss", "accuracy/own", "masks/own", "stream/own", "memory/own", "time/own")

    def panels(sink, made):
        known = {"masks/wide/free": 0.5, "stream/forgetting": 0.1, "accuracy/experience_000": 1.0}
        known |= {"time/phase/sleep": 2.0, "time/learn": 3.0, "memory/bytes": 9.0}
        sink.log(dict.fromkeys(own, 0.25) | known, axis="experience", at=1)

    write(tmp_path / "a", result("dgr"), panels=panels)
    charts = charts_of(page_of(tmp_path, tmp_path))
    assert set(own) <= charts.keys()
    assert not {"stream/forgetting", "time/phase/sleep", "memory/bytes"} & charts.keys()


def test_pictures_and_numbers_on_other_axes(tmp_path):
    def panels(sink, made):
        for at in (600, 1200):
            sink.log({"own/picture": Picture(pixels(40, 40, at))}, axis="step", at=at)
        sink.log({"own/number": 1.0}, axis="{n} of {}", at=2)
        for i in (1, 2):
            sink.log({"own/many": 1.0}, axis="step", at=2_000_000 * i)

    write(tmp_path / "a", result("dgr"), panels=panels)
    text = page_of(tmp_path, tmp_path)
    assert "after updates 1,200" in text
    assert "after experience" not in text.split("own/picture")[1].split("</figure>")[0]
    charts = charts_of(text)
    assert charts["own/number"][0]["at"] == 2
    assert [row["at"] for row in charts["own/many"]] == [2_000_000, 4_000_000]


def test_a_phase_may_be_called_other(tmp_path):
    made = result("dgr", n=1)
    made.steps[0].phases = {"other": 4.0, "generator": 3.0}
    made.steps[0].seconds = 10.0
    write(tmp_path / "a", made)
    rows = charts_of(page_of(tmp_path, tmp_path))["Seconds of learning by phase"]
    assert {row["part"]: row["value"] for row in rows} == {"generator": 3, "other": 7}


# Results that are broken.

KNOWN = ("tasks", "order", "provenance")
NUMBERS = [math.nan, -1, 1e300, 10**400, "1", [], {}, True]
PATHS = [
    *([key] for key in ("config", "tasks", "order", "steps", "provenance", "image_shape")),
    *(["config", key] for key in ("method", "stream", "seed", "lr", "hidden", "method_options")),
    *(["steps", 0, key] for key in ("experience", "accuracy", "seconds", "phases", "histogram")),
    *(["steps", 1, key] for key in ("memory_bytes", "replayed", "stream_accuracy", "sleeps")),
    ["steps", 1],
    ["steps", 1, "accuracy", 0],
    ["steps", 1, "phases", "generator"],
    ["order", 0],
    ["tasks", 0],
]


def broken_texts():
    """Texts of results.json that no run wrote: each part left out, or of each other kind."""
    good = result("dgr", n=3).to_json()
    texts = ["", "{", "[1]", "null", "\x00\xff", "[" * 100_000, json.dumps(good)[:-40]]
    values = iter(NUMBERS * len(PATHS))
    for path in PATHS:
        for change in ("left out", "replaced"):
            made = copy.deepcopy(good)
            *above, last = path
            place = made
            for key in above:
                place = place[key]
            if change == "replaced":
                value = next(values)
                place[last] = value if type(value) is not type(place[last]) else None
            elif isinstance(place, dict) and "phases" not in above:
                del place[last]
            else:
                continue
            texts.append(json.dumps(made))
    return texts


def test_a_broken_result_costs_its_own_row(tmp_path):
    texts = broken_texts()
    assert len(texts) > 50
    write(tmp_path / "good", result("dgr"))
    for i, text in enumerate(texts):
        (tmp_path / f"bad{i:03d}").mkdir()
        (tmp_path / f"bad{i:03d}" / "results.json").write_bytes(text.encode("latin-1"))
    (tmp_path / "folder" / "results.json").mkdir(parents=True)
    (tmp_path / "loop").mkdir()
    (tmp_path / "loop" / "results.json").symlink_to("results.json")
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(100_000_000)
    (tmp_path / "huge").mkdir()
    (tmp_path / "huge.json").rename(tmp_path / "huge" / "results.json")
    text = page_of(tmp_path, tmp_path)
    notes = re.findall(r"<li>(\S+)/results\.json could not be read: ([^<]+)</li>", text)
    # Options of a config that are left out have their defaults.
    told = {Path(folder).name: reason for folder, reason in notes}
    assert {"folder", "loop", "huge"} <= told.keys()
    assert all(len(reason) > 10 for reason in told.values())
    runs, _ = find_runs([tmp_path])
    shown = {run.folder.name for run in runs}
    assert shown | told.keys() == {p.name for p in tmp_path.iterdir() if p.is_dir()}
    assert not shown & told.keys()
    # Only a setting that the page does not know may be of any kind.
    good = result("dgr", n=3).to_json()
    for name in shown - {"good"}:
        read = json.loads((tmp_path / name / "results.json").read_text())
        config = read.pop("config")
        assert {key: read[key] for key in KNOWN} == {key: good[key] for key in KNOWN}
        assert all(config[key] == good["config"][key] for key in ("method", "stream", "seed"))
    # Those that are named beside a good one cost it nothing either.
    assert len(find_runs([tmp_path / "good", tmp_path / "bad000"])[0]) == 1


def test_only_png_is_opened_whatever_it_is_called(tmp_path):
    def panels(sink, made):
        for at in (1, 2, 3, 4):
            sink.log({"samples/grid": Picture(pixels(40, 40, at))}, axis="experience", at=at)

    folder = write(tmp_path / "a", result("dgr"), panels=panels)
    eps, bomb, cut = (folder / "panels" / f"images/samples-grid-{i:03d}.png" for i in (1, 2, 3))
    Image.new("RGB", (8, 8)).save(eps, format="EPS")
    Image.new("1", (20_000, 20_000)).save(bomb)
    cut.write_bytes(cut.read_bytes()[:-60])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = page_of(folder, tmp_path)
    assert text.count('<img src="data') == 1
    assert "3 pictures could not be read." in text


def test_halves_of_characters_are_written(tmp_path):
    write(tmp_path / "a", result("dgr", tasks=["\ud800", "1", "2", "3", "4"]))
    assert "?, 1, 2, 3, 4" in page_of(tmp_path, tmp_path)
