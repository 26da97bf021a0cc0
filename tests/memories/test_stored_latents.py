"""Stored latents that are replayed with noise."""

import copy

import pytest
import torch

from avalanche_dgm.errors import CapacityError, ConfigError
from avalanche_dgm.memories import StoredLatents
from avalanche_dgm.modules import size_in_bytes


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def latents(n, values, *classes, seed=0):
    labels = torch.tensor(classes).repeat_interleave(n)
    samples = torch.randn(len(labels), values, generator=rng(seed))
    return samples, labels, torch.zeros_like(labels)


def filled(n, values, **settings):
    memory = StoredLatents(per_class=n, **settings)
    data = latents(50, values, 0, 1)
    memory.add(*data, rng())
    if memory.wants_moments():
        memory.note(*data)
    return memory


@pytest.mark.parametrize(
    ("n", "values", "given", "kept"),
    [
        # 10 latents of 17 values are 170 numbers; a mean and a triangle are 17 * 20 / 2.
        (10, 17, {}, True),
        (10, 18, {}, False),
        (10, 18, {"covariance": True}, True),
        (10, 17, {"covariance": False}, False),
        (20, 17, {"dtype": "float16"}, True),
        (20, 18, {"dtype": "float16"}, False),
        (40, 17, {"dtype": "uint8"}, True),
        (40, 18, {"dtype": "uint8"}, False),
        (50, 300, {}, False),
        (50, 300, {"covariance": True}, True),
    ],
)
def test_moments_are_kept_where_they_take_no_more_than_the_latents(n, values, given, kept):
    memory = filled(n, values, **given)
    assert memory.wants_moments() is kept
    assert len(memory.moments.classes) == (2 if kept else 0)
    # Later classes do not change it, whatever is stored of them.
    more = latents(200 if not kept else 1, values, 5)
    memory.add(*more, rng(1))
    assert memory.wants_moments() is kept


def test_a_memory_of_a_largest_size_keeps_them_only_if_told():
    for given, kept in ((None, False), (True, True)):
        memory = StoredLatents(total=100, covariance=given)
        memory.add(*latents(50, 4, 0, 1), rng())
        assert memory.wants_moments() is kept


def test_bytes_by_hand():
    """Two classes: three numbers, a counter, a share, a mean and a triangle each."""
    with_moments, without = filled(10, 6, covariance=True), filled(10, 6, covariance=False)
    assert size_in_bytes(with_moments) - size_in_bytes(without) == 2 * (24 + 8 + 4 * (1 + 6 + 21))


@pytest.mark.parametrize("kind", ["full", "shared", "low-rank", "mixture"])
def test_each_kind_of_covariance(kind):
    memory = filled(10, 300, covariance=kind)
    assert memory.wants_moments()
    assert memory.moments.seen.tolist() == [50, 50]
    fresh = StoredLatents(per_class=10, covariance=kind)
    fresh.load_state_dict(memory.state_dict())
    found = fresh.rehearse(20, rng(1))
    assert torch.equal(found.images, memory.rehearse(20, rng(1)).images)
    assert not torch.equal(found.images, memory.draw(20, rng(1)).images)


def test_noise_falls_with_what_is_stored():
    """By the number's tenth root; what is given is taken."""

    def spread(n, **settings):
        memory = filled(n, 6, covariance=True, **settings)
        near = memory.rehearse(4000, rng(1)).images[:, None] - memory.data()[0][None]
        return float(near.square().sum(dim=2).min(dim=1).values.mean())

    one, five, all_of_them = spread(1), spread(5), spread(50)
    assert one > five > all_of_them > 0
    assert spread(5, jitter=0.0) == 0
    assert spread(5, jitter=5**-0.1) == pytest.approx(five)


def test_without_moments_it_is_noise_of_pairs():
    memory = filled(10, 6, covariance=False, jitter=0.3)
    found, wanted = memory.rehearse(40, rng(2)), memory.draw(40, rng(2), jitter=0.3)
    assert torch.equal(found.images, wanted.images)


