"""Lightning comes in two packages; either serves, and never both at once."""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from avalanche.training.supervised import Naive
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from avalanche_dgm import sklearn_digits
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.lightning import DGRModule, VAEModule, fit_stream, run_on_trainer
from avalanche_dgm.lightning.package import PACKAGE, VARIABLE, _choose, check_package, pl

sys.path.insert(0, str(Path(__file__).parent))
from other_package import QUIET, SMALL, learn

OTHER = {"pytorch_lightning": "lightning.pytorch", "lightning": "pytorch_lightning"}[PACKAGE]


def test_both_packages_give_the_same(tmp_path):
    """The user imports one; callbacks, checkpoints and panels are those of the other."""
    script = Path(__file__).parent / "other_package.py"
    done = subprocess.run(
        [sys.executable, str(script), OTHER, str(tmp_path / "other")],
        env={k: v for k, v in os.environ.items() if k != VARIABLE},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.partition("RESULT")[2])
    assert found.pop("module") == OTHER
    expected = learn(pl, tmp_path / "used")
    assert expected.pop("module") == pl.__name__
    assert found == expected
    # Stopped after two of three epochs, saved, and shown.
    assert found["iterations"] == [6, 6]
    assert all(name.endswith(".ckpt") for name in found["best"])
    assert "samples/grid" in found["images"]


@pytest.mark.parametrize(
    ("named", "imported", "expected"),
    [
        ("", (), "pytorch_lightning"),
        ("", ("lightning.pytorch",), "lightning"),
        ("", ("pytorch_lightning",), "pytorch_lightning"),
        ("", ("lightning.pytorch", "pytorch_lightning"), "pytorch_lightning"),
        ("lightning", ("pytorch_lightning",), "lightning"),
        ("pytorch_lightning", ("lightning.pytorch",), "pytorch_lightning"),
    ],
)
def test_which_is_used(monkeypatch, named, imported, expected):
    monkeypatch.setenv(VARIABLE, named)
    for module in ("lightning.pytorch", "pytorch_lightning"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    for module in imported:
        monkeypatch.setitem(sys.modules, module, pl)
    assert _choose() == expected


def test_a_package_that_cannot_be_used(monkeypatch):
    monkeypatch.setenv(VARIABLE, "torch_lightning")
    with pytest.raises(ConfigError, match="use one of pytorch_lightning, lightning"):
        _choose()
    monkeypatch.setenv(VARIABLE, "lightning")
    monkeypatch.setattr("avalanche_dgm.lightning.package.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install lightning"):
        _choose()


@pytest.fixture
def other():
    return import_module(OTHER)


class TestTheOtherPackageIsRefused:
    """By name, and before anything is trained."""

    @pytest.fixture(
        params=["Trainer", "EarlyStopping", "TensorBoardLogger", "CSVLogger", "SimpleProfiler"]
    )
    def given(self, request, other, tmp_path):
        """What is refused, and the Trainer and callbacks with it, in several ways."""
        name = request.param
        stop = other.callbacks.EarlyStopping("train/loss")
        logger = getattr(other.loggers, name, lambda folder: None)(tmp_path)
        profiler = other.profilers.SimpleProfiler()
        return name, {
            "Trainer": [{"trainer": other.Trainer(logger=False, **QUIET)}],
            "EarlyStopping": [
                {"callbacks": [stop]},
                {"callbacks": stop},
                {"callbacks": {stop}},
                {"trainer": {**QUIET, "callbacks": [stop]}},
                {"trainer": {**QUIET, "callbacks": stop}},
                {"trainer": pl.Trainer(logger=False, callbacks=[stop], **QUIET)},
            ],
            "SimpleProfiler": [{"trainer": {**QUIET, "profiler": profiler}}],
        }.get(name, [{"trainer": {"logger": logger}}, {"trainer": pl.Trainer(logger=[logger])}])

    def test_by_fit_stream_and_run_on_trainer(self, given):
        name, choices = given
        benchmark = sklearn_digits(n_experiences=2, n_train_per_class=10)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        strategy = Naive(model=net, optimizer=torch.optim.SGD(net.parameters(), lr=0.1))
        before = net[1].weight.clone()
        for choice in choices:
            with pytest.raises(ConfigError, match=f"{name} is a class of {OTHER}.*{VARIABLE}"):
                fit_stream(DGRModule(net, **SMALL), benchmark, **choice)
            with pytest.raises(ConfigError, match=f"{name} is a class of {OTHER}"):
                run_on_trainer(strategy, benchmark, **choice)
        assert torch.equal(net[1].weight, before)

    def test_by_a_module_of_a_plain_fit(self, other):
        images = torch.rand(8, 1, 8, 8)
        module = VAEModule.for_images(images, hidden=(4,), latent=2)
        loader = DataLoader(TensorDataset(images), 8)
        stop = other.callbacks.EarlyStopping("train/loss")
        with pytest.raises(ConfigError, match="EarlyStopping is a class of"):
            pl.Trainer(max_epochs=1, logger=False, callbacks=[stop], **QUIET).fit(module, loader)
        # Lightning's own words.
        with pytest.raises(TypeError, match="must be a `LightningModule`.*got `VAEModule`"):
            other.Trainer(max_epochs=1, logger=False, **QUIET).fit(module, loader)

    def test_what_fits_both_is_let_through(self, other):
        class Both(other.Callback, pl.Callback):
            pass

        check_package(Both(), pl.Callback(), [pl.loggers.CSVLogger("logs")], None, "csv", 3)
        with pytest.raises(ConfigError, match="Own is a class of"):
            check_package([type("Own", (other.Callback,), {})()])
