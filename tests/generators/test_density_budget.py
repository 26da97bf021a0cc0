"""Densities that fit into some bytes."""

import copy

import numpy as np
import pytest
import torch

from avalanche_dgm.checks import read_bytes
from avalanche_dgm.errors import CapacityError, ConfigError
from avalanche_dgm.generators import ClassDensity, make_density
from avalanche_dgm.modules import size_in_bytes


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def learn(density, labels, n, d, seed=0):
    """Learns n samples of each class."""
    mixing = torch.randn(d, min(d, 8), generator=rng(99))
    codes = torch.randn(n * len(labels), mixing.shape[1], generator=rng(seed))
    found = torch.tensor(labels).repeat_interleave(n)
    samples = codes @ mixing.T + found[:, None]
    density.add(samples, torch.zeros_like(found), found)
    return samples, found


@pytest.mark.parametrize("d", [32, 64, 300, 1280])
@pytest.mark.parametrize("n", [20, 100])
@pytest.mark.parametrize("classes", [2, 12])
@pytest.mark.parametrize("at_rest", [None, "float32"])
def test_unasked_it_keeps_a_tenth_of_the_samples_bytes(d, n, classes, at_rest):
    density = make_density("auto", at_rest=at_rest)
    for first in range(0, classes, 2):
        learn(density, [first, first + 1], n, d, seed=first)
        assert size_in_bytes(density) <= 0.1 * 4 * d * n * (first + 2)
    # All of it is used but for a vector a class, where there are as many directions as that.
    if density.tied == "class" and not density.dense and density.covariances.rank < min(n, 64):
        width, column = (2, d // 2 + 2) if at_rest is None else (4, 4 * d)
        columns = density.covariances.rank + 1
        assert 32 + width * (1 + 2 * d) + columns * column > 0.1 * 4 * d * n


@pytest.mark.parametrize("budget", ["20kB", "100 kB", 2_000_000])
@pytest.mark.parametrize(("d", "n"), [(8, 100), (64, 20), (64, 300), (400, 50)])
@pytest.mark.parametrize("kind", ["auto", "low-rank"])
def test_never_more_than_the_budget(kind, budget, d, n):
    density, most = make_density(kind, memory_budget=budget), read_bytes("memory_budget", budget)
    for label in range(20):
        # Of each class its mean and, if it is not one for all, a diagonal.
        n_classes = label + 1
        least = n_classes * 32 + 2 * (n_classes * (1 + d) + d)
        if kind == "low-rank":
            least = n_classes * (32 + 4 * (1 + 2 * d))
        if least > most:
            with pytest.raises(CapacityError, match=f"memory_budget={most}"):
                learn(density, [label], n, d, seed=label)
            assert len(density.classes) == len(density.seen) == label
            return
        learn(density, [label], n, d, seed=label)
        assert size_in_bytes(density) <= most
    fresh = make_density(kind, memory_budget=budget)
    fresh.load_state_dict(density.state_dict())
    rows = torch.arange(20)
    assert torch.equal(fresh.sample(rows, rng()), density.sample(rows, rng()))
    assert (fresh.tied, fresh.dense) == (density.tied, density.dense)


def test_what_is_left_out_leaves_mean_and_variances():
    density = make_density("auto", memory_budget="15kB", at_rest="float32")
    samples, found = learn(density, [0, 1], 300, 40)
    assert density.dense
    kept = [density.covariances.dense(row) for row in range(2)]
    learn(density, [2, 3, 4, 5, 6], 300, 40)
    ranks = [density.covariances.rank]
    learn(density, list(range(7, 20)), 300, 40)
    ranks.append(density.covariances.rank)
    assert not density.dense
    assert 20 > ranks[0] > ranks[1] > 0
    for row in range(2):
        mine = samples[found == row]
        torch.testing.assert_close(density.means[row], mine.mean(dim=0))
        covariance = density.covariances.dense(row)
        torch.testing.assert_close(
            covariance.diagonal().float(), mine.var(dim=0, correction=0), rtol=1e-3, atol=1e-3
        )
        # The directions that are left are the first ones: samples vary in eight.
        _, directions = np.linalg.eigh(kept[row].numpy())
        first = directions[:, -ranks[1] :]
        left = first.T @ covariance.numpy() @ first
        assert left.trace() > 0.9 * (first.T @ kept[row].numpy() @ first).trace()


def test_a_few_samples_a_class_share_one_diagonal():
    density = make_density("auto", at_rest="float32")
    learn(density, [0, 1, 2], 8, 500)
    assert density.tied == "class" or density.tied == "all"
    limited = make_density("auto", memory_budget=3 * 2 * 510 + 100 + 2 * 500)
    samples, found = learn(limited, [0, 1, 2], 50, 500)
    assert (limited.tied, limited.covariances.rank) == ("all", 0)
    parts = [samples[found == label] for label in range(3)]
    wanted = sum((x - x.mean(dim=0)).square().mean(dim=0) for x in parts) / 3
    torch.testing.assert_close(
        limited.covariances.scales[0].float().square(), wanted, rtol=5e-3, atol=1e-3
    )


@pytest.mark.parametrize("kind", ["full", "shared", "mixture"])
def test_a_kind_that_cannot_shrink_is_refused_before_it_learns(kind):
    density = make_density(kind, memory_budget="10kB")
    with pytest.raises(CapacityError, match="covariance='auto'"):
        learn(density, [0], 20, 100)
    learn(make_density(kind, memory_budget="50kB"), [0], 20, 100)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (1234, 1234),
        ("1234", 1234),
        ("500 kB", 500_000),
        ("1MB", 10**6),
        ("1.5GB", 1_500_000_000),
        ("12B", 12),
        (None, None),
    ],
)
def test_bytes_are_read(given, wanted):
    assert read_bytes("memory_budget", given) == wanted


