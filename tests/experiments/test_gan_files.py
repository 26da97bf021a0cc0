"""What runs of GAN memories leave beside their results, and the accuracies that papers report."""

import csv
import math

import numpy as np
import pytest
from PIL import Image

from avalanche_dgm.errors import DataError
from avalanche_dgm.experiments import METHODS, ExperimentConfig, RunResult, gan_figures, gan_files
from avalanche_dgm.experiments.results import Step
from avalanche_dgm.experiments.session import Session, after_classes

TINY = {"n_train_per_class": 8, "fraction": 0.2}
COMMON = {
    *("results.json", "accuracy.csv", "accuracy.png", "samples.png", "samples.csv", "sizes.csv"),
    *("samples-000.png", "samples-001.png"),
}


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def session(folder, method, **fields):
    options = {"n_experiences": 2, "stream_options": TINY, "fast": True, "device": "cpu"}
    config = ExperimentConfig.create(method, "sklearn-digits", **{**options, **fields})
    run = Session(folder, overwrite=True)
    results = run.run({method: [config]})
    return results[method][0], run.conclude(results)


@pytest.mark.parametrize("backend", ["avalanche", "lightning"])
def test_a_run_writes_them(backend, tmp_path):
    for stale in ("samples-007.png", "usage.csv"):
        (tmp_path / stale).write_text("of another run")
    (tmp_path / "samples-of-mine.png").write_text("kept")
    result, text = session(tmp_path, "dynamic-memory", backend=backend)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == COMMON | {"usage.csv", "usage.png", "samples-of-mine.png"}
    assert {row["experience"] for row in rows(tmp_path / "usage.csv")} == {"0", "1"}
    sizes = rows(tmp_path / "sizes.csv")
    assert [int(row["memory_bytes"]) for row in sizes] == [s.memory_bytes for s in result.steps]
    checksums = [row["sha256"] for row in rows(tmp_path / "samples.csv")]
    assert checksums[:5] == checksums[5:10], "what is frozen stays"
    assert np.asarray(Image.open(tmp_path / "usage.png")).std() > 10
    assert "samples-*.png" in text
    assert "samples-000.png" not in text
    assert "A5" not in text, "five classes an experience"


def test_other_methods(tmp_path):
    session(tmp_path / "mergan", "mergan")
    assert {path.name for path in (tmp_path / "mergan").iterdir()} == COMMON
    session(tmp_path / "dgr", "dgr")
    names = {path.name for path in (tmp_path / "dgr").iterdir()}
    assert names == {"results.json", "accuracy.csv", "accuracy.png", "samples.png"}


def test_which_are_gans():
    gans = {name for name in METHODS if gan_files.is_gan(ExperimentConfig(method=name))}
    assert gans >= {"dynamic-memory", "mergan", "ewc-generator", "gan-replay"}
    assert not gans & {"naive", "dgr", "dgdmn", "ewc", "joint", "altm", "generative-replay"}


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


def test_figures(tmp_path):
    (tmp_path / "quality.csv").write_text(
        "experience,class,fid,generated_accuracy\n"
        "0,all,2.0,0.9\n0,3,2.0,0.9\n1,all,3.0,0.8\n1,3,2.5,0.7\n1,4,1.0,0.9\n"
    )
    (tmp_path / "masks.csv").write_text(
        "experience,layer,step,scale,width,active,soft_mean\n"
        "0,wide,0,0.1,8,8,0.5\n0,wide,5,9.0,8,3,0.4\n1,wide,0,0.1,11,11,0.5\n1,wide,9,9.0,11,2,0.2\n"
    )
    gan_figures.distances(tmp_path / "quality.csv", tmp_path / "fid.png")
    gan_figures.masks(tmp_path / "masks.csv", tmp_path / "deep" / "masks.png")
    for name in ("fid.png", "deep/masks.png"):
        assert np.asarray(Image.open(tmp_path / name)).std() > 5
    with pytest.raises(DataError, match="GeneratorLog"):
        gan_figures.usage(tmp_path / "masks.csv", tmp_path / "usage.png")
    with pytest.raises(DataError, match="cannot be read"):
        gan_figures.usage(tmp_path / "nothing.csv", tmp_path / "usage.png")


def test_bars_are_as_high_as_the_layer(tmp_path, monkeypatch):
    (tmp_path / "usage.csv").write_text(
        "experience,layer,width,reserved,reused,free\n0,wide,8,3,0,5\n1,wide,11,2,1,6\n"
    )
    drawn = []
    monkeypatch.setattr(gan_figures, "save", lambda figure, path: drawn.append(figure))
    gan_figures.usage(tmp_path / "usage.csv", tmp_path / "usage.png")
    (axes,) = drawn[0].axes
    heights = [[bar.get_height() for bar in part] for part in axes.containers]
    # Reserved, reused, reserved before but not used, free.
    assert heights == [[3, 2], [0, 1], [0, 2], [5, 6]]
    tops = [bar.get_y() + bar.get_height() for bar in axes.containers[-1]]
    assert tops == [8, 11]
