"""Streams of features: the features of every image, in the stream's own order, computed once."""

import copy
import json

import numpy as np
import pytest
import torch
from avalanche.benchmarks import benchmark_with_validation_stream
from avalanche.benchmarks.scenarios.supervised import class_incremental_benchmark
from avalanche.benchmarks.utils import as_classification_dataset
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

from avalanche_dgm import feature_stream, sklearn_digits, split
from avalanche_dgm.errors import ConfigError, DataError, RangeError
from avalanche_dgm.streams import front_end, make_stream, turntable
from avalanche_dgm.streams import photos as photos_stream


class Counting(nn.Module):
    """Half, minus a little, of every value; and how many images it was shown in all."""

    seen = 0

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        type(self).seen += len(x)
        return x.flatten(1) * self.scale - 0.1


@pytest.fixture
def network():
    Counting.seen = 0
    return Counting()


def columns(experience):
    parts = list(zip(*experience.dataset, strict=True))
    return torch.stack(parts[0]), list(parts[1]), list(parts[2])


def samples_of(benchmark):
    return {
        name: [columns(experience) for experience in stream]
        for name, stream in benchmark.streams.items()
    }


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_stream_is_the_same_but_for_its_images(network, dtype):
    original = benchmark_with_validation_stream(
        sklearn_digits(n_experiences=5, task_labels=True, fraction=0.2), validation_size=0.2
    )
    made = feature_stream(original, network, dtype=dtype)
    mine, theirs = samples_of(made), samples_of(original)
    assert mine.keys() == theirs.keys() == {"train", "test", "valid"}
    for name in mine:
        for (x, y, t), (x2, y2, t2) in zip(mine[name], theirs[name], strict=True):
            assert x.dtype == torch.float32
            torch.testing.assert_close(x, x2.flatten(1) * 0.5 - 0.1, rtol=1e-3, atol=1e-4)
            assert (y, t) == (y2, t2)
    assert made.input_shape == (64,)
    for one, two in zip(made.train_stream, original.train_stream, strict=True):
        assert set(one.classes_in_this_experience) == set(two.classes_in_this_experience)
    assert [experience.task_label for experience in made.train_stream] == [0, 1, 2, 3, 4]


def test_names_numbers_of_classes_and_several_task_labels(network):
    original = turntable(fraction=0.1)
    made = feature_stream(original, network)
    assert made.n_classes == original.n_classes
    assert [e.task_name for e in made.train_stream] == [e.task_name for e in original.train_stream]
    assert [e.task_label for e in made.train_stream] == [0, 1]


def test_each_image_is_seen_once(network):
    """Both tasks of this stream have the same images, in training and in test."""
    original = turntable(fraction=0.1)
    feature_stream(original, network)
    distinct = {
        x.numpy().tobytes() for s in original.streams.values() for e in s for x, *_ in e.dataset
    }
    total = sum(len(e.dataset) for s in original.streams.values() for e in s)
    assert Counting.seen == len(distinct) < total


def test_transforms_for_training_are_left_out(network):
    x = torch.full((6, 1, 2, 2), 0.5)
    dataset = TensorDataset(x, torch.arange(6) % 2)
    dataset.targets = [0, 1] * 3
    dataset = as_classification_dataset(
        dataset, transform_groups={"train": (lambda x: x * torch.rand(()), None), "eval": None}
    )
    original = class_incremental_benchmark({"train": dataset, "test": dataset}, num_experiences=2)
    made = feature_stream(original, network)
    assert torch.equal(columns(made.train_stream[0])[0], torch.full((3, 4), 0.15))


# The cache


def digits(**options):
    return sklearn_digits(**{"n_experiences": 5, "fraction": 0.1, **options})


def test_a_second_time_nothing_is_computed(network, tmp_path):
    first = samples_of(feature_stream(digits(), network, cache=tmp_path))
    assert Counting.seen > 100
    Counting.seen = 0
    again = samples_of(feature_stream(digits(), copy.deepcopy(network), cache=tmp_path))
    # Four, to see that the cache is of this front end.
    assert Counting.seen == 4
    for one, two in zip(first["train"], again["train"], strict=True):
        assert torch.equal(one[0], two[0])
    # Another order and other parts of the same images, too.
    Counting.seen = 0
    other = feature_stream(digits(shuffle=True, seed=0, n_experiences=2), network, cache=tmp_path)
    assert Counting.seen == 4
    for experience in other.test_stream:
        assert len(experience.dataset)


@pytest.mark.parametrize("change", ["weight", "images", "preprocessing", "type"])
def test_what_changes_is_computed_anew(network, tmp_path, change):
    feature_stream(digits(), network, cache=tmp_path)
    total, Counting.seen = Counting.seen, 0
    front, options, benchmark = network, {}, digits()
    if change == "weight":
        with torch.no_grad():
            network.scale += 1e-6
    elif change == "preprocessing":
        front = front_end(network, size=6)
    elif change == "type":
        options = {"dtype": "float16"}
    else:
        benchmark = digits(seed=1)
    feature_stream(benchmark, front, cache=tmp_path, **options)
    if change == "images":
        assert 4 < Counting.seen < total + 4
    else:
        assert Counting.seen == total


def test_code_that_changed_is_found_out(network, tmp_path):
    def preprocess(x):
        return x

    feature_stream(digits(), front_end(network, preprocess=preprocess), cache=tmp_path)

    def preprocess(x):
        return x.flip(-1)

    with pytest.raises(DataError, match="differ from those of the front end now.*Delete"):
        feature_stream(digits(), front_end(network, preprocess=preprocess), cache=tmp_path)


