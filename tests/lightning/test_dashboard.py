"""The callback that shows panels, beyond what the contract with Avalanche's logger tests."""

from pathlib import Path

import pytest
import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from recording import Failing, Recording
from torch import nn

from avalanche_dgm import DashboardLogger, DGRPlugin, sklearn_digits
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.lightning import DashboardCallback, DGRModule, fit_stream, run_on_trainer
from avalanche_dgm.lightning.package import pl

SMALL = {"generator_steps": 10, "hidden": (16, 16), "latent": 4, "seed": 0}
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture(scope="module")
def benchmark():
    return sklearn_digits(n_experiences=5, n_train_per_class=20)


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))


def learn(benchmark, *callbacks, **options):
    trainer = {**QUIET, **options.pop("trainer", {})}
    module = DGRModule(mlp(), **SMALL)
    fit_stream(module, benchmark, trainer=trainer, callbacks=list(callbacks), **options)
    return module


def test_places_are_those_of_the_trainers_loggers(benchmark, tmp_path):
    loggers = [
        pl.loggers.CSVLogger(tmp_path / "csv"),
        pl.loggers.TensorBoardLogger(tmp_path / "tb"),
    ]
    learn(benchmark, DashboardCallback(latents=False), trainer={"logger": loggers})
    (panels,) = (tmp_path / "csv").rglob("panels")
    assert (panels / "images" / "samples-grid-005.png").exists()
    (metrics,) = (tmp_path / "csv").rglob("metrics.csv")
    # Lightning's own file of numbers has the accuracies as without the callback.
    assert "stream/average_accuracy" in metrics.read_text()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (file,) = (tmp_path / "tb").rglob("events.*")  # Of the stream, not of each fit and test.
    read = EventAccumulator(str(file.parent))
    read.Reload()
    curves = {name: [event.step for event in read.Scalars(name)] for name in read.Tags()["scalars"]}
    # Once, over experiences: not a second time over Lightning's steps.
    assert curves["stream/average_accuracy"] == [1, 2, 3, 4, 5]
    assert len(curves["train/loss"]) == 5
    assert all(steps == sorted(steps) for steps in curves.values())
    assert "samples/grid" in read.Tags()["images"]
    (written,) = read.Tensors("settings/text_summary")
    text = written.tensor_proto.string_val[0].decode()
    assert "| method/class | DGR |" in text
    assert "| method/latent | 4 |" in text
    assert "| method/kappa | 0.0 |" in text
    (hparams,) = (tmp_path / "tb").rglob("hparams.yaml")
    assert "method:\n" in hparams.read_text()
    assert "  kappa: 0.0\n" in hparams.read_text()
    (settings,) = panels.glob("tables/settings.csv")
    assert "start,0,method/kappa,0.0" in settings.read_text()


def test_latents_come_after_the_last_experience(benchmark):
    sink = Recording()
    learn(benchmark, DashboardCallback([sink]), batch_size=16, epochs=1)
    assert list(sink.values("latents/tsne")) == [5]


def test_a_run_that_goes_on_shows_the_rest(benchmark, tmp_path):
    def stop(result):
        if len(result) == 2:
            raise KeyboardInterrupt

    sinks = [Recording(), Recording(), Recording()]
    options = {"batch_size": 16, "epochs": 1}
    learn(benchmark, DashboardCallback([sinks[0]], latents=False), **options)
    options["checkpoint_dir"] = tmp_path
    callback = DashboardCallback([sinks[1]], latents=False)
    with pytest.raises(KeyboardInterrupt):
        learn(benchmark, callback, after_experience=stop, **options)
    learn(benchmark, DashboardCallback([sinks[2]], latents=False), resume=True, **options)
    parts = [*sinks[1].without_times(), *sinks[2].without_times()]
    assert parts == sinks[0].without_times()


def test_checkpoints_are_kept_if_wanted(benchmark, tmp_path):
    for wanted in (False, True):
        sink = Recording()
        saving = pl.callbacks.ModelCheckpoint(tmp_path / str(wanted), save_top_k=1)
        learn(benchmark, saving, DashboardCallback([sink], latents=False, checkpoints=wanted))
        files = [panel for panel in sink.shown if panel[0] == "file"]
        assert [panel[2] for panel in files] == ([1, 2, 3, 4, 5] if wanted else [])
        assert all(Path(panel[4]).suffix == ".ckpt" for panel in files)


def test_a_place_that_fails_changes_nothing(benchmark):
    with pytest.warns(RuntimeWarning, match="Failing could not log"):
        one = learn(benchmark, DashboardCallback([Failing()]))
    two = learn(benchmark)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))


def test_options():
    with pytest.raises(ConfigError, match="samples_per_class"):
        DashboardCallback(samples_per_class=0)


def test_strategies_on_a_trainer_take_the_logger(benchmark):
    sink = Recording()
    net = mlp()
    strategy = Naive(
        model=net,
        optimizer=torch.optim.Adam(net.parameters()),
        train_mb_size=32,
        plugins=[DGRPlugin(**SMALL)],
        evaluator=EvaluationPlugin(
            accuracy_metrics(stream=True), loggers=[DashboardLogger([sink], latents=False)]
        ),
    )
    run_on_trainer(
        strategy, benchmark.train_stream[:3], test_stream=benchmark.test_stream, trainer=QUIET
    )
    assert list(sink.values("stream/average_accuracy")) == [1, 2, 3]
    assert {"samples/grid", "reconstructions/grid", "accuracy/matrix"} <= sink.names("image")
    assert list(sink.values("memory/bytes")) == [1, 2, 3]
