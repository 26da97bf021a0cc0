"""A real offline run of every method on both backends, read back from what W&B wrote."""

from pathlib import Path

import numpy as np
import pytest
import torch
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from backends import BACKENDS, made
from PIL import Image
from test_backend_contract import Dropping, adam, stream_of
from wandb_reader import isolated, runs

from avalanche_dgm import WandBLogger
from avalanche_dgm.dashboards import keys
from avalanche_dgm.lightning import DashboardCallback, fit_stream
from avalanche_dgm.lightning.package import pl

#: One on each backend in the quick suite; all of them in the slow one.
QUICK = {("avalanche", "dgdmn"), ("lightning", "dynamic-memory")}
CASES = [
    pytest.param(backend, name, marks=[] if (backend, name) in QUICK else pytest.mark.slow)
    for name in BACKENDS
    for backend in ("avalanche", "lightning")
]
TESTED = [f"accuracy/experience_{j:03d}" for j in range(5)]
ALWAYS = {
    *TESTED,
    "accuracy/matrix",
    "accuracy/table",
    "stream/average_accuracy",
    "stream/forgetting",
    "stream/backward_transfer",
    "memory/bytes",
    "memory/parameters",
    "memory/stored_samples",
    "memory/stm_occupancy",
    "replay/samples",
    "time/learn",
    "time/test",
}


def in_avalanche(name, folder):
    net, stream = Dropping(), stream_of(n_tested=5)
    logger = WandBLogger("memories", name, dir=folder, mode="offline", save_code=False)
    strategy = Naive(
        model=net,
        optimizer=adam(net.parameters()),
        train_mb_size=16,
        eval_mb_size=100,
        plugins=[made(name, 0, net, seed=0)],
        evaluator=EvaluationPlugin(loggers=[logger]),
    )
    for experience in stream.train_stream:
        strategy.train(experience)
        strategy.eval(stream.test_stream)
    logger.close()


def on_trainer(name, folder):
    net = Dropping()
    logger = pl.loggers.WandbLogger(project="memories", name=name, save_dir=folder, mode="offline")
    fit_stream(
        made(name, 1, net, optimizer=adam, seed=0),
        stream_of(n_tested=5),
        trainer={"accelerator": "cpu", "enable_progress_bar": False, "logger": logger},
        callbacks=[DashboardCallback()],
        epochs=1,
        batch_size=16,
    )
    logger.experiment.finish()


#: They remember no images.
NO_IMAGES = ("altm", "altm-latent", "ewc", "ncm", "slda", "ranpac")


def expected(name):
    """The panels of a method."""
    found = set(ALWAYS)
    if not name.startswith("latent") and name not in NO_IMAGES:
        found |= {"samples/grid", "samples/table"}
    if name.startswith(("dgr", "dgdmn", "altm-generated")):
        found |= {"reconstructions/grid", "reconstructions/error"}
    if name.startswith("dgdmn"):
        found |= {"sleeps/seconds", "sleeps/experiences"}
    if name.startswith("dynamic-memory"):
        found |= {"masks/usage", "masks/capacity_ratio"}
    return found


@pytest.mark.parametrize(("backend", "name"), CASES)
def test_a_run(backend, name, tmp_path):
    torch.manual_seed(0)
    with isolated(tmp_path):
        (in_avalanche if backend == "avalanche" else on_trainer)(name, tmp_path)
        (run,) = runs(tmp_path)
    logged = {key for row in run.history for key in row}
    assert expected(name) <= logged
    settings = BACKENDS[name][1].kind.settings_type
    assert settings.names() | {"class"} == run.config["method"].keys()
    assert run.config["method"]["seed"] == 0
    for setting, value in BACKENDS[name][2].items():
        if isinstance(value, (int, float, str)):
            assert run.config["method"][setting] == value
    if backend == "avalanche":
        assert run.config["strategy"]["train_mb_size"] == 16
        assert run.config["strategy"]["optimizer"]["class"] == "Adam"

    for axis in keys.AXES:
        points = [row[axis] for row in run.history if axis in row]
        assert points == sorted(points), axis
    for key in logged:
        if key.startswith(tuple(b for group in keys.AXES.values() for b in group)):
            axis = keys.axis_of(key)
            # Lightning logs a phase's and an epoch's means as well, over its own count of steps.
            assert any(axis in row for row in run.rows(key)), key
            assert run.axes.get(key) == axis, key
    assert [row["experience"] for row in run.rows("stream/average_accuracy")] == [1, 2, 3]

    pictures = [
        value
        for row in run.history
        for value in row.values()
        if isinstance(value, dict) and value.get("_type") == "image-file"
    ]
    assert len(pictures) >= 3
    for picture in pictures:
        pixels = np.asarray(Image.open(run.path(picture)))
        assert pixels.shape[:2] == (picture["height"], picture["width"])
        assert pixels.std() > 0
    columns, rows = run.table("accuracy/table")
    assert columns[0] == "after"
    assert len(rows) == 3
    if "samples/table" in expected(name):
        columns, rows = run.table("samples/table")
        assert columns == ["experience", "class", "samples"]
        assert {row[0] for row in rows} == {1, 2, 3}
        assert all(Path(row[2]).exists() for row in rows)
