"""Front ends: the network's own features, frozen, of images in [0, 1]."""

import copy
import importlib.util

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.transforms import v2

import avalanche_dgm
from avalanche_dgm.errors import (
    ConfigError,
    DataError,
    RangeError,
    ShapeError,
    UnsupportedModelError,
)
from avalanche_dgm.streams import FrontEnd, front_end


def maps():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())


def images(n=5, side=8, seed=0):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_maps_are_pooled_and_the_preprocessing_comes_first():
    network = maps()
    front = front_end(network, size=16, preprocess=v2.Normalize([0.5] * 3, [0.25] * 3))
    x = images()
    larger = F.interpolate(x, (16, 16), mode="bilinear", antialias=True)
    expected = network.eval()((larger - 0.5) / 0.25).mean((2, 3))
    torch.testing.assert_close(front(x), expected)
    assert front(x).dtype == torch.float32
    assert not front(x).requires_grad


def test_vectors_stay_as_they_are():
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 7))
    torch.testing.assert_close(front_end(network)(images()), network(images()).detach())


def test_the_middle_square_of_images_of_any_size():
    network = nn.AvgPool2d(4)
    front = front_end(network, size=4)
    wide = torch.zeros(3, 4, 12)
    wide[:, :, 4:8] = 1.0
    small = torch.full((3, 2, 2), 0.5)
    torch.testing.assert_close(
        front([wide, small]), torch.tensor([[1.0, 1.0, 1.0], [0.5, 0.5, 0.5]])
    )
    with pytest.raises(ShapeError, match=r"different sizes.*size=224"):
        front_end(network)([wide, small])


def test_nothing_thaws_it_and_the_user_s_network_stays_its_own():
    network = maps().train()
    front = front_end(network)
    before = front(images())
    front.train()
    assert not any(module.training for module in front.network.modules())
    assert not any(p.requires_grad for p in front.parameters())
    assert all(module.training for module in network.modules())
    assert all(p.requires_grad for p in network.parameters())
    nn.init.zeros_(network[0].weight)
    network(images())
    assert torch.equal(front(images()), before)


def test_networks_of_other_types():
    front = front_end(maps().double())
    assert front(images()).dtype == torch.float32


@pytest.mark.parametrize(
    ("network", "x", "error", "message"),
    [
        (maps(), images() * 255, RangeError, r"from .* to 25\d.*in \[0, 1\]"),
        (maps(), images() - 0.5, RangeError, "Remove the normalisation"),
        (nn.Flatten(2), images(), UnsupportedModelError, r"shape \(5, 3, 64\)"),
        (nn.LSTM(8, 3), images()[:, 0], UnsupportedModelError, "returns a tuple"),
    ],
)
def test_what_it_refuses(network, x, error, message):
    with pytest.raises(error, match=message):
        front_end(network)(x)


def test_features_that_are_not_finite():
    network = maps()
    nn.init.constant_(network[0].bias, float("nan"))
    with pytest.raises(DataError, match="not finite"):
        front_end(network)(images())


def _one(x):
    return x


def _other(x):
    return 1 - x


def test_the_key_is_of_weights_and_preprocessing():
    network = maps()
    key = front_end(network, preprocess=_one).key()
    assert front_end(copy.deepcopy(network), preprocess=_one).key() == key
    changed = [
        front_end(network),
        front_end(network, preprocess=_other),
        front_end(network, size=16, preprocess=_one),
        front_end(nn.Sequential(*network, nn.Identity()), preprocess=_one),
    ]
    with torch.no_grad():
        network[1].running_mean[0] += 1e-6
    changed.append(front_end(network, preprocess=_one))
    keys = {front.key() for front in changed}
    assert len(keys) == len(changed)
    assert key not in keys


def test_a_front_end_is_one():
    front = FrontEnd(maps())
    assert front_end(front) is front
    assert avalanche_dgm.front_end is front_end


def test_names_that_are_none():
    with pytest.raises(ConfigError, match="'timm/<name>' or an nn.Module"):
        front_end("resnet18")


def test_without_timm_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ConfigError, match=r"pip install 'avalanche-dgm\[timm\]'"):
        front_end("timm/resnet18")


needs_timm = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None, reason="timm is an optional extra"
)


@needs_timm
def test_a_network_of_timm_has_its_preprocessing():
    import timm

    torch.manual_seed(0)
    front = front_end("timm/resnet10t", pretrained=False, size=32)
    torch.manual_seed(0)
    network = timm.create_model("resnet10t", num_classes=0).eval()
    x = images(3, side=32)
    mean, std = (torch.tensor(network.pretrained_cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
    torch.testing.assert_close(front(x), network((x - mean) / std).detach())
    assert front(images(2, side=40)[:, :1]).shape == (2, 512)


@needs_timm
def test_names_that_timm_does_not_know():
    with pytest.raises(ConfigError, match=r"no network 'resnet1'.*resnet1\d"):
        front_end("timm/resnet1")
