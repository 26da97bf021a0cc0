"""The torchmetrics in one and two processes, against loops that follow their definitions."""

import json
import math
import sys
from pathlib import Path

import forked
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from shared_metrics import SEEDS, everything, stream

SCRIPT = Path(__file__).parent / "shared_metrics.py"


@pytest.fixture(scope="module")
def alone():
    return everything()


@pytest.fixture(scope="module")
def together():
    return [json.loads(output) for output in forked.run_ranks(SCRIPT)]


def matrix_of(seed):
    """Accuracies by (step, experience) of a stream, and its lengths."""
    height, width, batches = stream(seed)
    right, n = {}, {}
    for answers, labels, where in batches:
        place = (where["step"], where["experience"])
        n[place] = n.get(place, 0) + len(labels)
        hits = sum(a == y for a, y in zip(answers, labels, strict=True))
        right[place] = right.get(place, 0) + hits
    return height, width, {place: right[place] / n[place] for place in n}


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else math.nan


def by_definition(seed):
    """The summaries, from dictionaries of what was measured."""
    height, width, r = matrix_of(seed)
    t = max((i for i, _ in r), default=height - 1)
    lost, kept = [], []
    for j in range(min(t, width)):
        earlier = [r[i, j] for i in range(t) if (i, j) in r]
        if earlier and (t, j) in r:
            lost.append(max(earlier) - r[t, j])
        if r.get((j, j), 0) > 0 and (t, j) in r:
            kept.append(r[t, j] / r[j, j])
    averages = [
        mean(r[i, j] for j in range(i + 1) if (i, j) in r)
        for i in range(height)
        if any((i, j) in r for j in range(min(i + 1, width)))
    ]
    return {
        "AverageAccuracy": mean(r[t, j] for j in range(t + 1) if (t, j) in r),
        "AverageAnytimeAccuracy": mean(averages),
        "BackwardTransfer": mean(
            r[t, j] - r[j, j] for j in range(t) if (t, j) in r and (j, j) in r
        ),
        "Forgetting": mean(lost),
        "ForwardTransfer": mean(
            r[j - 1, j] for j in range(1, min(t + 1, width)) if (j - 1, j) in r
        ),
        "LearningAccuracy": mean(r[j, j] for j in range(t + 1) if (j, j) in r),
        "Retention": mean(kept),
    }


def test_one_process_follows_the_definitions(alone):
    finite = 0
    for seed in SEEDS:
        for name, expected in by_definition(seed).items():
            assert alone[f"{name} {seed}"] == pytest.approx(expected, abs=1e-6, nan_ok=True)
            finite += not math.isnan(expected)
    assert {stream(seed)[0] for seed in SEEDS} == set(range(1, 9))
    assert finite > 200


@pytest.mark.parametrize("rank", [0, 1])
def test_two_processes_say_what_one_says(alone, together, rank):
    assert together[rank].keys() == alone.keys()
    for name, expected in alone.items():
        assert together[rank][name] == pytest.approx(expected, abs=1e-6, nan_ok=True), name
    assert sum(math.isnan(value) for value in alone.values()) < len(alone) / 2


def test_times_of_processes_are_not_added_and_their_samples_are(alone):
    assert alone["cost seconds"] == pytest.approx(18)
    assert alone["cost samples_per_second"] == pytest.approx(360 / 18)
    assert alone["cost seconds/generator"] == pytest.approx(3)
    assert alone["cost seconds/sleep"] == pytest.approx(2.25)
    assert alone["cost seconds/other"] == pytest.approx(6)
