"""Avalanche's metrics in W&B: real offline runs, read back from their files."""

import inspect
import pickle
import random
import re
import subprocess
import sys
import textwrap
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import wandb
from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import AlternativeValues, MetricValue, TensorImage
from avalanche.evaluation.metrics import (
    WeightCheckpoint,
    accuracy_metrics,
    confusion_matrix_metrics,
    images_samples_metrics,
    loss_metrics,
)
from avalanche.logging import WandBLogger as Avalanches
from avalanche.models import SimpleMLP
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from matplotlib.figure import Figure
from PIL import Image
from wandb_reader import isolated, runs

from avalanche_dgm import DGRPlugin, WandBLogger, maybe_load_checkpoint, save_checkpoint
from avalanche_dgm.dashboards import keys

from .conftest import SMALL, mlp, naive, weights

BUCKET = "https://bucket.example/models"


class OfAllKinds(PluginMetric):
    """Gives values of every kind that a metric may have."""

    def result(self, **kwargs):
        return None

    def reset(self, **kwargs):
        pass

    def after_training_exp(self, strategy):
        figure = Figure(figsize=(2, 1))
        figure.add_subplot().plot([1, 2])
        ramp = torch.linspace(0, 1, 12).reshape(1, 3, 4)
        values = {
            "Int": 3,
            "Numpy": np.float32(0.5),
            "Bool": True,
            "Scalar": torch.tensor(2.5),
            "NaN": float("nan"),
            "Tensor": torch.tensor([[0.0, 1.0], [1.0, torch.inf]], dtype=torch.bfloat16),
            "Nothing": torch.tensor([torch.nan]),
            "Palette": Image.new("RGB", (5, 4), (0, 128, 255)).convert("P"),
            "CMYK": Image.new("CMYK", (5, 4)),
            "Channels first": TensorImage(ramp.expand(3, 3, 4)),
            "Grey": TensorImage((ramp * 255).to(torch.uint8)),
            "Figure": figure,
            "Best": AlternativeValues("text", ramp, 1.0),
            "Chart": wandb.plot.line(wandb.Table(columns=["x", "y"], data=[[1, 2]]), "x", "y"),
            "Html": wandb.Html("<b>hi</b>"),
            "Parts": {"a": 1.0, "b": 2.0},
            "Text": "left out",
            "Object": object(),
            "None of them": AlternativeValues("text", b"bytes"),
        }
        at = strategy.clock.train_iterations
        return [MetricValue(self, name, value, at) for name, value in values.items()]

    def __str__(self):
        return "OfAllKinds"


def evaluator(*loggers, metrics=()):
    return EvaluationPlugin(
        accuracy_metrics(minibatch=True, experience=True, stream=True),
        *metrics,
        loggers=list(loggers),
    )


def learn(benchmark, logger, *plugins, n=2):
    """Trains from a fixed seed: the strategy, and the random numbers that would come next."""
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    strategy = naive(mlp(), *plugins, evaluator=evaluator(*([logger] if logger else [])))
    for experience in benchmark.train_stream[:n]:
        strategy.train(experience)
        strategy.eval(benchmark.test_stream[:2])
    return strategy, [torch.rand(()).item(), np.random.rand(), random.random()]


@pytest.fixture(scope="module", autouse=True)
def environment(tmp_path_factory):
    with isolated(tmp_path_factory.mktemp("home")):
        yield


