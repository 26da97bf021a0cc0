"""The embedded stream, checked against scikit-learn's own arrays."""

from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from avalanche_dgm.errors import ConfigError, DataError
from avalanche_dgm.streams import STREAMS, make_stream, sklearn_digits
from avalanche_dgm.streams.tensors import LabelledImages, Task, build_benchmark, thin


def samples(experience):
    """Every sample of an experience, read one by one as Avalanche reads them."""
    rows = [experience.dataset[i] for i in range(len(experience.dataset))]
    return (
        torch.stack([row[0] for row in rows]),
        [row[1] for row in rows],
        [row[2] for row in rows],
    )


def rows(stream):
    """A stream as a multiset of (pixels in sixteenths, label)."""
    counted = Counter()
    for experience in stream:
        images, labels, _ = samples(experience)
        pixels = (images * 16).round().to(torch.uint8).flatten(1).numpy()
        counted.update((p.tobytes(), y) for p, y in zip(pixels, labels, strict=True))
    return counted


def test_train_and_test_are_the_whole_set_once():
    benchmark = sklearn_digits()
    raw = load_digits()
    expected = Counter(
        (x.astype(np.uint8).tobytes(), int(y))
        for x, y in zip(raw.images.reshape(len(raw.images), -1), raw.target, strict=True)
    )
    assert rows(benchmark.train_stream) + rows(benchmark.test_stream) == expected


def test_what_is_done_to_one_benchmark_does_not_reach_the_next():
    first = sklearn_digits(n_experiences=1)
    images = first.train_stream[0].dataset[0][0]
    before = images.clone()
    images.fill_(7.0)
    assert torch.equal(sklearn_digits(n_experiences=1).train_stream[0].dataset[0][0], before)


def test_one_class_an_experience():
    benchmark = sklearn_digits()
    assert benchmark.n_classes == 10
    assert benchmark.input_shape == (1, 8, 8)
    totals = np.bincount(load_digits().target)
    for stream in (benchmark.train_stream, benchmark.test_stream):
        assert len(stream) == 10
        for digit, experience in enumerate(stream):
            images, labels, tasks = samples(experience)
            assert experience.current_experience == digit
            assert set(experience.classes_in_this_experience) == {digit}
            assert set(labels) == {digit}
            assert set(tasks) == {0}
            assert experience.task_labels == [0]
            assert images.shape[1:] == (1, 8, 8)
            assert images.dtype == torch.float32
            assert images.min() >= 0
            assert images.max() <= 1
    for digit in range(10):
        held_out = len(benchmark.test_stream[digit].dataset)
        assert held_out == round(0.2 * totals[digit])
        assert len(benchmark.train_stream[digit].dataset) == totals[digit] - held_out


def test_classes_are_disjoint_and_timelines_right():
    benchmark = sklearn_digits(n_experiences=5, class_order=[9, 8, 7, 6, 5, 4, 3, 2, 1, 0])
    seen = set()
    for number, experience in enumerate(benchmark.train_stream):
        classes = set(experience.classes_in_this_experience)
        assert classes == {9 - 2 * number, 8 - 2 * number}
        assert set(experience.previous_classes) == seen
        assert not classes & seen
        seen |= classes
    assert seen == set(range(10))


def test_task_labels_one_for_each_experience():
    benchmark = sklearn_digits(n_experiences=5, task_labels=True)
    for stream in (benchmark.train_stream, benchmark.test_stream):
        for number, experience in enumerate(stream):
            assert experience.task_labels == [number]
            assert set(samples(experience)[2]) == {number}


def test_same_seed_same_stream_other_seed_another():
    first, again, other = (sklearn_digits(seed=s) for s in (3, 3, 4))
    assert rows(first.test_stream) == rows(again.test_stream)
    assert rows(first.test_stream) != rows(other.test_stream)
    torch.testing.assert_close(
        samples(first.train_stream[2])[0], samples(again.train_stream[2])[0], rtol=0, atol=0
    )


def test_streams_do_not_touch_the_global_generator():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    sklearn_digits(shuffle=True, fraction=0.5)
    assert torch.equal(torch.rand(3), expected)


def test_subsets():
    whole, part = sklearn_digits(), sklearn_digits(fraction=0.25)
    few = sklearn_digits(n_train_per_class=7)
    for digit in range(10):
        for name in ("train_stream", "test_stream"):
            count = len(getattr(whole, name)[digit].dataset)
            assert len(getattr(part, name)[digit].dataset) == round(0.25 * count)
        assert len(few.train_stream[digit].dataset) == 7
        assert len(few.test_stream[digit].dataset) == len(whole.test_stream[digit].dataset)
    assert rows(few.train_stream) <= rows(whole.train_stream)


def test_thin_keeps_order_and_nests():
    data = LabelledImages(torch.arange(100.0).view(100, 1, 1, 1), torch.arange(100) % 2)
    small, large = thin(data, per_class=5, seed=1), thin(data, per_class=20, seed=1)
    assert torch.equal(small.images.flatten().sort().values, small.images.flatten())
    assert set(small.images.flatten().tolist()) <= set(large.images.flatten().tolist())
    assert small.labels.bincount().tolist() == [5, 5]


def test_shuffled_order_follows_the_seed():
    def order(seed):
        benchmark = sklearn_digits(shuffle=True, seed=seed)
        return [next(iter(e.classes_in_this_experience)) for e in benchmark.train_stream]

    assert order(1) == order(1)
    assert sorted(order(1)) == list(range(10))
    assert order(1) != list(range(10))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_experiences": 3}, "divisor of 10"),
        ({"class_order": [0, 1]}, "each of the classes 0 to 9"),
        ({"class_order": list(range(10)), "shuffle": True}, "not both"),
        ({"test_fraction": 1.0}, "test_fraction=1.0"),
        ({"fraction": 0.0}, "fraction=0.0"),
        ({"n_train_per_class": 0}, "at least 1"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        sklearn_digits(**options)


@pytest.mark.parametrize("name", [name for name, spec in STREAMS.items() if spec.embedded])
def test_registry_agrees_with_what_is_built(name):
    spec = STREAMS[name]
    benchmark = make_stream(name, fraction=0.1)
    assert len(benchmark.train_stream) == spec.n_experiences
    assert benchmark.input_shape == spec.input_shape
    assert benchmark.n_classes == spec.n_classes


def test_registry_takes_options():
    assert len(make_stream("sklearn-digits", n_experiences=2).train_stream) == 2


def test_registry_names_what_there_is():
    with pytest.raises(ConfigError, match="Unknown stream: 'mnist'.*split-mnist"):
        make_stream("mnist")
    with pytest.raises(ConfigError, match="no option n_exp.*n_experiences"):
        make_stream("sklearn-digits", n_exp=5)
    assert "n_experiences" in STREAMS["digits"].options
    assert "repeat" in STREAMS["permnist"].options
    assert "data" not in STREAMS["digits"].options


def test_empty_task_is_an_error():
    empty = LabelledImages(torch.zeros(0, 1, 2, 2), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(DataError, match="'nothing' has no images"):
        build_benchmark([Task(empty, 0, "nothing")], [Task(empty, 0, "nothing")], n_classes=1)
