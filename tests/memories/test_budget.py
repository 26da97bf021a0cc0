"""The replay rule (Kamra et al. 2017, Sec. 3.1) against a second, brute-force implementation."""

import itertools
import random
from fractions import Fraction
from itertools import pairwise

import pytest

from avalanche_dgm.data import split_budget
from avalanche_dgm.errors import CapacityError, ConfigError
from avalanche_dgm.memories import new_fraction, replay_budget


def brute_force(new, old, n_incoming, n_max, kappa):
    """Tries every total and takes the largest that keeps eta with the incoming samples there are.

    In exact numbers; returns eta and the real-valued shares of the total.
    """
    eta = Fraction(new, new + old) if old else Fraction(1)
    eta = min(Fraction(1), max(eta, kappa * new)) if old else eta
    limit = n_max if n_max is not None else 10**9
    total = 0
    for n in range(1, min(limit, int(n_incoming / eta) + 2) + 1):
        if eta * n <= n_incoming + eta / 2:
            total = n
    return eta, total, eta * total, total - eta * total


def cases(n, seed=0):
    rng = random.Random(seed)
    for _ in range(n):
        new, old = rng.randint(1, 6), rng.choice([0, 0, 1, 2, 5, 40])
        n_incoming = rng.randint(new, rng.choice([20, 300]))
        n_max = rng.choice([None, rng.randint(new + 1, 400)])
        kappa = Fraction(rng.choice([0, 0, 1, 2, 5, 10, 20, 30]), 100)
        if kappa * new > 1 or (n_max is not None and 0 < kappa * n_max < 1):
            continue
        yield {"new": new, "old": old, "n_incoming": n_incoming, "n_max": n_max, "kappa": kappa}


def test_against_brute_force():
    checked = 0
    for case in cases(600):
        budget = replay_budget(**{**case, "kappa": float(case["kappa"])})
        eta, total, n_in, n_gen = brute_force(**case)
        known = {name: float(case[name]) for name in ("new", "old", "kappa")}
        assert new_fraction(**known) == pytest.approx(float(eta)), case
        assert abs(budget.n_incoming + budget.n_generated - total) <= 1, case
        slack = max(1, case["new"])  # rounding, and one sample of each task at least
        assert abs(budget.n_incoming - n_in) <= slack, case
        assert abs(budget.n_generated - n_gen) <= slack, case
        checked += 1
    assert checked > 300


def test_promises():
    for case in cases(3000, seed=1):
        budget = replay_budget(**{**case, "kappa": float(case["kappa"])})
        n_in, n_gen = budget.n_incoming, budget.n_generated
        assert isinstance(n_in, int)
        assert isinstance(n_gen, int)
        assert case["new"] <= n_in <= case["n_incoming"]
        assert n_gen >= 0
        if case["n_max"] is not None:
            assert n_in + n_gen <= case["n_max"], case
        # At least kappa for each new task, less than one sample lost to rounding.
        assert n_in + 0.5 + 1e-9 >= case["kappa"] * case["new"] * (n_in + n_gen), case
        if not case["old"]:
            assert n_gen == 0


def test_the_paper_s_example_in_numbers():
    """Digits: 6,000 images a task, n_max of all 60,000; the shares are those of the tasks."""
    for old in range(1, 10):
        budget = replay_budget(new=1, old=old, n_incoming=6000, n_max=60_000, kappa=0.0)
        assert (budget.n_incoming, budget.n_generated) == (6000, 6000 * old)
    # TDigits, half the memory: from the 21st task on, incoming samples are dropped.
    budget = replay_budget(new=1, old=39, n_incoming=6000, n_max=120_000, kappa=0.0)
    assert (budget.n_incoming, budget.n_generated) == (3000, 117_000)
    # Asleep after five tasks with kappa of 0.05: a quarter of the memory is theirs.
    budget = replay_budget(new=5, old=35, n_incoming=30_000, n_max=120_000, kappa=0.05)
    assert (budget.n_incoming, budget.n_generated) == (30_000, 90_000)


