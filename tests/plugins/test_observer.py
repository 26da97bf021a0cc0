"""What is written about a generator: files, in Avalanche and without it."""

import csv
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from driver import Driver, digits, network
from PIL import Image

from avalanche_dgm import (
    DGRPlugin,
    DynamicMemory,
    DynamicMemoryPlugin,
    GeneratorObserver,
    MeRGANPlugin,
    maybe_load_checkpoint,
    save_checkpoint,
)
from avalanche_dgm.errors import ConfigError, UnknownTaskError
from avalanche_dgm.generators import build_generator
from avalanche_dgm.generators.gan_settings import MaskedGANSettings
from avalanche_dgm.generators.scaler import Scaler
from avalanche_dgm.methods import DynamicMemory as Method
from avalanche_dgm.metrics import GeneratorLog, GeneratorQuality, generator_log
from avalanche_dgm.metrics.mask_trace import MaskTrace

from .conftest import GAN, MASKED, mlp, naive, weights


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def pixels(path):
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("first", ["memory", "observer"])
def test_dynamic_memory(first, benchmark, tmp_path):
    plugin, observer = DynamicMemoryPlugin(**MASKED), GeneratorObserver(tmp_path, n_samples=4)
    both = [plugin, observer] if first == "memory" else [observer, plugin]
    strategy = naive(mlp(), *both)
    for experience in benchmark.train_stream[:3]:
        strategy.train(experience)
    generator = plugin.method.generator.network

    usage = rows(tmp_path / "usage.csv")
    expected = [
        {
            "experience": str(use["task"]),
            "layer": use["name"],
            **{k: str(use[k]) for k in ("width", "reserved", "reused", "free")},
        }
        for use in generator.usage()
    ]
    assert usage == expected
    assert {row["experience"] for row in usage} == {"0", "1", "2"}

    masks = rows(tmp_path / "masks.csv")
    steps = MASKED["generator_steps"]
    for experience in range(3):
        mine = [row for row in masks if row["experience"] == str(experience)]
        assert {row["layer"] for row in mine} == set(generator.groups)
        assert sorted({int(row["step"]) for row in mine}) == list(range(steps))
        assert all(0 <= int(row["active"]) <= int(row["width"]) for row in mine)
        assert all(0 <= float(row["soft_mean"]) <= 1 for row in mine)
        scales = [float(row["scale"]) for row in mine]
        assert scales == sorted(scales)
        assert scales[0] == pytest.approx(1 / MASKED["smax"])
    assert not generator._forward_hooks

    sizes = rows(tmp_path / "sizes.csv")
    assert [row["classes"] for row in sizes] == ["2", "4", "6"]
    assert int(sizes[-1]["memory_bytes"]) == plugin.memory_bytes()
    assert int(sizes[-1]["parameters"]) == sum(p.numel() for p in generator.parameters())
    assert float(sizes[-1]["capacity_ratio"]) == generator.capacity_ratio > 1

    # Frozen: not a bit of old samples changes, which pictures and checksums both show.
    checksums = rows(tmp_path / "samples.csv")
    assert len(checksums) == 2 + 4 + 6
    assert len({(row["class"], row["sha256"]) for row in checksums}) == 6
    pictures = [pixels(tmp_path / f"samples-00{i}.png") for i in range(3)]
    assert [picture.shape for picture in pictures] == [(9 * n + 1, 9 * 4 + 1, 3) for n in (2, 4, 6)]
    for former, later in pairwise(pictures):
        assert np.array_equal(former, later[: len(former)])


def test_what_forgets_changes(benchmark, tmp_path):
    options = {**GAN, "class_inputs": 10, "replay": "none"}
    strategy = naive(mlp(), MeRGANPlugin(**options), GeneratorObserver(tmp_path))
    strategy.train(benchmark.train_stream[:2])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["samples-000.png", "samples-001.png", "samples.csv", "sizes.csv"]
    sums = [row["sha256"] for row in rows(tmp_path / "samples.csv") if row["class"] in "01"]
    assert len(sums) == 4
    assert len(set(sums)) == 4


def test_nothing_else_changes(benchmark, tmp_path):
    def learn(*more):
        torch.manual_seed(0)
        net = mlp()
        plugin = DynamicMemoryPlugin(**MASKED)
        strategy = naive(net, plugin, *more)
        strategy.train(benchmark.train_stream[:2])
        return weights(net), weights(plugin.method.generator)

    data = digits(*range(4))
    quality = GeneratorQuality(data.images, data.labels)
    alone, observed = learn(), learn(GeneratorObserver(tmp_path, quality=quality))
    assert all(torch.equal(a, b) for a, b in zip(alone, observed, strict=True))
    found = rows(tmp_path / "quality.csv")
    assert [(row["experience"], row["class"]) for row in found] == [
        *((("0", c)) for c in ("all", "0", "1")),
        *((("1", c)) for c in ("all", "0", "1", "2", "3")),
    ]
    assert all(float(row["fid"]) > 0 for row in found)
    assert all(0 <= float(row["generated_accuracy"]) <= 1 for row in found)
    # What is frozen has the same quality for ever.
    assert found[1] | {"experience": ""} == found[4] | {"experience": ""}


def test_it_goes_on_from_a_checkpoint(benchmark, tmp_path):
    def make():
        model = mlp()
        return DynamicMemory(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.05),
            plugins=[GeneratorObserver(tmp_path / "log")],
            evaluator=None,
            **MASKED,
        )

    strategy = make()
    strategy.train(benchmark.train_stream[0])
    save_checkpoint(strategy, tmp_path / "c.pt")
    strategy.train(benchmark.train_stream[1])
    before = (tmp_path / "log" / "samples.csv").read_text()
    resumed, _ = maybe_load_checkpoint(make(), tmp_path / "c.pt")
    resumed.train(benchmark.train_stream[1])
    after = (tmp_path / "log" / "samples.csv").read_text()
    assert after == before, "the second experience is noted once, and again the same"


