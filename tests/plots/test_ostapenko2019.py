"""The figures of Ostapenko et al. 2019 show what a generator's log says."""

import numpy as np
import pytest
from driver import Driver, digits, network

from avalanche_dgm.errors import DataError
from avalanche_dgm.methods import DynamicMemory
from avalanche_dgm.metrics import GeneratorLog
from avalanche_dgm.plots import ostapenko2019

SMALL = {"generator_steps": 4, "width": 4, "discriminator_width": 4, "latent": 16, "batch_size": 16}


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """The folder of a log over two digits."""
    folder = tmp_path_factory.mktemp("log")
    method = DynamicMemory(seed=0, **SMALL)
    driver = Driver(method, network(), steps=2)
    written = GeneratorLog(folder, method, n_samples=3)
    for label in (4, 7):
        driver.train(digits(label, per_class=16))
        written.note()
    return folder


def test_samples_of_every_class_after_every_task(log):
    figure = ostapenko2019.samples(log)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["after task 0", "after task 1"]
    names = [[t.get_text() for t in axes.get_yticklabels()] for axes in figure.axes]
    assert names == [["4"], ["4", "7"]]
    first, second = (axes.images[0].get_array() for axes in figure.axes)
    assert np.array_equal(first[:8], second[:8]), "what is frozen stays"
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim(), "on one scale"
    centres = figure.axes[1].get_yticks()
    assert centres == pytest.approx([len(second) / 4, 3 * len(second) / 4])


def test_use_of_the_log(log):
    figure = ostapenko2019.usage(log)
    tops = [[bar.get_y() + bar.get_height() for bar in axes.containers[-1]] for axes in figure.axes]
    rows = (log / "usage.csv").read_text().splitlines()[1:]
    widths = [int(row.split(",")[2]) for row in rows]
    assert sorted(w for bars in tops for w in bars) == sorted(widths)
    for axes, bars in zip(figure.axes, tops, strict=True):
        (worst,) = axes.lines
        assert worst.get_ydata().tolist() == [bars[0], 2 * bars[0]]


def test_samples_of_a_long_stream_are_in_rows(tmp_path, log):
    picture = (log / "samples-000.png").read_bytes()
    lines = ["experience,task,class,sha256"]
    for i in range(7):
        (tmp_path / f"samples-{i:03d}.png").write_bytes(picture)
        lines += [f"{i},{j},0,x" for j in range(i + 1)]
    (tmp_path / "samples.csv").write_text("\n".join(lines) + "\n")
    figure = ostapenko2019.samples(tmp_path)
    assert [axes.get_visible() for axes in figure.axes] == [True] * 7 + [False]
    assert [t.get_text() for t in figure.axes[1].get_yticklabels()] == ["0: 0", "1: 0"]
    (tmp_path / "samples-003.png").unlink()
    with pytest.raises(DataError, match="samples-003.png, .* cannot be read"):
        ostapenko2019.samples(tmp_path)


def test_distances(tmp_path):
    (tmp_path / "quality.csv").write_text(
        "experience,class,fid,generated_accuracy\n"
        "0,all,2.0,0.9\n0,3,2.0,0.9\n1,all,3.0,0.8\n1,3,2.5,0.7\n1,4,1.0,0.9\n"
    )
    axes = ostapenko2019.distances(tmp_path).axes[0]
    shown = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert shown == {
        "class 3": [[0, 2.0], [1, 2.5]],
        "class 4": [[1, 1.0]],
        "all classes": [[0, 2.0], [1, 3.0]],
    }


def test_masks(tmp_path):
    (tmp_path / "masks.csv").write_text(
        "experience,layer,step,scale,width,active,soft_mean,soft_std\n"
        "0,wide,0,0.1,8,8,0.5,0\n0,wide,5,9.0,8,3,0.4,0.3\n"
        "1,wide,0,0.1,11,11,0.5,0\n1,wide,9,9.0,11,2,0.2,0.3\n"
    )
    above, below = ostapenko2019.masks(tmp_path).axes
    shares = [line.get_ydata().tolist() for line in above.lines]
    assert shares == [[1.0, 3 / 8], [1.0, 2 / 11]]
    assert [line.get_ydata().tolist() for line in below.lines] == [[0.5, 0.4], [0.5, 0.2]]
    assert [line.get_xdata().tolist() for line in above.lines] == [[-0.5, 0.5], [0.5, 1.5]]
    heights = [shade.get_paths()[0].vertices[:, 1] for shade in below.collections]
    assert [[h.min(), h.max()] for h in heights] == [pytest.approx([0.1, 0.7]), [0.0, 0.5]]


@pytest.mark.parametrize(
    ("draw", "name", "hint"),
    [
        (ostapenko2019.samples, "samples.csv", ""),
        (ostapenko2019.distances, "quality.csv", "GeneratorQuality"),
        (ostapenko2019.usage, "usage.csv", "DynamicMemory"),
        (ostapenko2019.masks, "masks.csv", "GeneratorObserver"),
    ],
)
def test_folders_that_are_none_of_a_log(draw, name, hint, tmp_path):
    with pytest.raises(DataError, match=f"no {name}.*{hint}"):
        draw(tmp_path)
    (tmp_path / name).write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="GeneratorLog"):
        draw(tmp_path)


@pytest.mark.parametrize("row", ["0,all", "0,all,much,0.9", "first,all,2.0,0.9"])
def test_rows_that_are_none_of_a_log(row, tmp_path):
    (tmp_path / "quality.csv").write_text(f"experience,class,fid,generated_accuracy\n{row}\n")
    with pytest.raises(DataError, match=r"quality.csv is no file .* experience, class, fid: \w"):
        ostapenko2019.distances(tmp_path)
