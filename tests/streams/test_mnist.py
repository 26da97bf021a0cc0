"""The paper's streams on the real MNIST, checked against its files read with NumPy alone."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.streams import STREAMS, digits, make_stream, permnist, tdigits

ROOT = os.environ.get("AVALANCHE_DGM_DATA")
pytestmark = pytest.mark.skipif(
    not ROOT or not (Path(ROOT) / "MNIST" / "raw").is_dir(),
    reason="needs the real MNIST; AVALANCHE_DGM_DATA does not name a folder with MNIST/raw",
)

COUNTS = {
    "train": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    "t10k": [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
}


@pytest.fixture(scope="module")
def raw():
    """The files: {"train" | "t10k": (images uint8 (N, 28, 28), labels)}."""
    folder = Path(ROOT) / "MNIST" / "raw"
    return {
        part: (
            np.fromfile(folder / f"{part}-images-idx3-ubyte", np.uint8, offset=16).reshape(
                -1, 28, 28
            ),
            np.fromfile(folder / f"{part}-labels-idx1-ubyte", np.uint8, offset=8),
        )
        for part in ("train", "t10k")
    }


def images_of(experience):
    """All images as bytes (N, 28, 28)."""
    stacked = torch.stack([experience.dataset[i][0] for i in range(len(experience.dataset))])
    return (stacked[:, 0] * 255).round().to(torch.uint8).numpy()


def test_digits_holds_every_image_of_one_digit(raw):
    benchmark = digits()
    for part, stream in (("train", benchmark.train_stream), ("t10k", benchmark.test_stream)):
        assert [len(e.dataset) for e in stream] == COUNTS[part]
        pixels, labels = raw[part]
        for digit in (0, 7):
            assert set(stream[digit].classes_in_this_experience) == {digit}
            np.testing.assert_array_equal(images_of(stream[digit]), pixels[labels == digit])


def test_split_mnist_counts():
    benchmark = make_stream("split-mnist", task_labels=True)
    counts = COUNTS["train"]
    for number, experience in enumerate(benchmark.train_stream):
        assert set(experience.classes_in_this_experience) == {2 * number, 2 * number + 1}
        assert experience.task_labels == [number]
        assert len(experience.dataset) == counts[2 * number] + counts[2 * number + 1]


@pytest.fixture(scope="module")
def small_permnist():
    return permnist(n_train=400, repeat=(0, 5), task_labels=True, seed=5)


def test_permnist_transforms(small_permnist, raw):
    pixels, labels = raw["t10k"]
    tests = [images_of(e) for e in small_permnist.test_stream]
    assert len(tests) == 6
    assert all(len(t) == 10_000 for t in tests)
    for experience in small_permnist.test_stream:
        assert [experience.dataset[i][1] for i in range(50)] == labels[:50].tolist()

    black, white = pixels.copy(), pixels.copy()
    black[:, 10:18, 10:18] = 0
    white[:, 10:18, 10:18] = 255
    np.testing.assert_array_equal(tests[0], pixels)
    np.testing.assert_array_equal(tests[1], black)
    np.testing.assert_array_equal(tests[2], white)
    np.testing.assert_array_equal(tests[5], pixels[:, :, ::-1])
    for permuted, low, high in ((tests[3], 10, 18), (tests[4], 8, 20)):
        outside = np.ones((28, 28), bool)
        outside[low:high, low:high] = False
        np.testing.assert_array_equal(permuted[:, outside], pixels[:, outside])
        before = pixels[:, low:high, low:high].reshape(10_000, -1)
        after = permuted[:, low:high, low:high].reshape(10_000, -1)
        assert not np.array_equal(before, after)
        # One fixed permutation for all images: the columns are the same, in another order.
        assert sorted(map(bytes, before.T.copy())) == sorted(map(bytes, after.T.copy()))


def test_permnist_tasks_and_repetitions(small_permnist):
    train = small_permnist.train_stream
    assert [len(e.dataset) for e in train] == [400] * 8
    assert [e.task_labels for e in train] == [[t] for t in (0, 1, 2, 3, 4, 5, 0, 5)]
    assert [e.task_name for e in train][6:] == ["original", "mirrored"]
    assert [e.current_experience for e in train] == list(range(8))
    for experience in train:
        assert set(experience.classes_in_this_experience) == set(range(10))
    np.testing.assert_array_equal(images_of(train[0]), images_of(train[6]))
    np.testing.assert_array_equal(images_of(train[5]), images_of(train[7]))
    # Each task draws its own images.
    assert not np.array_equal(images_of(train[0]), images_of(train[5])[:, :, ::-1])


def test_permnist_is_the_paper_s_by_default():
    benchmark = permnist()
    assert [len(e.dataset) for e in benchmark.train_stream] == [30_000] * 6
    assert [e.task_labels for e in benchmark.train_stream] == [[0]] * 6


def test_permnist_follows_the_seed(small_permnist):
    options = {"n_train": 20, "fraction": 1.0}
    first, again, other = (permnist(seed=s, **options) for s in (5, 5, 6))
    np.testing.assert_array_equal(
        images_of(first.train_stream[4]), images_of(again.train_stream[4])
    )
    assert not np.array_equal(
        images_of(first.test_stream[4])[:50], images_of(other.test_stream[4])[:50]
    )
    np.testing.assert_array_equal(
        images_of(first.test_stream[4])[:50], images_of(small_permnist.test_stream[4])[:50]
    )


@pytest.mark.parametrize("n_labels", [10, 40])
def test_tdigits(n_labels, raw):
    benchmark = tdigits(n_labels=n_labels, task_labels=True, fraction=0.1)
    assert benchmark.n_classes == n_labels
    assert len(benchmark.train_stream) == len(benchmark.test_stream) == 40
    for number, experience in enumerate(benchmark.train_stream):
        digit = number % 10
        label = number if n_labels == 40 else digit
        assert set(experience.classes_in_this_experience) == {label}
        assert {experience.dataset[i][1] for i in range(len(experience.dataset))} == {label}
        assert experience.task_labels == [number]
        assert len(experience.dataset) == round(0.1 * COUNTS["train"][digit])
        assert len(benchmark.test_stream[number].dataset) == round(0.1 * COUNTS["t10k"][digit])
    # Each orientation, recomputed from the first.
    upright, mirrored, inverted, diagonal = (
        images_of(benchmark.train_stream[4 + 10 * turn]) for turn in range(4)
    )
    np.testing.assert_array_equal(mirrored, upright[:, :, ::-1])
    np.testing.assert_array_equal(inverted, upright[:, ::-1, :])
    np.testing.assert_array_equal(diagonal, upright.transpose(0, 2, 1))
    fours = {image.tobytes() for image in raw["train"][0][raw["train"][1] == 4]}
    assert {image.tobytes() for image in upright} <= fours


def test_tdigits_is_four_times_mnist():
    benchmark = tdigits()
    assert sum(len(e.dataset) for e in benchmark.train_stream) == 240_000
    assert benchmark.train_stream[37].task_name == "digit 7 about the diagonal"
    few = tdigits(images_per_task=6000)
    assert [len(e.dataset) for e in few.train_stream][:10] == [
        min(6000, c) for c in COUNTS["train"]
    ]


@pytest.mark.parametrize("name", ["digits", "permnist", "tdigits", "split-mnist"])
def test_registry_agrees_with_what_is_built(name):
    spec = STREAMS[name]
    benchmark = make_stream(name, fraction=0.01)
    assert len(benchmark.train_stream) == spec.n_experiences
    assert benchmark.n_classes == spec.n_classes
    assert benchmark.input_shape == spec.input_shape


def test_wrong_options():
    with pytest.raises(ConfigError, match="tasks 0 to 5"):
        permnist(repeat=(6,))
    with pytest.raises(ConfigError, match="40 or 10"):
        tdigits(n_labels=20)
    with pytest.raises(ConfigError, match="n_train=0"):
        permnist(n_train=0)
