"""Replay of densities, drawn for many steps at once."""

import copy
from itertools import pairwise

import pytest
import torch

from avalanche_dgm.data import ExperienceData
from avalanche_dgm.generators import make_density
from avalanche_dgm.memories.generated_latents import GeneratedLatents
from avalanche_dgm.memories.generative import MemorySettings
from avalanche_dgm.randomness import RandomSource


def data(*labels, seed=0):
    found = torch.tensor(labels).repeat_interleave(60)
    rng = torch.Generator().manual_seed(seed)
    samples = torch.randn(len(found), 6, generator=rng) + 10 * found[:, None]
    return ExperienceData(samples, found, torch.zeros_like(found), str(labels))


def learned(kind="full"):
    memory, random = GeneratedLatents(MemorySettings(generator=make_density(kind))), RandomSource(0)
    learn(memory, data(0, 1, 2), random)
    return memory, random


def learn(memory, experience, random):
    list(memory.learn_latents(lambda: experience, random))
    rng = random.on("cpu")
    memory.end_experience(experience, lambda: experience, rng, encode=None, freezing=False)


@pytest.mark.parametrize("kind", ["full", "low-rank", "mixture"])
def test_samples_are_new_and_balanced_at_every_step(kind):
    memory, random = learned(kind)
    rng, seen = random.on("cpu"), []
    for n in [8] * 100 + [5, 8, 8]:
        replay = memory.rehearse(n, rng)
        assert replay.images.shape == (n, 6)
        counts = torch.bincount(replay.labels, minlength=3)
        assert int(counts.max() - counts.min()) <= 1
        # Each sample is one of its class.
        assert bool(((replay.images.mean(dim=1) - 10 * replay.labels).abs() < 5).all())
        seen.append(replay.images)
    assert len(torch.unique(torch.cat(seen), dim=0)) == sum(len(x) for x in seen)


def test_steps_of_one_size_are_drawn_together():
    memory, random = learned()
    rng, states = random.on("cpu"), []
    for _ in range(20):
        memory.rehearse(8, rng)
        states.append(rng.get_state())
    changed = [not torch.equal(a, b) for a, b in pairwise(states)]
    assert changed == [True] + [False] * 18
    # Another size is drawn by itself, and the block goes on.
    memory.rehearse(7, rng)
    assert not torch.equal(rng.get_state(), states[-1])
    before = rng.get_state()
    memory.rehearse(8, rng)
    assert torch.equal(rng.get_state(), before)


@pytest.mark.parametrize("steps", [0, 1, 2, 30, 66])
def test_it_goes_on_from_its_state(steps):
    memory, random = learned()
    rng = random.on("cpu")
    for _ in range(steps):
        memory.rehearse(8, rng)
    other, others = (
        GeneratedLatents(MemorySettings(generator=make_density("full"))),
        RandomSource(1),
    )
    other.load_state_dict(copy.deepcopy(memory.state_dict()))
    others.set_state(copy.deepcopy(random.get_state()))
    copied = copy.deepcopy(memory)
    for n in (8, 8, 3, 8, *[8] * 70):
        one, two = memory.rehearse(n, rng), other.rehearse(n, others.on("cpu"))
        assert torch.equal(one.images, two.images)
        assert torch.equal(one.labels, two.labels)
    assert not copied.state_dict()["_blocks._extra_state"]["used"] > 64


def test_what_is_learned_is_in_the_next_sample():
    memory, random = learned()
    for _ in range(3):
        memory.rehearse(8, random.on("cpu"))
    learn(memory, data(5), random)
    assert set(memory.rehearse(8, random.on("cpu")).labels.tolist()) == {0, 1, 2, 5}
