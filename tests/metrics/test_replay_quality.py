"""Metrics of what is replayed and of its cost, against formulas written out in the tests."""

import math
import pickle

import numpy as np
import pytest
import torch
from driver import Driver, digits, network
from torch import nn

from avalanche_dgm.errors import ConfigError, LabelError, ShapeError
from avalanche_dgm.methods import DGR, LatentReplay
from avalanche_dgm.metrics import (
    ClassCoverage,
    Cost,
    DensityCoverage,
    FrechetDistance,
    LabelAgreement,
    MemorySize,
    ReconstructionError,
    train_reference,
)
from avalanche_dgm.metrics.cost import memory_bytes_of

# What an empty metric says is tested, too.
pytestmark = pytest.mark.filterwarnings("ignore:The ``compute`` method of metric:UserWarning")


def closed_frechet(a, b):
    """The formula; the trace of the matrix root is a nuclear norm, also of singular covariances."""
    x, y = ((features - features.mean(0)) / math.sqrt(len(features) - 1) for features in (a, b))
    covariances = (x**2).sum() + (y**2).sum() - 2 * np.linalg.norm(x @ y.T, "nuc")
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + covariances)


class TestFrechetDistance:
    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize("offset", [0.0, 200.0, -1e4])
    def test_the_formula(self, seed, offset):
        rng = np.random.default_rng(seed)
        f = int(rng.integers(2, 7))
        a = rng.normal(size=(80, f)) @ rng.normal(size=(f, f)) + offset
        b = rng.normal(size=(60, f)) @ rng.normal(size=(f, f)) + offset + 1
        metric = FrechetDistance(n_features=f)
        for features, real in ((a, True), (b, False)):
            for part in np.array_split(features, [3, 3, 40]):
                metric.update(torch.tensor(part), real=real)
        assert float(metric.compute()) == pytest.approx(closed_frechet(a, b), rel=1e-6, abs=1e-6)

    def test_images_are_their_pixels_in_their_own_units(self):
        images = digits(1, 2).images
        other = digits(3, 4).images
        values = []
        for scale in (1.0, 255.0):
            metric = FrechetDistance(n_features=64)
            metric.update(scale * images, real=True)
            metric.update(scale * other, real=False)
            values.append(float(metric.compute()))
        assert values[1] == pytest.approx(values[0] * 255**2, rel=1e-4)
        a, b = (x.flatten(1).double().numpy() for x in (images, other))
        assert values[0] == pytest.approx(closed_frechet(a, b), rel=1e-3)

    def test_features_of_a_module_in_evaluation_mode(self):
        data = digits(0, 1, per_class=50)
        reference = train_reference(data.images, data.labels)
        metric = FrechetDistance(reference.features, n_features=64)
        module = nn.Sequential(nn.Flatten(1), nn.BatchNorm1d(64), nn.Linear(64, 5)).train()
        module.num_features = 5
        trained = FrechetDistance(module)
        before = pickle.dumps(module.state_dict())
        for one in (metric, trained):
            one.update(data.images, real=True)
            one.update(data.images.flip(3), real=False)
            assert float(one.compute()) > 0
        assert module.training
        assert pickle.dumps(module.state_dict()) == before
        assert module in set(trained.modules())
        again = pickle.loads(pickle.dumps(trained))
        assert float(again.compute()) == float(trained.compute())

    def test_little_says_nothing_and_the_same_is_zero(self):
        metric = FrechetDistance(n_features=3, reset_real_features=False)
        assert metric.compute().isnan()
        features = torch.randn(30, 3)
        metric.update(features, real=True)
        metric.update(features[:1], real=False)
        assert metric.compute().isnan()
        metric.reset()
        metric.update(features, real=False)
        assert 0 <= float(metric.compute()) < 1e-6

    def test_errors(self):
        for wrong in ({}, {"n_features": 0}, {"n_features": 2.0}):
            with pytest.raises(ConfigError, match="n_features"):
                FrechetDistance(**wrong)
        with pytest.raises(ShapeError, match="n_features=3"):
            FrechetDistance(n_features=3).update(torch.zeros(2, 4), real=True)
        with pytest.raises(ShapeError, match="must be"):
            FrechetDistance(lambda x: x, n_features=4).update(torch.zeros(2, 1, 2, 2), real=True)


def brute_force(real, made, k):
    """Density and coverage, by the definitions of Naeem et al., sample by sample."""
    radii = [
        sorted(math.dist(a, b) for j, b in enumerate(real) if j != i)[k - 1]
        for i, a in enumerate(real)
    ]
    balls = [
        [math.dist(a, b) < radius for b in made] for a, radius in zip(real, radii, strict=True)
    ]
    density = sum(map(sum, balls)) / (k * len(made))
    return density, sum(map(any, balls)) / len(real)