@pytest.fixture(scope="module")
def trained(benchmark, tmp_path_factory):
    """A run with everything."""
    folder = tmp_path_factory.mktemp("trained")
    logger = WandBLogger(
        "project of tests",
        "a run",
        True,
        folder / "weights",
        BUCKET,
        config={"epochs": 1},
        dir=folder,
        params={"tags": ["tests"]},
        mode="offline",
        latents=False,
    )
    metrics = [
        loss_metrics(minibatch=True, epoch=True, experience=True, stream=True),
        confusion_matrix_metrics(num_classes=10, save_image=False, stream=True, wandb=True),
        images_samples_metrics(on_train=True, on_eval=False, n_rows=2, n_cols=3),
        WeightCheckpoint(),
        OfAllKinds(),
    ]
    strategy = naive(
        mlp(), DGRPlugin(**SMALL, seed=0), evaluator=evaluator(logger, metrics=metrics)
    )
    for experience in benchmark.train_stream[:2]:
        strategy.train(experience)
        strategy.eval(benchmark.test_stream)
    at_work = logger.run
    assert wandb.run is at_work
    assert logger.wandb is wandb
    logger.close()
    logger.close()
    (found,) = runs(folder)
    return SimpleNamespace(run=found, strategy=strategy, folder=folder, logger=logger)


def test_it_takes_the_place_of_avalanches():
    mine, theirs = (inspect.signature(c).parameters.values() for c in (WandBLogger, Avalanches))
    former = [(p.name, p.default, p.kind) for p in theirs]
    assert [(p.name, p.default, p.kind) for p in mine][: len(former)] == former
    assert all(p.kind is p.KEYWORD_ONLY for p in list(mine)[len(former) :])


def test_settings_reach_the_run(trained):
    run = trained.run
    assert (run.project, run.name) == ("project of tests", "a run")
    assert run.config["epochs"] == 1
    # Also those that were not given.
    method, strategy = run.config["method"], run.config["strategy"]
    assert method["class"] == "DGR"
    assert method["generator_steps"] == SMALL["generator_steps"]
    assert method["kappa"] == 0.0
    assert strategy["class"] == "Naive"
    assert strategy["train_epochs"] == trained.strategy.train_epochs
    optimizer = trained.strategy.optimizer
    assert strategy["optimizer"]["class"] == type(optimizer).__name__
    assert strategy["optimizer"]["lr"] == optimizer.defaults["lr"]
    assert "CrossEntropyLoss" in strategy["criterion"]
    assert "DGRPlugin" in strategy["plugins"]
    assert run.id == trained.logger.init_kwargs["id"]


def test_every_number_is_there_under_its_name(trained):
    results = trained.strategy.evaluator.get_all_metrics()
    numbers = {k: v for k, v in results.items() if all(isinstance(x, float) for x in v[1])}
    assert len(numbers) > 15
    for name, (points, values) in numbers.items():
        curve = trained.run.curve(name, "step")
        assert [at for at, _ in curve] == points
        assert np.allclose([value for _, value in curve], values, equal_nan=True), name
        assert trained.run.axes[name] == "step"
    steps = [row["step"] for row in trained.run.history if "step" in row]
    assert steps == sorted(steps)
    assert [n for _, n in trained.run.curve("TrainingExperience", "step")] == [0, 1]
    # The metrics of a batch share a row.
    both = [name for name in numbers if "_MB/" in name]
    assert len(both) == 2
    assert trained.run.rows(both[0]) == trained.run.rows(both[1])


def test_panels_are_there_too(trained):
    run = trained.run
    assert [at for at, _ in run.curve("stream/average_accuracy", "experience")] == [1, 2]
    assert [sum(h["values"]) > 0 for _, h in run.curve(keys.REPLAY_LABELS, "experience")] == [True]
    assert min(Image.open(run.path(run.rows(keys.MATRIX)[-1][keys.MATRIX])).size) > 50
    points = [at for at, _ in run.curve(keys.TRAIN_LOSS, "step")]
    assert len(points) >= 2
    assert points == sorted(set(points))
    assert points[-1] == trained.strategy.clock.train_iterations
    columns, rows = run.table(keys.SAMPLES_TABLE)
    assert columns[0] == "experience"
    assert [row[0] for row in rows] == [1] * 2 + [2] * 4
    assert all(min(Image.open(row[2]).size) > 8 for row in rows)


