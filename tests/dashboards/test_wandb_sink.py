"""Panels in a run of W&B, read back from the files of an offline run."""

import json
from pathlib import Path

import numpy as np
import pytest
import wandb
from PIL import Image
from wandb_reader import isolated, runs

from avalanche_dgm.dashboards import keys
from avalanche_dgm.dashboards.sinks import Histogram, Picture, Table
from avalanche_dgm.dashboards.wandb_sink import WandbSink

CHECKER = (np.indices((6, 4)).sum(0)[..., None] % 2 * np.array([1, 0, 1])).astype(np.uint8)


def picture(shade):
    return np.full((4, 5, 3), shade, np.uint8)


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """A run with one of everything; what was not kept goes on in a second one."""
    folder = tmp_path_factory.mktemp("wandb")
    file = folder / "last.ckpt"
    file.write_bytes(b"weights")
    several = folder / "sharded"
    several.mkdir()
    (several / "part").write_bytes(b"1")
    with isolated(folder):
        run = wandb.init(project="panels", mode="offline", dir=folder, id="panels01")
        sink = WandbSink(run)
        sink.settings({"method": {"stm_size": 3, "hidden": [8, 8]}})
        for step in range(3):
            sink.log({"train/loss": 1 / (step + 1)}, axis=keys.STEP, at=step)
            sink.log({"Loss_MB/train_phase": step}, axis=keys.STEP, at=step)
        # The axes do not go on in the same order, and a key may be against the patterns.
        for at in (1, 2):
            scalars = {"stream/forgetting": 0.5 * at, "masks/features.0/free": 0.25}
            sink.log(scalars, axis=keys.EXPERIENCE, at=at)
            grid = Picture(CHECKER, f"after {at}")
            sink.log({keys.SAMPLES: grid}, axis=keys.EXPERIENCE, at=at)
            cells = [[at, name, picture(10 * at)] for name in ("a", "b")]
            table = Table(["experience", "class", "samples"], cells)
            sink.log({keys.SAMPLES_TABLE: table}, axis=keys.EXPERIENCE, at=at)
            rows = [[at, 0.5, ""]] if at == 1 else [[at, 0, 1]]
            table = Table(["after", "0", "1"], rows)
            sink.log({keys.MATRIX_TABLE: table}, axis=keys.EXPERIENCE, at=at)
        sink.log({keys.SLEEP_SECONDS: 4.0}, axis=keys.SLEEP, at=1)
        sink.log({"train/odd": 7.0}, axis=keys.SLEEP, at=1)
        sink.log({keys.REPLAY_LABELS: Histogram({7: 1, 3: 5})}, axis=keys.EXPERIENCE, at=2)
        sink.log({"replay/many": Histogram({0: 1, 999: 2, 998: 4})}, axis=keys.EXPERIENCE, at=2)
        sink.log({"replay/none": Histogram({})}, axis=keys.EXPERIENCE, at=2)
        sink.log({"memory/checkpoint": file}, axis=keys.EXPERIENCE, at=2)
        sink.log({"sharded": several}, axis=keys.EXPERIENCE, at=2)
        sink.flush()
        sink.close()
        again = wandb.init(project="panels", mode="offline", dir=folder, id="panels02")
        sink = WandbSink(again, tables=sink.tables)
        for at in (2, 3):
            table = Table(["after", "0", "1"], [[at, 1, 1]])
            sink.log({keys.MATRIX_TABLE: table}, axis=keys.EXPERIENCE, at=at)
        sink.close()
        yield runs(folder)


