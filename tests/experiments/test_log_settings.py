"""Where runs of the command line log."""

import numpy as np
import pytest
import wandb
from PIL import Image
from wandb_reader import isolated, runs

from avalanche_dgm.dashboards.sinks import Table
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments import ExperimentConfig
from avalanche_dgm.experiments.panels import LogSettings

CONFIG = ExperimentConfig(method="dgr", stream="sklearn-digits", seed=3)


def test_a_run_that_goes_on_is_the_same_in_wandb(tmp_path):
    settings, ids = LogSettings(("wandb",), "memories"), []
    with isolated(tmp_path) as environment:
        environment.setenv("WANDB_MODE", "offline")
        for at in (1, 2):
            (sink,) = settings.open(tmp_path / "run", CONFIG)
            sink.log({"memory/bytes": at}, axis="experience", at=at)
            ids.append(sink.sink.run.id)
            sink.close()
        first, second = runs(tmp_path / "run")
    assert ids[0] == ids[1] == first.id == second.id
    assert (first.name, first.project) == ("dgr-sklearn-digits-seed3", "memories")
    assert first.config["run"]["method"] == "dgr"
    assert first.curve("memory/bytes", "experience") == [(1, 1)]
    assert second.curve("memory/bytes", "experience") == [(2, 2)]


def test_tables_go_on(tmp_path):
    picture, settings = np.zeros((4, 4, 3), dtype=np.uint8), LogSettings(("files", "wandb"))
    with isolated(tmp_path) as environment:
        environment.setenv("WANDB_MODE", "offline")
        for points in ((1, 2, 3), (3, 4)):  # What the interruption took away comes again.
            sinks = settings.open(tmp_path / "run", CONFIG)
            for at in points:
                for sink in sinks:
                    where = {"axis": "experience", "at": at}
                    table = Table(["after", "0"], [[f"0{at}", at / 10]])
                    sink.log({"accuracy/table": table}, **where)
                    table = Table(["experience", "class", "x"], [[at, "a", picture + at]])
                    sink.log({"samples/table": table}, **where)
            for sink in sinks:
                sink.close()
        _, second = runs(tmp_path / "run")
    assert second.table("accuracy/table")[1] == [[f"0{n}", n / 10] for n in (1, 2, 3, 4)]
    rows = second.table("samples/table")[1]
    assert [row[:2] for row in rows] == [[n, "a"] for n in (1, 2, 3, 4)]
    assert [np.asarray(Image.open(row[2])).max() for row in rows] == [1, 2, 3, 4]


def test_without_wandb_the_run_goes_on(tmp_path, monkeypatch):
    def init(**settings):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(wandb, "init", init)
    with pytest.warns(RuntimeWarning, match="OSError: Network is unreachable.*WANDB_MODE=offline"):
        sinks = LogSettings(("files", "wandb")).open(tmp_path, CONFIG)
    assert [type(sink.sink).__name__ for sink in sinks] == ["FileSink"]
    assert not list(tmp_path.iterdir())


def test_places():
    with pytest.raises(ConfigError, match="paper"):
        LogSettings(("paper",))
    with pytest.raises(ConfigError, match="give only that"):
        LogSettings(("none", "files"))