def test_values_of_all_kinds(trained):
    run = trained.run
    last = {}
    for row in run.history:
        last |= row
    assert [last[k] for k in ("Int", "Numpy", "Bool", "Scalar")] == [3, 0.5, 1, 2.5]
    assert [last[k] for k in ("Parts/a", "Parts/b")] == [1, 2]
    assert np.isnan(last["NaN"])
    assert last["Tensor"]["bins"][0::10] == [0, 1]
    assert [n for n in last["Tensor"]["values"] if n] == [1, 2]
    assert sum(last["Best"]["values"]) == 12
    assert last["Html"]["_type"] == "html-file"
    assert last["Chart_table"]["ncols"] == 2
    assert "W&BConfusionMatrix_Stream/eval_phase/test_stream_table" in last
    assert not {"Nothing", "Text", "Object", "None of them"} & last.keys()

    def pixels(key):
        return np.asarray(Image.open(run.path(last[key])))

    assert np.abs(pixels("Palette")[0, 0] - np.array([0, 128, 255])).max() < 30
    assert pixels("CMYK").shape == (4, 5, 3)
    ramp = np.linspace(0, 255, 12).reshape(3, 4)
    assert np.allclose(pixels("Channels first"), ramp[..., None], atol=0.5)
    assert np.allclose(pixels("Grey"), ramp, atol=1)
    assert pixels("Figure").shape[:2] == (100, 200)
    grids = [key for key in last if "images" in key]
    assert grids
    assert pixels(grids[0]).shape[2] == 3


def test_weights_become_artifacts(trained):
    found = [a for a in trained.run.artifacts if a.type == "model"]
    trains = [a for a in found if a.name in {"Model_0", "Model_1"}]
    assert {a.name for a in trains} == {"Model_0", "Model_1"}
    for artifact in trains:
        file = f"{artifact.name}.pth"
        assert artifact.contents[f"References/{file}"] == BUCKET
        assert artifact.metadata["experience"] == int(artifact.name[-1])
    newest = torch.load(trained.folder / "weights" / "Model_1.pth", weights_only=False)
    kept = torch.load(trains[-1].contents["Models/Model_1.pth"], weights_only=False)
    assert torch.equal(weights(newest), weights(kept))


def test_as_avalanche_tests_its_loggers(benchmark, tmp_path):
    model = SimpleMLP(input_size=64, hidden_size=10)
    logger = WandBLogger(dir=tmp_path, mode="offline", panels=False)
    evaluation = EvaluationPlugin(
        loss_metrics(minibatch=True, epoch=True, experience=True, stream=True), loggers=[logger]
    )
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.001),
        evaluator=evaluation,
        train_mb_size=32,
    )
    for experience in benchmark.train_stream:
        strategy.train(experience)
    results = strategy.eval(benchmark.train_stream)
    logger.run.finish()
    (run,) = runs(tmp_path)
    assert results == pytest.approx({name: run.summary[name] for name in results})
    # Nothing but what Avalanche's own logs.
    ours = tuple(start for starts in keys.AXES.values() for start in starts)
    assert not [key for row in run.history for key in row if key.startswith(ours)]


def test_it_goes_on_in_the_same_run(benchmark, tmp_path):
    def make():
        logger = WandBLogger(dir=tmp_path, mode="offline", latents=False)
        plugin = DGRPlugin(**SMALL, seed=0)
        return logger, naive(mlp(), plugin, evaluator=evaluator(logger))

    former, strategy = make()
    strategy.train(benchmark.train_stream[0])
    strategy.eval(benchmark.test_stream)
    save_checkpoint(strategy, tmp_path / "c.pt")
    strategy.train(benchmark.train_stream[1])
    former.close()
    replaced, strategy = make()
    strategy, done = maybe_load_checkpoint(strategy, tmp_path / "c.pt")
    for experience in benchmark.train_stream[done:3]:
        strategy.train(experience)
        strategy.eval(benchmark.test_stream)
    (logger,) = strategy.evaluator.loggers
    assert logger.init_kwargs["resume"] == logger.run.settings.resume == "allow"
    logger.close()

    first, second = runs(tmp_path)
    assert first.id == second.id == former.init_kwargs["id"] != replaced.init_kwargs["id"]
    assert [n for _, n in first.curve("TrainingExperience", "step")] == [0, 1]
    assert [n for _, n in second.curve("TrainingExperience", "step")] == [1, 2]
    assert [at for at, _ in second.curve("stream/forgetting", "experience")] == [2, 3]
    # A table has the rows from before the checkpoint.
    assert [row[0] for row in second.table(keys.SAMPLES_TABLE)[1]] == [1] * 2 + [2] * 4 + [3] * 6
    name = next(iter(strategy.evaluator.get_all_metrics()))
    assert first.axes[name] == second.axes[name] == "step"


