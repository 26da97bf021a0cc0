"""What runs of GAN memories leave beside their results, and the accuracies that papers report."""

import csv
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from runs_on_disk import result as made
from runs_on_disk import write

from avalanche_dgm import sklearn_digits
from avalanche_dgm.errors import ConfigError, DataError
from avalanche_dgm.experiments import (
    METHODS,
    ExperimentConfig,
    RunResult,
    figures,
    gan_files,
    storage,
)
from avalanche_dgm.experiments.methods import check_options, has_gan
from avalanche_dgm.experiments.results import Step
from avalanche_dgm.experiments.runner import RunOptions, run
from avalanche_dgm.experiments.sweep import Sweep, after_classes, generated
from avalanche_dgm.metrics.generator_quality import memory_of

TINY = {"n_train_per_class": 8, "fraction": 0.2}
COMMON = {
    *("results.json", "config.yaml", "accuracy.csv", "accuracy.png", "samples.png"),
    *("samples.csv", "sizes.csv", "samples-000.png", "samples-001.png", "panels"),
}


BACKENDS = ("avalanche", "lightning")


@pytest.fixture(autouse=True)
def few_steps_of_the_reference(monkeypatch):
    """How good it is matters to no test here."""
    monkeypatch.setattr("avalanche_dgm.metrics.generator_quality._LEAST_STEPS", 10)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def settings(method, **fields):
    options = {"n_experiences": 2, "stream_options": TINY, "fast": True, "device": "cpu"}
    return ExperimentConfig.create(method, "sklearn-digits", **{**options, **fields})


def sweep(folder, method, **fields):
    config = settings(method, **fields)
    run = Sweep(folder, RunOptions(overwrite=True))
    results = run.run({method: [config]})
    return results[method][0], run.summarise(results)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_writes_them(backend, tmp_path):
    write(tmp_path, made("dynamic-memory", n=8))
    for stale in ("samples-007.png", "usage.csv", "masks.csv", "quality.csv"):
        (tmp_path / stale).write_text("of another run")
    (tmp_path / "samples-of-mine.png").write_text("kept")
    result, text = sweep(tmp_path, "dynamic-memory", backend=backend)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == COMMON | {"usage.csv", "usage.png", "masks.csv", "samples-of-mine.png"}
    assert {row["experience"] for row in rows(tmp_path / "usage.csv")} == {"0", "1"}
    sizes = rows(tmp_path / "sizes.csv")
    assert [int(row["memory_bytes"]) for row in sizes] == [s.memory_bytes for s in result.steps]
    checksums = [row["sha256"] for row in rows(tmp_path / "samples.csv")]
    assert checksums[:5] == checksums[5:10], "what is frozen stays"
    assert np.asarray(Image.open(tmp_path / "usage.png")).std() > 10
    assert "samples-*.png" in text
    assert "samples-000.png" not in text
    assert "A5" not in text, "five classes an experience"
    assert "generated samples" not in text, "nobody asked for it"
    assert [step.generated_accuracy for step in result.steps] == [None, None]
    # Each step of the generator is looked at, of each experience, and its scale is Eq. 3's.
    masks, (n_steps, smax) = rows(tmp_path / "masks.csv"), (5, 1e5)
    for experience in "01":
        mine = [row for row in masks if row["experience"] == experience]
        layers = [row["layer"] for row in mine if row["step"] == "0"]
        assert len(layers) == len(set(layers)) > 1
        assert [row["step"] for row in mine] == [str(i) for i in range(n_steps) for _ in layers]
        scales = [float(row["scale"]) for row in mine if row["layer"] == layers[0]]
        assert scales == pytest.approx([1 / smax + smax * i / n_steps for i in range(n_steps)])


def test_other_methods(tmp_path):
    sweep(tmp_path / "mergan", "mergan")
    assert {path.name for path in (tmp_path / "mergan").iterdir()} == COMMON
    sweep(tmp_path / "dgr", "dgr")
    names = {path.name for path in (tmp_path / "dgr").iterdir()}
    shared = {"results.json", "config.yaml", "accuracy.csv", "accuracy.png", "samples.png"}
    assert names == shared | {"panels"}


def test_which_are_gans():
    gans = {name for name, method in METHODS.items() if has_gan(method)}
    assert gans >= {"dynamic-memory", "mergan", "ewc-generator", "gan-replay"}
    assert not gans & {"naive", "dgr", "dgdmn", "ewc", "joint", "altm", "generative-replay"}


