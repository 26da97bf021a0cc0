"""Soft targets and distillation against plain formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Categorical, kl_divergence

from avalanche_dgm.losses import distillation, soft_targets


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 10.0])
def test_soft_targets(temperature):
    logits = 4 * torch.randn(7, 5)
    allowed = torch.tensor([True, False, True, True, False])
    targets = soft_targets(logits, allowed=allowed, temperature=temperature)
    for row, answer in zip(logits.tolist(), targets.tolist(), strict=True):
        pairs = zip(row, allowed.tolist(), strict=True)
        weights = [math.exp(v / temperature) if known else 0.0 for v, known in pairs]
        assert answer == pytest.approx([w / sum(weights) for w in weights], rel=1e-4)


def test_soft_targets_with_a_mask_for_each_row():
    logits = torch.randn(3, 4)
    allowed = torch.tensor([[1, 0, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1]], dtype=torch.bool)
    targets = soft_targets(logits, allowed=allowed, temperature=2.0)
    assert targets[0].tolist() == [1, 0, 0, 0]
    assert (targets[~allowed] == 0).all()
    torch.testing.assert_close(targets.sum(1), torch.ones(3))
    torch.testing.assert_close(targets[2], torch.softmax(logits[2] / 2, 0))


def test_higher_temperatures_are_softer():
    logits, allowed = torch.tensor([[3.0, 0.0, -1.0]]), torch.ones(3, dtype=torch.bool)
    tops = [
        soft_targets(logits, allowed=allowed, temperature=t).max().item() for t in (0.5, 1, 2, 5)
    ]
    assert tops == sorted(tops, reverse=True)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_distillation_is_divergence_plus_entropy(temperature):
    student, teacher = torch.randn(6, 5), torch.softmax(torch.randn(6, 5), dim=1)
    predicted = Categorical(logits=student / temperature)
    target = Categorical(probs=teacher)
    expected = (kl_divergence(target, predicted) + target.entropy()) * temperature**2
    torch.testing.assert_close(distillation(student, teacher, temperature=temperature), expected)


def test_certain_targets_at_temperature_one_are_cross_entropy():
    student, labels = torch.randn(6, 5), torch.randint(5, (6,))
    expected = F.cross_entropy(student, labels, reduction="none")
    actual = distillation(student, F.one_hot(labels, 5).float(), temperature=1.0)
    torch.testing.assert_close(actual, expected)


def test_narrow_targets_count_as_zero_on_the_student_s_new_classes():
    student, targets = torch.randn(6, 5), torch.softmax(torch.randn(6, 3), dim=1)
    padded = torch.cat([targets, torch.zeros(6, 2)], dim=1)
    torch.testing.assert_close(
        distillation(student, targets, temperature=2.0),
        distillation(student, padded, temperature=2.0),
    )
    # The new classes must be pushed down, so they cannot just be cut off before the softmax.
    cut = distillation(student[:, :3], targets, temperature=2.0)
    assert (distillation(student, targets, temperature=2.0) > cut).all()


def test_gradient_vanishes_exactly_at_the_target():
    logits = torch.randn(4, 5)
    targets = torch.softmax(logits / 3.0, dim=1)
    student = logits.clone().requires_grad_()
    distillation(student, targets, temperature=3.0).sum().backward()
    assert student.grad.abs().max() < 1e-5
    other = torch.zeros_like(logits).requires_grad_()
    distillation(other, targets, temperature=3.0).sum().backward()
    assert other.grad.abs().max() > 1e-2