def test_a_damaged_cache_says_which_file(network, tmp_path):
    feature_stream(digits(), network, cache=tmp_path)
    file = next(tmp_path.rglob("*.pt"))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match=rf"{file.name} cannot be read.*Delete"):
        feature_stream(digits(), network, cache=tmp_path)
    assert not list(tmp_path.rglob("*.partial"))


def test_an_interruption_keeps_what_was_computed(network, tmp_path, monkeypatch):
    monkeypatch.setattr("avalanche_dgm.streams.features._PART", 50)

    class Failing(Counting):
        def forward(self, x):
            if Failing.seen > 100:
                raise KeyboardInterrupt
            return super().forward(x)

    Failing.seen, Counting.seen = 0, 0
    broken = Failing()
    with pytest.raises(KeyboardInterrupt):
        feature_stream(digits(), broken, cache=tmp_path, batch_size=25)
    before, Failing.seen = Failing.seen, -1000
    feature_stream(digits(), broken, cache=tmp_path, batch_size=25)
    total = sum(len(e.dataset) for s in digits().streams.values() for e in s)
    assert Failing.seen + 1000 <= total - (before - 75) + 4


# What is refused


def test_images_that_are_normalised_already(network):
    original = digits()
    for experience in original.train_stream:
        experience.dataset._datasets[0].images.sub_(0.5)
    with pytest.raises(RangeError, match="Remove the normalisation"):
        feature_stream(original, network)


def test_options_that_cannot_be(network):
    with pytest.raises(ConfigError, match="dtype=.*float32, float16"):
        feature_stream(digits(), network, dtype="int8")
    with pytest.raises(ConfigError, match="batch_size=0"):
        feature_stream(digits(), network, batch_size=0)


def test_half_precision_that_would_overflow():
    class Large(nn.Module):
        def forward(self, x):
            return x.flatten(1) * 1e6

    with pytest.raises(DataError, match="dtype='float32'"):
        feature_stream(digits(), Large(), dtype="float16")
    feature_stream(digits(), Large())


# Folders of photographs


@pytest.fixture
def photos(tmp_path):
    """Images of different sizes, 4 of each class to learn from and 2 to test on."""
    generator = torch.Generator().manual_seed(0)
    for part, n in (("train", 4), ("test", 2)):
        for c, name in enumerate(("cat", "dog", "owl", "yak")):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for i in range(n):
                noise = torch.randint(0, 40, (20 + i, 30, 3), generator=generator)
                Image.fromarray((noise + 50 * c).to(torch.uint8).numpy()).save(folder / f"{i}.png")
    return tmp_path


def test_a_folder_of_photographs_of_any_size(photos, network):
    benchmark = split(
        (photos / "train", photos / "test"),
        n_experiences=2,
        front_end=front_end(network, size=4),
        cache=photos / "cache",
    )
    assert benchmark.input_shape == (48,)
    assert [sorted(e.classes_in_this_experience) for e in benchmark.train_stream] == [
        [0, 1],
        [2, 3],
    ]
    x, y, _ = columns(benchmark.test_stream[1])
    assert y == [2, 2, 3, 3]
    assert Counting.seen == 24
    assert x[2:].mean() > x[:2].mean()
    with pytest.raises(Exception, match="Resize and CenterCrop"):
        split((photos / "train", photos / "test"), n_experiences=2)


def test_a_set_by_name_or_in_memory_takes_a_front_end_too(network):
    train, test = (TensorDataset(torch.rand(8, 1, 4, 4), torch.arange(8) % 4) for _ in range(2))
    benchmark = split((train, test), n_experiences=2, front_end=network)
    x, y, _ = columns(benchmark.train_stream[0])
    torch.testing.assert_close(x[0], train[0][0].flatten() * 0.5 - 0.1)
    assert y == [0, 1, 0, 1]


def test_photographs_by_name(photos, network):
    benchmark = photos_stream(photos, n_experiences=4, front_end=front_end(network, size=4))
    assert [e.task_name for e in benchmark.train_stream] == [f"class {c}" for c in range(4)]
    named = make_stream("photos", photos, n_experiences=4, front_end=front_end(network, size=4))
    assert torch.equal(columns(named.test_stream[3])[0], columns(benchmark.test_stream[3])[0])
    with pytest.raises(ConfigError, match="no option data"):
        make_stream("photos", photos, data="MNIST")
    with pytest.raises(DataError, match="not a folder with a subfolder of images"):
        photos_stream(photos / "train" / "cat")


@pytest.mark.parametrize("method", ["dgr", "latent-replay"])
def test_photographs_on_the_command_line(photos, method, monkeypatch):
    from avalanche_dgm.cli import main

    monkeypatch.chdir(photos)
    (photos / "my_front_end.py").write_text(
        "from torch import nn\nfrom avalanche_dgm import front_end\n\n"
        "def pixels(size=4):\n    return front_end(nn.Flatten(), size=size)\n"
    )
    front = 'front_end={"class_path": "my_front_end.pixels", "init_args": {"size": 6}}'
    arguments = ["run", "--method", method, "--stream", "photos", "--data-root", str(photos)]
    arguments += ["--experiences", "2", "--stream-set", front, "--stream-set", "cache=kept"]
    assert main([*arguments, "--out", "runs", "--name", "r", "--fast", "--quiet"]) == 0
    found = json.loads((photos / "runs" / "r" / "results.json").read_text())
    assert found["complete"]
    assert np.shape(found["accuracy"]) == (2, 2)
    assert list((photos / "kept").rglob("*.pt"))