def numbers(result):
    return [(step.fid, step.generated_accuracy) for step in result.steps]


def measured(folder):
    found = [row for row in rows(folder / "quality.csv") if row["class"] == "all"]
    return [(float(row["fid"]), float(row["generated_accuracy"])) for row in found]


@pytest.mark.parametrize("backend", BACKENDS)
def test_measuring_changes_nothing(backend, tmp_path):
    made = {}
    for quality in (False, True):
        folder = tmp_path / str(quality)
        torch.manual_seed(3)
        made[quality], text = sweep(folder, "mergan", backend=backend, quality=quality)
        assert ("generated samples that a classifier of real ones" in text) == quality
    plain, looked = made.values()
    assert looked.matrix == plain.matrix
    assert [s.histogram for s in looked.steps] == [s.histogram for s in plain.steps]
    for label, images in plain.samples.items():
        np.testing.assert_array_equal(looked.samples[label], images)
    files = [tmp_path / str(quality) / "samples.csv" for quality in (False, True)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not (tmp_path / "False" / "quality.csv").exists()
    found = rows(tmp_path / "True" / "quality.csv")
    classes = ["all", *"01234", "all", *"0123456789"]
    assert [row["class"] for row in found] == classes
    assert measured(tmp_path / "True") == numbers(looked)
    # Of each class there are as many samples, so that all of them is the mean over classes.
    accuracies = [float(row["generated_accuracy"]) for row in found]
    assert accuracies[0] == pytest.approx(np.mean(accuracies[1:6]))
    assert accuracies[6] == pytest.approx(np.mean(accuracies[7:]))
    saved = json.loads((tmp_path / "True" / "results.json").read_text())
    assert [(s["fid"], s["generated_accuracy"]) for s in saved["steps"]] == numbers(looked)


@pytest.mark.parametrize("backend", BACKENDS)
def test_measured_against_all_training_images(backend, tmp_path, monkeypatch):
    made = []

    class Measure:
        def __init__(self, images, labels, *, seed):
            made.append((images, labels, seed))

        def measure(self, method):
            learned = memory_of(method).learned
            return SimpleNamespace(
                fid=learned / 10,
                generated_accuracy=learned / 100,
                fid_per_class={},
                accuracy_per_class={},
            )

    monkeypatch.setattr(gan_files, "GeneratorQuality", Measure)
    config = settings("gan-replay", seed=4, backend=backend, quality=True)
    # With a folder and without one.
    results = run(config, folder=tmp_path), run(config)
    assert [numbers(result) for result in results] == [[(0.5, 0.05), (1.0, 0.1)]] * 2
    assert len(made) == 2, "one reference a run"
    stream = sklearn_digits(n_experiences=2, seed=4, **TINY).train_stream
    expected = torch.stack([image for experience in stream for image, *_ in experience.dataset])
    for images, labels, seed in made:
        assert torch.equal(images, expected)
        assert labels.bincount().tolist() == [8] * 10
        assert seed == 4


@pytest.mark.parametrize("backend", BACKENDS)
def test_measured_after_an_interruption(backend, tmp_path, monkeypatch):
    config = settings("dynamic-memory", backend=backend, quality=True)
    real = storage.write_result

    def fail(folder, result):
        if len(result.steps) == 2:
            raise KeyboardInterrupt  # What was measured of the second is in no results.
        real(folder, result)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_result", fail)
        with pytest.raises(KeyboardInterrupt):
            run(config, folder=tmp_path / "a")
    resumed = run(config, folder=tmp_path / "a", resume=True)
    through = run(config, folder=tmp_path / "b")
    assert numbers(resumed) == numbers(through) == measured(tmp_path / "b")
    assert resumed.matrix == through.matrix
    assert None not in numbers(resumed)[1]
    for name in ("quality.csv", "masks.csv", "usage.csv", "samples.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert numbers(storage.read_result(tmp_path / "a")) == numbers(through)


@pytest.mark.slow
def test_measured_in_processes_of_their_own(tmp_path):
    """What the first of them finds comes back to the one that started them."""
    trainer = {"devices": 2, "accelerator": "cpu", "strategy": "ddp_spawn"}
    options = {"backend": "lightning", "quality": True, "trainer": trainer}
    result = run(settings("dynamic-memory", **options), folder=tmp_path)
    assert numbers(result) == measured(tmp_path)
    assert len(result.steps) == 2
    assert numbers(storage.read_result(tmp_path)) == numbers(result)
    assert {row["experience"] for row in rows(tmp_path / "masks.csv")} == {"0", "1"}


@pytest.mark.parametrize("method", ["naive", "dgr", "altm-generated", "joint", "ewc"])
def test_without_a_gan_there_is_nothing_to_measure(method, tmp_path):
    with pytest.raises(ConfigError, match=f"--quality.*{method} has none.*mergan, mergan-al"):
        check_options(settings(method, quality=True))


def test_results_from_before_it_could_be_measured():
    saved = result(3).to_json()
    del saved["config"]["quality"]
    for step in saved["steps"]:
        del step["fid"], step["generated_accuracy"]
    read = RunResult.from_json(json.loads(json.dumps(saved)))
    assert numbers(read) == [(None, None)] * 3
    assert read.config.differences(ExperimentConfig(method="mergan")) == []
    assert generated([read]) is None


def result(n, tasks=None, method="mergan", add=0.0):
    """After i classes, the j-th of them is known to (i + j) / 100."""
    matrix = [[(i + j) / 100 + add if j < i else 0.0 for j in range(n)] for i in range(1, n + 1)]
    return RunResult(
        config=ExperimentConfig(method=method),
        tasks=[str(j) for j in range(n)] if tasks is None else tasks,
        order=list(range(n)),
        steps=[Step(experience=i, accuracy=row) for i, row in enumerate(matrix)],
    )


def test_accuracies_after_five_and_ten_classes():
    ten = result(10)
    assert ten.after_classes(5) == pytest.approx((5 + 2) / 100)
    assert ten.after_classes(10) == pytest.approx((10 + 4.5) / 100)
    line = after_classes([ten, result(10, add=0.1)])
    assert line.startswith("mergan: A5 .120  A10 .195 (")
    assert after_classes([result(6)]).startswith("mergan: A5 .070 (")
    assert after_classes([result(4)]) is None
    assert after_classes([result(10, method="dgr")]) is None
    pairs = result(5, tasks=["0/1", "2/3", "4/5", "6/7", "8/9"])
    assert pairs.after_classes(5) is None
    perfect = result(5, add=1.0 - 0.07)
    assert math.isclose(perfect.after_classes(5), 1.0)
    assert after_classes([perfect]).startswith("mergan: A5 1.000 (")


def test_generated_samples_after_five_and_ten_classes():
    """MeRGAN's measure, in a line of its own and nowhere near A5."""

    def of(n, add=0.0, **more):
        made = result(n, **more)
        for i, step in enumerate(made.steps):
            step.generated_accuracy = (i + 1) / 20 + add
        return made

    line = generated([of(10), of(10, add=0.02)])
    assert line == (
        "mergan: generated samples that a classifier of real ones takes for their class:"
        " after 5 classes .260 ± .014, after 10 .510 ± .014"
    )
    assert generated([of(6)]).endswith("their class: after 5 classes .250")
    pairs = of(5, tasks=["0/1", "2/3", "4/5", "6/7", "8/9"])
    assert generated([pairs]).endswith("their class: after the last experience .250")
    assert generated([of(10, add=0.5)]).endswith("after 5 classes .750, after 10 1.000")
    assert generated([of(10), result(10)]) is None, "of all seeds or of none"
    assert generated([result(10)]) is None


def test_files_that_are_none_of_a_log(tmp_path):
    (tmp_path / "masks.csv").write_text("experience,layer,step\n0,wide,0\n")
    with pytest.raises(DataError, match="GeneratorLog"):
        figures.usage(tmp_path / "masks.csv")
    with pytest.raises(DataError, match=r"no nothing\.csv"):
        figures.usage(tmp_path / "nothing.csv")


def test_bars_are_as_high_as_the_layer(tmp_path):
    (tmp_path / "usage.csv").write_text(
        "experience,layer,width,reserved,reused,free\n0,wide,8,3,0,5\n1,wide,11,2,1,6\n"
    )
    (axes,) = figures.usage(tmp_path / "usage.csv").axes
    heights = [[bar.get_height() for bar in part] for part in axes.containers]
    # Reserved, reused, reserved before but not used, free.
    assert heights == [[3, 2], [0, 1], [0, 2], [5, 6]]
    tops = [bar.get_y() + bar.get_height() for bar in axes.containers[-1]]
    assert tops == [8, 11]
