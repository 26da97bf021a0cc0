"""`memory_budget` of methods; those of latent replay are with its other tests."""

import copy

import pytest
import torch
from driver import Driver, digits, network

from avalanche_dgm.errors import CapacityError, ConfigError
from avalanche_dgm.generators import make_density
from avalanche_dgm.methods import (
    ALTM,
    DGDMN,
    DGR,
    NCM,
    SLDA,
    DynamicMemory,
    ElasticWeightConsolidation,
    EWCGenerator,
    MeRGAN,
    PseudoRehearsal,
    RanPAC,
)
from avalanche_dgm.metrics.cost import memory_bytes_of

SMALL = {"hidden": (16,), "latent": 4, "generator_steps": 3}
GAN = {"generator_steps": 2, "width": 4, "discriminator_width": 4, "replay_per_class": 4}
METHODS = {
    "dgr": lambda **budget: DGR(seed=0, **SMALL, **budget),
    "dgdmn": lambda **budget: DGDMN(seed=0, **SMALL, **budget),
    "altm": lambda **budget: ALTM(seed=0, replay="generated", **SMALL, **budget),
    "a density": lambda **budget: DGR(seed=0, generator=make_density("low-rank"), **budget),
    "stored": lambda **budget: ALTM(seed=0, replay="stored", **budget),
    "ncm": lambda **budget: NCM(seed=0, layer="0", **budget),
    "slda": lambda **budget: SLDA(seed=0, layer="0", **budget),
    "ranpac": lambda **budget: RanPAC(seed=0, layer="0", projections=20, **budget),
    "ewc": lambda **budget: ElasticWeightConsolidation(seed=0, **budget),
    "dynamic": lambda **budget: DynamicMemory(seed=0, **GAN, **budget),
    "mergan": lambda **budget: MeRGAN(seed=0, **GAN, **budget),
    "ewc-generator": lambda **budget: EWCGenerator(seed=0, **GAN, **budget),
}


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_a_memory_that_does_not_fit_is_told_before_anything_is_trained(make):
    learner = network()
    before = copy.deepcopy(learner.state_dict())
    driver = Driver(make(memory_budget="500B"), learner, steps=3)
    with pytest.raises(CapacityError, match="memory_budget=500"):
        driver.train(digits(0, 1, 2))
    assert all(torch.equal(before[k], v) for k, v in learner.state_dict().items())


@pytest.mark.parametrize(
    ("name", "budget"),
    [
        *((name, 40_000) for name in ("dgr", "a density", "stored", "ncm", "slda", "ranpac")),
        *((name, 10**6) for name in ("ewc", "dynamic", "mergan", "ewc-generator")),
    ],
)
def test_what_is_kept_fits(name, budget):
    driver = Driver(METHODS[name](memory_budget=budget), network(), steps=3)
    driver.train(digits(0, 1, 2)).train(digits(3, 4))
    # A-LTM's stable network is no memory of samples.
    kept = driver.method.source if name == "stored" else driver.method
    assert 0 < memory_bytes_of(kept) <= budget


@pytest.mark.parametrize("name", ["ncm", "slda", "ranpac", "ewc"])
def test_bytes_are_known_before(name):
    full = Driver(METHODS[name](), network(), steps=3)
    full.train(digits(0, 1, 2)).train(digits(3, 4))
    needed = memory_bytes_of(full.method)
    driver = Driver(METHODS[name](memory_budget=needed - 1), network(), steps=3)
    with pytest.raises(CapacityError, match=f"needs {needed} bytes"):
        driver.train(digits(0, 1, 2)).train(digits(3, 4))


def test_what_keeps_next_to_nothing_takes_any_budget():
    driver = Driver(PseudoRehearsal(seed=0, memory_budget="40B"), network(), steps=3)
    driver.train(digits(0, 1, 2)).train(digits(3, 4))
    assert memory_bytes_of(driver.method) <= 40


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_what_is_no_budget(make):
    with pytest.raises(ConfigError, match="memory_budget='much'"):
        make(memory_budget="much")
