import pytest
import torch

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments import METHODS, ExperimentConfig
from avalanche_dgm.experiments.building import build_stream
from avalanche_dgm.experiments.paper import FIGURES, figure, listing
from avalanche_dgm.experiments.run_spec import RunSpec
from avalanche_dgm.experiments.runner import run
from avalanche_dgm.experiments.strategies import build_strategy


@pytest.mark.parametrize("spec", FIGURES, ids=lambda spec: spec.name)
def test_figures_are_valid_configs(spec):
    configs = spec.configs(scale=0.1, seeds=(0, 1), data_root="/somewhere")
    assert tuple(configs) == spec.methods
    for method, seeds in configs.items():
        assert method in METHODS
        assert [config.seed for config in seeds] == [0, 1]
        assert all(config.paper and config.stream_options["fraction"] == 0.1 for config in seeds)
    assert spec.name in listing()


def test_a_figure_drawn_from_anothers_runs():
    assert figure("fig8a") is figure("fig7")
    with pytest.raises(ConfigError, match="fig3"):
        figure("fig2")


def test_only_methods_of_the_figure():
    assert list(figure("fig4").configs(methods=["dgr"])) == ["dgr"]
    with pytest.raises(ConfigError, match="joint"):
        figure("fig4").configs(methods=["joint"])


@pytest.mark.parametrize("method", ["ewc", "ppr", "dgr", "dgdmn"])
def test_paper_settings_run(method):
    config = ExperimentConfig.create(
        method, n_experiences=5, paper=True, fast=True, stream_options={"fraction": 0.2}
    )
    assert config.optimizer == "rmsprop"
    assert run(config).complete


def test_memory_shrinks_with_the_images():
    """A tenth of Digits has a tenth of the paper's memory."""
    settings = {}
    for method in ("dgr", "ppr"):
        config = ExperimentConfig.create(method, paper=True)  # 1,437 training images
        spec = RunSpec(config, build_stream(config))
        strategy = build_strategy(spec, [], device=torch.device("cpu"))
        settings[method] = strategy.plugins[0].method.settings
    assert settings["dgr"].n_max == pytest.approx(1437, abs=5)
    assert settings["dgr"].stm_size == 1
    assert settings["ppr"].memory_size == pytest.approx(1437 * 0.3, abs=5)
