import json

import pytest

from avalanche_dgm import DynamicMemoryPlugin
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments import METHODS, ExperimentConfig
from avalanche_dgm.experiments.methods import check_options, hyper_parameters, method_of, options_of


def test_json_and_back():
    config = ExperimentConfig.create(
        "dgdmn", "digits", hidden=[24, 24], revisit=[0], method_options={"stm_size": 3}
    )
    assert ExperimentConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_defaults_depend_on_stream_method_and_paper():
    assert ExperimentConfig.create("naive").batch_size < 128
    assert ExperimentConfig.create("dropout").dropout == 0.2
    assert ExperimentConfig.create("dropout", dropout=0.5).dropout == 0.5
    table = ExperimentConfig.create("altm-stored", "turntable", method_options={"share": 0.2})
    assert (table.optimizer, table.hidden) == ("sgd", (256,))
    assert table.method_options["share"] == 0.2
    assert table.method_options["weight"] < 0.1
    heavy = ExperimentConfig.create("altm", "turntable", method_options={"weight": 0.3})
    assert heavy.method_options == {"weight": 0.3}
    assert not ExperimentConfig.create("naive", "turntable").method_options
    assert ExperimentConfig.create("altm-generated", "turntable").method_options["kl_weight"] < 0.3
    quick = ExperimentConfig.create("altm-generated", "turntable", fast=True).method_options
    assert "weight" in quick
    assert "generator_steps" not in quick
    paper = ExperimentConfig.create("ewc", "permnist", paper=True)
    assert (paper.hidden, paper.optimizer, paper.epochs) == ((48, 48), "rmsprop", 6)
    assert ExperimentConfig.create("joint", "tdigits", paper=True).epochs == 20


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("method", 3),
        ("model", "cnn"),
        ("seed", -1),
        ("epochs", 1.5),
        ("batch_size", True),
        ("hidden", (0,)),
        ("lr", float("nan")),
        ("dropout", 1.0),
        ("optimizer", "lbfgs"),
        ("device", "tpu"),
        ("n_experiences", 0),
        ("revisit", (-1,)),
        ("until", 0),
        ("validation_fraction", 1.0),
        ("fast", "no"),
    ],
)
def test_what_cannot_be_run_cannot_be_made(field, value):
    with pytest.raises(ConfigError, match=field):
        ExperimentConfig(**{field: value})


def test_some_settings_may_be_empty_or_0():
    config = ExperimentConfig("naive", "digits", hidden=(), revisit=(0,), seed=0)
    assert (config.method, config.hidden, config.revisit) == ("naive", (), (0,))
    assert config.replace(revisit=()).revisit == ()


def test_unknown_names_list_those_that_exist():
    with pytest.raises(ConfigError, match="joint.*dgdmn-no-stm"):
        ExperimentConfig.create("nothing")
    with pytest.raises(ConfigError, match="Unknown stream: 'mnist'.*split-mnist"):
        check_options(ExperimentConfig.create("naive", "mnist"))
    with pytest.raises(ConfigError, match="Unknown setting: 'epoch'.*Did you mean 'epochs'"):
        ExperimentConfig.from_json({"epoch": 3})


def test_options_that_are_not_json():
    with pytest.raises(ConfigError, match="JSON"):
        ExperimentConfig(method_options={"labels": object()}).to_json()


def test_differences_ignore_where_the_data_are():
    config = ExperimentConfig(method="naive", data_root="a")
    assert config.differences(config.replace(data_root="b", device="auto")) == []
    assert config.replace(epochs=9).differences(config) == ["epochs 9 (was 5)"]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_described_and_lists_its_options(name):
    assert METHODS[name].description
    options = options_of(METHODS[name])
    assert len(set(options)) == len(options)
    assert not {"progress", "hyper", "self"} & set(options)


def test_options_are_checked_by_name():
    check_options(ExperimentConfig(method="dgdmn", method_options={"stm_size": 3, "latent": 8}))
    with pytest.raises(ConfigError, match="stm_size"):
        check_options(ExperimentConfig(method="dgr", method_options={"stm_size": 3}))
    with pytest.raises(ConfigError, match="short_term"):
        check_options(ExperimentConfig(method="dgdmn-no-stm", method_options={"short_term": True}))


@pytest.mark.parametrize("name", ["mnist", "mnist-weights", "svhn", "svhn-weights", "cifar10"])
def test_the_authors_configurations_by_name(name):
    given = {"configuration": name, "accelerate": True, "penalty": 2.0}
    config = ExperimentConfig.create("dynamic-memory-paper", method_options=given, seed=5)
    check_options(config)
    assert ExperimentConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    made = DynamicMemoryPlugin(**hyper_parameters(config, 1000)).method
    theirs = DynamicMemoryPlugin.paper(name, accelerate=True, penalty=2.0, seed=5).method
    assert made.settings == theirs.settings
    assert made.routes
    plain = ExperimentConfig.create("dynamic-memory-paper")
    assert DynamicMemoryPlugin(**hyper_parameters(plain, 1000)).method.settings == (
        DynamicMemoryPlugin.paper("mnist", seed=plain.seed).method.settings
    )


def test_configurations_that_are_not_there():
    for value in ("cifar", ["mnist"], None):
        options = {"configuration": value}
        config = ExperimentConfig.create("dynamic-memory-paper", method_options=options)
        with pytest.raises(ConfigError, match="Unknown configuration.*mnist-weights.*cifar10"):
            check_options(config)
    config = ExperimentConfig.create("dynamic-memory", method_options={"configuration": "mnist"})
    with pytest.raises(ConfigError, match="Unknown option of dynamic-memory: 'configuration'"):
        check_options(config)


def test_the_papers_dgr_is_a_memory_without_short_term_part():
    plain, paper = (
        method_of(ExperimentConfig.create("dgr", "digits", paper=flag)) for flag in (False, True)
    )
    assert plain is METHODS["dgr"]
    assert paper.fixed == {"short_term": False, "stm_size": 1}
