"""Run folders become what the figures are drawn from."""

import pytest

from avalanche_dgm import plots
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments import ExperimentConfig, RunResult
from avalanche_dgm.experiments.results import Step
from avalanche_dgm.experiments.storage import write_result


def write(folder, method, seed=0, started="", steps=2, tasks=("0", "1"), **settings):
    result = RunResult(
        config=ExperimentConfig(method=method, seed=seed, **settings),
        tasks=list(tasks),
        order=[0, 1],
        steps=[Step(i, [0.5, 0.25 + 0.05 * seed]) for i in range(steps)],
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
    with pytest.raises(ConfigError, match="has no run"):
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


def test_runs_of_one_method_have_one_setting(tmp_path):
    write(tmp_path / "a", "dgr", 0, lr=0.1)
    write(tmp_path / "b", "dgr", 1, lr=0.001)
    with pytest.raises(ConfigError, match=r"both of dgr: lr 0.001 \(was 0.1\)"):
        plots.load(tmp_path)


def test_one_figure_has_one_stream(tmp_path):
    write(tmp_path / "a", "dgr", stream_options={"n_train": 100})
    write(tmp_path / "b", "naive")
    with pytest.raises(ConfigError, match=r"learned sklearn-digits \(n_train 100, 2 experiences\)"):
        plots.kamra2017.average_accuracy(plots.load(tmp_path), reference=None)


def test_classes_may_be_shuffled_by_the_seed(tmp_path):
    for seed, tasks in enumerate((("0", "1"), ("4", "7"))):
        write(tmp_path / str(seed), "dgr", seed, tasks=tasks)
    plots.kamra2017.average_accuracy(plots.load(tmp_path), reference=None)