@pytest.mark.parametrize("given", [0, -1, True, 1.5, "1 MiB", "much", "0kB", "-3MB"])
def test_what_is_no_number_of_bytes(given):
    with pytest.raises(ConfigError, match="memory_budget=.*number of bytes"):
        make_density("auto", memory_budget=given)


@pytest.mark.parametrize(("bits", "far"), [("int8", 2**-8), ("int4", 2**-4)])
def test_centres_of_a_few_bits(bits, far):
    samples, labels = torch.rand(300, 51, generator=rng()), torch.arange(300) % 3
    tasks, settings = torch.zeros_like(labels), {"covariance": "low-rank", "components": 7}
    exact = ClassDensity(**settings, at_rest="int4")
    density = ClassDensity(**settings, at_rest="int4", centres_at_rest=bits)
    for one in (exact, density):
        one.add(samples, tasks, labels)
    kept = density.centres.clone()
    assert (kept - exact.centres.float()).abs().max() < far
    assert density.bytes_of(3, 51) == size_in_bytes(density)
    density.add(samples[:100], tasks[:100], torch.full_like(labels[:100], 5))
    assert torch.equal(density.centres[:3], kept)
    again = ClassDensity(**settings, at_rest="int4", centres_at_rest=bits)
    again.load_state_dict(density.state_dict())
    assert torch.equal(again.centres, density.centres)
    rows = torch.arange(4).repeat(5)
    assert density.sample(rows, rng()).shape == (20, 51)


def test_files_of_before_centres_of_a_few_bits():
    """Of a ``state_dict``, and of a pickle."""
    samples, labels = torch.rand(60, 5), torch.arange(60) % 3
    density = ClassDensity(components=2)
    density.add(samples, torch.zeros_like(labels), labels)
    state = dict(density.state_dict())
    state["centres"] = state.pop("_vectors.kept")
    again = ClassDensity(components=2)
    again.load_state_dict(state)
    assert torch.equal(again.centres, density.centres)
    pickled = copy.deepcopy(density.__dict__)
    pickled["_buffers"]["centres"] = pickled["_modules"].pop("_vectors").kept
    again = ClassDensity.__new__(ClassDensity)
    again.__setstate__(pickled)
    assert torch.equal(again.centres, density.centres)
    rows = torch.arange(3)
    assert torch.equal(again.sample(rows, rng()), density.sample(rows, rng()))
