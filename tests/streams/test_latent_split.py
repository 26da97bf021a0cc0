"""The stream of the latent replay paper: its four cases, its pooled sets and its shares."""

from collections import Counter

import numpy as np
import pytest
import torch
from idx_files import write_idx
from sklearn.datasets import load_digits

from avalanche_dgm.errors import ConfigError, DataError
from avalanche_dgm.streams import STREAMS, latent_split, make_stream

CASES = {1: ("01234", "56789"), 2: ("56789", "01234"), 3: ("01256", "34789"), 4: ("56701", "89234")}
FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}


def samples(stream):
    """A stream as a multiset of (pixels, label), the pixels in 240ths: bytes and sixteenths."""
    counted = Counter()
    for experience in stream:
        for image, label, _ in (experience.dataset[i] for i in range(len(experience.dataset))):
            counted[(image.double().mul(4080).round().int().numpy().tobytes(), label)] += 1
    return counted


@pytest.mark.parametrize("case", CASES)
def test_cases(case):
    benchmark = make_stream("latent-split", dataset="sklearn-digits", case=case)
    for stream in (benchmark.train_stream, benchmark.test_stream):
        assert len(stream) == 2
        for experience, classes in zip(stream, CASES[case], strict=True):
            assert set(experience.classes_in_this_experience) == set(map(int, classes))
            assert experience.task_labels == [0]
            assert experience.task_name == f"classes {', '.join(classes)}"
    assert benchmark.n_classes == 10
    assert benchmark.input_shape == (1, 8, 8)


def test_all_images_once_and_a_tenth_of_every_class_held_out():
    benchmark = latent_split(dataset="sklearn-digits", case=3)
    raw = load_digits()
    expected = Counter(
        ((x * 255).astype(np.int32).tobytes(), int(y))
        for x, y in zip(raw.images, raw.target, strict=True)
    )
    train, test = samples(benchmark.train_stream), samples(benchmark.test_stream)
    assert train + test == expected
    held_out = Counter()
    for (_, label), n in test.items():
        held_out[label] += n
    assert held_out == {d: round(0.1 * n) for d, n in enumerate(np.bincount(raw.target))}


def test_held_out_images_follow_the_seed_not_the_case():
    first, second = (latent_split(dataset="sklearn-digits", case=c, seed=4) for c in (1, 4))
    other = latent_split(dataset="sklearn-digits", case=1, seed=5)
    assert samples(first.test_stream) == samples(second.test_stream)
    assert samples(first.test_stream) != samples(other.test_stream)


def test_options():
    benchmark = latent_split(
        dataset="sklearn-digits", task_labels=True, n_train_per_class=12, test_fraction=0.3
    )
    assert [e.task_labels for e in benchmark.train_stream] == [[0], [1]]
    assert [len(e.dataset) for e in benchmark.train_stream] == [60, 60]
    whole = latent_split(dataset="sklearn-digits")
    half = latent_split(dataset="sklearn-digits", fraction=0.5)
    for part, all_of_it in zip(half.train_stream, whole.train_stream, strict=True):
        assert len(part.dataset) == pytest.approx(len(all_of_it.dataset) / 2, abs=5)


@pytest.fixture(params=FOLDERS)
def small_set(request, tmp_path):
    """A set's files in torchvision's layout: 14 images of each class to train, 6 to test."""
    rng = np.random.default_rng(len(request.param))
    raw = tmp_path / FOLDERS[request.param] / "raw"
    raw.mkdir(parents=True)
    parts = {}
    for part, each in (("train", 14), ("t10k", 6)):
        pixels = rng.integers(0, 256, (10 * each, 28, 28), dtype=np.uint8)
        labels = np.arange(10 * each) % 10
        write_idx(raw / f"{part}-images-idx3-ubyte", pixels)
        write_idx(raw / f"{part}-labels-idx1-ubyte", labels)
        parts[part] = Counter(
            ((x.astype(np.int32) * 16).tobytes(), int(y))
            for x, y in zip(pixels, labels, strict=True)
        )
    return request.param, tmp_path, parts


def test_training_and_test_images_are_pooled(small_set):
    dataset, root, parts = small_set
    benchmark = make_stream("latent-split", root, dataset=dataset, case=2)
    assert samples(benchmark.train_stream) + samples(benchmark.test_stream) == (
        parts["train"] + parts["t10k"]
    )
    assert [len(e.dataset) for e in benchmark.train_stream] == [90, 90]
    assert [len(e.dataset) for e in benchmark.test_stream] == [10, 10]
    assert benchmark.input_shape == STREAMS["latent-split"].input_shape
    # Held out anew: not the set's own division.
    assert samples(benchmark.test_stream) - parts["t10k"]


@pytest.mark.parametrize("spelling", ["Sklearn-Digits", "SKLEARN_DIGITS", "sklearndigits"])
def test_names_in_any_spelling(spelling):
    assert latent_split(dataset=spelling).input_shape == (1, 8, 8)


def test_wrong_options_are_named(tmp_path):
    with pytest.raises(ConfigError, match="'emnist' is not a known data set.*MNIST"):
        latent_split(dataset="emnist")
    with pytest.raises(ConfigError, match=r"case is 5.*4 \[5, 6, 7, 0, 1\] then"):
        latent_split(dataset="sklearn-digits", case=5)
    with pytest.raises(ConfigError, match="test_fraction=1"):
        latent_split(dataset="sklearn-digits", test_fraction=1)
    with pytest.raises(DataError, match="KMNIST cannot be read"):
        latent_split(tmp_path, dataset="KMNIST")


def test_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    latent_split(dataset="sklearn-digits", fraction=0.5)
    assert torch.equal(torch.rand(3), expected)