def test_monotonicity():
    base = {"new": 2, "old": 6, "n_incoming": 200, "n_max": 400, "kappa": 0.0}

    def shares(**changes):
        budget = replay_budget(**{**base, **changes})
        return budget.n_incoming / (budget.n_incoming + budget.n_generated)

    def nonincreasing(values):
        return all(a >= b - 0.005 for a, b in pairwise(values))

    by_old = [shares(old=o) for o in (1, 2, 4, 8, 16, 64)]
    by_kappa = [shares(kappa=k) for k in (0.5, 0.4, 0.2, 0.1, 0.0)]
    assert nonincreasing(by_old)
    assert by_old[0] > 2 * by_old[-1]
    assert nonincreasing(by_kappa)
    assert by_kappa[0] == 1.0
    budgets = [replay_budget(**{**base, "n_max": m}) for m in (10, 100, 400, 800, 10_000, None)]
    totals = [budget.n_incoming + budget.n_generated for budget in budgets]
    assert totals == sorted(totals)
    assert totals[-1] == 800


@pytest.mark.parametrize("n_max", [None, 1000])
@pytest.mark.parametrize(("new", "old", "kappa"), [(1, 1, 0.9), (1, 1, 1.0), (5, 3, 0.2)])
def test_few_incoming_samples_are_no_lack_of_capacity(n_max, new, old, kappa):
    budget = replay_budget(new=new, old=old, n_incoming=new, n_max=n_max, kappa=kappa)
    assert budget.n_incoming == new


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"kappa": -0.1}, "from 0 to 1"),
        ({"kappa": 1.1}, "from 0 to 1"),
        ({"kappa": float("nan")}, "from 0 to 1"),
        ({"kappa": 0.6}, "Lower kappa to at most 0.5"),
        ({"n_max": 0}, "at least 1"),
        ({"n_max": 10, "kappa": 0.05}, "less than one sample"),
        ({"n_max": 2}, "Raise n_max"),
        ({"n_max": 1, "old": 0}, "Raise n_max"),
    ],
)
def test_what_cannot_be_held(changes, match):
    case = {"new": 2, "old": 3, "n_incoming": 50, "n_max": 100, "kappa": 0.0, **changes}
    with pytest.raises(CapacityError, match=match):
        replay_budget(**case)
    assert issubclass(CapacityError, ConfigError)


def test_fraction():
    assert new_fraction(new=1, old=3, kappa=0.0) == 0.25
    assert new_fraction(new=1, old=3, kappa=0.5) == 0.5
    assert new_fraction(new=2, old=3, kappa=0.9) == 1.0
    assert new_fraction(new=2, old=0, kappa=0.0) == 1.0


def test_split_adds_up_and_favours_no_task():
    rng = random.Random(0)
    for _ in range(2000):
        sizes = [rng.choice([1, 3, 50, 51, 400]) for _ in range(rng.randint(1, 6))]
        n = rng.randint(len(sizes), sum(sizes))
        shares = split_budget(n, sizes)
        assert sum(shares) == n
        assert all(1 <= share <= size for share, size in zip(shares, sizes, strict=True))
        # A task that gave something up has no less than any other, but for rounding.
        for share, size in zip(shares, sizes, strict=True):
            assert share == size or share >= max(shares) - 1


def test_split_is_the_fairest_of_all_divisions():
    """By trying them all: the one that leaves the smallest most, then the second smallest, ..."""
    for sizes in itertools.product(range(4), repeat=3):
        for n in range(sum(sizes) + 3):
            ways = itertools.product(*(range(size + 1) for size in sizes))
            filled = [way for way in ways if sum(way) == min(n, sum(sizes))]
            assert sorted(split_budget(n, sizes)) == max(map(sorted, filled))


def test_split_of_everything_is_everything():
    assert split_budget(12, [5, 4, 3]) == [5, 4, 3]
    assert split_budget(103, [103, 103]) == [51, 52]
    assert split_budget(0, [4, 4]) == [0, 0]