class TestDensityCoverage:
    @pytest.mark.parametrize("seed", range(8))
    def test_by_brute_force(self, seed):
        rng = torch.Generator().manual_seed(seed)
        n, m, k = (int(torch.randint(*r, (), generator=rng)) for r in ((8, 60), (1, 60), (1, 7)))
        real = torch.randn(n, 3, generator=rng)
        made = torch.randn(m, 3, generator=rng) * (0.3 + seed / 4)
        metric = DensityCoverage(3, k=k)
        for part in real.split(13):
            metric.update(part, real=True)
        metric.update(made, real=False)
        density, coverage = brute_force(real.double().tolist(), made.double().tolist(), k)
        values = metric.compute()
        assert float(values["density"]) == pytest.approx(density, abs=1e-6)
        assert float(values["coverage"]) == pytest.approx(coverage, abs=1e-6)

    def test_more_samples_than_are_computed_at_once(self, monkeypatch):
        real, made = torch.randn(50, 2), torch.randn(40, 2)
        values = []
        for rows in (512, 7):
            monkeypatch.setattr("avalanche_dgm.metrics.density_coverage._ROWS", rows)
            metric = DensityCoverage(2)
            metric.update(real, real=True)
            metric.update(made, real=False)
            values.append([float(v) for v in metric.compute().values()])
        assert values[0] == values[1]

    def test_a_lost_part_shows_in_coverage_and_noise_in_density(self):
        rng = torch.Generator().manual_seed(0)
        real = torch.randn(400, 4, generator=rng)
        real[200:] += 20
        values = {}
        for name, made in {
            "alike": torch.cat([torch.randn(200, 4, generator=rng) + at for at in (0, 20)]),
            "half": torch.randn(400, 4, generator=rng),
            "noise": 10 * torch.randn(400, 4, generator=rng),
        }.items():
            metric = DensityCoverage(4)
            metric.update(real, real=True)
            metric.update(made, real=False)
            values[name] = {key: float(value) for key, value in metric.compute().items()}
        assert values["alike"]["density"] == pytest.approx(1, abs=0.1)
        assert values["alike"]["coverage"] > 0.9
        assert values["half"]["density"] == pytest.approx(1, abs=0.1)
        assert 0.4 < values["half"]["coverage"] <= 0.5
        assert values["noise"]["density"] < 0.2

    def test_memory_is_bounded(self):
        metric, few = DensityCoverage(2, limit=10), DensityCoverage(2)
        real, made = torch.randn(30, 2), torch.randn(30, 2)
        for part in real.split(7):
            metric.update(part, real=True)
        metric.update(made, real=False)
        few.update(real[:10], real=True)
        few.update(made[:10], real=False)
        assert sum(map(len, metric.real)) == 10
        assert metric.compute() == few.compute()

    def test_a_batch_s_value_and_a_reset(self):
        metric = DensityCoverage(2, k=1)
        assert all(v.isnan() for v in metric.compute().values())
        metric.update(torch.randn(5, 2), real=True)
        assert all(v.isnan() for v in metric(torch.randn(3, 2), real=False).values())
        assert all(v.isfinite() for v in metric.compute().values())
        again = pickle.loads(pickle.dumps(metric))
        assert again.compute() == metric.compute()
        metric.reset()
        assert all(v.isnan() for v in metric.compute().values())

    def test_errors(self):
        for wrong in ({"n_features": 0}, {"n_features": 2, "k": 0}):
            with pytest.raises(ConfigError, match="at least 1"):
                DensityCoverage(**wrong)
        with pytest.raises(ConfigError, match="limit=5"):
            DensityCoverage(2, limit=5)
        with pytest.raises(ShapeError, match="n_features=2"):
            DensityCoverage(2).update(torch.zeros(3, 3), real=True)


class TestLabelAgreement:
    def test_by_hand(self):
        labels = torch.tensor([0, 0, 0, 1, 3])
        classes = torch.tensor([0, 0, 2, 1, 1])
        micro, macro, each = (LabelAgreement(4, average=a) for a in ("micro", "macro", "none"))
        for metric in (micro, macro, each):
            for answers in (classes, nn.functional.one_hot(classes, 5).float()):
                metric.update(answers[:2], labels[:2])
                metric.update(answers[2:], labels[2:])
        assert float(micro.compute()) == pytest.approx(3 / 5)
        assert float(macro.compute()) == pytest.approx((2 / 3 + 1 + 0) / 3)
        found = each.compute().tolist()
        assert found[:2] + found[3:] == pytest.approx([2 / 3, 1, 0])
        assert math.isnan(found[2])
        micro.reset()
        assert micro.compute().isnan()

    def test_updating_does_not_wait_for_the_device(self):
        metric = LabelAgreement(4).to("meta")
        metric.update(torch.zeros(3, 5, device="meta"), torch.zeros(3, dtype=int, device="meta"))

    def test_errors(self):
        for wrong in ({"n_classes": 0}, {"n_classes": 2, "average": "weighted"}):
            with pytest.raises(ConfigError, match="n_classes|average"):
                LabelAgreement(**wrong)
        metric = LabelAgreement(3)
        for answers, labels in (((2, 5), (3,)), ((2, 5, 5), (2,)), ((2,), (2, 1)), ((), ())):
            with pytest.raises(ShapeError, match="do not match"):
                metric.update(torch.zeros(answers), torch.zeros(labels, dtype=torch.int64))
        metric.update(torch.tensor([1, 2]), torch.tensor([3, -1]))
        with pytest.raises(LabelError, match="2 labels are not in 0 to 2"):
            metric.compute()


