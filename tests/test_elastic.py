"""Squared gradients of single samples, and penalties of many tasks in the size of one."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from avalanche_dgm import elastic
from avalanche_dgm.elastic import ElasticPenalty, squared_gradients
from avalanche_dgm.errors import ConfigError


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Dropout(0.5), nn.Linear(7, 3))


class LooksAtItsInput(nn.Module):
    """A network that cannot be vectorised."""

    def __init__(self):
        super().__init__()
        self.body = network()

    def forward(self, x):
        y = self.body(x)
        return -y if float(x.sum()) > 0 else y


def surprise(net, one, label):
    return F.cross_entropy(net(one[None]), label[None])


def samples(n=12):
    rng = torch.Generator().manual_seed(1)
    return torch.randn(n, 5, generator=rng), torch.randint(3, (n,), generator=rng)


@pytest.mark.parametrize("make", [network, LooksAtItsInput])
@pytest.mark.parametrize("at_once", [1, 200, 2**23])
def test_squares_are_of_single_samples(make, at_once, monkeypatch):
    monkeypatch.setattr(elastic, "_AT_ONCE", at_once)
    net, (x, labels) = make(), samples()
    next(net.parameters()).requires_grad_(False)
    found = squared_gradients(net, surprise, x, labels)
    assert net.training
    net.eval()
    wanted = {n: torch.zeros_like(p) for n, p in net.named_parameters() if p.requires_grad}
    for one, label in zip(x, labels, strict=True):
        net.zero_grad()
        F.cross_entropy(net(one[None]), label[None]).backward()
        for name in wanted:
            wanted[name] += dict(net.named_parameters())[name].grad.square()
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value)


def importances(net, rng):
    return {name: torch.rand(p.shape, generator=rng) for name, p in net.named_parameters()}


def moved(net, rng):
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn(p.shape, generator=rng))


def test_penalties_of_many_tasks_are_their_sum_in_the_size_of_one():
    net, rng, penalty, tasks = network(), torch.Generator().manual_seed(0), ElasticPenalty(), []
    assert float(penalty(net)) == 0
    sizes = []
    for _ in range(4):
        found = importances(net, rng)
        found["0.weight"][:2] = 0.0  # Weights that no task needs.
        penalty.add(net, found)
        tasks.append((found, copy.deepcopy(net)))
        sizes.append(sum(buffer.numel() for buffer in penalty.buffers()))
        moved(net, rng)
    assert len(set(sizes)) == 1
    wanted = torch.zeros(())
    for found, then in tasks:
        anchors = dict(then.named_parameters())
        for name, p in net.named_parameters():
            wanted = wanted + 0.5 * (found[name] * (p - anchors[name].detach()) ** 2).sum()
    torch.testing.assert_close(penalty(net), wanted)
    ways = torch.autograd.grad(penalty(net), list(net.parameters()))
    others = torch.autograd.grad(wanted, list(net.parameters()))
    torch.testing.assert_close(ways, others)


def test_new_outputs_are_free_and_old_ones_stay_held():
    rng, penalty = torch.Generator().manual_seed(0), ElasticPenalty()
    net, grown = nn.Linear(3, 2), nn.Linear(3, 4)
    first = importances(net, rng)
    penalty.add(net, first)
    with torch.no_grad():
        grown.weight[:2], grown.bias[:2] = net.weight, net.bias
    penalty.check(grown)
    assert not penalty(grown)
    with torch.no_grad():
        grown.weight[2:] += 5
    assert not penalty(grown)
    with torch.no_grad():
        grown.weight[:2] += 1
    torch.testing.assert_close(penalty(grown), 0.5 * first["weight"].sum())
    second = importances(grown, rng)
    penalty.add(grown, second)
    with torch.no_grad():
        grown.weight += 1
    wanted = 0.5 * (4 * first["weight"].sum() + second["weight"].sum())
    torch.testing.assert_close(penalty(grown), wanted)
    with pytest.raises(ConfigError, match="weight had shape"):
        penalty.check(net)
    with pytest.raises(ConfigError, match="none of that name"):
        penalty.check(nn.Sequential(grown))


def test_the_state_of_another_size_is_taken_over():
    penalty, other = ElasticPenalty(), ElasticPenalty()
    net, rng = network(), torch.Generator().manual_seed(0)
    penalty.add(net, importances(net, rng))
    other.load_state_dict(penalty.state_dict())
    moved(net, rng)
    assert torch.equal(penalty(net), other(net))
