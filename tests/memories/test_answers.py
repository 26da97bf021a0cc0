"""What is asked of a classifier before it learns."""

import pytest
import torch
from driver import digits, network
from torch import nn

from avalanche_dgm.errors import LabelError
from avalanche_dgm.memories.answers import learned_outputs, width_of
from avalanche_dgm.models import MultiHead


class Heads(nn.Module):
    """Two heads of different widths, as `AlexNetLike` has them."""

    def __init__(self):
        super().__init__()
        self.heads = MultiHead(64, {0: 2, 1: 5})

    def forward(self, images, tasks):
        return self.heads(images.flatten(1), tasks)


def test_width():
    assert width_of(network(7), digits(0, 1, 2), task_aware=False) == 7
    assert width_of(Heads(), digits(0, 1, task=0), task_aware=True) == 5
    assert width_of(Heads(), digits(3, 4, task=1), task_aware=True) == 5


def test_too_large_a_label_is_left_to_who_compares_it_with_the_width():
    assert width_of(network(3), digits(1, 7), task_aware=False) == 3


def test_a_label_that_a_head_pads_is_refused():
    with pytest.raises(LabelError, match="label 3 with the task label 0.*at least 4 outputs"):
        width_of(Heads(), digits(0, 3, task=0), task_aware=True)


def test_learned_outputs():
    known = torch.tensor([[0, 1], [0, 2], [1, 0]])
    tasks = torch.tensor([0, 1, 0])
    by_task = learned_outputs(known, tasks, 4, by_task=True)
    assert by_task.tolist() == [
        [False, True, True, False],
        [True, False, False, False],
        [False, True, True, False],
    ]
    together = learned_outputs(known, tasks, 4, by_task=False)
    assert together.tolist() == [[True, True, True, False]] * 3
