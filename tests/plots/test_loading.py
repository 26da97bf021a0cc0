"""Run folders become what the figures are drawn from."""

import pytest

from avalanche_dgm import plots
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments import ExperimentConfig, RunResult
from avalanche_dgm.experiments.results import Step
from avalanche_dgm.experiments.storage import write_result


def write(folder, method, seed=0, started="", steps=2):
    result = RunResult(
        config=ExperimentConfig(method=method, seed=seed),
        tasks=["0", "1"],
        order=[0, 1],
        steps=[Step(i, [0.5, 0.25 + 0.1 * seed]) for i in range(steps)],
        provenance={"started": started},
        shape=(1, 8, 8),
    )
    write_result(folder, result)
    return result


def test_a_comparison_of_methods_and_seeds(tmp_path):
    written = {}
    for when, method in enumerate(("naive", "dgr")):
        for seed in (1, 0, 10):
            folder = tmp_path / method / f"seed{seed}"
            started = f"2026-01-01T00:0{when}:{59 - seed}"
            written[method, seed] = write(folder, method, seed, started)
    runs = plots.load(tmp_path)
    assert list(runs) == ["naive", "dgr"], "in the order in which they were run"
    for method, results in runs.items():
        assert [r.config.seed for r in results] == [0, 1, 10]
        for result in results:
            assert result.matrix == written[method, result.config.seed].matrix
    plots.kamra2017.accuracy_per_task(runs)


def test_folders_at_any_level(tmp_path):
    write(tmp_path / "one", "naive")
    write(tmp_path / "two" / "dgr", "dgr")
    assert list(plots.load(tmp_path / "one")) == ["naive"]
    assert list(plots.load(str(tmp_path / "one"), tmp_path / "two")) == ["naive", "dgr"]
    assert list(plots.load(tmp_path, tmp_path / "one")) == ["naive", "dgr"], "each once"


def test_folders_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="There is no folder .*nothing"):
        plots.load(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no run"):
        plots.load(tmp_path / "empty")
    with pytest.raises(ConfigError, match="No folder"):
        plots.load()
    write(tmp_path / "one" / "naive", "naive")
    write(tmp_path / "two" / "naive", "naive")
    with pytest.raises(ConfigError, match="both runs of naive with seed 0"):
        plots.load(tmp_path)
    write(tmp_path / "one" / "dgr", "dgr")
    (tmp_path / "one" / "naive" / "results.json").write_text("{}")
    with pytest.raises(ConfigError, match="not a result"):
        plots.load(tmp_path / "one")


def test_an_unfinished_run_is_read_and_not_drawn(tmp_path):
    write(tmp_path, "naive", steps=1)
    runs = plots.load(tmp_path)
    with pytest.raises(ConfigError, match="1 of 2"):
        plots.kamra2017.accuracy_per_task(runs)
