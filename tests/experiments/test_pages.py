"""The page of `avalanche-dgm report`, read as text: what it says, and that it is well-formed."""

import base64
import hashlib
import io
import json
import re
import statistics
from functools import partial
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from runs_on_disk import accuracies, all_panels, noise, pixels, result, write
from scipy import stats

from avalanche_dgm.cli import main
from avalanche_dgm.dashboards.file_sink import FileSink
from avalanche_dgm.dashboards.sinks import Picture
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments.pages import default_page, write_page
from avalanche_dgm.experiments.pages.aggregate import group_runs
from avalanche_dgm.experiments.pages.images import embed
from avalanche_dgm.experiments.pages.intervals import estimate, t_quantile
from avalanche_dgm.experiments.pages.loading import find_runs
from avalanche_dgm.experiments.pages.markup import Markup, tag
from avalanche_dgm.experiments.pages.scores import AVERAGE, BACKWARD, FORWARD, course
from avalanche_dgm.metrics import functional

EMPTY = {"meta", "link", "img", "input", "br"}
MEGABYTE = 1_000_000


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


def visible(text):
    """The text of the page without markup, scripts and styles."""
    body = re.sub(r"<(script|style)>.*?</\1>", "", text, flags=re.S)
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


def test_quantiles_are_those_of_the_t_distribution():
    for freedom in (*range(1, 41), 100, 1000):
        assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=2e-4)


def test_an_interval_by_hand():
    # 0.5, 0.6, 0.7: mean 0.6, deviation 0.1, and 4.302653 * 0.1 / sqrt(3).
    found = estimate([0.5, 0.6, 0.7, None, float("nan")])
    assert (found.mean, found.sd, found.n) == (pytest.approx(0.6), pytest.approx(0.1), 3)
    assert found.half == pytest.approx(0.248414, abs=1e-5)
    assert found.low == pytest.approx(0.6 - found.half)
    assert estimate([0.5]).half is None
    assert estimate([None]) is None


def test_seeds_are_one_row(compared):
    runs, notes = find_runs([compared])
    (group,), left_out = group_runs(runs)
    assert (notes, left_out) == ([], [])
    rows = {row.label: row for row in group.rows}
    assert {label: [run.seed for run in row.runs] for label, row in rows.items()} == {
        "naive": [0, 1, 2],
        "dgdmn": [0, 1, 2],
    }
    curve = rows["naive"].curve(lambda run: course(run.result, AVERAGE))
    assert [x for x, _ in curve] == [1, 2, 3, 4, 5]
    finals = [np.mean(accuracies(5, keep=0.5, seed=seed)[-1]) for seed in range(3)]
    last = curve[-1][1]
    assert last.mean == pytest.approx(np.mean(finals))
    half = 4.302653 * statistics.stdev(finals) / 3**0.5
    assert last.half == pytest.approx(half, rel=1e-5)


def test_scores_are_those_of_the_metrics():
    made = result("dgr", order=[2, 0, 1], n=3)
    matrix = torch.tensor(made.matrix, dtype=torch.float64)
    ordered = matrix[:, made.order]
    assert course(made, BACKWARD) == [
        (1, None),
        (2, pytest.approx(float(functional.backward_transfer(ordered[:2])))),
        (3, pytest.approx(float(functional.backward_transfer(ordered)))),
    ]
    assert FORWARD.value(made) == pytest.approx(float(functional.forward_transfer(ordered)))
    # The last thing known of 0 is right after it was learned again; 1 and 2 lost 0.2 and 0.4.
    again = [[0.9, 0, 0], [0.5, 0.8, 0], [0.3, 0.7, 0.9], [0.8, 0.6, 0.5]]
    revisited = result("dgr", n=3, order=[0, 1, 2, 0], matrix=again)
    assert BACKWARD.value(revisited) == pytest.approx(-0.3)
    assert FORWARD.value(revisited) is None


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
    assert page.count('class="group"') == 3


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
    # A place of the chart tells mean and interval of both methods.
    half = 4.302653 * sd / 3**0.5
    assert re.search(rf"<title>after 5 experiences\n[^<]*naive\t{mean:.3f} ± {half:.3f}", text)
    # A cell of the matrix tells the mean over seeds.
    cell = np.mean([accuracies(5, keep=0.5, seed=seed)[2][1] for seed in range(3)])
    assert f"<title>after 3 (2)\ntest on 1\t{cell:.3f}</title>" in text
    assert "<title>after 5 experiences: 400\nlabel 3\t100\n" in text