def test_ids(monkeypatch):
    monkeypatch.setattr(wandb, "init", lambda **settings: pytest.fail("a run began"))
    assert WandBLogger().init_kwargs["id"] != WandBLogger().init_kwargs["id"]
    monkeypatch.setenv("WANDB_RUN_ID", "fromenv1")
    assert WandBLogger().init_kwargs["id"] == "fromenv1"
    given = WandBLogger(params={"id": "given001", "resume": "must", "mode": "offline"})
    assert given.init_kwargs["id"] == "given001"
    again = pickle.loads(pickle.dumps(given))
    assert (again.init_kwargs["id"], again.init_kwargs["resume"]) == ("given001", "must")
    never = WandBLogger(params={"id": "given001", "resume": "never"})
    assert pickle.loads(pickle.dumps(never)).init_kwargs["resume"] == "allow"
    assert never.init_kwargs["resume"] == "never"


def test_runs_beside_each_other(tmp_path):
    one, other = (WandBLogger(run_name=n, dir=tmp_path, mode="offline") for n in ("a", "b"))
    one.log_single_metric("x", 1.0, 0)
    other.log_single_metric("x", 2.0, 0)
    copy = pickle.loads(pickle.dumps(one))
    copy.log_single_metric("x", 3.0, 1)
    assert copy.run is one.run is not other.run
    one.close()
    other.close()
    assert [run.curve("x", "step") for run in runs(tmp_path)] == [[(0, 1), (1, 3)], [(0, 2)]]


def test_a_run_that_is_there_is_joined(tmp_path):
    with wandb.init(mode="offline", dir=tmp_path, project="mine", id="mine0001") as run:
        logger = WandBLogger(dir=tmp_path, mode="online")
        logger.log_single_metric("x", 1.0, 5)
        assert logger.run is run
    (found,) = runs(tmp_path)
    assert found.curve("x", "step") == [(5, 1)]
    assert pickle.loads(pickle.dumps(logger)).init_kwargs["id"] == "mine0001"


@pytest.mark.parametrize("how", ["RANK", "LOCAL_RANK", "SLURM_PROCID", "torch.distributed"])
def test_other_processes_have_no_run(how, benchmark, monkeypatch, tmp_path):
    if how == "torch.distributed":
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda *_: 1)
    else:
        monkeypatch.setenv(how, "1")
    monkeypatch.setattr(wandb, "init", lambda **_: pytest.fail("has a run"))
    logger = WandBLogger(dir=tmp_path, mode="offline", sync_tfboard=True)
    logger.log_single_metric("x", 1.0, 0)
    assert logger.run is None
    assert not logger.dashboard.sinks
    if how == "RANK":
        learn(benchmark, logger)
    logger.close()
    assert not list(tmp_path.iterdir())


def test_the_first_of_several_processes_has_one(monkeypatch, tmp_path):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("SLURM_PROCID", "1")
    logger = WandBLogger(dir=tmp_path, mode="offline")
    assert logger.run is not None
    logger.close()


