"""The papers' settings, and their runs, which keep what they learned."""

from dataclasses import replace

import pytest
import torch

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments import ExperimentConfig
from avalanche_dgm.experiments.building import build_stream
from avalanche_dgm.experiments.models import MLP
from avalanche_dgm.experiments.panels import LogSettings
from avalanche_dgm.experiments.paper import PaperRun, PaperRuns
from avalanche_dgm.experiments.run_spec import RunSpec
from avalanche_dgm.experiments.runner import RunOptions, run
from avalanche_dgm.experiments.storage import MEMORY, read_result
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


@pytest.mark.parametrize("backend", ["avalanche", "lightning"])
@pytest.mark.parametrize("method", ["naive", "ewc", "joint", "dgdmn"])
def test_a_kept_memory_answers_as_the_run_did(method, backend, tmp_path):
    few = {"n_train_per_class": 12, "fraction": 0.3}
    config = ExperimentConfig.create(
        method, fast=True, n_experiences=5, stream_options=few, backend=backend
    )
    runs = PaperRuns(tmp_path, RunOptions(log=LogSettings(("none",))))
    found = runs.train({"row": [config]})["row"][0]
    images, labels = found.test_images()
    memory = found.memory()
    memory.eval()
    with torch.no_grad():
        right = memory.predict(images, torch.zeros_like(labels)).argmax(dim=1) == labels
    accuracy = right.double().mean().item()
    assert accuracy == pytest.approx(found.result.steps[-1].stream_accuracy, abs=1e-6)
    # It is the run that it is without keeping anything.
    assert found.result.matrix == run(config).matrix
    (found.folder / MEMORY).unlink()
    with pytest.raises(ConfigError, match="--overwrite"):
        PaperRun(read_result(found.folder), found.folder).memory()


def test_a_run_keeps_its_memory_if_it_is_asked_to(tmp_path):
    config = ExperimentConfig.create("naive", fast=True, n_experiences=2)
    run(config, folder=tmp_path)
    assert not (tmp_path / MEMORY).exists()
    run(config, folder=tmp_path, keep_memory=True)
    assert (tmp_path / MEMORY).exists()
    # It belongs to the run: one that replaces it leaves nothing of it.
    run(replace(config, epochs=2), folder=tmp_path, overwrite=True)
    assert not (tmp_path / MEMORY).exists()


def test_a_network_that_no_file_can_hold_costs_no_result(tmp_path, monkeypatch):
    def state(self):
        return {"unknown": object()}

    monkeypatch.setattr(MLP, "get_extra_state", state)
    monkeypatch.setattr(MLP, "set_extra_state", lambda self, state: None)
    config = ExperimentConfig.create("naive", fast=True, n_experiences=2)
    with pytest.warns(UserWarning, match="no memory is saved: .*get_extra_state"):
        assert run(config, folder=tmp_path, keep_memory=True).complete
    assert read_result(tmp_path).complete
    assert not (tmp_path / MEMORY).exists()
