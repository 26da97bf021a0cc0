"""Summaries of accuracy matrices against definitions written out in plain Python."""

import math
import random
import statistics

import numpy as np
import pytest
import torch
from avalanche.evaluation.metrics import BWT
from avalanche.evaluation.metrics import Forgetting as AvalancheForgetting
from avalanche.evaluation.metrics import ForwardTransfer as AvalancheForwardTransfer
from scipy import stats

from avalanche_dgm.errors import ConfigError, ShapeError
from avalanche_dgm.metrics import (
    StreamAccuracies,
    average_accuracy,
    average_anytime_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    functional,
    learning_accuracy,
    retention,
)

NAN = math.nan


def mean(values):
    values = [v for v in values if not math.isnan(v)]
    return sum(values) / len(values) if values else NAN


def last(rows):
    measured = [i for i, row in enumerate(rows) if any(not math.isnan(v) for v in row)]
    return measured[-1] if measured else len(rows) - 1


def columns(rows, end):
    return range(min(end, len(rows[0])))


def plain_average(rows):
    t = last(rows)
    return mean(rows[t][j] for j in columns(rows, t + 1))


def plain_backward(rows):
    t = last(rows)
    return mean(rows[t][j] - rows[j][j] for j in columns(rows, t))


def plain_forward(rows, baseline):
    """Of what was learned: a task that is still ahead may never come."""
    t = last(rows)
    return mean(rows[j - 1][j] - baseline[j] for j in range(1, len(rows[0])) if j <= t)


def plain_forgetting(rows):
    t = last(rows)
    fallen = []
    for j in columns(rows, t):
        before = [rows[i][j] for i in range(t) if not math.isnan(rows[i][j])]
        fallen.append(max(before) - rows[t][j] if before else NAN)
    return mean(fallen)


def plain_learning(rows):
    return mean(rows[j][j] for j in columns(rows, last(rows) + 1))


def plain_retention(rows):
    t = last(rows)
    return mean(rows[t][j] / rows[j][j] if rows[j][j] else NAN for j in columns(rows, t))


def plain_anytime(rows):
    return mean(mean(row[j] for j in columns(rows, i + 1)) for i, row in enumerate(rows))


def matrices(n=300):
    """Random matrices: square or not, whole, with gaps, or of a stream that is not through."""
    rng = random.Random(0)
    for _ in range(n):
        height, width = rng.randint(1, 6), rng.randint(1, 6)
        if rng.random() < 0.6:
            width = height
        gaps = rng.choice([0.0, 0.0, 0.3, 1.0])
        through = rng.randint(1, height)
        yield [
            [rng.random() if i < through and rng.random() >= gaps else NAN for _ in range(width)]
            for i in range(height)
        ]


@pytest.mark.parametrize(
    ("function", "plain"),
    [
        (average_accuracy, plain_average),
        (backward_transfer, plain_backward),
        (forgetting, plain_forgetting),
        (learning_accuracy, plain_learning),
        (retention, plain_retention),
        (average_anytime_accuracy, plain_anytime),
    ],
)
def test_as_defined(function, plain):
    finite = 0
    for rows in matrices():
        expected = plain(rows)
        matrix = torch.tensor(rows, dtype=torch.float64)
        before = matrix.clone()
        assert float(function(matrix)) == pytest.approx(expected, abs=1e-12, nan_ok=True)
        assert torch.equal(matrix.nan_to_num(-1.0), before.nan_to_num(-1.0))
        finite += not math.isnan(expected)
    assert finite > 100


def test_forward_transfer_as_defined():
    rng = random.Random(1)
    for rows in matrices():
        baseline = [rng.random() for _ in rows[0]]
        matrix = torch.tensor(rows, dtype=torch.float64)
        mine = float(forward_transfer(matrix, torch.tensor(baseline, dtype=torch.float64)))
        assert mine == pytest.approx(plain_forward(rows, baseline), abs=1e-12, nan_ok=True)
        constant = [0.1] * len(rows[0])
        assert float(forward_transfer(matrix, 0.1)) == pytest.approx(
            plain_forward(rows, constant), abs=1e-12, nan_ok=True
        )


def plainly(rows, order):
    """All of them from the definitions, for experiences that may come again or have no test."""
    t = last(rows)
    learned, first = {}, {}
    for i, j in enumerate(order):
        if j is not None:
            first.setdefault(j, i)
            if i <= t:
                learned[j] = i
    earlier = [(i, j) for j, i in learned.items() if i < t]
    best = {
        j: max((r[j] for r in rows[:t] if not math.isnan(r[j])), default=NAN) for _, j in earlier
    }
    after = [
        [rows[i][j] for j in {k for k in order[: i + 1] if k is not None}] for i in range(t + 1)
    ]
    return {
        "average_accuracy": mean(rows[t][j] for j in learned),
        "average_anytime_accuracy": mean(map(mean, after)),
        "learning_accuracy": mean(rows[i][j] for j, i in learned.items()),
        "forgetting": mean(best[j] - rows[t][j] for _, j in earlier),
        "backward_transfer": mean(rows[t][j] - rows[i][j] for i, j in earlier),
        "retention": mean(rows[t][j] / rows[i][j] if rows[i][j] else NAN for i, j in earlier),
        "forward_transfer": mean(rows[i - 1][j] for j, i in first.items() if 0 < i <= t),
    }


