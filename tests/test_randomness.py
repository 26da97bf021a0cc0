"""Random numbers whose state travels."""

import copy
import pickle

import pytest
import torch
from torch import nn

from avalanche_dgm.randomness import RandomSource


def draw(source, n=5):
    return torch.rand(n, generator=source.on("cpu"))


def test_the_seed_decides():
    assert torch.equal(draw(RandomSource(3)), draw(RandomSource(3)))
    assert not torch.equal(draw(RandomSource(3)), draw(RandomSource(4)))


def test_torch_manual_seed_governs_where_no_seed_is_given():
    def first(seed):
        source = RandomSource()
        torch.manual_seed(seed)  # after the source was made: the first draw counts
        return draw(source)

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_a_given_seed_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    draw(RandomSource(5))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "travel",
    [copy.deepcopy, lambda source: pickle.loads(pickle.dumps(source)), None],
    ids=["deepcopy", "pickle", "state"],
)
@pytest.mark.parametrize("seed", [7, None])
def test_continues_where_it_was(travel, seed):
    torch.manual_seed(0)
    source = RandomSource(seed)
    draw(source, 13)
    if travel is None:
        other = RandomSource(99)
        draw(other)
        other.set_state(source.get_state())
    else:
        other = travel(source)
    torch.manual_seed(1)
    expected = draw(source)
    assert torch.equal(expected, draw(other))
    assert not torch.equal(expected, draw(other))  # it moves on
    # They are apart from here: the copy's draws did not move the original.
    fresh = copy.deepcopy(source)
    draw(other, 100)
    assert torch.equal(draw(source), draw(fresh))


def test_a_state_is_a_snapshot():
    source = RandomSource(1)
    draw(source)
    state = source.get_state()
    expected = draw(source)
    source.set_state(state)
    assert torch.equal(expected, draw(source))


def test_states_of_absent_devices_are_skipped():
    source = RandomSource(1)
    draw(source)
    state = source.get_state()
    if not torch.cuda.is_available():
        state["generators"]["cuda:0"] = torch.zeros(16, dtype=torch.uint8)
    other = RandomSource()
    other.set_state(state)
    assert torch.equal(draw(source), draw(other))


def test_child_seeds_differ_and_repeat():
    source = RandomSource(1)
    children = [source.child_seed() for _ in range(20)]
    assert len(set(children)) == 20
    again = RandomSource(1)
    assert children == [again.child_seed() for _ in range(20)]


def test_seeded_init_decides_initial_weights_and_restores_the_global_generator():
    def weights(source, outside):
        torch.manual_seed(outside)
        before = torch.get_rng_state()
        with source.seeded_init():
            layer = nn.Linear(3, 3)
        assert torch.equal(before, torch.get_rng_state())
        return layer.weight

    assert torch.equal(weights(RandomSource(1), 0), weights(RandomSource(1), 5))
    assert not torch.equal(weights(RandomSource(1), 0), weights(RandomSource(2), 0))
    source = RandomSource(1)
    assert not torch.equal(weights(source, 0), weights(source, 0))


def test_seeded_init_restores_the_source_after_an_error():
    source, other = RandomSource(1), RandomSource(1)

    def fail():
        with source.seeded_init():
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        fail()
    assert torch.equal(draw(source), draw(other))
