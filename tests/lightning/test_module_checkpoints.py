"""A Trainer's checkpoints of method modules: plain values, loaded without running code."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from backends import DUAL, SMALL
from nets import Growing, MultiHead
from torch import nn

from avalanche_dgm import load_memory, save_memory, sklearn_digits
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.generators import make_density
from avalanche_dgm.lightning import (
    ALTMModule,
    ClassifierModule,
    DGDMNModule,
    DGRModule,
    DynamicMemoryModule,
    EWCGeneratorModule,
    GANReplayModule,
    LatentReplayModule,
    MeRGANModule,
    NaiveModule,
    PseudoRehearsalModule,
    fit_stream,
)
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.optimizers import OptimizerSpec
from avalanche_dgm.saving import settings_of

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
SPEC = OptimizerSpec("sgd", 0.1, options={"momentum": 0.9})
KINDS = {
    ALTMModule: {"replay": "dynamic-memory", "source": {"gan_optimizer": SPEC, "smax": 1e3}},
    DGDMNModule: {**DUAL, "learner_optimizer": SPEC, "kappa": np.float64(0.1)},
    DGRModule: {**SMALL, "value_range": (np.float32(0), np.float32(1))},
    DynamicMemoryModule: {"classifier": "discriminator", "gan_optimizer": OptimizerSpec(lr=1e-3)},
    EWCGeneratorModule: {"ewc_weight": 10.0},
    GANReplayModule: {"replay_size": 7},
    LatentReplayModule: {"layer": 1, "memory": "vae", "hidden": (8,)},
    MeRGANModule: {"replay": "alignment"},
    NaiveModule: {},
    PseudoRehearsalModule: {"labels": "soft"},
}


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))


def stream(n=2, **options):
    benchmark = sklearn_digits(n_experiences=5, seed=0, n_train_per_class=10, **options)
    return SimpleNamespace(
        train_stream=list(benchmark.train_stream)[:n], test_stream=list(benchmark.test_stream)[:n]
    )


def saved(module, path):
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, **QUIET)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path)
    return path


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_settings_are_plain_values(kind, tmp_path):
    module = kind(mlp(), seed=3, optimizer=SPEC, **KINDS[kind])
    path = saved(module, tmp_path / "module.ckpt")
    torch.load(path, weights_only=True)
    again = kind.load_from_checkpoint(path, model=mlp())
    settings = settings_of(module.method)
    assert settings_of(again.method) == settings
    assert "<" not in json.dumps(settings), "each is a value"
    names = kind.kind.settings_type.names()
    assert settings.keys() == names - {"seed"}, "and none is left out"
    assert again._make_optimizer == SPEC
    assert again.hparams["seed"] == 3
    assert all(
        torch.equal(a, b) for a, b in zip(again.parameters(), module.parameters(), strict=True)
    )


@pytest.mark.filterwarnings("error")
def test_a_generator_among_the_settings_is_named_and_raises_no_warning():
    module = DGRModule(mlp(), generator=make_density("full"))
    assert module.hparams["generator"] == "<ClassDensity>"


def make_sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


@pytest.mark.parametrize(
    ("kind", "functions"),
    [
        (NaiveModule, {"optimizer": make_sgd}),
        (NaiveModule, {"criterion": nn.MultiMarginLoss()}),
        (ClassifierModule, {"optimizer": make_sgd}),
    ],
)
def test_functions_are_passed_again(kind, functions, tmp_path):
    """With the usual ones in their place, training would silently go on otherwise."""
    (name,) = functions
    path = saved(kind(mlp(), **functions), tmp_path / "module.ckpt")
    torch.load(path, weights_only=True)
    with pytest.raises(ConfigError, match=f"{name}=.*load_from_checkpoint"):
        kind.load_from_checkpoint(path, model=mlp())
    kind.load_from_checkpoint(path, model=mlp(), **functions)


def test_the_usual_criterion_need_not_be(tmp_path):
    path = saved(NaiveModule(mlp(), criterion=nn.CrossEntropyLoss()), tmp_path / "module.ckpt")
    NaiveModule.load_from_checkpoint(path, model=mlp())


class Opens:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_checkpoint_runs_no_code(tmp_path):
    path, ran = saved(NaiveModule(mlp()), tmp_path / "module.ckpt"), tmp_path / "ran"
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"]["seed"] = Opens(str(ran))
    torch.save(content, path)
    with pytest.raises(Exception, match="weights_only|WeightsUnpickler"):
        NaiveModule.load_from_checkpoint(path, model=mlp())
    assert not ran.exists()


@pytest.mark.parametrize("make", [Growing, MultiHead])
@pytest.mark.parametrize(
    ("kind", "hyper"),
    [(DGRModule, SMALL), (ALTMModule, {}), (LatentReplayModule, {"layer": "features"})],
)
def test_a_model_that_has_grown(make, kind, hyper, tmp_path):
    module = kind(make(), seed=0, **hyper)
    benchmark = stream(task_labels=make is MultiHead)
    fit_stream(module, benchmark, trainer={**QUIET, "max_epochs": 1, "logger": False})
    images = torch.rand(6, 1, 8, 8)
    tasks = torch.tensor([0, 1] * 3) if make is MultiHead else None
    again = kind.load_from_checkpoint(saved(module, tmp_path / "module.ckpt"), model=make())
    save_memory(module, tmp_path / "memory")
    fresh = kind(make(), **hyper)
    load_memory(fresh, tmp_path / "memory")
    for other in (again, fresh):
        with torch.no_grad():
            assert torch.equal(other.eval()(images, tasks), module.eval()(images, tasks))
        state = other.state_dict()
        assert state.keys() == module.state_dict().keys()
        assert all(
            torch.equal(v, state[k]) for k, v in module.state_dict().items() if torch.is_tensor(v)
        )
    with pytest.raises(ConfigError, match="has its model already"):
        load_memory(kind(make(), **hyper), tmp_path / "memory", model=make())