def test_any_order_of_learning():
    rng = random.Random(3)
    for rows in matrices():
        choices = [*range(len(rows[0])), None]
        order = [rng.choice(choices) for _ in range(len(rows) + rng.randint(0, 2))]
        expected = plainly(rows, order)
        given = [[None if math.isnan(v) else v for v in row] for row in rows]
        for name, function in functional.SUMMARIES.items():
            found = function(given, order=order)
            assert found == pytest.approx(expected[name], abs=1e-12, nan_ok=True), name
        ours = StreamAccuracies(rows, order)
        known = {k: v for k, v in expected.items() if not math.isnan(v)}
        assert ours.summaries() == pytest.approx(known)
        assert ours.first(1).learned() == [j for j in order[:1] if j is not None]


def test_an_order_must_fit():
    for wrong in ([0], [0, 5], [0, -1]):
        with pytest.raises(ConfigError, match="order"):
            StreamAccuracies([[0.5, 0.5], [0.5, 0.5]], wrong)
    with pytest.raises(ShapeError, match="not a matrix"):
        StreamAccuracies([0.5], [0])
    assert StreamAccuracies([], [0, 1]).summaries() == {}


def test_accuracy_over_all_samples():
    assert functional.stream_accuracy([0.5, None, 1.0], [10, 50, 30]) == pytest.approx(35 / 40)
    assert math.isnan(functional.stream_accuracy([None], [3]))


def test_by_hand():
    matrix = torch.tensor([[0.9, 0.2, 0.1], [0.6, 0.8, 0.3], [0.5, 0.9, 0.7]])
    assert float(average_accuracy(matrix)) == pytest.approx(0.7)
    assert float(backward_transfer(matrix)) == pytest.approx((-0.4 + 0.1) / 2)
    assert float(forgetting(matrix)) == pytest.approx((0.4 - 0.1) / 2)
    assert float(forward_transfer(matrix, 0.1)) == pytest.approx((0.1 + 0.2) / 2)
    assert float(learning_accuracy(matrix)) == pytest.approx(0.8)
    assert float(average_anytime_accuracy(matrix)) == pytest.approx((0.9 + 0.7 + 0.7) / 3)
    assert float(retention(matrix)) == pytest.approx((0.5 / 0.9 + 0.9 / 0.8) / 2)


def test_forgetting_counts_from_the_best_and_backward_transfer_from_the_first():
    matrix = torch.tensor([[0.5, 0.0, 0.0], [0.9, 0.8, 0.0], [0.6, 0.8, 0.7]])
    assert float(forgetting(matrix)) == pytest.approx((0.3 + 0.0) / 2)
    assert float(backward_transfer(matrix)) == pytest.approx((0.1 + 0.0) / 2)


def test_retention_is_a_share_whatever_the_level():
    # Table 1 of the A-LTM paper: viewpoints at 0.91 before, then 0.03, 0.57 and 0.90.
    for after, share in ((0.03, 0.03297), (0.57, 0.62637), (0.90, 0.98901)):
        matrix = torch.tensor([[0.91, 0.0], [after, 0.44]])
        assert float(retention(matrix)) == pytest.approx(share, abs=1e-5)
    assert float(retention(torch.tensor([[0.9, 0.0], [0.45, 0.8]]))) == pytest.approx(0.5)
    assert float(retention(torch.tensor([[0.4, 0.0], [0.2, 0.8]]))) == pytest.approx(0.5)
    # What was never learned has no share; with nothing else there is no answer.
    rows = torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.8, 0.0], [0.2, 0.4, 0.9]])
    assert float(retention(rows)) == pytest.approx(0.5)
    assert math.isnan(float(retention(rows[:2])))
    assert math.isnan(float(retention(rows[:1])))


def test_as_avalanche():
    rng = random.Random(2)
    for _ in range(100):
        n = rng.randint(2, 6)
        rows = [[rng.random() for _ in range(n)] for _ in range(n)]
        for j in range(n):
            # Avalanche measures from the accuracy right after learning: let it be the best.
            best = max(range(n - 1), key=lambda i, j=j: rows[i][j])
            if j < n - 1:
                rows[best][j], rows[j][j] = rows[j][j], rows[best][j]
        lost, gained, ahead = AvalancheForgetting(), BWT(), AvalancheForwardTransfer()
        for i, row in enumerate(rows):
            for j, value in enumerate(row):
                lost.update(j, value, initial=i == j)
                gained.update(j, value, initial=i == j)
                ahead.update(j, 0.1, initial=True)
                if i == j - 1:
                    ahead.update(j, value)
        matrix = torch.tensor(rows, dtype=torch.float64)
        earlier = range(n - 1)
        assert float(forgetting(matrix)) == pytest.approx(mean(lost.result()[j] for j in earlier))
        assert float(backward_transfer(matrix)) == pytest.approx(
            mean(gained.result()[j] for j in earlier)
        )
        assert float(forward_transfer(matrix, 0.1)) == pytest.approx(mean(ahead.result().values()))


def test_a_matrix_is_needed():
    functions = (average_accuracy, forgetting, forward_transfer, average_anytime_accuracy)
    for function in (*functions, retention):
        for wrong in (torch.zeros(3), torch.zeros(2, 2, 2), torch.zeros(0, 3)):
            with pytest.raises(ShapeError, match="accuracy matrix"):
                function(wrong)
    with pytest.raises(ConfigError, match="each of the 3"):
        forward_transfer(torch.zeros(3, 3), torch.zeros(2))


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_an_interval_is_that_of_the_t_distribution(n):
    values = np.random.default_rng(n).normal(size=n).tolist()
    found = functional.estimate([*values, None, float("nan")])
    low, high = stats.t.interval(0.95, n - 1, np.mean(values), stats.sem(values))
    assert (found.n, found.sd) == (n, pytest.approx(statistics.stdev(values)))
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))


def test_one_seed_has_no_interval():
    assert functional.estimate([0.5]).half is None
    assert functional.estimate([None]) is None
