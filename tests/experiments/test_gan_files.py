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
    *("samples-000.png", "samples-001.png", "panels"),
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
    assert names == {"results.json", "accuracy.csv", "accuracy.png", "samples.png", "panels"}


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


def test_files_that_are_none_of_a_log(tmp_path):
    (tmp_path / "masks.csv").write_text("experience,layer,step\n0,wide,0\n")
    with pytest.raises(DataError, match="GeneratorLog"):
        gan_figures.usage(tmp_path / "masks.csv")
    with pytest.raises(DataError, match="cannot be read"):
        gan_figures.usage(tmp_path / "nothing.csv")


def test_bars_are_as_high_as_the_layer(tmp_path):
    (tmp_path / "usage.csv").write_text(
        "experience,layer,width,reserved,reused,free\n0,wide,8,3,0,5\n1,wide,11,2,1,6\n"
    )
    (axes,) = gan_figures.usage(tmp_path / "usage.csv").axes
    heights = [[bar.get_height() for bar in part] for part in axes.containers]
    # Reserved, reused, reserved before but not used, free.
    assert heights == [[3, 2], [0, 1], [0, 2], [5, 6]]
    tops = [bar.get_y() + bar.get_height() for bar in axes.containers[-1]]
    assert tops == [8, 11]
