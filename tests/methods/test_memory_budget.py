"""`memory_budget` of methods; those of latent replay are with its other tests."""

import copy

import pytest
import torch
from driver import Driver, digits, network

from avalanche_dgm.errors import CapacityError, ConfigError
from avalanche_dgm.generators import make_density
from avalanche_dgm.methods import ALTM, DGDMN, DGR
from avalanche_dgm.metrics.cost import memory_bytes_of

SMALL = {"hidden": (16,), "latent": 4, "generator_steps": 3}
METHODS = {
    "dgr": lambda **budget: DGR(seed=0, **SMALL, **budget),
    "dgdmn": lambda **budget: DGDMN(seed=0, **SMALL, **budget),
    "altm": lambda **budget: ALTM(seed=0, replay="generated", **SMALL, **budget),
    "a density": lambda **budget: DGR(seed=0, generator=make_density("low-rank"), **budget),
    "stored": lambda **budget: ALTM(seed=0, replay="stored", **budget),
}


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_a_memory_that_does_not_fit_is_told_before_anything_is_trained(make):
    learner = network()
    before = copy.deepcopy(learner.state_dict())
    driver = Driver(make(memory_budget="500B"), learner, steps=3)
    with pytest.raises(CapacityError, match="memory_budget=500"):
        driver.train(digits(0, 1, 2))
    assert all(torch.equal(before[k], v) for k, v in learner.state_dict().items())


@pytest.mark.parametrize("name", ["dgr", "a density", "stored"])
def test_what_is_kept_fits(name):
    driver = Driver(METHODS[name](memory_budget="40kB"), network(), steps=3)
    driver.train(digits(0, 1, 2)).train(digits(3, 4))
    # A-LTM's stable network is no memory of samples.
    kept = driver.method.source if name == "stored" else driver.method
    assert 0 < memory_bytes_of(kept) <= 40_000


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_what_is_no_budget(make):
    with pytest.raises(ConfigError, match="memory_budget='much'"):
        make(memory_budget="much")
