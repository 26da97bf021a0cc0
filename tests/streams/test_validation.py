"""A validation stream of training images."""

from collections import Counter

import pytest
import torch
from avalanche.benchmarks import benchmark_with_validation_stream

from avalanche_dgm import sklearn_digits, turntable_domains, with_validation
from avalanche_dgm.errors import ConfigError


def images(experience):
    return {x.numpy().tobytes() for x, *_ in experience.dataset}


def test_each_class_gives_its_share_and_no_image_is_lost_or_twice():
    whole = sklearn_digits(n_experiences=5, seed=0)
    parts = with_validation(whole, 0.2, seed=3)
    assert len(parts.valid_stream) == len(parts.train_stream) == 5
    for before, train, valid, test, own in zip(
        whole.train_stream,
        parts.train_stream,
        parts.valid_stream,
        parts.test_stream,
        whole.test_stream,
        strict=True,
    ):
        assert images(train) | images(valid) == images(before)
        assert not images(train) & images(valid)
        assert images(test) == images(own)
        counts = Counter(before.dataset.targets)
        held = Counter(valid.dataset.targets)
        assert held == {label: round(0.2 * n) for label, n in counts.items()}
        assert train.task_name == valid.task_name == before.task_name
        assert list(train.classes_in_this_experience) == list(before.classes_in_this_experience)
    assert (parts.n_classes, parts.input_shape) == (whole.n_classes, whole.input_shape)


def test_the_seed_says_which():
    whole = sklearn_digits(n_experiences=2, seed=0)
    first, again, other = (
        images(with_validation(whole, 0.1, seed=seed).valid_stream[0]) for seed in (0, 0, 1)
    )
    assert first == again
    assert len(first & other) < len(first) / 2


def test_of_two_tasks_in_one_experience_each_class_of_each_gives_its_share():
    stream = turntable_domains(categories=True, n_train=2, n_test=1, size=8, seed=0)
    valid = with_validation(stream, 0.25, seed=0).valid_stream[0].dataset
    tasks = Counter(zip(valid.targets_task_labels, valid.targets, strict=True))
    # Ten categories of 88 x 2 images, 88 viewpoints of 10 x 2.
    assert {n for (task, _), n in tasks.items() if task == 0} == {44}
    assert {n for (task, _), n in tasks.items() if task == 1} == {5}


def test_any_benchmark_of_avalanche():
    plain = benchmark_with_validation_stream(sklearn_digits(n_experiences=2, seed=0), 0.5)
    held = with_validation(plain, 0.5).valid_stream[1]
    assert len(held.dataset) == pytest.approx(len(plain.train_stream[1].dataset) / 2, abs=3)
    assert torch.is_tensor(held.dataset[0][0])


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0])
def test_no_share(fraction):
    with pytest.raises(ConfigError, match="fraction"):
        with_validation(sklearn_digits(n_experiences=2), fraction)
