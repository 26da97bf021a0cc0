"""Where data comes from: roots, torchvision's files, pairs of datasets, folders."""

import numpy as np
import pytest
import torch
from idx_files import write_idx
from PIL import Image
from torch.utils.data import TensorDataset

from avalanche_dgm.errors import ConfigError, DataError, LabelError, ShapeError
from avalanche_dgm.streams import digits, make_stream, split
from avalanche_dgm.streams.sources import find_root, load_pair, load_set, load_torchvision


@pytest.fixture
def no_root(monkeypatch):
    monkeypatch.delenv("AVALANCHE_DGM_DATA", raising=False)


@pytest.mark.usefixtures("no_root")
@pytest.mark.parametrize("name", ["digits", "permnist", "tdigits", "split-cifar10"])
def test_without_a_root_the_error_says_how_to_give_one(name):
    with pytest.raises(DataError) as caught:
        make_stream(name)
    for way in ("root=", "--data-root", "AVALANCHE_DGM_DATA", "download=True", "sklearn-digits"):
        assert way in str(caught.value)


def test_root_comes_from_the_argument_then_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("AVALANCHE_DGM_DATA", str(tmp_path / "environment"))
    assert find_root("MNIST", None, download=False) == tmp_path / "environment"
    assert find_root("MNIST", tmp_path, download=False) == tmp_path
    monkeypatch.delenv("AVALANCHE_DGM_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tmp_path in find_root("MNIST", None, download=True).parents


def test_absent_set_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(DataError, match="MNIST cannot be read from") as caught:
        digits(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "download=True" in str(caught.value)


def test_unknown_set(tmp_path):
    with pytest.raises(ConfigError, match="'EMNIST' is not a known.*CIFAR100.*pair"):
        split("EMNIST", tmp_path)


@pytest.fixture
def small_mnist(tmp_path):
    """Files in MNIST's format: three images of each digit to train, one to test."""
    rng = np.random.default_rng(0)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, each in (("train", 3), ("t10k", 1)):
        write_idx(raw / f"{part}-images-idx3-ubyte", rng.integers(0, 256, (10 * each, 28, 28)))
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(10 * each) % 10)
    return tmp_path


def test_files_in_mnist_format(small_mnist):
    train, test = load_torchvision("MNIST", small_mnist)
    raw = (small_mnist / "MNIST/raw/train-images-idx3-ubyte").read_bytes()[16:]
    expected = np.frombuffer(raw, np.uint8).reshape(30, 1, 28, 28) / np.float32(255)
    np.testing.assert_allclose(train.images.numpy(), expected, rtol=1e-6)
    assert train.labels.tolist() == [i % 10 for i in range(30)]
    assert len(test) == 10
    benchmark = split("MNIST", small_mnist, n_experiences=5)
    assert [len(e.dataset) for e in benchmark.train_stream] == [6] * 5
    assert [len(e.dataset) for e in benchmark.test_stream] == [2] * 5


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
def test_cifar_channels_come_first(name, tmp_path, monkeypatch):
    from torchvision import datasets

    class Stub:
        """What torchvision's class offers once it has read its files."""

        def __init__(self, root, train, download):
            assert not download
            self.data = np.zeros((4, 32, 32, 3), np.uint8)
            self.data[:, 5, 7, 2] = 255
            self.targets = [0, 1, 2, 3]

    monkeypatch.setattr(datasets, name, Stub)
    train, _ = load_torchvision(name, tmp_path)
    assert train.images.shape == (4, 3, 32, 32)
    assert train.images[0].nonzero().tolist() == [[2, 5, 7]]
    assert train.images.max() == 1


def test_svhn_files(tmp_path):
    from scipy.io import savemat

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (32, 32, 3, 20), dtype=np.uint8)
    for part in ("train", "test"):
        # The files call the digit zero 10.
        savemat(tmp_path / f"{part}_32x32.mat", {"X": pixels, "y": (np.arange(20) % 10 + 1)})
    from torchvision import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.SVHN, "_check_integrity", lambda self: True)
        train, _ = load_torchvision("SVHN", tmp_path)
    assert train.images.shape == (20, 3, 32, 32)
    np.testing.assert_allclose(
        train.images[3].numpy(), pixels[:, :, :, 3].transpose(2, 0, 1) / np.float32(255), rtol=1e-6
    )
    assert train.labels[9] == 0