@pytest.mark.parametrize("given", [None, True, False])
def test_state_dict_into_an_empty_one(given):
    memory = filled(20, 6, covariance=given)
    fresh = StoredLatents(per_class=20, covariance=given)
    fresh.load_state_dict(copy.deepcopy(memory.state_dict()))
    assert fresh.wants_moments() == memory.wants_moments()
    for one in (memory, fresh):
        more = latents(30, 6, 1, 2, seed=4)
        one.add(*more, rng(3))
        if one.wants_moments():
            one.note(*more)
    assert torch.equal(memory.rehearse(30, rng(5)).images, fresh.rehearse(30, rng(5)).images)


def test_what_was_images_has_the_moments_of_what_it_becomes():
    memory = StoredLatents(per_class=10, covariance=True)
    images, labels, tasks = latents(50, 8, 0, 1)
    memory.add(images, labels, tasks, rng())
    assert not len(memory.moments.classes)
    memory.convert(lambda x, tasks: x[:, :3] * 2)
    made, found, _ = memory.data()
    # As many as were shown, so that they weigh as much when the classes come back.
    assert memory.moments.seen.tolist() == [50, 50]
    torch.testing.assert_close(memory.moments.means[0], made[found == 0].mean(dim=0))


@pytest.mark.parametrize(
    "wrong",
    [
        {"jitter": -0.1},
        {"jitter": 1.5},
        {"jitter": float("nan")},
        {"jitter": "half"},
        {"jitter": True},
        {"covariance": "spherical"},
        {"covariance": 1},
    ],
    ids=str,
)
def test_bad_settings(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(ConfigError, match=f"{name}={value!r}"):
        StoredLatents(per_class=1, **wrong)


@pytest.mark.parametrize("budget", ["20kB", 40_000, "1MB"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("covariance", [None, False, True, "low-rank", "diagonal"])
def test_a_budget_is_used_and_kept(budget, dtype, covariance):
    memory = StoredLatents(memory_budget=budget, dtype=dtype, covariance=covariance)
    most = memory.memory_budget
    for label in range(0, 6, 2):
        data = latents(300, 20, label, label + 1, seed=label)
        memory.check_size((20,), *data[1:])
        memory.add(*data, rng())
        if memory.wants_moments():
            memory.note(*data)
        assert size_in_bytes(memory) <= most
        each = 20 * memory.samples.values.element_size() + 4
        assert size_in_bytes(memory) > most - each or len(memory) == 300 * (label + 2)
    assert int(memory.counts.max() - memory.counts.min()) <= 1
    assert bool(len(memory.moments.classes)) is bool(covariance)


def test_a_budget_counts_latents_where_images_come():
    memory = StoredLatents(memory_budget="10kB")
    images, labels, tasks = latents(200, 400, 0, 1)
    memory.add(images, labels, tasks, rng(), encode=lambda x, tasks: x[:, :10])
    assert 10_000 - 44 < size_in_bytes(memory) <= 10_000
    # Images that are stored first become latents, of which more have room.
    later = StoredLatents(memory_budget="10kB")
    later.add(images, labels, tasks, rng())
    assert 10_000 - 1604 < size_in_bytes(later) <= 10_000
    later.convert(lambda x, tasks: x[:, :10])
    later.add(images, labels + 2, tasks, rng(), encode=lambda x, tasks: x[:, :10])
    assert len(later.classes) == 4
    assert size_in_bytes(later) <= 10_000


def test_a_budget_without_room_for_each_class():
    memory = StoredLatents(memory_budget=1000)
    data = latents(5, 50, 0, 1, 2, 3, 4)
    for refused in (lambda: memory.add(*data, rng()), lambda: memory.check_size((50,), *data[1:])):
        with pytest.raises(
            CapacityError, match="memory_budget=1000 .* 3 samples of 204.*5 classes"
        ):
            refused()
    assert not len(memory.classes)
    with pytest.raises(ConfigError, match="per_class and memory_budget"):
        StoredLatents(per_class=3, memory_budget=1000)