@pytest.fixture(scope="module")
def undisturbed(benchmark):
    """What is learned without a logger, and the random numbers that come then."""
    strategy, after = learn(benchmark, None)
    return weights(strategy.model), after


@pytest.mark.parametrize("how", ["runs", "no network", "no folder", "no space"])
def test_whatever_happens_training_is_the_same(
    how, benchmark, undisturbed, monkeypatch, tmp_path, capfd
):
    logger = WandBLogger(dir=tmp_path, mode="offline")
    if how == "no network":

        def init(**settings):
            raise wandb.errors.CommError("no such host")

        monkeypatch.setattr(wandb, "init", init)
    elif how == "no folder":
        for name in ("wandb", ".wandb"):
            (tmp_path / name).touch()
    elif how == "no space":

        def log(*args, **kwargs):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(logger.run, "log", log)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        strategy, after = learn(benchmark, logger)
    assert torch.equal(weights(strategy.model), undisturbed[0])
    assert after == undisturbed[1]
    said = [str(w.message) for w in caught if w.category is RuntimeWarning]
    if how == "runs":
        assert not said
        assert logger.run is not None
    elif how == "no space":
        # Once for each kind of what could not be logged.
        assert len(said) == len(set(said)) <= 3
        assert sum("could not log numbers: OSError: [Errno 28]" in one for one in said) == 1
    else:
        assert len(said) == 1
        assert "could not start its run" in said[0]
        assert logger.run is None
    logger.close()


def test_what_cannot_be_referred_to_is_logged_all_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logger = WandBLogger("p", "r", True, uri="s3://models", dir=tmp_path, mode="offline")

    def refer(*args, **kwargs):
        raise wandb.Error("s3:// references requires the boto3 library")

    monkeypatch.setattr(wandb.Artifact, "add_reference", refer)
    with pytest.warns(RuntimeWarning, match=r"a reference to s3://models: Error: .*boto3"):
        logger.log_single_metric("WeightCheckpoint/train_phase/train_stream/Exp003", b"w", 8)
    with pytest.warns(RuntimeWarning, match="does not end with an experience"):
        logger.log_single_metric("WeightCheckpoint/other", b"w", 8)
    logger.close()
    (artifact,) = runs(tmp_path)[0].artifacts
    assert artifact.metadata == {"experience": 3, "x_step": 8}
    assert list(artifact.contents) == ["Models/Model_3.pth"]
    assert (tmp_path / "Checkpoints" / "Model_3.pth").read_bytes() == b"w"


def test_disabled(benchmark, monkeypatch, tmp_path):
    wandb.teardown()  # what W&B has read of the environment
    monkeypatch.setenv("WANDB_MODE", "disabled")
    logger = WandBLogger(log_artifacts=True, path=tmp_path / "weights", dir=tmp_path)
    learn(benchmark, logger, DGRPlugin(**SMALL, seed=0))
    assert logger.run.disabled
    assert pickle.loads(pickle.dumps(logger)).init_kwargs["id"] == logger.init_kwargs["id"]
    logger.close()
    monkeypatch.undo()
    wandb.teardown()
    assert not runs(tmp_path)


# Without the logger itself, since importing Avalanche takes long.
SCRIPT = textwrap.dedent(
    """
    import sys
    from avalanche_dgm.dashboards.wandb_sink import WandbSink, new_run_id, open_run

    run = open_run({"id": new_run_id(), "dir": sys.argv[1], "mode": sys.argv[2]})
    WandbSink(run).log({"train/loss": 1.0}, axis="step", at=3)
    """
)


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_nothing_waits(mode, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), mode],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    if mode == "offline":
        # The run was not closed.
        assert done.returncode == 0, done.stderr
        (run,) = runs(tmp_path)
        assert run.curve("train/loss", "step") == [(3, 1)]
    else:
        # Without an account, and nobody there to be asked.
        assert re.search("api[_ ]key", done.stderr, re.IGNORECASE)
        assert not list(tmp_path.rglob("*.wandb"))