def test_everything_is_there(text):
    for heading in (
        "Result",
        "Accuracy",
        "Tasks",
        "Matrices",
        "Pictures",
        "Replay",
        "Memory",
        "Masks",
        "Time",
        "Training",
        "More numbers",
        "Runs",
    ):
        assert re.search(rf"<h3[^>]*>{heading}</h3>", text), heading
    said = visible(text)
    for words in (
        "avalanche-dgm run --method dgdmn --seed 2",
        "avalanche_dgm 0.1.0, torch 2.6.0, python 3.11.7",
        "2026-01-02",
        "95 % t confidence interval",
        "Short-term memories in use",
        "samples/grid, 4 learned",
        "layer narrow",
        "Training loss",
        "Reconstruction error",
        "Latents",
    ):
        assert words in said, words
    # The page draws the matrix itself.
    assert "accuracy/matrix" not in said


def test_the_best_is_marked(text):
    best = re.findall(r'<td class="best">([^<]*)<span class="hidden-text"> \(best\)', text)
    # Of seven numbers; both learn as well at first, and take as long.
    assert len(best) == 9
    assert "0 bytes" in best


def test_one_method_has_no_best(tmp_path):
    assert "(best)" not in page_of(write(tmp_path / "a", result()), tmp_path)


def test_nothing_is_loaded(text):
    reader = read(text)
    for name, values in reader.found:
        assert name not in {"iframe", "object", "embed", "base"}
        assert not (name == "script" and "src" in values)
        assert not (name == "link" and values["href"] != "data:,")
        assert name != "img" or values["src"].startswith("data:image/")
        assert name != "a" or values["href"].startswith("#")
    assert not re.findall(r"url\(|@import|https?:", text)
    policy = next(v["content"] for n, v in reader.found if v.get("http-equiv"))
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline';"
        f" script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def test_links_and_sliders_lead_somewhere(text):
    reader = read(text)
    for _, values in reader.found:
        for target in (values.get("href", "data"), values.get("data-controls", "data")):
            if not target.startswith("data"):
                assert target.removeprefix("#") in reader.ids
        if "for" in values:
            assert values["for"] in reader.ids


def test_charts_have_names(text):
    assert len(re.findall(r'<svg class="chart', text)) > 20
    assert not re.findall(r'<svg class="chart[^>]*>(?!<title>[^<]+</title>)', text)
    assert not re.findall(r'<svg class="chart(?![^>]*role="img")', text)
    assert not re.findall(r"<img(?![^>]*alt=\"[^\"]+\")", text)


def test_what_users_write_is_text(tmp_path):
    bad = '<script>alert("1")</script>'

    def panels(sink, made):
        sink.log({f"masks/{bad}/free": 0.5, f"train/{bad}": 1.0}, axis="experience", at=1)
        sink.log({"samples/grid": Picture(pixels(40, 40, 0), bad)}, axis="experience", at=1)
        sink.log({"own/<b>": Picture(pixels(40, 40, 0))}, axis="experience", at=1)

    made = result("dgr", n=2, tasks=[bad, "&amp;"], method_options={bad: bad})
    made.provenance["command"] = bad
    made.steps[0].phases[bad] = 1.0
    write(tmp_path / "a", made, panels=panels)
    page = page_of(tmp_path, tmp_path, title=f"A title with {bad}")
    assert len(re.findall("<script", page)) == 1
    assert "<b>" not in page
    assert "A title with &lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;" in page
    assert "&amp;amp;" in page


def test_markup():
    assert tag("p", "a < b", None, ["&", 1], class_="x y", data_row="r<0>", hidden=True) == (
        '<p class="x y" data-row="r&lt;0&gt;" hidden>a &lt; b&amp;1</p>'
    )
    assert tag("br") == "<br>"
    assert tag("path", d="M0 0") == '<path d="M0 0"/>'
    assert tag("p", Markup("<b>1</b>"), id=None) == "<p><b>1</b></p>"


# Runs that are not whole.


def test_unfinished_runs(tmp_path):
    for seed in range(2):
        write(tmp_path / f"dgr{seed}", result("dgr", seed, n=10, learned=10 - 4 * seed))
    write(tmp_path / "naive", result("naive", n=10, learned=6))
    write(tmp_path / "ewc", result("ewc", n=10, learned=0))
    said = visible(page_of(tmp_path, tmp_path))
    assert "dgr is not finished, seed 1: 6 of 10 experiences (left out of the numbers)" in said
    assert "naive is not finished, seed 0: 6 of 10 experiences (its numbers are as of then)" in said
    assert "ewc is not finished, seed 0: 0 of 10 experiences" in said
    # The finished seed alone is in the table.
    final = np.mean(accuracies(10, keep=0.95, seed=0)[-1])
    assert re.search(rf"dgr {final:.3f} [^±]*?0, 1 ", said)
    # Only one method is finished: there is no best.
    assert "(best)" not in said