class TestClassCoverage:
    def test_by_hand(self):
        metric = ClassCoverage(6, known=(4, 0, 1, 1))
        assert float(metric.compute()["coverage"]) == 0
        assert metric.compute()["entropy"].isnan()
        # Class 5 is not known: it is no part of what there was to replay.
        metric.update(torch.tensor([0, 0, 0, 5]))
        metric.update(torch.tensor([1]))
        values = metric.compute()
        assert float(values["coverage"]) == pytest.approx(2 / 3)
        entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(3)
        assert float(values["entropy"]) == pytest.approx(entropy)

    @pytest.mark.parametrize(
        ("counts", "entropy"), [([5, 5, 5], 1.0), ([9, 0, 0], 0.0), ([4, 4, 0], 0.63093)]
    )
    def test_ends(self, counts, entropy):
        metric = ClassCoverage(3)
        metric.update(torch.repeat_interleave(torch.arange(3), torch.tensor(counts)))
        assert float(metric.compute()["entropy"]) == pytest.approx(entropy, abs=1e-5)

    def test_a_single_class(self):
        metric = ClassCoverage(3, known=[2])
        assert metric.compute()["entropy"].isnan()
        metric.update(torch.tensor([2, 2]))
        assert [float(v) for v in metric.compute().values()] == [1, 1]

    def test_errors(self):
        for known in ([], [3], [-1]):
            with pytest.raises(ConfigError, match="known"):
                ClassCoverage(3, known=known)
        with pytest.raises(ShapeError, match="Labels"):
            ClassCoverage(3).update(torch.zeros(2, 2, dtype=torch.int64))


class TestReconstructionError:
    def test_samples_count_and_batches_do_not(self):
        images, made = torch.rand(11, 1, 3, 3), torch.rand(11, 1, 3, 3)
        metric = ReconstructionError()
        for a, b in zip(images.split(4), made.split(4), strict=True):
            metric.update(a, b)
        values = metric.compute()
        assert float(values["squared"]) == pytest.approx(float((images - made).square().mean()))
        assert float(values["absolute"]) == pytest.approx(float((images - made).abs().mean()))
        metric.reset()
        assert metric.compute()["squared"].isnan()

    def test_errors(self):
        for a, b in (((2, 3), (3, 3)), ((2,), (2,)), ((2, 0), (2, 0))):
            with pytest.raises(ShapeError, match="cannot be compared"):
                ReconstructionError().update(torch.zeros(a), torch.zeros(b))


class TestMemorySize:
    def test_of_methods_and_modules(self):
        stored, generated = (
            LatentReplay(per_class=5, layer="1", seed=0),
            DGR(generator_steps=2, hidden=(8,), latent=2, seed=0),
        )
        metric = MemorySize()
        assert [int(v) for v in metric.compute().values()] == [0, 0, 0]
        for method in (stored, generated):
            Driver(method, network(), steps=2).train(digits(0, 1))
            metric.update(method)
            found = {name: int(value) for name, value in metric.compute().items()}
            assert found["bytes"] == memory_bytes_of(method) > 0
            assert found["stored_samples"] == method.stored_samples()
        assert found["parameters"] == sum(p.numel() for p in method.ltm.generator.parameters())
        assert stored.stored_samples() == 10
        layer = nn.Linear(3, 2)
        metric.update(layer)
        assert [int(v) for v in metric.compute().values()] == [32, 8, 0]
        assert [int(v) for v in metric(layer).values()] == [32, 8, 0]

    def test_errors(self):
        with pytest.raises(ConfigError, match="has no memory to measure"):
            MemorySize().update(3)


class TestCost:
    def test_a_batch_s_value_and_the_sum(self):
        metric = Cost(["generator"])
        assert metric.compute()["samples_per_second"].isnan()
        first = metric({"generator": 1.0}, shown=10, seconds=2.0)
        assert float(first["samples_per_second"]) == 5
        second = metric({"generator: 2": 2.0, "sleep": 4.0}, shown=20, seconds=8.0)
        assert float(second["seconds/generator"]) == 2
        values = {name: float(value) for name, value in metric.compute().items()}
        assert values == {
            "seconds": 10,
            "samples_per_second": 3,
            "seconds/generator": 3,
            "seconds/other": 4,
        }

    def test_errors(self):
        for phases in (["a", "a"], ["other"]):
            with pytest.raises(ConfigError, match="different names"):
                Cost(phases)
        for spent, shown, seconds in (({"a": -1.0}, 1, 1.0), ({}, -1, 1.0), ({}, 1, math.nan)):
            with pytest.raises(ConfigError, match="0 or more"):
                Cost().update(spent, shown=shown, seconds=seconds)
