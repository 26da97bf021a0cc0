"""Panels as files, in TensorBoard, and where a place to show them fails."""

import csv
import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recording import Failing, Recording

from avalanche_dgm.dashboards import keys
from avalanche_dgm.dashboards.file_sink import FileSink
from avalanche_dgm.dashboards.sinks import FailSafeSink, Histogram, Picture, Table
from avalanche_dgm.dashboards.tensorboard_sink import TensorBoardSink
from avalanche_dgm.dashboards.workspace import LAYOUT, build_workspace, outline
from avalanche_dgm.metrics.functional import SUMMARIES

PICTURE = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def show(sink, at, value=0.5):
    """Everything that there is, at one point."""
    panels = {
        "stream/forgetting": value,
        "memory/bytes": 12,
        "samples/grid": Picture(PICTURE, 'a "picture", of 3'),
        "replay/labels": Histogram({2: 5, 0: 3}),
        "samples/table": Table(("class", "samples"), [["0", PICTURE], ["1", PICTURE]]),
        "accuracy/table": Table(("after", "0"), [["0", value]]),
    }
    sink.log(panels, axis=keys.EXPERIENCE, at=at)


def test_files(tmp_path):
    sink = FileSink(tmp_path)
    show(sink, 1)
    show(sink, 2, value=1 / 3)
    sink.log({"train/loss": 1e-7}, axis=keys.STEP, at=40)
    sink.log({"checkpoint": tmp_path / "x.pt"}, axis=keys.EXPERIENCE, at=2)
    sink.close()
    scalars = rows(tmp_path / "scalars.csv")
    assert [(r["axis"], r["at"], r["key"], float(r["value"])) for r in scalars] == [
        ("experience", "1", "stream/forgetting", 0.5),
        ("experience", "1", "memory/bytes", 12.0),
        ("experience", "2", "stream/forgetting", 1 / 3),
        ("experience", "2", "memory/bytes", 12.0),
        ("step", "40", "train/loss", 1e-7),
    ]
    images = rows(tmp_path / "images.csv")
    assert [r["caption"] for r in images] == ['a "picture", of 3'] * 2
    for row in images:
        assert (np.asarray(Image.open(tmp_path / row["file"])) == PICTURE).all()
    histograms = rows(tmp_path / "histograms.csv")
    assert [(r["at"], r["label"], r["count"]) for r in histograms] == [
        ("1", "0", "3"),
        ("1", "2", "5"),
        ("2", "0", "3"),
        ("2", "2", "5"),
    ]
    table = rows(tmp_path / "tables" / "samples-table.csv")
    assert [(r["at"], r["class"]) for r in table] == [
        ("1", "0"),
        ("1", "1"),
        ("2", "0"),
        ("2", "1"),
    ]
    for row in table:
        assert (np.asarray(Image.open(tmp_path / row["samples"])) == PICTURE).all()
    assert rows(tmp_path / "files.csv")[0]["path"] == str(tmp_path / "x.pt")


@pytest.mark.parametrize("how", ["anew", "pickled"])
def test_a_run_that_continues_replaces_what_comes_again(tmp_path, how):
    first = FileSink(tmp_path)
    show(first, 1)
    saved = pickle.dumps(first)
    for at in (2, 3):
        show(first, at, value=9.0)
        first.log({"train/loss": 9.0}, axis=keys.STEP, at=10 * at)
    again = FileSink(tmp_path) if how == "anew" else pickle.loads(saved)
    again.log({"train/loss": 0.1}, axis=keys.STEP, at=20)
    show(again, 2, value=0.25)
    found = [(r["axis"], r["at"], r["key"], r["value"]) for r in rows(tmp_path / "scalars.csv")]
    assert ("experience", "1", "stream/forgetting", "0.5") in found
    assert ("experience", "2", "stream/forgetting", "0.25") in found
    assert ("step", "20", "train/loss", "0.1") in found
    assert not [row for row in found if row[3] == "9.0" or row[1] in ("3", "30")]
    for name in ("histograms.csv", "images.csv", "tables/samples-table.csv"):
        assert {row["at"] for row in rows(tmp_path / name)} == {"1", "2"}
    assert [row["0"] for row in rows(tmp_path / "tables/accuracy-table.csv")] == ["0.5", "0.25"]


