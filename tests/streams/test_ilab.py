"""iLab-20M from files named as its own are."""

import numpy as np
import pytest
import torch
from PIL import Image

from avalanche_dgm.errors import ConfigError, DataError
from avalanche_dgm.streams import make_stream
from avalanche_dgm.streams.ilab import ILabName, load_ilab


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # The example in the data set's own tools.
        ("car-i0100-b0025-c01-r04-l0-f0-crop256x256.png", ILabName("car", 100, 12)),
        ("boat-i0008-b0077-c10-r07-l4-f2.png", ILabName("boat", 8, 87)),
        ("f1car-i0001-b0000-c00-r00-l1-f1.jpg", ILabName("f1car", 1, 0)),
        ("ufo-i0012-b0003-c05-r03-l2-f0.JPG", None),
        ("boat-i0008-b0077-cropped.png", None),
        ("car-i0100-b0025-c11-r04-l0-f0.png", None),
        ("car-i0100-b0025-c01-r08-l0-f0.png", None),
        ("car-i0100-b0025-c01-r04-l0-f0.txt", None),
        ("0001.png", None),
    ],
)
def test_names(name, expected):
    assert ILabName.parse(name) == expected


def test_viewpoints_count_as_those_that_are_drawn():
    names = [
        ILabName.parse(f"car-i0001-b0001-c{c:02}-r{r:02}-l0-f0.png")
        for c in range(11)
        for r in range(8)
    ]
    assert [name.viewpoint for name in names] == list(range(88))


BACKGROUNDS = 3


@pytest.fixture
def root(tmp_path):
    """Five objects of each of three categories, three backgrounds, two cameras, two rotations.

    Grey levels say which: 50 a category, 8 an object.
    """
    for c, category in enumerate(("car", "boat", "plane")):
        for instance in range(1, 6):
            for background in range(BACKGROUNDS):
                folder = tmp_path / category / f"{category}-{instance:04}" / f"{background:04}"
                folder.mkdir(parents=True)
                for camera in (0, 10):
                    for rotation in (0, 5):
                        pixels = np.zeros((12, 20, 3), np.uint8)
                        pixels[:, 4:16] = 60 * c + 8 * instance
                        name = (
                            f"{category}-i{instance:04}-b{background:04}-c{camera:02}"
                            f"-r{rotation:02}-l0-f0.png"
                        )
                        Image.fromarray(pixels).save(folder / name)
        (tmp_path / category / "readme.txt").write_text("not a photograph")
    return tmp_path


def levels(views):
    return (views.images[:, 0, 2, 2] * 255).round().long()


def test_labels_and_pixels(root):
    train, test = load_ilab(root, n_train=100, n_test=100, size=8)
    everything = 3 * 5 * BACKGROUNDS * 4
    assert len(train) + len(test) == everything
    assert len(test) == everything // 5
    for views in (train, test):
        assert views.images.shape[1:] == (1, 8, 8)
        assert set(views.viewpoints.tolist()) == {0, 5, 80, 85}
        # Alphabetical: boat, car, plane; the square in the middle is one grey level.
        rank = torch.tensor([1, 0, 2])[levels(views) // 60]
        assert torch.equal(rank, views.categories)
        assert float(views.images.flatten(1).std(dim=1).max()) < 1e-3


def test_objects_are_held_out(root):
    train, test = load_ilab(root, n_train=100, n_test=100, size=8)
    assert not set(levels(train).tolist()) & set(levels(test).tolist())
    _, other = load_ilab(root, n_train=100, n_test=100, size=8, seed=1)
    _, again = load_ilab(root, n_train=100, n_test=100, size=8)
    assert torch.equal(test.images, again.images)
    assert set(levels(test).tolist()) != set(levels(other).tolist())


def test_options(root):
    train, test = load_ilab(root, n_train=2, n_test=1, size=6, channels=3)
    assert train.images.shape == (3 * 8, 3, 6, 6)
    assert test.images.shape == (3 * 4, 3, 6, 6)
    assert set(train.categories.tolist()) == {0, 1, 2}


def test_as_a_stream(root):
    benchmark = make_stream("turntable", ilab_root=root, n_train=4, n_test=2, size=16)
    assert [len(e.dataset) for e in benchmark.train_stream] == [3 * 4 * 4] * 2
    assert benchmark.train_stream[0].classes_in_this_experience == [0, 1, 2]
    assert benchmark.train_stream[1].classes_in_this_experience == [0, 5, 80, 85]
    assert benchmark.n_classes == 88
    domains = make_stream("turntable-domains", ilab_root=root, task_labels=False, categories=True)
    assert domains.train_stream[1].classes_in_this_experience == list(range(91, 101))


def test_what_is_wrong_is_named(root, tmp_path_factory):
    with pytest.raises(DataError, match="no photographs of iLab-20M"):
        load_ilab(tmp_path_factory.mktemp("empty"))
    with pytest.raises(ConfigError, match="n_test=0"):
        load_ilab(root, n_test=0)
    lonely = tmp_path_factory.mktemp("lonely")
    (lonely / "car-i0001-b0001-c00-r00-l0-f0.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match="only one object"):
        load_ilab(lonely)
    (lonely / "car-i0002-b0001-c00-r00-l0-f0.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match="cannot be read"):
        load_ilab(lonely)
