"""What is asked of a classifier before it learns."""

import pytest
import torch
from driver import digits, network
from torch import nn

from avalanche_dgm.data import ExperienceData
from avalanche_dgm.errors import ConfigError, LabelError
from avalanche_dgm.memories.classifiers import check_heads, width_of
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


class Padded(nn.Module):
    """Has as many outputs as asked for, and minus infinity for the rest."""

    def __init__(self, n):
        super().__init__()
        self.head, self.n = nn.Linear(64, 10), n

    def forward(self, images):
        logits = self.head(images.flatten(1))
        return logits.masked_fill(torch.arange(10) >= self.n, -torch.inf)


def test_what_has_no_output_answers_minus_infinity():
    assert width_of(Padded(4), digits(0, 3), task_aware=False) == 10
    with pytest.raises(LabelError, match="label 4"):
        width_of(Padded(4), digits(0, 4), task_aware=False)


def test_large_answers_are_answers():
    """Of a network that has learned images of 0 to 255, say."""
    net = network(10)
    with torch.no_grad():
        net[-1].bias.fill_(-5000.0)
    assert width_of(net, digits(*range(10)), task_aware=False) == 10


def test_many_classes_are_shown_in_parts():
    images = torch.rand(150, 1, 8, 8)
    data = ExperienceData(images, torch.arange(150), torch.zeros(150).long(), "many")
    sizes = []
    net = network(150)
    net.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    assert width_of(net, data, task_aware=False) == 150
    assert sizes == [64, 64, 22]


def test_heads_that_shrink():
    image = torch.rand(1, 1, 8, 8)
    check_heads(network(7), image, {0: 7}, task_aware=False)
    with pytest.raises(ConfigError, match="The classifier has 5 outputs, but 6 were learned"):
        check_heads(network(5), image, {0: 6}, task_aware=False)
    check_heads(Heads(), image, {0: 5, 1: 5}, task_aware=True)
    with pytest.raises(ConfigError, match="The head of task 1 has 5 outputs, but 6 were learned"):
        check_heads(Heads(), image, {0: 2, 1: 6}, task_aware=True)
