"""A frozen copy stays as it was."""

import copy
import pickle

import pytest
import torch
from torch import nn

from avalanche_dgm.memories import Frozen


@pytest.fixture
def module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))


def test_train_cannot_thaw(module):
    frozen = Frozen(module.train())
    holder = nn.Sequential(frozen)
    holder.train()
    frozen.train()
    frozen.train(True)
    assert not any(m.training for m in frozen.modules())
    x = torch.randn(16, 4)
    assert torch.equal(frozen(x), frozen(x))  # no dropout
    # The original would drop units here.
    assert not torch.equal(module(x), module(x))


def test_statistics_and_weights_stay_bit_equal_while_the_original_trains(module):
    frozen = Frozen(module)
    before = copy.deepcopy(frozen.state_dict())
    original = copy.deepcopy(module.state_dict())
    nn.Sequential(frozen, nn.Identity()).train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    for _ in range(5):
        x = torch.randn(16, 4)
        loss = module.train()(x).square().mean() + frozen(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = frozen.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    moved = module.state_dict()
    assert all(not torch.equal(original[key], moved[key]) for key in original)


def test_the_original_is_left_alone(module):
    module.train()
    frozen = Frozen(module)
    assert module.training
    assert all(p.requires_grad for p in module.parameters())
    assert not any(p.requires_grad for p in frozen.parameters())
    mine = {p.data_ptr() for p in module.parameters()}
    assert mine.isdisjoint(p.data_ptr() for p in frozen.parameters())


def test_gradients_reach_the_input_only(module):
    frozen = Frozen(module)
    x = torch.randn(4, 4, requires_grad=True)
    frozen(x).sum().backward()
    assert x.grad is not None
    assert all(p.grad is None for p in frozen.parameters())


def test_copies_and_pickles_stay_frozen(module):
    for other in (
        copy.deepcopy(Frozen(module)),
        pickle.loads(pickle.dumps(Frozen(module))),
    ):
        other.train()
        assert not any(m.training for m in other.modules())
        assert not any(p.requires_grad for p in other.parameters())
