"""Models as users have them, on a Trainer: they learn, or are refused before anything changed."""

import copy
import threading
from types import SimpleNamespace

import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import TransformGroups, make_avalanche_dataset
from backends import DUAL, SMALL
from torch import nn
from torch.nn.utils import weight_norm

from avalanche_dgm import sklearn_digits
from avalanche_dgm.errors import ConfigError, LabelError, ShapeError, UnsupportedModelError
from avalanche_dgm.lightning import (
    ALTMModule,
    DGDMNModule,
    DGRModule,
    LatentReplayModule,
    fit_stream,
)

MODULES = {
    "dgr": lambda model: DGRModule(model, seed=0, **SMALL),
    "dgdmn": lambda model: DGDMNModule(model, seed=0, **DUAL),
    "altm": lambda model: ALTMModule(model, seed=0, replay="stored", per_class=5),
    "latent": lambda model: LatentReplayModule(model, seed=0, layer="2", per_class=5),
}


@pytest.fixture(scope="module")
def short():
    whole = sklearn_digits(n_experiences=5, seed=0, n_train_per_class=20)
    return SimpleNamespace(
        train_stream=list(whole.train_stream)[:3], test_stream=list(whole.test_stream)[:3]
    )


def mlp(n_outputs=10, wrap=lambda layer: layer):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), wrap(nn.Linear(64, 24)), nn.ReLU(), wrap(nn.Linear(24, n_outputs))
    )


def learned(module, short, **options):
    trainer = {"accelerator": "cpu", "enable_progress_bar": False, "max_epochs": 1, **options}
    fit_stream(module, short, trainer=trainer)
    return torch.cat([p.detach().flatten().float() for p in module.model.parameters()])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODULES)
def test_a_model_in_double_precision_learns_the_same(name, short):
    single = learned(MODULES[name](mlp()), short)
    double = learned(MODULES[name](mlp().double()), short)
    torch.testing.assert_close(double, single, atol=2e-3, rtol=0.01)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODULES)
def test_autocast_around_the_trainer(name, short):
    """It copies each weight once, until its end: the copies must follow the weights."""
    expected = learned(MODULES[name](mlp()), short, max_epochs=40)
    start = torch.cat([p.detach().flatten() for p in mlp().parameters()])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = learned(MODULES[name](mlp()), short, max_epochs=40)
    assert (found - expected).norm() < 0.5 * (expected - start).norm()


def test_inference_mode_is_refused(short):
    with torch.inference_mode(), pytest.raises(ConfigError, match="inference_mode"):
        learned(MODULES["dgr"](mlp()), short)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODULES)
def test_training_transforms_of_another_shape(name, short):
    groups = TransformGroups({"train": (lambda x: x[:, 1:7, 1:7], None), "eval": (None, None)})
    cut = [make_avalanche_dataset(e.dataset, transform_groups=groups) for e in short.train_stream]
    stream = benchmark_from_datasets(train=cut, test=[e.dataset for e in short.test_stream])
    pooling = nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), *pooling)
    if name == "latent":
        assert torch.isfinite(learned(MODULES[name](model), stream)).all()
        return
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ShapeError, match=r"\(1, 6, 6\), but the memory replays \(1, 8, 8\)"):
        learned(MODULES[name](model), stream)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODULES)
def test_weight_norm_in_its_hook_form(name, short):
    assert torch.isfinite(learned(MODULES[name](mlp(wrap=weight_norm)), short)).all()


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("kind", ["lock", "narrow"])
def test_what_is_refused_changes_nothing(name, kind, short):
    model, error = mlp(1) if kind == "narrow" else mlp(), LabelError
    if kind == "lock":
        model.lock, error = threading.Lock(), UnsupportedModelError
    module = MODULES[name](model)
    before = copy.deepcopy(model.state_dict())
    keys = list(module.method.state_dict())
    with pytest.raises(error):
        learned(module, short)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert list(module.method.state_dict()) == keys