def test_numbers_lie_on_their_axes(logged):
    run = logged[0]
    assert run.curve("train/loss", "step") == [(0, 1), (1, 1 / 2), (2, 1 / 3)]
    assert run.curve("Loss_MB/train_phase", "step") == [(0, 0), (1, 1), (2, 2)]
    assert run.curve("stream/forgetting", "experience") == [(1, 0.5), (2, 1)]
    assert run.curve("masks/features.0/free", "experience") == [(1, 0.25), (2, 0.25)]
    assert run.curve(keys.SLEEP_SECONDS, "sleep") == [(1, 4)]
    # Of the start there are settings alone, which W&B has a config for.
    for axis in keys.AXES.keys() - {keys.START}:
        points = [row[axis] for row in run.rows(axis)]
        assert points
        assert points == sorted(points)
    # None is on two axes.
    assert all(sum(axis in row for axis in keys.AXES) == 1 for row in run.history)
    assert run.summary["stream/forgetting"] == 1


def test_settings_are_in_the_config(logged):
    assert logged[0].config["method"] == {"stm_size": 3, "hidden": [8, 8]}
    assert not logged[0].rows(keys.SETTINGS)


def test_every_axis_is_said_once(logged):
    axes = logged[0].axes
    assert all(axes[axis] == "" for axis in keys.AXES.keys() - {keys.START})
    # Each key by itself: of two patterns that fit W&B takes any.
    assert not [name for name in axes if name.endswith("*")]
    assert axes["Loss_MB/train_phase"] == "step"
    assert axes["train/odd"] == "sleep"
    assert axes["train/loss"] == "step"
    assert axes["stream/forgetting"] == "experience"


def test_pictures(logged):
    run = logged[0]
    shown = run.curve(keys.SAMPLES, "experience")
    assert [(at, media["caption"]) for at, media in shown] == [(1, "after 1"), (2, "after 2")]
    for _, media in shown:
        assert media["path"] in run.files
        # Pixels of 0 and 1 are no picture in [0, 1].
        assert np.array_equal(np.asarray(Image.open(run.path(media))), CHECKER)


def test_histograms_have_a_bin_for_each_label(logged):
    run = logged[0]
    (_, shown), *_ = run.curve(keys.REPLAY_LABELS, "experience")
    assert shown["values"] == [5, 0, 0, 0, 1]
    assert shown["bins"] == [2.5, 3.5, 4.5, 5.5, 6.5, 7.5]
    (_, many), *_ = run.curve("replay/many", "experience")
    assert (len(many["values"]), sum(many["values"])) == (500, 7)
    assert (many["values"][0], many["values"][-1]) == (1, 6)
    assert not run.rows("replay/none")


def test_tables_grow(logged):
    run = logged[0]
    columns, rows = run.table(keys.SAMPLES_TABLE)
    assert columns == ["experience", "class", "samples"]
    assert [row[:2] for row in rows] == [[1, "a"], [1, "b"], [2, "a"], [2, "b"]]
    for at, _, cell in rows:
        assert np.array_equal(np.asarray(Image.open(cell)), picture(10 * at))
    assert [at for at, _ in run.curve(keys.SAMPLES_TABLE, "experience")] == [1, 2]
    shown = run.rows(keys.MATRIX_TABLE)[-1][keys.MATRIX_TABLE]
    assert json.loads(run.path(shown).read_text()) == {
        "columns": ["after", "0", "1"],
        "data": [[1, 0.5, None], [2, 0, 1]],
    }


def test_tables_go_on_after_an_interruption(logged):
    # The second experience came again.
    shown = logged[1].rows(keys.MATRIX_TABLE)[-1][keys.MATRIX_TABLE]
    data = json.loads(logged[1].path(shown).read_text())["data"]
    assert data == [[1, 0.5, None], [2, 1, 1], [3, 1, 1]]


def test_files_are_artifacts(logged):
    one, several = logged[0].artifacts
    assert one.name == "memory-checkpoint-panels01"
    assert (one.type, one.aliases) == ("checkpoint", {"latest", "experience-002"})
    assert one.metadata == {"experience": 2}
    assert list(one.contents) == ["last.ckpt"]
    assert Path(one.contents["last.ckpt"]).read_bytes() == b"weights"
    assert list(several.contents) == ["part"]
