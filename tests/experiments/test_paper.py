import pytest
import torch

from avalanche_dgm.experiments import ExperimentConfig
from avalanche_dgm.experiments.building import build_stream
from avalanche_dgm.experiments.run_spec import RunSpec
from avalanche_dgm.experiments.runner import run
from avalanche_dgm.experiments.strategies import build_strategy


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
