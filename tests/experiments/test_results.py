import json
import math

import pytest

from avalanche_dgm.experiments import ExperimentConfig, RunResult
from avalanche_dgm.experiments.report import accuracy_csv, summary
from avalanche_dgm.experiments.results import Step, deviation
from avalanche_dgm.experiments.storage import json_safe
from avalanche_dgm.experiments.tables import align, course_table, final_table, task_groups


def make(matrix, order=(0, 1, 2), seed=0, method="naive"):
    return RunResult(
        config=ExperimentConfig(method=method, seed=seed),
        tasks=["a", "b", "c"],
        order=list(order),
        steps=[
            Step(experience=e, accuracy=row, seconds=1.5, histogram={1: 4})
            for e, row in zip(order, matrix, strict=True)
        ],
        shape=(1, 8, 8),
    )


MATRIX = [[0.9, 0.0, 0.0], [0.5, 0.8, 0.0], [0.7, 0.2, 1.0]]


def test_average_is_over_what_was_seen():
    result = make(MATRIX)
    assert result.averages == pytest.approx([0.9, 0.65, 1.9 / 3])
    assert result.complete
    assert result.seconds == 4.5


def test_forgetting_by_hand():
    # Best before the end minus the end: 0.9 - 0.7 and 0.8 - 0.2.
    assert make(MATRIX).forgetting == pytest.approx((0.2 + 0.6) / 2)
    assert make(MATRIX[:1], order=(0,)).forgetting is None


def test_revisited_experience_counts_once():
    result = make([*MATRIX, [0.9, 0.2, 0.6]], order=(0, 1, 2, 0))
    assert result.average() == pytest.approx(1.7 / 3)
    assert result.forgetting == pytest.approx((0.6 + 0.4) / 2)


def test_retention_by_hand():
    # The final accuracy by that right after learning: 0.7 / 0.9 and 0.2 / 0.8.
    assert make(MATRIX).retention == pytest.approx((0.7 / 0.9 + 0.2 / 0.8) / 2)
    assert make(MATRIX[:1], order=(0,)).retention is None
    # Of what was never known no part can be left.
    unknown = make([[0.0, 0.0, 0.0], [0.5, 0.8, 0.0], [0.7, 0.2, 1.0]])
    assert unknown.retention == pytest.approx(0.25)
    again = make([*MATRIX, [0.9, 0.2, 0.6]], order=(0, 1, 2, 0))
    assert again.retention == pytest.approx((0.2 / 0.8 + 0.6 / 1.0) / 2)


def test_missing_accuracies_are_left_out():
    result = make([[0.5, None, None], [0.5, None, None], [0.5, None, 1.0]])
    assert result.average() == pytest.approx(0.75)
    assert accuracy_csv(result).splitlines()[1] == "a,0.500000,,,0.500000"


def test_json_and_back():
    result = make(MATRIX)
    again = RunResult.from_json(json.loads(json.dumps(result.to_json())))
    assert again.to_json() == result.to_json()
    assert again.steps[0].histogram == {1: 4}


def test_deviation():
    assert deviation([1.0, 3.0]) == pytest.approx(math.sqrt(2))
    assert deviation([1.0]) == 0.0
    assert math.isnan(deviation([1.0, math.nan]))


def test_table_is_aligned_and_shows_spread_over_seeds():
    runs = {"naive": [make(MATRIX), make([*MATRIX[:2], [0.7, 0.2, 0.7]], seed=1)]}
    table = final_table(runs).splitlines()
    assert len({len(line) for line in table}) == 1
    assert "0.583 ± 0.071" in table[2]
    heads, retention = table[0].split(), [(0.7 / 0.9 + 0.2 / 0.8) / 2] * 2
    assert heads[-3:] == ["retention", "memory", "training"]
    assert f"{retention[0]:.3f} ± 0.000" in table[2]
    numbers = summary(runs)["methods"]["naive"]
    assert numbers["retention"] == pytest.approx(retention)
    assert numbers["retention_mean"] == pytest.approx(retention[0])
    assert summary(runs)["methods"]["naive"]["seeds"] == [0, 1]


def test_one_experience_has_no_retention():
    result = make(MATRIX[:1], order=(0,))
    assert "retention" not in final_table({"naive": [result]})
    assert result.to_json()["retention"] is None
    assert json.dumps(json_safe(summary({"naive": [result]})))


def test_course_brackets_what_is_not_yet_learned():
    first, *_ = course_table(make(MATRIX)).splitlines()[2:]
    assert first.split() == ["a", "0.900", "(0.000)", "(0.000)", "0.900"]


def test_many_tasks_are_grouped():
    groups = task_groups([f"digit {i}" for i in range(40)])
    assert groups[0] == ("1-5", [0, 1, 2, 3, 4])
    assert groups[-2] == ("36-40", [35, 36, 37, 38, 39])
    assert groups[-1] == ("last 10", list(range(30, 40)))
    assert task_groups(["a long name", "b"])[0][0] == "task 1"


def test_align():
    assert align([["a", "b"], ["xx", "1"]]).splitlines() == ["a   b", "-----", "xx  1"]
