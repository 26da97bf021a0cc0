"""Runs of every method on a few images, and resuming them."""

import json
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments import ExperimentConfig, runner, storage
from avalanche_dgm.experiments.on_avalanche import AvalancheEngine
from avalanche_dgm.experiments.runner import RunOptions, run
from avalanche_dgm.streams import split

TINY = {"n_train_per_class": 8, "fraction": 0.2}


def config(method, **fields):
    options = {"n_experiences": 5, "stream_options": TINY, "fast": True, **fields}
    if method == "altm-stored":
        # A tenth of so few images is none of some classes.
        options.setdefault("method_options", {"per_class": 2})
    return ExperimentConfig.create(method, "sklearn-digits", **options)


def test_avalanches_own_generative_replay_runs_quietly(monkeypatch, capsys):
    images, labels = torch.rand(40, 1, 28, 28), torch.arange(4).repeat(10)
    data = TensorDataset(images, labels)
    monkeypatch.setattr(runner, "build_stream", lambda config: split((data, data), n_experiences=2))
    result = run(ExperimentConfig.create("generative-replay", "split-mnist", fast=True))
    assert result.complete
    assert not result.samples
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_same_seed_same_result_other_seed_other_result():
    first, again, other = (run(config("dgr", seed=seed)) for seed in (3, 3, 4))
    assert first.matrix == again.matrix
    assert first.steps[-1].histogram == again.steps[-1].histogram
    assert first.matrix != other.matrix


@pytest.mark.parametrize("method", ["joint", "dgr"])
def test_speed_is_of_what_was_learned(method, tmp_path):
    result = run(config(method), folder=tmp_path)
    rows = (tmp_path / "panels" / "scalars.csv").read_text().splitlines()
    values = {key: {} for key in ("time/samples_per_second", "time/learn")}
    for row in rows[1:]:
        _, at, key, value = row.split(",")
        if key in values:
            values[key][int(at)] = float(value)
    speeds, seconds = values.values()
    shown = [round(speeds[n] * seconds[n]) for n in range(1, 6)]
    each = shown[0]
    assert each > 0
    assert len(result.steps) == 5
    assert shown == ([each * n for n in range(1, 6)] if method == "joint" else [each] * 5)


def test_joint_learns_everything():
    result = run(config("joint", epochs=30, lr=3e-3, stream_options={"fraction": 0.3}))
    assert result.average() > 0.8


def test_revisited_experiences_come_again():
    result = run(config("naive", revisit=[0, 4]))
    assert [step.experience for step in result.steps] == [0, 1, 2, 3, 4, 0, 4]
    assert len(result.tasks) == 5
    with pytest.raises(ConfigError, match="revisit has experience 5"):
        run(config("naive", revisit=[5]))


def test_multi_head_stream_gets_a_head_for_each_task():
    result = run(config("naive", epochs=60, stream_options={**TINY, "task_labels": True}))
    assert np.mean([step.accuracy[step.experience] for step in result.steps]) > 0.7
    assert run(config("dgr", stream_options={**TINY, "task_labels": True})).complete


def interrupt_after(monkeypatch, n):
    learn = AvalancheEngine.learn_experience

    def learn_or_stop(self, position):
        if position == n:
            raise KeyboardInterrupt
        learn(self, position)

    monkeypatch.setattr(AvalancheEngine, "learn_experience", learn_or_stop)


@pytest.mark.parametrize("method", ["naive", "ewc", "ppr", "dgr", "dgdmn", "replay", "joint"])
def test_resumed_run_equals_an_uninterrupted_one(method, tmp_path, monkeypatch):
    settings = config(method)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            run(settings, folder=tmp_path)
    saved = storage.read_result(tmp_path)
    assert saved is not None
    assert len(saved.steps) == 3
    resumed = run(settings, folder=tmp_path, resume=True)
    through = run(settings)
    assert resumed.matrix == through.matrix
    assert [s.histogram for s in resumed.steps] == [s.histogram for s in through.steps]
    assert [s.memory_bytes for s in resumed.steps] == [s.memory_bytes for s in through.steps]
    assert not (tmp_path / "checkpoints").exists()


def test_the_methods_settings_are_in_the_result(tmp_path):
    settings = config("dgdmn", method_options={"stm_size": 2}, seed=4)
    run(settings, folder=tmp_path)
    written = json.loads((tmp_path / "results.json").read_text())["method_settings"]
    # Given, of a fast run, and by default.
    assert (written["stm_size"], written["generator_steps"]) == (2, 30)
    assert (written["seed"], written["routing"], written["kappa"]) == (4, "auto", 0.05)
    assert storage.read_result(tmp_path).method_settings == written


def test_interruption_while_writing_leaves_the_last_state(tmp_path, monkeypatch):
    settings = config("naive")
    write = storage.write_result

    def fail(folder, result):
        if len(result.steps) == 3:
            raise KeyboardInterrupt  # after the checkpoint, before the results that name it
        write(folder, result)

    monkeypatch.setattr(storage, "write_result", fail)
    with pytest.raises(KeyboardInterrupt):
        run(settings, folder=tmp_path)
    monkeypatch.setattr(storage, "write_result", write)
    assert run(settings, folder=tmp_path, resume=True).matrix == run(settings).matrix


def test_missing_checkpoint_is_reported(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            run(config("naive"), folder=tmp_path)
    storage.checkpoint(tmp_path, 2).unlink()
    with pytest.raises(ConfigError, match="missing"):
        run(config("naive"), folder=tmp_path, resume=True)


def test_a_folder_is_used_only_by_its_run(tmp_path, monkeypatch):
    settings = config("naive")
    assert storage.check_folder(tmp_path, settings, RunOptions(resume=True)) is None
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            run(settings, folder=tmp_path)
    with pytest.raises(ConfigError, match=r"unfinished run \(2 of 5"):
        storage.check_folder(tmp_path, settings, RunOptions())
    with pytest.raises(ConfigError, match="other settings: epochs 7"):
        storage.check_folder(tmp_path, settings.replace(epochs=7), RunOptions(resume=True))
    storage.check_folder(tmp_path, settings.replace(epochs=7), RunOptions(overwrite=True))
    run(settings, folder=tmp_path, resume=True)
    done = storage.check_folder(tmp_path, settings, RunOptions(resume=True))
    assert done is not None
    assert done.complete


def test_damaged_results_are_reported(tmp_path):
    (tmp_path / storage.RESULTS).write_text(json.dumps({"config": 3}))
    with pytest.raises(ConfigError, match="--overwrite"):
        storage.read_result(tmp_path)


def test_evaluating_what_is_not_yet_learned_is_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        run(config("dgdmn", method_options={"routing": "oracle"}))
