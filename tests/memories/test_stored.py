"""Stored samples: balance, reservoirs, labels beside samples, precision, state."""

import copy
from collections import Counter

import pytest
import torch

from avalanche_dgm.errors import (
    CapacityError,
    ConfigError,
    DataError,
    RangeError,
    ShapeError,
    UnknownTaskError,
)
from avalanche_dgm.memories import StoredMemory
from avalanche_dgm.modules import size_in_bytes


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def tagged(counts, *, task=0, start=0):
    """Samples (N, 3, 2) whose values say their class, task and number."""
    labels = torch.cat([torch.full((n,), c) for c, n in counts.items()])
    labels = labels[torch.randperm(len(labels), generator=rng(len(labels)))]
    tasks = torch.full_like(labels, task)
    numbers = torch.arange(start, start + len(labels))
    columns = torch.stack([labels, tasks, numbers], dim=1).float()
    return columns[:, :, None].repeat(1, 1, 2), labels, tasks


def counts_of(memory):
    return dict(sorted(Counter(memory.data()[1].tolist()).items()))


def belongs_together(samples, labels, tasks, atol=0.0):
    torch.testing.assert_close(samples[:, 0, 0], labels.float(), atol=atol, rtol=0)
    torch.testing.assert_close(samples[:, 1, 1], tasks.float(), atol=atol, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("size", [{"share": 0.3}, {"per_class": 7}, {"total": 33}])
def test_labels_stay_with_their_samples(size, dtype):
    memory = StoredMemory(dtype=dtype, **size)
    for i in range(5):
        memory.add(*tagged({i: 40, i + 1: 40}, task=i % 2, start=100 * i), rng(i))
        belongs_together(*memory.data(), atol=0.05)
    for n in (1, 10, len(memory), 100):
        replay = memory.draw(n, rng(n))
        assert len(replay) == n
        belongs_together(replay.images, replay.labels, replay.tasks, atol=0.05)
        assert replay.images.dtype == torch.float32
        assert replay.labels.dtype == replay.tasks.dtype == torch.int64


def test_sizes():
    first, second = {0: 100, 1: 100}, {2: 60, 3: 140}
    found = {}
    for name, value in {"share": 0.1, "per_class": 8, "per_experience": 9, "total": 30}.items():
        memory = StoredMemory(**{name: value})
        memory.add(*tagged(first), rng())
        before = counts_of(memory)
        memory.add(*tagged(second), rng())
        found[name] = [sorted(before.values()), sorted(counts_of(memory).values())]
    assert found == {
        "share": [[10, 10], [10] * 4],
        "per_class": [[8, 8], [8] * 4],
        "per_experience": [[4, 5], [4, 4, 5, 5]],
        "total": [[15, 15], [7, 7, 8, 8]],
    }


def test_rare_classes_are_kept_whole_and_leave_their_places_to_others():
    memory = StoredMemory(total=30)
    memory.add(*tagged({0: 100, 1: 4, 2: 100}), rng())
    assert counts_of(memory) == {0: 13, 1: 4, 2: 13}


def test_one_label_of_two_tasks_is_two_classes():
    memory = StoredMemory(per_class=5)
    memory.add(*tagged({0: 20}, task=0), rng())
    memory.add(*tagged({0: 20}, task=1), rng())
    assert Counter(memory.data()[2].tolist()) == {0: 5, 1: 5}


@pytest.mark.parametrize("size", [{"per_class": 10}, {"total": 20}])
def test_a_repeated_class_is_a_uniform_choice_of_all_that_was_shown(size):
    """Each of 30 + 10 + 60 samples of class 0 is kept with the same probability."""
    kept = torch.zeros(100)
    for seed in range(400):
        generator = rng(seed)
        memory = StoredMemory(**size)
        for start, stop in ((0, 30), (30, 40), (40, 100)):
            samples = torch.arange(start, stop).float()[:, None]
            other = torch.full((15, 1), -1.0)
            labels = torch.cat([torch.zeros(stop - start), torch.ones(15)]).long()
            memory.add(torch.cat([samples, other]), labels, torch.zeros_like(labels), generator)
        samples, labels, _ = memory.data()
        assert (labels == 0).sum() == 10
        kept[samples[labels == 0, 0].long()] += 1
    parts = [kept[:30].mean(), kept[30:40].mean(), kept[40:].mean()]
    # 40 expected of each; standard error of the smallest part's mean below 2.
    assert all(abs(float(part) - 40) < 6 for part in parts)


def test_what_share_keeps_stays():
    memory = StoredMemory(share=0.5)
    memory.add(*tagged({0: 20, 1: 20}), rng())
    first = {tuple(row.flatten().tolist()) for row in memory.data()[0]}
    memory.add(*tagged({0: 20, 1: 20}, start=500), rng(1))
    assert first < {tuple(row.flatten().tolist()) for row in memory.data()[0]}
    assert len(memory) == 40


def test_draws_are_balanced_and_without_replacement():
    memory = StoredMemory(share=1.0)
    memory.add(*tagged({0: 40, 1: 10, 2: 3}), rng())
    for n in (3, 7, 9, 20, 30, 53):
        replay = memory.draw(n, rng(n))
        numbers = replay.images[:, 2, 0].tolist()
        assert len(set(numbers)) == n
        counts = Counter(replay.labels.tolist())
        # No class has more than one above another that still has samples to give.
        limits = {0: 40, 1: 10, 2: 3}
        short = [counts[c] for c in limits if counts[c] < limits[c]]
        assert not short or max(counts.values()) <= min(short) + 1
    twice = Counter(memory.draw(120, rng()).images[:, 2, 0].tolist())
    assert len(twice) == 53
    assert set(twice.values()) == {2, 3}


def test_every_sample_has_its_chance():
    memory = StoredMemory(per_class=6)
    memory.add(*tagged({0: 30, 1: 30}), rng())
    generator, drawn = rng(), Counter()
    for _ in range(600):
        drawn.update(memory.draw(3, generator).images[:, 2, 0].tolist())
    assert len(drawn) == 12
    assert all(100 < count < 200 for count in drawn.values())


def test_jitter_has_its_class_mean_and_covariance():
    """Noise with the class's covariance adds to it: the drawn vary by 1 + jitter squared of it."""
    mixing = torch.tensor([[2.0, 0.0], [1.5, 0.3]])
    samples = torch.cat([torch.randn(300, 2, generator=rng(i)) @ mixing.T for i in (0, 1)])
    labels = torch.arange(2).repeat_interleave(300)
    samples[labels == 1] = 5 - 0.5 * samples[labels == 1]
    memory = StoredMemory(per_class=300)
    memory.add(samples, labels, labels * 0, rng())
    replay = memory.draw(60_000, rng(1), jitter=0.5)
    for label in (0, 1):
        drawn, shown = replay.images[replay.labels == label], samples[labels == label]
        torch.testing.assert_close(drawn.mean(dim=0), shown.mean(dim=0), atol=0.05, rtol=0)
        torch.testing.assert_close(drawn.T.cov(), 1.25 * shown.T.cov(), atol=0.06, rtol=0.05)
    assert len(torch.unique(replay.images, dim=0)) > 50_000


def test_jitter_mixes_no_classes_and_leaves_single_samples():
    memory = StoredMemory(per_class=20)
    for i in range(3):
        memory.add(*tagged({i: 30, 7 - i: 1}, task=i), rng(i))
    plain, noisy = memory.draw(200, rng(5)), memory.draw(200, rng(5), jitter=2.0)
    # Labels and tasks, which two of the three values tell, do not vary within a class.
    belongs_together(noisy.images, noisy.labels, noisy.tasks)
    assert torch.equal(plain.labels, noisy.labels)
    alone = plain.labels >= 5
    assert torch.equal(plain.images[alone], noisy.images[alone])
    assert not torch.equal(plain.images[~alone], noisy.images[~alone])


def test_same_generator_same_choice():
    def build(seed):
        memory = StoredMemory(total=17)
        for i in range(3):
            memory.add(*tagged({i: 30, 5: 30}, start=100 * i), rng(seed + i))
        return torch.cat([memory.data()[0], memory.draw(9, rng(seed)).images])

    assert torch.equal(build(0), build(0))
    assert not torch.equal(build(0), build(10))


@pytest.mark.parametrize(("dtype", "factor"), [("float16", 2), ("uint8", 4)])
def test_smaller_types_take_less(dtype, factor):
    samples = torch.randn(200, 4, 6, 6, generator=rng())
    labels = torch.arange(200) % 5
    one, two = StoredMemory(share=1.0), StoredMemory(share=1.0, dtype=dtype)
    for memory in (one, two):
        memory.add(samples, labels, torch.zeros_like(labels), rng())
    assert two.samples.values.numel() == samples.numel()
    assert size_in_bytes(one) - size_in_bytes(two) == pytest.approx(
        samples.numel() * (4 - 4 / factor), abs=2 * 4 * 4
    )


def test_bytes_by_hand():
    memory = StoredMemory(per_class=4, dtype="uint8")
    memory.add(torch.rand(30, 2, 3, 3), torch.arange(30) % 3, torch.zeros(30).long(), rng())
    # 12 samples of 18 bytes and a 4-byte row; 3 classes of three numbers, two counters; scales.
    assert size_in_bytes(memory) == 12 * (18 + 4) + 3 * (24 + 16) + 2 * 2 * 4


@pytest.mark.parametrize("shape", [(3, 5, 5), (3,), (3, 4)])
def test_uint8_is_within_half_a_step_of_each_channel(shape):
    spread = torch.tensor([0.01, 1.0, 100.0]).view(-1, *[1] * (len(shape) - 1))
    samples = spread * torch.randn(50, *shape, generator=rng()) - 3 * spread
    memory = StoredMemory(share=1.0, dtype="uint8")
    labels = torch.arange(50)
    memory.add(samples, labels, torch.zeros_like(labels), rng())
    found, order, _ = memory.data()
    others = [d for d in range(samples.ndim) if d != 1]
    step = (samples.amax(others, keepdim=True) - samples.amin(others, keepdim=True)) / 255
    assert bool(((found - samples[order]).abs() <= 0.501 * step).all())


def test_uint8_widens_its_range_and_keeps_what_was_stored():
    memory = StoredMemory(share=1.0, dtype="uint8")
    first, second = torch.rand(20, 2), 10 * torch.rand(20, 2) - 5
    labels = torch.arange(20)
    memory.add(first, labels, torch.zeros_like(labels), rng())
    memory.add(second, labels + 20, torch.zeros_like(labels), rng())
    samples, found, _ = memory.data()
    wanted = torch.cat([first, second])[found]
    assert float((samples - wanted).abs().max()) < 1.1 * 10 / 255


def test_constant_channels():
    memory = StoredMemory(share=1.0, dtype="uint8")
    memory.add(torch.full((4, 2), 0.7), torch.arange(4), torch.zeros(4).long(), rng())
    torch.testing.assert_close(memory.data()[0], torch.full((4, 2), 0.7))


def test_float16_does_not_overflow():
    memory = StoredMemory(share=1.0, dtype="float16")
    memory.add(torch.full((4, 2), 1e9), torch.arange(4), torch.zeros(4).long(), rng())
    assert bool(torch.isfinite(memory.data()[0]).all())


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_state_dict_into_an_empty_one(dtype):
    memory = StoredMemory(total=21, dtype=dtype)
    for i in range(2):
        memory.add(*tagged({i: 30, 5: 30}, start=100 * i), rng(i))
    fresh = StoredMemory(total=21, dtype=dtype)
    fresh.load_state_dict(copy.deepcopy(memory.state_dict()))
    assert len(fresh) == 21
    for one in (memory, fresh):
        one.add(*tagged({2: 30, 5: 30}, start=300), rng(3))
    for a, b in zip(memory.data(), fresh.data(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(memory.draw(8, rng()).images, fresh.draw(8, rng()).images)
    empty = StoredMemory(total=21, dtype=dtype)
    empty.load_state_dict(StoredMemory(total=21, dtype=dtype).state_dict())
    assert len(empty) == 0
    assert empty.shape is None


@pytest.mark.parametrize(
    "size", [{"share": 0.01}, {"per_experience": 2}, {"total": 2}], ids=lambda s: next(iter(s))
)
def test_a_class_without_a_sample_is_refused_and_nothing_changed(size):
    memory = StoredMemory(**size)
    with pytest.raises(CapacityError, match="no sample of some class"):
        memory.check(*tagged({0: 50, 1: 50, 2: 50})[1:])
    with pytest.raises(CapacityError, match=next(iter(size))):
        memory.add(*tagged({0: 50, 1: 50, 2: 50}), rng())
    assert len(memory) == 0
    assert len(memory.classes) == 0


def test_the_advised_share_works():
    data = tagged({0: 50, 1: 51, 2: 52})
    with pytest.raises(CapacityError, match="at least 0.0197"):
        StoredMemory(share=0.01).check(*data[1:])
    memory = StoredMemory(share=0.0197)
    memory.add(*data, rng())
    assert set(counts_of(memory)) == {0, 1, 2}


def test_total_counts_the_classes_known_before():
    memory = StoredMemory(total=3)
    memory.add(*tagged({0: 9, 1: 9}), rng())
    before = memory.data()[0].clone()
    with pytest.raises(CapacityError, match="4 classes up to now"):
        memory.add(*tagged({2: 9, 3: 9}), rng())
    assert torch.equal(memory.data()[0], before)
    memory.add(*tagged({1: 9, 2: 9}), rng())
    assert counts_of(memory) == {0: 1, 1: 1, 2: 1}


def test_a_share_with_a_least_number_of_each_class():
    memory = StoredMemory(share=0.1, least=3)
    memory.add(*tagged({0: 20, 1: 20, 2: 2}), rng())
    assert counts_of(memory) == {0: 3, 1: 4, 2: 2}
    memory.add(*tagged({3: 60, 4: 60}), rng())
    assert counts_of(memory) == {0: 3, 1: 4, 2: 2, 3: 6, 4: 6}


def test_without_a_size_a_tenth_is_kept():
    memory = StoredMemory()
    for start in (0, 100):
        memory.add(*tagged({0: 50, 1: 50}, start=start), rng())
        assert counts_of(memory) == {0: 5, 1: 5}


@pytest.mark.parametrize(
    "wrong",
    [
        {"least": 2},
        {"total": 5, "least": 2},
        {"share": 0.1, "total": 5},
        {"share": 0},
        {"share": 1.5},
        {"share": True},
        {"share": float("nan")},
        {"per_class": 0},
        {"total": 2.5},
        {"per_experience": "3"},
        {"total": 4, "dtype": "int4"},
    ],
    ids=str,
)
def test_bad_settings(wrong):
    with pytest.raises(ConfigError):
        StoredMemory(**wrong)


def test_bad_samples_change_nothing():
    memory = StoredMemory(total=9)
    samples, labels, tasks = tagged({0: 9, 1: 9})
    memory.add(samples, labels, tasks, rng())
    before = copy.deepcopy(memory.state_dict())
    bad = samples.clone()
    bad[0, 0, 0] = float("nan")
    cases = [
        (ShapeError, (samples[:, :2], labels, tasks)),
        (RangeError, (bad, labels, tasks)),
        (DataError, (samples[1:], labels, tasks)),
        (DataError, (samples, labels, tasks[1:])),
        (DataError, (samples[:0], labels[:0], tasks[:0])),
    ]
    for error, arguments in cases:
        with pytest.raises(error):
            memory.add(*arguments, rng())
        assert all(torch.equal(before[k], v) for k, v in memory.state_dict().items())


def test_nothing_is_drawn_of_an_empty_memory():
    with pytest.raises(UnknownTaskError, match="Nothing is stored yet"):
        StoredMemory(total=3).draw(2, rng())
