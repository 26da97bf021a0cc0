"""Each hyper-parameter that cannot work is refused, with its name, before anything is trained."""

import dataclasses
import json

import pytest

from avalanche_dgm.errors import CapacityError, ConfigError
from avalanche_dgm.memories import DualMemorySettings, MemorySettings
from avalanche_dgm.settings import make_settings

BAD = [
    ("architecture", "vit"),
    ("hidden", ()),
    ("hidden", (64, 0)),
    ("hidden", 64),
    ("hidden", (6.5,)),
    ("latent", 0),
    ("latent", 2.5),
    ("likelihood", "poisson"),
    ("value_range", (1.0, 0.0)),
    ("value_range", (0.0,)),
    ("value_range", (0.0, float("inf"))),
    ("value_range", 1.0),
    ("sampling", "posterior"),
    ("consolidation", "none"),
    ("labels", "noisy"),
    ("temperature", 0.0),
    ("temperature", -1.0),
    ("temperature", float("nan")),
    ("generator_steps", 0),
    ("generator_steps", 10.0),
    ("generator_steps", True),
    ("generator_epochs", 0),
    ("batch_size", 0),
    ("kappa", -0.1),
    ("kappa", 1.5),
    ("n_max", 0),
    ("n_max", -5),
    ("n_max", 100.5),
    ("count", "samples"),
]
BAD_DUAL = [
    ("stm_size", 0),
    ("stm_size", None),
    ("routing", "nearest"),
    ("unknown_task", "ignore"),
    ("learner_steps", 0),
    ("learner_epochs", 0),
    ("stm_hidden", ()),
    ("stm_hidden", (0,)),
    ("stm_latent", 0),
    ("stm_learner_hidden", (0,)),
    ("stm_learner_hidden", ()),
    ("stm_generator_steps", 0),
]


@pytest.mark.parametrize(("name", "value"), BAD)
@pytest.mark.parametrize("kind", [MemorySettings, DualMemorySettings])
def test_bad_values(kind, name, value):
    with pytest.raises(ConfigError, match=name):
        kind(**{name: value})


@pytest.mark.parametrize(("name", "value"), BAD_DUAL)
def test_bad_values_of_the_dual_memory(name, value):
    with pytest.raises(ConfigError, match=name):
        DualMemorySettings(**{name: value})


def test_combinations_that_cannot_hold():
    with pytest.raises(CapacityError, match="stm_size"):
        DualMemorySettings(kappa=0.3, stm_size=4)
    with pytest.raises(CapacityError, match="less than one sample"):
        MemorySettings(kappa=0.01, n_max=50)
    DualMemorySettings(kappa=0.25, stm_size=4)


def test_unknown_names_list_those_that_exist():
    with pytest.raises(ConfigError, match="n_maximum.*kappa.*n_max"):
        make_settings(MemorySettings, {"n_maximum": 3})


def test_settings_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        MemorySettings().kappa = 0.5


def test_to_dict_is_plain():
    values = DualMemorySettings(hidden=(8, 8)).to_dict()
    assert values["hidden"] == [8, 8]
    assert values["generator_optimizer"]["name"] == "adam"
    assert json.loads(json.dumps(values)) == values
    assert make_settings(DualMemorySettings, {"kappa": values["kappa"]}) == DualMemorySettings()


def test_the_prior_needs_rehearsal():
    with pytest.raises(ConfigError, match="rehearsal"):
        MemorySettings(sampling="prior")
    assert MemorySettings(sampling="prior", consolidation="rehearsal").sampling == "prior"
