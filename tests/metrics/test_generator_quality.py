"""Frechet distances and accuracies of generated samples, against what can be counted by hand."""

import numpy as np
import pytest
import scipy.linalg
import torch
import torchmetrics
from driver import Driver, digits, network
from torch import nn

from avalanche_dgm.errors import ConfigError, LabelError, ShapeError, UnknownTaskError
from avalanche_dgm.methods import DGR, DynamicMemory, MeRGAN
from avalanche_dgm.metrics import GeneratorQuality, frechet, train_reference
from avalanche_dgm.metrics import generator_quality as module
from avalanche_dgm.metrics.generator_quality import fixed_samples, frechet_distance

SMALL = {
    "generator_steps": 4,
    "width": 4,
    "discriminator_width": 4,
    "latent": 16,
    "batch_size": 16,
    "replay_per_class": 16,
}


@pytest.fixture(scope="module")
def real():
    return digits(*range(4), per_class=100)


@pytest.fixture(scope="module")
def reference(real):
    return train_reference(real.images, real.labels)


def learned(*experiences, kind=DynamicMemory, **hyper):
    method = kind(**{**SMALL, "seed": 0, **hyper})
    driver = Driver(method, network(), steps=2)
    for classes in experiences:
        driver.train(digits(*classes))
    return method


class Pretending:
    """Makes given samples in place of a memory's."""

    def __init__(self, monkeypatch, samples):
        self.asked = []

        def given(memory, row, n, *, seed=0):
            label = int(memory.classes.rows[row, 2])
            self.asked.append((label, n))
            return samples[label][:n]

        monkeypatch.setattr(module, "fixed_samples", given)


def by_class(data):
    return {c: data.images[data.labels == c] for c in data.classes}


def closed_form(a, b):
    difference = a.mean(0) - b.mean(0)
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(first @ second).real
    return difference @ difference + np.trace(first + second - 2 * root)


def test_the_distance_is_the_closed_form():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(200, 5)) @ rng.normal(size=(5, 5))
    b = rng.normal(size=(150, 5)) @ rng.normal(size=(5, 5)) + 1.0
    found = frechet_distance(torch.tensor(a), torch.tensor(b))
    assert found == pytest.approx(closed_form(a, b), rel=1e-6)
    assert frechet_distance(torch.tensor(a), torch.tensor(a)) == pytest.approx(0, abs=1e-4)


def test_one_dimension_by_hand():
    # (m1 - m2)^2 + (s1 - s2)^2 with means 1 and 4, standard deviations sqrt(2) and 2 sqrt(2).
    a, b = torch.tensor([[0.0], [2.0]]), torch.tensor([[2.0], [6.0]])
    assert frechet_distance(a, b) == pytest.approx(9 + 2)


def test_one_of_several_processes_waits_for_no_other(monkeypatch):
    def wait(*args, **kwargs):
        raise AssertionError("the others are elsewhere")

    monkeypatch.setattr(frechet.FrechetDistance, "_sync_dist", wait)
    monkeypatch.setattr(torchmetrics.metric, "jit_distributed_available", lambda: True)
    a = torch.tensor([[0.0], [2.0]])
    assert frechet_distance(a, a + 1) == pytest.approx(1)
    # And if it did, this test would see it.
    metric = frechet.FrechetDistance(n_features=1)
    for real in (True, False):
        metric.update(a, real=real)
    with pytest.raises(AssertionError, match="elsewhere"):
        metric.compute()


def test_fewer_samples_than_features():
    a = torch.randn(10, 40, generator=torch.Generator().manual_seed(0))
    assert np.isfinite(frechet_distance(a, a + 1))
    assert frechet_distance(a, a + 1) > 1


def test_distances_and_accuracy_of_a_memory(real, reference, monkeypatch):
    quality = GeneratorQuality(real.images, real.labels, reference=reference)
    method = learned((2,), (0, 1))
    parts = by_class(real)
    pretending = Pretending(monkeypatch, parts)
    same = quality.measure(method)
    assert sorted(same.fid_per_class) == sorted(same.accuracy_per_class) == [0, 1, 2]
    assert sorted(pretending.asked) == [(0, 100), (1, 100), (2, 100)]
    assert same.fid < 1e-3
    assert max(same.fid_per_class.values()) < 1e-3
    with torch.no_grad():
        right = {c: (reference(parts[c]).argmax(dim=1) == c).double() for c in (0, 1, 2)}
    for label, mine in right.items():
        assert same.accuracy_per_class[label] == pytest.approx(float(mine.mean()))
    assert same.generated_accuracy == pytest.approx(float(torch.cat(list(right.values())).mean()))
    assert same.generated_accuracy > 0.8

    # All zeros are the same zero, and a one is a two: the others stay as they were.
    collapsed = {**parts, 0: parts[0][:1].expand_as(parts[0]), 1: parts[2]}
    Pretending(monkeypatch, collapsed)
    worse = quality.measure(method)
    assert worse.fid_per_class[2] == same.fid_per_class[2]
    assert worse.fid_per_class[0] > 0.1
    assert worse.fid_per_class[1] > worse.fid_per_class[0]
    assert worse.fid > same.fid + 0.1
    assert worse.accuracy_per_class[1] < 0.2

    with torch.no_grad():
        features = {c: reference.features(x).double().numpy() for c, x in collapsed.items()}
        true = {c: reference.features(x).double().numpy() for c, x in parts.items()}
    together = closed_form(
        np.concatenate([true[c] for c in (0, 1, 2)]),
        np.concatenate([features[c] for c in (0, 1, 2)]),
    )
    assert worse.fid == pytest.approx(together, rel=1e-2)


