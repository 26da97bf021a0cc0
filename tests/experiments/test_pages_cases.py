"""The page of `avalanche-dgm report`: runs that are not all alike."""

import copy
import json
import math
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs_on_disk import pixels, result, write

from avalanche_dgm.dashboards.sinks import Picture
from avalanche_dgm.experiments.pages import formats, write_page
from avalanche_dgm.experiments.pages.aggregate import group_runs, settings_of
from avalanche_dgm.experiments.pages.canvas import axis
from avalanche_dgm.experiments.pages.intervals import estimate
from avalanche_dgm.experiments.pages.lines import Line, line_chart
from avalanche_dgm.experiments.pages.loading import find_runs
from avalanche_dgm.experiments.pages.scores import ANYTIME


def page_of(folder, tmp_path):
    path = tmp_path / "page.html"
    write_page([folder], path)
    return path.read_text(encoding="utf-8")


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
    chart = text[text.index("Training loss") :]
    means = re.findall(r"<td>([\d.]+) ± ", chart[: chart.index("</table>")])
    assert means == ["1.5", "1.5", "1.5"]


def test_a_band_ends_where_one_seed_is_left():
    curve = [(1.0, estimate([1, 2])), (2.0, estimate([1, 2])), (3.0, estimate([1]))]
    across = axis("x", [1, 3])
    drawn = str(line_chart("t", [Line("a", "r0", curve)], across, axis("y", [0, 3]), str))
    (band,) = re.findall(r'class="band" d="([^"]+)"', drawn)
    (line,) = re.findall(r'class="line" d="([^"]+)"', drawn)
    ends = [float(x) for x in re.findall(r"[ML]([\d.]+) ", line)]
    assert {float(x) for x in re.findall(r"[ML]([\d.]+) ", band)} == set(ends[:2])


def test_what_was_not_measured_once_blanks_nothing():
    made = result("dgr", n=2, matrix=[[None, 0.1], [0.5, 0.6]])
    assert ANYTIME.value(made) == pytest.approx(0.55)


@pytest.mark.parametrize(
    ("low", "step"), [(2.3025, 2e-5), (0.0, 1e-5), (1e-7, 1e-8), (-3e-6, 1e-6), (0.0, 0.05)]
)
def test_labels_of_an_axis_differ(low, step):
    values = [low + step * i for i in range(6)]
    labels = [formats.short(value, step) for value in values]
    assert len(set(labels)) == 6
    for label, value in zip(labels, values, strict=True):
        assert float(label.replace(formats.MINUS, "-")) == pytest.approx(value, abs=step / 2)


def test_keys_of_one_s_own_are_shown(tmp_path):
    own = ("replay/own_loss", "accuracy/own", "masks/own", "stream/own", "memory/own", "time/own")

    def panels(sink, made):
        known = {"masks/wide/free": 0.5, "stream/forgetting": 0.1, "accuracy/experience_000": 1.0}
        known |= {"time/phase/sleep": 2.0, "time/learn": 3.0, "memory/bytes": 9.0}
        sink.log(dict.fromkeys(own, 0.25) | known, axis="experience", at=1)

    write(tmp_path / "a", result("dgr"), panels=panels)
    text = page_of(tmp_path, tmp_path)
    more = text[text.index("More numbers") :]
    for key in own:
        assert f">{key}<" in more
    for key in ("masks/wide/free", "stream/forgetting", "time/phase/sleep", "memory/bytes"):
        assert f">{key}<" not in more


def test_pictures_and_numbers_on_other_axes(tmp_path):
    def panels(sink, made):
        for at in (600, 1200):
            sink.log({"own/picture": Picture(pixels(40, 40, at))}, axis="step", at=at)
        sink.log({"own/number": 1.0}, axis="{n} of {}", at=2)
        for i in (1, 2):
            sink.log({"own/many": 1.0}, axis="step", at=2_000_000 * i)

    write(tmp_path / "a", result("dgr"), panels=panels)
    text = page_of(tmp_path, tmp_path)
    assert "after 1\u202f200 updates" in text
    assert "after experience 1" not in text.split("own/picture")[1].split("</figure>")[0]
    assert "{n} of {} 2" in text
    assert "after 4\u202f000\u202f000 updates" in text


def test_a_phase_may_be_called_other(tmp_path):
    made = result("dgr", n=1)
    made.steps[0].phases = {"other": 4.0, "generator": 3.0}
    made.steps[0].seconds = 10.0
    write(tmp_path / "a", made)
    text = page_of(tmp_path, tmp_path)
    chart = text[text.index("Seconds of learning by phase") :]
    told = " ".join(re.sub(r"<[^>]+>", " ", chart[:4000]).split())
    assert "other 7.0 s" in told
    assert np.isclose(sum(made.steps[0].phases.values()), 7.0)


# Results that are broken.

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
    for name in shown - {"good"}:
        config = json.loads((tmp_path / name / "results.json").read_text())["config"]
        assert len(config) < len(result().config.to_json()), f"{name} is broken, and shown"
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
    assert text.count("<img") == 1
    assert "3 pictures could not be read." in text


def test_halves_of_characters_are_written(tmp_path):
    made = result("dgr", tasks=["\ud800", "1", "2", "3", "4"])
    write(tmp_path / "a", made)
    assert "Accuracy" in page_of(tmp_path, tmp_path)