@pytest.mark.parametrize("given", ["a folder", "a writer"])
def test_tensorboard(given, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    monkeypatch.chdir(tmp_path.parent)
    sink = TensorBoardSink(tmp_path if given == "a folder" else SummaryWriter(str(tmp_path)))
    show(sink, 1)
    sink = pickle.loads(pickle.dumps(sink))
    show(sink, 2, value=0.25)
    sink.close()
    read = EventAccumulator(str(tmp_path), size_guidance={"images": 0, "histograms": 0})
    read.Reload()
    assert [(e.step, e.value) for e in read.Scalars("stream/forgetting")] == [(1, 0.5), (2, 0.25)]
    images = read.Images("samples/grid")
    assert [(e.step, e.height, e.width) for e in images] == [(1, 9, 12), (2, 9, 12)]
    (first, _) = read.Histograms("replay/labels")
    histogram = first.histogram_value
    assert histogram.num == 8
    assert histogram.sum == 10
    assert list(histogram.bucket)[-3:] == [3, 0, 5]
    assert "accuracy/table/text_summary" in read.Tags()["tensors"]


def test_what_cannot_be_logged_is_said_once_and_training_goes_on():
    sink = FailSafeSink(Failing())
    with pytest.warns(RuntimeWarning, match="could not log numbers: OSError: No space left"):
        sink.log({"a": 1.0}, axis=keys.STEP, at=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sink.log({"a": 1.0}, axis=keys.STEP, at=2)
    with pytest.warns(RuntimeWarning, match="could not log images"):
        sink.log({"b": Picture(PICTURE)}, axis=keys.STEP, at=2)
    for call in (sink.flush, sink.close):
        with pytest.warns(RuntimeWarning, match="Training continues"):
            call()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    sink = FailSafeSink(FileSink(tmp_path / "file" / "panels"))
    with pytest.warns(RuntimeWarning, match="FileSink could not log"):
        show(sink, 1)


def test_guarded_hands_everything_on():
    inner = Recording()
    sink = FailSafeSink(inner)
    show(sink, 1)
    sink.log({"c": Path("x.pt")}, axis=keys.EXPERIENCE, at=1)
    sink.flush(), sink.close()
    bare = Recording()
    show(bare, 1)
    bare.log({"c": Path("x.pt")}, axis=keys.EXPERIENCE, at=1)
    assert inner.shown == bare.shown
    assert (inner.flushed, inner.closed) == (1, 1)


def test_keys_lie_on_one_axis_each():
    named = [v for k, v in vars(keys).items() if k.isupper() and isinstance(v, str) and "/" in v]
    named.append(keys.SETTINGS)
    assert len(named) > 15
    assert len(set(named)) == len(named)
    beginnings = [b for group in keys.AXES.values() for b in group]
    for key in named:
        assert len([b for b in beginnings if key.startswith(b)]) == 1, key
    assert keys.axis_of("Loss_MB/train_phase/train_stream/Task000") == keys.STEP


def test_the_workspace_shows_keys_that_there_are():
    named = {v for k, v in vars(keys).items() if k.isupper() and isinstance(v, str)}
    named |= {f"{keys.STREAM}{name}" for name in SUMMARIES}
    shown = {key for panels in LAYOUT.values() for panel in panels for key in panel.keys}
    patterns = {key for key in shown if "*" in key}
    assert shown - patterns <= named
    many = (keys.ACCURACY.format(12), keys.TIME_PHASE.format("sleep"))
    assert sorted(p for p in patterns for key in many if re.fullmatch(p, key)) == sorted(patterns)
    model = build_workspace("memories", entity="us")._to_model().model_dump_json()
    for panels in LAYOUT.values():
        for panel in panels:
            assert panel.title in outline()
            for key in panel.keys:
                assert key in model
                assert keys.axis_of(key) == panel.axis


def test_files_of_another_run_are_not_mixed(tmp_path):
    for names in (("0/1", "2/3"), ("4/7", "1/9"), ("a", "b", "c")):
        sink = FileSink(tmp_path)
        row = ["x", *range(len(names))]
        sink.log({"accuracy/table": Table(["after", *names], [row])}, axis=keys.EXPERIENCE, at=1)
        lines = (tmp_path / "tables" / "accuracy-table.csv").read_text().splitlines()
        assert lines == [
            ",".join(("axis", "at", "after", *names)),
            ",".join(("experience", "1", *map(str, row))),
        ]


def test_a_point_that_is_shown_again_counts_once(tmp_path):
    sink = FileSink(tmp_path)
    for value in (0.25, 0.5):
        sink.log({"stream/a": value}, axis=keys.EXPERIENCE, at=1)
        sink.log({"samples/grid": Picture(PICTURE)}, axis=keys.EXPERIENCE, at=1)
        sink.log(
            {"accuracy/table": Table(["after", "0"], [["x", value]])}, axis=keys.EXPERIENCE, at=1
        )
    sink.log({"stream/b": 1.0}, axis=keys.EXPERIENCE, at=1)
    files = {name: (tmp_path / name).read_text().splitlines()[1:] for name in NAMES}
    assert files["scalars.csv"] == ["experience,1,stream/a,0.5", "experience,1,stream/b,1.0"]
    assert len(files["images.csv"]) == 1
    assert files["tables/accuracy-table.csv"] == ["experience,1,x,0.5"]


def test_rows_of_a_table_are_read_back(tmp_path):
    sink = FileSink(tmp_path)
    cells = ["01", 2, 0.5, "0/1", PICTURE]
    for at in (1, 2):
        sink.log({"a/b": Table(list("vwxyz"), [cells])}, axis=keys.EXPERIENCE, at=at)
    picture = tmp_path / "tables" / "a-b-002-0-4.png"
    picture.write_bytes(picture.read_bytes()[:40])
    (first, one), (second, two) = FileSink(tmp_path).table_rows("a/b")
    assert (first, second) == (1, 2)
    assert one[:4] == two[:4] == cells[:4]
    assert np.array_equal(one[4], PICTURE)
    assert two[4] == "tables/a-b-002-0-4.png", "one that was cut off is no picture"
    assert sink.table_rows("c") == []


NAMES = ("scalars.csv", "images.csv", "tables/accuracy-table.csv")