def test_runs_without_panels_show_their_results(tmp_path):
    folder = write(tmp_path / "a", result("dgr"))
    page = page_of(folder, tmp_path)
    assert "Replay" in page
    assert not re.search(r"<h3[^>]*>(Pictures|Training|Masks)</h3>", page)
    assert "<img" not in page


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
    assert page.count("<img") == 2
    assert 'alt="Samples, dgr, seed 0, after experience 2"' in page
    assert "<title>after 2 experiences: 1.000\nfree\t0.500\nheld\t0.200\nreused\t0.050\n" in page
    assert "Capacity" in page
    for path in folder.glob("samples-*.png"):
        path.unlink()
    assert 'alt="Samples, dgr, seed 0, after experience 3"' in page_of(folder, tmp_path)


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


def test_ten_runs_with_many_pictures_are_below_five_megabytes(tmp_path):
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
    assert 2 * MEGABYTE < len(page.encode()) < 5 * MEGABYTE
    said = visible(page)
    shown, found = map(int, re.search(r"(\d+) of (\d+) pictures are shown", said).groups())
    assert found == 10 * 31
    assert shown == page.count("<img") < found
    assert f"The other {found - shown} are in the run folders" in said
    # Every run keeps the last picture of its samples.
    alts = re.findall(r'alt="Samples, [^"]*after experience 10:', page)
    assert len(alts) == 10


def test_many_pictures_are_thinned_evenly(tmp_path):
    def panels(sink, made):
        for at in range(1, 41):
            sink.log({"samples/grid": Picture(noise("", 0, at))}, axis="experience", at=at)

    folder = write(tmp_path / "a", result("dgr", n=40), panels=panels)
    album = embed(find_runs([folder])[0])
    (frames,) = (series["samples/grid"] for series in album.frames.values())
    assert len(frames) == album.shown == 16
    assert (frames[0].at, frames[-1].at) == (1, 40)
    assert {b.at - a.at for a, b in pairwise(frames)} == {2, 3}
    assert album.found == 40
    # With next to no room the last one stays; with none, none.
    one = embed(find_runs([folder])[0], budget=int(1.2 * len(frames[-1].image.source)))
    assert [f.at for series in one.frames.values() for f in series["samples/grid"]] == [40]
    assert embed(find_runs([folder])[0], budget=10).shown == 0


def test_a_run_that_needs_little_leaves_room(tmp_path):
    def few(sink, made):
        sink.log({"samples/grid": Picture(pixels(40, 40, 0))}, axis="experience", at=1)

    write(tmp_path / "few", result("dgr"), panels=few)
    write(tmp_path / "many", result("dgdmn"), panels=all_panels)
    runs = find_runs([tmp_path])[0]
    alone = embed([run for run in runs if run.folder.name == "many"])
    size = sum(len(f.image.source) for s in alone.frames.values() for m in s.values() for f in m)
    assert embed(runs, budget=size + 20_000).shown == alone.shown + 1


def test_many_tasks(tmp_path):
    folder = write(tmp_path / "a", result("dgr", n=40))
    page = page_of(folder, tmp_path)
    assert len(page) < MEGABYTE / 2
    assert "after 40 (39)\naverage of seen\t" in page
    # The cells are one picture, a pixel each.
    (source,) = re.findall(r'<image href="data:image/png;base64,([^"]*)"', page)
    with Image.open(io.BytesIO(base64.b64decode(source))) as image:
        opacity = np.asarray(image)[..., 3] / 255
    matrix = np.array(accuracies(40, keep=0.95, seed=0))
    np.testing.assert_allclose(np.tril(opacity), np.tril(matrix), atol=0.003)
    np.testing.assert_allclose(np.triu(opacity, 1), 0.38 * np.triu(matrix, 1), atol=0.003)


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
        (lambda path: path, "holds no run: there is no results.json"),
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
    assert re.search(r"after 4 updates\ndgr\t0\.25<", page_of(folder, tmp_path))


def test_many_updates_are_means(tmp_path):
    def panels(sink, made):
        for step in range(600):
            sink.log({"train/loss": float(step)}, axis="step", at=step)
        sink.log({"memory/stored_samples": 0.0}, axis="experience", at=1)

    page = page_of(write(tmp_path / "a", result("dgr"), panels=panels), tmp_path)
    # 600 points in at most 150 parts of the axis: the first is 0 to 3.
    assert "A point is the mean over 4 updates of the classifier." in page
    assert "<title>after 2 updates\ndgr\t1.5</title>" in page
    # A number that is 0 everywhere has no chart.
    assert "Stored samples" not in page


def test_provenance_may_be_absent(tmp_path):
    made = result("dgr")
    made.provenance = {}
    folder = write(tmp_path / "a", made)
    assert json.loads((folder / "results.json").read_text())["provenance"] == {}
    assert "not known" in page_of(folder, tmp_path)