def test_other_features_and_at_most_so_many_samples(real, monkeypatch):
    class Corner(nn.Module):
        def __init__(self):
            super().__init__()
            self.sizes = []

        def forward(self, images):
            assert not self.training
            self.sizes.append(len(images))
            return images[:, 0, 2:4, 3]

    class Answers(nn.Module):
        def forward(self, images):
            return nn.functional.one_hot(torch.zeros(len(images), dtype=torch.int64), 4).float()

    corner = Corner()
    quality = GeneratorQuality(
        real.images, real.labels, features=corner, reference=Answers(), n_per_class=30
    )
    method, parts = learned((0,), (1,)), by_class(real)
    shown = {c: 1 - x for c, x in parts.items()}
    Pretending(monkeypatch, shown)
    found = quality.measure(method)
    assert corner.training
    assert corner.sizes == [30] * (4 + 2)
    quality.measure(method)
    assert corner.sizes == [30] * (4 + 4), "real ones are described once"
    expected = closed_form(*(x[1][:30, 0, 2:4, 3].double().numpy() for x in (parts, shown)))
    assert found.fid_per_class[1] == pytest.approx(expected, rel=1e-4)
    assert found.generated_accuracy == 0.5


@pytest.mark.parametrize("kind", [DynamicMemory, MeRGAN])
def test_measuring_changes_nothing(kind, real, reference):
    quality = GeneratorQuality(real.images, real.labels, reference=reference, n_per_class=20)
    more = {"class_inputs": 8} if kind is MeRGAN else {}
    method = learned((0,), kind=kind, **more)
    state, outside = method.random.get_state(), torch.get_rng_state()
    weights = [p.clone() for p in method.parameters()]
    first, second = quality.measure(method), quality.measure(method)
    assert first == second
    assert torch.equal(torch.get_rng_state(), outside)
    after = method.random.get_state()
    assert after["seed"] == state["seed"]
    assert all(torch.equal(after["generators"][k], v) for k, v in state["generators"].items())
    assert all(torch.equal(a, b) for a, b in zip(method.parameters(), weights, strict=True))


def test_noise_is_fixed_for_a_class(monkeypatch):
    memory = learned((0, 1)).generator

    def noise(rows, rng):
        return torch.rand(len(rows), 1, 8, 8, generator=rng)

    monkeypatch.setattr(memory, "_generate", noise)
    once = fixed_samples(memory, 0, 5)
    assert torch.equal(once, fixed_samples(memory, 0, 5))
    assert not torch.equal(once, fixed_samples(memory, 0, 5, seed=1))
    assert not torch.equal(once, fixed_samples(memory, 1, 5))


@pytest.mark.parametrize("shape", [(3, 9, 7), (6,)])
def test_samples_of_any_shape(shape):
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    images = torch.rand(60, *shape, generator=rng) + 3 * labels.view(-1, *[1] * len(shape))
    before = torch.get_rng_state()
    reference = train_reference(images, labels)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.no_grad():
        assert reference.features(images).shape == (60, 64)
        assert (reference(images).argmax(dim=1) == labels).float().mean() > 0.9
        again = train_reference(images, labels)
        assert torch.equal(again(images), reference(images))


def test_what_cannot_be_measured(real, reference):
    images, labels = real.images, real.labels
    with pytest.raises(ShapeError, match="labels"):
        train_reference(images, labels[:-1])
    with pytest.raises(ConfigError, match="epochs"):
        train_reference(images, labels, epochs=0)
    with pytest.raises(ConfigError, match="n_per_class"):
        GeneratorQuality(images, labels, reference=reference, n_per_class=1)
    with pytest.raises(LabelError, match="class 9"):
        GeneratorQuality(images[:3], torch.tensor([1, 1, 9]), reference=reference)
    with pytest.raises(ConfigError, match="pass features"):
        GeneratorQuality(images, labels, reference=network())
    quality = GeneratorQuality(images, labels, reference=reference, n_per_class=20)
    with pytest.raises(ConfigError, match="DGR has no adversarial generator"):
        quality.measure(DGR())
    with pytest.raises(UnknownTaskError, match="Nothing was learned"):
        quality.measure(DynamicMemory())
    with pytest.raises(LabelError, match="Class 8"):
        quality.measure(learned((0, 8)))
    with pytest.raises(ShapeError, match="compare"):
        GeneratorQuality(
            torch.rand(20, 1, 12, 12), labels[:20], features=lambda x: x.flatten(1)
        ).measure(learned((0,)))
