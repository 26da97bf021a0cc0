"""The table of known classes."""

from collections import Counter

import pytest
import torch

from avalanche_dgm.classes import ClassTable


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def table(*rows):
    made = ClassTable()
    for group, task, label in rows:
        made.add(torch.tensor([task]), torch.tensor([label]), group=group)
    return made


def test_classes_stay_in_the_order_in_which_they_came():
    made = ClassTable()
    rows = made.add(torch.tensor([0, 0, 1, 0]), torch.tensor([7, 4, 4, 7]))
    assert made.rows.tolist() == [[0, 0, 4], [0, 0, 7], [0, 1, 4]]
    assert rows.tolist() == [1, 0, 2, 1]
    rows = made.add(torch.tensor([0, 0]), torch.tensor([7, 1]))
    assert made.rows[3:].tolist() == [[0, 0, 1]]
    assert rows.tolist() == [1, 3]


def test_groups_tell_the_same_class_apart():
    made = table((0, 0, 4), (1, 0, 4))
    assert len(made) == 2
    rows = made.add(torch.zeros(3).long(), torch.full((3,), 4), group=torch.tensor([2, 0, 1]))
    assert rows.tolist() == [2, 0, 1]
    assert made.groups.tolist() == [0, 1, 2]
    assert made.find(torch.tensor([0]), torch.tensor([4]), group=1).tolist() == [1]


def test_find_says_what_is_unknown():
    tasks, labels = torch.tensor([0, 1, 0]), torch.tensor([4, 4, 9])
    assert ClassTable().find(tasks, labels).tolist() == [-1, -1, -1]
    made = table((0, 0, 9), (0, 1, 4))
    assert made.find(tasks, labels).tolist() == [-1, 1, 0]
    assert len(made) == 2


@pytest.mark.parametrize("n", [1, 2, 3, 7, 12, 100, 1001])
@pytest.mark.parametrize("seed", range(5))
def test_draws_are_balanced(n, seed):
    """By label, then by task label and group: each within one of its exact share."""
    made = table((0, 0, 1), (0, 0, 2), (1, 0, 2), (2, 1, 5))
    rows = made.balanced(n, rng(seed)).tolist()
    counts, shares = Counter(rows), [n / 3, n / 6, n / 6, n / 3]
    assert rows == sorted(rows)
    assert all(abs(counts[row] - share) < 1 + 1e-9 for row, share in enumerate(shares))


def test_small_draws_reach_every_class_over_time():
    made, generator = table((0, 0, 1), (0, 0, 2), (1, 0, 2), (2, 1, 5)), rng()
    drawn = torch.cat([made.balanced(1, generator) for _ in range(600)])
    shares = torch.bincount(made.labels[drawn], minlength=6)[[1, 2, 5]] / 600
    assert (shares - 1 / 3).abs().max() < 0.07


def test_outputs():
    made, tasks = table((0, 0, 1), (0, 0, 2), (3, 1, 0)), torch.tensor([0, 1, 0])
    assert made.outputs(tasks, 4, by_task=True).tolist() == [
        [False, True, True, False],
        [True, False, False, False],
        [False, True, True, False],
    ]
    assert made.outputs(tasks, 4, by_task=False).tolist() == [[True, True, True, False]] * 3


def test_outputs_of_a_batch_of_narrow_heads():
    made = table((0, 0, 1), (0, 1, 5))
    assert made.outputs(torch.tensor([0, 0]), 2, by_task=True).tolist() == [[False, True]] * 2


def test_state_dict_into_an_empty_one():
    made, fresh = table((0, 0, 1), (4, 2, 2)), ClassTable()
    fresh.load_state_dict(made.state_dict())
    assert torch.equal(fresh.rows, made.rows)
    fresh.load_state_dict(ClassTable().state_dict())
    assert len(fresh) == 0
