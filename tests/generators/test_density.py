"""The class-conditional density of codes."""

import pytest
import torch

from avalanche_dgm.generators import ClassDensity


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def correlated(n, z=4):
    """Codes with a known mean and covariance."""
    root = torch.randn(z, z)
    return 3 + torch.randn(n, z) @ root.T, root @ root.T


def test_moments_are_recovered():
    density = ClassDensity(4)
    codes, covariance = correlated(20_000)
    log_variance = torch.full_like(codes, -1.0)
    density.fit((0, 0, 7), codes, log_variance)
    drawn, entries = density.draw(40_000, rng())
    assert entries.unique(dim=0).tolist() == [[0, 0, 7]]
    # The aggregate posterior is wider than the means by the mean posterior variance.
    expected = covariance + torch.eye(4) * torch.tensor(-1.0).exp()
    scale = expected.diagonal().max()
    assert (drawn.mean(0) - codes.mean(0)).abs().max() < 0.05 * scale.sqrt()
    assert (torch.cov(drawn.T) - expected).abs().max() < 0.05 * scale
    # The off-diagonal part is really there: a diagonal density would fail.
    assert (expected - torch.diag(expected.diagonal())).abs().max() > 0.2 * scale


def test_one_sample_is_enough():
    density = ClassDensity(3)
    density.fit((0, 0, 0), torch.ones(1, 3), torch.full((1, 3), -30.0))
    codes, _ = density.draw(100, rng())
    assert (codes - 1).abs().max() < 0.02


def four_entries():
    density = ClassDensity(2)
    for entry in [(0, 0, 1), (0, 0, 2), (1, 0, 2), (2, 1, 5)]:
        density.fit(entry, torch.randn(10, 2), torch.zeros(10, 2))
    return density


@pytest.mark.parametrize("n", [1, 2, 3, 7, 12, 100, 1001])
@pytest.mark.parametrize("seed", range(5))
def test_draws_are_balanced(n, seed):
    """By class, and within a class by task: each entry within one of its exact share."""
    _, entries = four_entries().draw(n, rng(seed))
    shares = {(0, 0, 1): n / 3, (0, 0, 2): n / 6, (1, 0, 2): n / 6, (2, 1, 5): n / 3}
    counts = dict.fromkeys(shares, 0)
    for row in entries.tolist():
        counts[tuple(row)] += 1
    assert sum(counts.values()) == n
    for entry, share in shares.items():
        assert abs(counts[entry] - share) < 1 + 1e-9


def test_small_draws_reach_every_class_over_time():
    density, generator = four_entries(), rng()
    drawn = torch.cat([density.draw(1, generator)[1][:, 2] for _ in range(600)])
    shares = torch.bincount(drawn, minlength=6)[[1, 2, 5]] / 600
    assert (shares - 1 / 3).abs().max() < 0.07


def test_fitting_again_replaces():
    density = four_entries()
    density.fit((0, 0, 2), torch.full((10, 2), 50.0), torch.full((10, 2), -9.0))
    assert len(density) == 4
    assert density.classes() == (1, 2, 5)
    codes, entries = density.draw(60, rng())
    moved = (entries == torch.tensor([0, 0, 2])).all(1)
    assert moved.any()
    assert (codes[moved] > 40).all()
    assert (codes[~moved] < 40).all()


def test_state_dict_into_an_empty_one_draws_the_same():
    density, empty = four_entries(), ClassDensity(2)
    empty.load_state_dict(density.state_dict())
    assert len(empty) == 4
    for a, b in zip(density.draw(33, rng(5)), empty.draw(33, rng(5)), strict=True):
        assert torch.equal(a, b)


def test_an_empty_state_empties():
    density = four_entries()
    density.load_state_dict(ClassDensity(2).state_dict())
    assert len(density) == 0
    assert density.classes() == ()


def test_drawing_has_no_gradient():
    density = ClassDensity(2)
    density.fit((0, 0, 0), torch.randn(5, 2, requires_grad=True), torch.zeros(5, 2))
    assert not density.draw(3, rng())[0].requires_grad


def test_a_class_that_comes_in_parts_is_known_as_if_it_came_at_once():
    """Mean and covariance of all codes, whatever the sizes of the parts."""
    torch.manual_seed(0)
    codes, silent = torch.randn(60, 3) @ torch.randn(3, 3) + 5, torch.full((60, 3), -torch.inf)
    once, parts = ClassDensity(3), ClassDensity(3)
    once.fit((0, 0, 4), codes, silent)
    start = 0
    for size in (7, 1, 40, 12):
        part = slice(start, start + size)
        parts.fit((0, 0, 4), codes[part], silent[part], join=True)
        start += size
    assert parts.seen.tolist() == once.seen.tolist() == [60]
    torch.testing.assert_close(parts.means, once.means)
    square = [d.factors[0] @ d.factors[0].T for d in (parts, once)]
    torch.testing.assert_close(*square, rtol=1e-4, atol=1e-4)