def test_pair_of_tensor_datasets():
    images = torch.rand(12, 3, 5, 5)
    data = TensorDataset(images, torch.arange(12) % 4)
    benchmark = split((data, data), n_experiences=2)
    assert benchmark.n_classes == 4
    assert benchmark.input_shape == (3, 5, 5)
    assert torch.equal(benchmark.train_stream[1].dataset[0][0], images[2])


def test_folders_of_images(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.fromarray(pixels).save(tmp_path / part / name / "0.png")
    benchmark = split((tmp_path / "train", str(tmp_path / "test")), n_experiences=2)
    image, label, _ = benchmark.test_stream[1].dataset[0]
    np.testing.assert_allclose(image.numpy(), pixels.transpose(2, 0, 1) / np.float32(255))
    assert label == 1
    # By name, with these folders in place of the set.
    folders = [str(tmp_path / part) for part in ("train", "test")]
    named = make_stream("split-cifar10", data=folders, n_experiences=2)
    assert torch.equal(named.test_stream[1].dataset[0][0], image)
    (tmp_path / "test" / "dog").rename(tmp_path / "test" / "horse")
    with pytest.raises(DataError, match="same sub-folders"):
        load_pair(tmp_path / "train", tmp_path / "test")
    with pytest.raises(DataError, match="not a folder with a subfolder of images"):
        load_pair(tmp_path / "train" / "cat", tmp_path / "test")


def test_broken_pairs_are_named():
    good = [(torch.zeros(1, 4, 4), 0)]
    with pytest.raises(DataError, match="training set is empty"):
        load_pair([], good)
    with pytest.raises(ShapeError, match=r"Image 1 of the test set .*\(1, 5, 5\)"):
        load_pair(good, [*good, (torch.zeros(1, 5, 5), 0)])
    with pytest.raises(LabelError, match="label -1"):
        load_pair([(torch.zeros(1, 4, 4), -1)], good)
    with pytest.raises(ShapeError, match=r"\(C, H, W\)"):
        load_pair([(torch.zeros(4), 0)], good)
    with pytest.raises(DataError, match="'class 1' has no images"):
        split((good, [*good, (torch.zeros(1, 4, 4), 1)]), n_experiences=2)


def test_sets_by_name_in_any_spelling_and_tensors():
    train, test = load_set("SKLEARN_Digits", seed=2)
    whole = split((train, test), n_experiences=1).train_stream[0].dataset
    named = split("sklearndigits", n_experiences=1, seed=2).train_stream[0].dataset
    for i in (0, 700, len(train) - 1):
        assert torch.equal(named[i][0], train.images[i])
        assert torch.equal(whole[i][0], train.images[i])


def test_what_is_no_pair_is_said():
    for data in (["a"], 3, ["a", "b", "c"]):
        with pytest.raises(ConfigError, match="not a known data set.*pair"):
            make_stream("split-svhn", data=data)
    with pytest.raises(ConfigError, match="'split-svhn' is of SVHN.*pair of folders"):
        make_stream("split-svhn", data="MNIST")
    with pytest.raises(ConfigError, match="'digits' has no option data"):
        make_stream("digits", data=["a", "b"])


def test_kinds_of_images():
    grey = np.arange(16, dtype=np.uint8).reshape(4, 4)
    for image in (Image.fromarray(grey), grey, torch.from_numpy(grey)):
        read, _ = load_pair([(image, 0)], [(image, 0)])
        np.testing.assert_allclose(read.images[0, 0].numpy(), grey / np.float32(255), rtol=1e-6)
