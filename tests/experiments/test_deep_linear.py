"""Deep linear networks: the data's covariance, and interference against its closed form."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments import deep_linear
from avalanche_dgm.experiments.deep_linear import A, B, Settings, hierarchical_features, train

FAST = Settings(epochs=250, periods=8)


@pytest.mark.parametrize("flip", [0.0, 0.1, 0.3, 0.5])
def test_covariance_of_the_features(flip):
    n = 40_000
    values = hierarchical_features(4, n, flip, generator=torch.Generator().manual_seed(0))
    assert values.shape == (16, n)
    assert set(values.unique().tolist()) == {-1.0, 1.0}
    measured = values @ values.T / n
    for i in range(16):
        for j in range(16):
            # The paths of two leaves part below the highest bit in which their numbers differ.
            levels = (i ^ j).bit_length()
            expected = (1 - 2 * flip) ** (2 * levels)
            assert float(measured[i, j]) == pytest.approx(expected, abs=5 / n**0.5)
    assert float(values.mean(dim=1).abs().max()) < 5 / n**0.5


def test_interference_is_that_of_the_closed_form():
    """With small steps, from a small start, A's error ends at (sqrt((1 + sqrt 5) / 2) - 1)^2.

    The difference of the squares of the two layers' weights is conserved in each mode. It is 0
    after A, of strength s, so that w^2 = s; with B's new head it is s, and w^2 - (s / w)^2 = s.
    Hence w^2 = s (1 + sqrt 5) / 2, and A's old head makes everything larger by w / sqrt s.
    """
    settings = Settings(scale=0.003, lr=0.02, epochs=1)
    panel = train("", [(A,)] * 1200 + [(B,)] * 1200, settings)
    golden = (1 + 5**0.5) / 2
    assert float(panel.errors[1200, A]) < 1e-4
    assert float(panel.errors[-1, A]) == pytest.approx((golden**0.5 - 1) ** 2, rel=0.04)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_the_figure_shows(seed):
    result = deep_linear.run(replace(FAST, seed=seed))
    a, b = (result.interference[name] for name in "ab")
    before = float(result.panels["a"].errors[FAST.epochs, A])
    assert before < 1e-3
    # Learning the same again, alone, disturbs; together with what is known it does not.
    assert a > 0.1
    assert b < 0.03
    assert a > 6 * b
    # Both end with B learned.
    assert float(result.panels["a"].errors[-1, B]) < 1e-3
    assert float(result.panels["b"].errors[-1].max()) < 1e-3
    # In turns: less each time, but much later than both at once.
    turns, length = result.panels["c"], FAST.period
    rises = [
        turns.rise((A, B)[(i + 1) % 2], i * length, (i + 1) * length)
        for i in range(1, FAST.periods)
    ]
    assert rises[0] > 0.05
    assert all(later < earlier for earlier, later in pairwise(rises))
    assert result.delay > 100


def test_going_on_with_the_same_task_disturbs_nothing():
    panel = train("", [(A,)] * (2 * FAST.epochs), FAST)
    assert panel.rise(A, FAST.epochs, 2 * FAST.epochs) < 1e-9
    # B's head was not trained: its error is that of other random answers, about the initial one.
    assert float(panel.errors[-1, B]) > 0.9


def test_errors_are_those_of_the_matrices():
    """One step, written out."""
    settings = Settings(depth=2, features=6, hidden=3, scale=0.5, lr=0.1)
    generator = torch.Generator().manual_seed(settings.seed)
    targets = hierarchical_features(2, 6, 0.1, generator=generator) / 6**0.5
    from avalanche_dgm.models import DeepLinear
    from avalanche_dgm.randomness import RandomSource

    with RandomSource(0).seeded_init():
        model = DeepLinear(4, 3, (6, 6), scale=0.5).double()
    w, (u, v) = model.hidden.weight.detach(), [h.weight.detach() for h in model.heads]
    panel = train("", [(B,)], settings)

    def errors(w, u, v):
        whole = targets.square().sum()
        return torch.stack([((h @ w).T - targets).square().sum() / whole for h in (u, v)])

    torch.testing.assert_close(panel.errors[0], errors(w, u, v))
    wrong = v @ w - targets.T
    w, v = w - 0.1 * v.T @ wrong, v - 0.1 * wrong @ w.T
    torch.testing.assert_close(panel.errors[1], errors(w, u, v))


def test_seeds():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first = train("", [(A,)] * 5, FAST)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first.errors, train("", [(A,)] * 5, FAST).errors)
    assert not torch.equal(first.errors, train("", [(A,)] * 5, replace(FAST, seed=1)).errors)


def test_convergence():
    errors = torch.tensor([[1.0, 1.0], [0.0, 0.01], [0.1, 0.1], [0.0, 0.01], [0.0, 0.0]])
    panel = deep_linear.Panel("", ((A,),) * 4, errors)
    assert panel.converged(0.02) == 3
    assert panel.converged(2.0) == 0
    assert panel.converged(0.0) is None
    assert panel.rise(B, 1, 3) == pytest.approx(0.09)


def test_there_is_no_delay_of_what_did_not_converge():
    settings = Settings(depth=2, features=10, epochs=20, period=5, periods=4)
    result = deep_linear.run(settings)
    assert [len(panel.errors) for panel in result.panels.values()] == [41, 41, 21, 21]
    assert result.panels["a"].trained[20] == (B,)
    assert result.delay is None


@pytest.mark.parametrize(
    "wrong", [{"depth": 0}, {"depth": 20}, {"flip": 0.6}, {"lr": 0}, {"periods": 0}]
)
def test_settings(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Settings(**wrong)
