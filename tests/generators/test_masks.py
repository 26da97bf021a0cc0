"""Learned masks: soft and hard, what is kept, growth and gradients."""

import copy
import math
import pickle

import pytest
import torch

from avalanche_dgm.errors import ConfigError, UnknownTaskError
from avalanche_dgm.generators import Mask
from avalanche_dgm.modules import size_in_bytes


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def learned(shape=(13,), *, tasks=1):
    mask = Mask(shape)
    expected = []
    for _ in range(tasks):
        mask.embedding.data.normal_()
        expected.append(mask.embedding.detach() >= 0)
        mask.commit()
        mask.grow((mask.embedding.shape[0] + 2, *mask.embedding.shape[1:]))
    return mask, expected


def test_soft_masks_start_at_a_half_and_sharpen():
    mask = Mask((3,))
    assert torch.equal(mask.soft(100.0), torch.full((3,), 0.5))
    mask.embedding.data = torch.tensor([-1.0, 0.5, 2.0])
    expected = [1 / (1 + math.exp(-4 * e)) for e in (-1.0, 0.5, 2.0)]
    for scale in (4.0, torch.tensor(4.0)):
        torch.testing.assert_close(mask.soft(scale), torch.tensor(expected))
        assert torch.equal(mask.values(None, scale), mask.soft(scale))


@pytest.mark.parametrize("shape", [(1,), (8,), (13,), (5, 3), (2, 3, 4, 4)])
def test_hard_masks_are_kept_in_the_shapes_they_had(shape):
    mask, expected = learned(shape, tasks=3)
    loaded = Mask(shape)
    loaded.load_state_dict(mask.state_dict())
    for other in (mask, loaded, copy.deepcopy(mask), pickle.loads(pickle.dumps(mask))):
        for task, bits in enumerate(expected):
            assert torch.equal(other.hard(task), bits)
            assert torch.equal(other.values(task, None), bits)
        assert torch.equal(other.reserved, mask.reserved)
    assert loaded.embedding.shape == mask.embedding.shape
    union = torch.zeros_like(mask.reserved)
    for bits in expected:
        union[tuple(slice(n) for n in bits.shape)] |= bits
    assert torch.equal(mask.reserved, union)


def test_a_bit_per_entry():
    mask, _ = learned((100, 7), tasks=2)
    assert mask.bits.numel() == math.ceil(700 / 8) + math.ceil(714 / 8)
    before, saved = size_in_bytes(mask), len(pickle.dumps(mask))
    mask.hard(0)
    mask.hard(1)
    assert (size_in_bytes(mask), len(pickle.dumps(mask))) == (before, saved)
    assert set(mask.state_dict()) == {"embedding", "reserved", "bits", "_extra_state"}


def test_loading_forgets_other_masks():
    mask, expected = learned()
    other, _ = learned()
    other.hard(0)
    other.load_state_dict(mask.state_dict())
    assert torch.equal(other.hard(0), expected[0])


def test_masks_unpacked_for_inference_can_be_trained_through():
    mask, _ = learned()
    with torch.inference_mode():
        mask.hard(0)
    weight = torch.ones(13, requires_grad=True)
    (weight * mask.hard(0)).sum().backward()
    assert torch.equal(weight.grad, mask.hard(0).float())


def test_commit_reserves_what_is_used():
    mask = Mask((4,))
    mask.embedding.data = torch.tensor([1.0, 0.0, -0.1, -3.0])
    mask.commit()
    assert mask.n_free == 2
    mask.grow((5,))
    assert torch.equal(mask.embedding, torch.zeros(5))
    assert mask.reserved.tolist() == [True, True, False, False, False]
    mask.embedding.data = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    mask.commit()
    assert mask.n_free == 1
    assert mask.usage(0) == {"width": 4, "reserved": 2, "reused": 0, "free": 2}
    assert mask.usage(1) == {"width": 5, "reserved": 2, "reused": 1, "free": 1}


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0, torch.tensor(2.0)])
@pytest.mark.parametrize("kind", ["hat", "authors", "none"])
def test_compensation_by_the_closed_form(kind, scale):
    mask = Mask((6,))
    mask.embedding.data = torch.tensor([-5.0, -0.3, 0.0, 0.2, 1.0, 60.0])
    factor = torch.randn(6)
    (factor * mask.soft(scale)).sum().backward()
    mask.compensate(scale, 400.0, kind)
    s = float(scale)
    for e, c, gradient in zip(
        mask.embedding.tolist(), factor.tolist(), mask.embedding.grad.tolist(), strict=True
    ):
        slope = s * math.exp(-abs(s * e)) / (1 + math.exp(-abs(s * e))) ** 2
        steep = math.cosh(min(50.0, max(-50.0, s * e))) + 1
        by_hand = c * slope
        if kind != "none":
            by_hand *= steep / (math.cosh(min(50.0, max(-50.0, e))) + 1)
        if kind == "hat":
            by_hand *= 400.0 / s
        # Where the float32 sigmoid is 1, its slope is lost.
        assert gradient == pytest.approx(by_hand, rel=2e-2 if abs(s * e) < 12 else 1, abs=1e-2)


def test_compensation_without_a_gradient_and_of_no_known_kind():
    mask = Mask((2,))
    mask.compensate(1.0, 2.0, "hat")
    assert mask.embedding.grad is None
    with pytest.raises(ConfigError, match="one of hat"):
        mask.compensate(1.0, 2.0, "HAT")


def test_clamp_and_reset():
    mask = Mask((3,))
    mask.embedding.data = torch.tensor([-9.0, 1.0, 9.0])
    mask.clamp()
    assert mask.embedding.tolist() == [-6.0, 1.0, 6.0]
    mask.soft(1.0).sum().backward()
    mask.reset()
    assert mask.embedding.tolist() == [0.0, 0.0, 0.0]
    assert mask.embedding.grad is None


def test_errors():
    mask, _ = learned()
    for task in (-1, 1):
        with pytest.raises(UnknownTaskError):
            mask.hard(task)
    with pytest.raises(ConfigError, match="scale"):
        mask.values(None, None)