def test_a_log_without_a_framework(tmp_path):
    data = digits(0, 1)
    flat = [type(data)(d.images.flatten(1), d.labels, d.tasks, d.key) for d in (data, digits(2))]
    hyper = {k: v for k, v in MASKED.items() if k != "smax"} | {"masking": "weights"}
    method = Method(**hyper)
    log = GeneratorLog(tmp_path / "deep" / "folder", method)
    with pytest.raises(UnknownTaskError, match="Nothing was learned"):
        log.note()
    driver = Driver(method, network(), steps=2)
    log.watch()
    driver.train(flat[0])
    log.note()
    log.watch()
    driver.train(flat[1])
    log.note(1)
    # Of flat samples there are no pictures, and before the generator is there no masks to look at.
    assert sorted(path.name for path in log.folder.iterdir()) == [
        *("masks.csv", "samples.csv", "sizes.csv", "usage.csv")
    ]
    assert {row["experience"] for row in rows(log.folder / "masks.csv")} == {"1"}
    assert {row["experience"] for row in rows(log.folder / "usage.csv")} == {"0", "1"}


def test_what_was_seen_before_counts_for_its_experience_alone(tmp_path):
    method = Method(**MASKED)
    log = GeneratorLog(tmp_path)
    with pytest.raises(ConfigError, match="no adversarial generator"):
        log.watch()
    Driver(method, network(), steps=1).train(digits(0, 1))
    log.attach(method)
    seen = {"step": 7, "every": 2, "seen": []}
    log.set_state(seen)
    log.watch()
    assert log.state() == seen
    log.note()
    log.watch()
    assert log.state() == {"step": 0, "every": 1, "seen": []}
    log.unwatch()
    assert log.state() is None


def test_under_a_trainer(benchmark, tmp_path):
    from avalanche_dgm.lightning import DynamicMemoryModule, fit_stream
    from avalanche_dgm.lightning.package import pl

    class Watch(pl.Callback):
        def on_train_start(self, trainer, module):
            if not log.watching:
                log.watch()

    module = DynamicMemoryModule(mlp(), **MASKED)
    log = GeneratorLog(tmp_path, module)
    fit_stream(
        module,
        SimpleNamespace(
            train_stream=benchmark.train_stream[:2], test_stream=benchmark.test_stream[:2]
        ),
        test="none",
        trainer={"accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False},
        callbacks=[Watch()],
        after_experience=lambda result: log.note(len(result) - 1),
    )
    assert not log.watching
    for name in ("usage.csv", "samples.csv", "sizes.csv", "masks.csv"):
        assert {row["experience"] for row in rows(tmp_path / name)} == {"0", "1"}
    steps = {(row["experience"], row["step"]) for row in rows(tmp_path / "masks.csv")}
    assert len(steps) == 2 * MASKED["generator_steps"]


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_pictures_are_on_one_scale(channels, tmp_path, monkeypatch):
    data = digits(0)
    images = 3 * data.images.repeat(1, channels, 1, 1) - 1
    method = Method(**MASKED)
    learner = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64 * channels, 10))
    Driver(method, learner, steps=1).train(type(data)(images, data.labels, data.tasks, "0"))
    given = torch.stack([torch.full((channels, 8, 8), v) for v in (-1.0, 0.5, 2.0, 5.0)])
    monkeypatch.setattr(generator_log, "fixed_samples", lambda *_, **__: given)
    GeneratorLog(tmp_path, method, n_samples=4).note()
    picture = pixels(tmp_path / "samples-000.png")
    assert picture.shape == (10, 37, 3)
    assert [picture[5, 5 + 9 * i].tolist() for i in range(4)] == [
        [0, 0, 0],
        [128, 128, 128],
        [255, 255, 255],
        [255, 255, 255],
    ]


def test_looks_get_rarer(tmp_path):
    generator = build_generator(MaskedGANSettings(width=2, latent=3), Scaler((4,), (0.0,), (1.0,)))
    generator.begin_task()
    trace = MaskTrace(generator, points=5)
    for _ in range(50):
        assert generator(torch.randn(2, 3), scale=2.0).requires_grad
        with torch.no_grad():
            generator(torch.randn(2, 3), scale=2.0)
    found = trace.stop()
    assert sorted({look["step"] for look in found}) == list(range(0, 50, 8))
    assert {look["scale"] for look in found} == {2.0}
    assert all(look["active"] == look["width"] for look in found), "embeddings begin at 0"
    assert all((look["soft_mean"], look["soft_std"]) == (0.5, 0) for look in found)
    generator(torch.randn(2, 3), scale=2.0)
    assert trace.stop() == []


def test_what_it_cannot_watch(benchmark, tmp_path):
    with pytest.raises(ConfigError, match="DGRPlugin has no adversarial generator"):
        GeneratorObserver(tmp_path, watched=DGRPlugin())
    with pytest.raises(ConfigError, match="n_samples"):
        GeneratorObserver(tmp_path, n_samples=0)
    with pytest.raises(ConfigError, match="0 plugins"):
        naive(mlp(), DGRPlugin(generator_steps=1), GeneratorObserver(tmp_path)).train(
            benchmark.train_stream[0]
        )
    assert not any(tmp_path.iterdir())
