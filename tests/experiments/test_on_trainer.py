"""Runs under a Trainer: the same content as on Avalanche's loop, and resumed from any moment."""

import json
import os
import signal
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from driver import in_a_process

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments import METHODS, ExperimentConfig, building, storage
from avalanche_dgm.experiments.config import TrainerSettings
from avalanche_dgm.experiments.methods import Reference, is_stock
from avalanche_dgm.experiments.runner import RunOptions, make_engine, run
from avalanche_dgm.experiments.sweep import check_buffers
from avalanche_dgm.lightning.callbacks import StreamCallback
from avalanche_dgm.lightning.checkpointer import StreamCheckpointer
from avalanche_dgm.memories.sleep import Sleep

TINY = {"n_train_per_class": 8, "fraction": 0.2}
ABLE = [name for name, method in METHODS.items() if not is_stock(method)]


def config(method, **fields):
    options = {"n_experiences": 5, "stream_options": TINY, "fast": True, **fields}
    if method == "altm-stored":
        # A tenth of so few images is none of some classes.
        options.setdefault("method_options", {"per_class": 2})
    options = {"backend": "lightning", "device": "cpu", **options}
    return ExperimentConfig.create(method, "sklearn-digits", **options)


def on_avalanche(settings):
    return settings.replace(backend="avalanche", trainer=TrainerSettings())


@pytest.mark.parametrize("method", ABLE)
def test_every_method_reports_what_it_reports_on_avalanche(method):
    settings = config(method)
    ours, theirs = run(settings), run(on_avalanche(settings))
    assert ours.complete
    assert np.array(ours.matrix, dtype=float).shape == (5, 5)
    assert ours.tasks == ["0/1", "2/3", "4/5", "6/7", "8/9"]
    assert (ours.tasks, ours.order, ours.shape) == (theirs.tasks, theirs.order, theirs.shape)
    assert ours.method_settings == theirs.method_settings
    assert bool(ours.method_settings) == (not isinstance(METHODS[method], Reference))
    # Closed forms and EWC remember statistics, and replay nothing.
    statistics = method in ("ncm", "slda", "ranpac", "ewc")
    own = not isinstance(METHODS[method], Reference) and not statistics
    # Latents are no images, and A-LTM replays nothing unless it is told to.
    images = own and method not in ("latent-replay", "altm")
    assert bool(ours.samples) == bool(theirs.samples) == images
    options = {**METHODS[method].defaults, **getattr(METHODS[method], "fixed", {})}
    # Where the discriminator is the classifier, nothing else learns that samples are replayed to.
    replays = own and method != "altm" and options.get("classifier") != "discriminator"
    assert any(step.replayed for step in ours.steps) == replays
    for mine, other in zip(ours.steps, theirs.steps, strict=True):
        assert mine.experience == other.experience
        assert mine.phases.keys() == other.phases.keys()
        assert (mine.stm_occupancy, mine.sleeps) == (other.stm_occupancy, other.sleeps)
        assert (mine.memory_bytes, mine.replayed) == (other.memory_bytes, other.replayed)
        assert sum(mine.histogram.values()) == mine.replayed
        assert mine.seconds > 0
        assert mine.eval_seconds > 0
        assert 0 <= mine.stream_accuracy <= 1
    if ours.samples:
        assert {images.shape[1:] for images in ours.samples.values()} == {(1, 8, 8)}


@pytest.mark.parametrize("learn", [run, lambda c: run(on_avalanche(c))])
def test_both_backends_learn(learn):
    """And what should not be known is not: the plain network forgets, one epoch is too few."""
    more = {"epochs": 30, "lr": 3e-3, "stream_options": {"fraction": 0.3}}
    joint, naive = learn(config("joint", n_experiences=2, **more)), learn(config("naive", **more))
    assert joint.average() > 0.8
    assert naive.steps[-1].accuracy[-1] > 0.8
    assert naive.average() < 0.4
    short = learn(config("joint"))
    assert short.average() < 0.5


def test_stream_accuracy_counts_images():
    result = run(config("naive", stream_options={"fraction": 0.3}))
    theirs = building.build_stream(result.config)
    sizes = [len(experience.dataset) for experience in theirs.test_stream]
    assert len(set(sizes)) > 1
    for step in result.steps:
        assert step.stream_accuracy == pytest.approx(np.average(step.accuracy, weights=sizes))


@pytest.mark.parametrize("learn", [run, lambda c: run(on_avalanche(c))])
def test_a_sleep_before_an_evaluation_is_training(learn, monkeypatch):
    sleep, tired = Sleep.phases, 0.5

    def long(self):
        for phase in sleep(self):
            yield replace(phase, finish=lambda: time.sleep(tired))

    monkeypatch.setattr(Sleep, "phases", long)
    result = learn(
        config("dgdmn", method_options={"routing": "sleep", "stm_size": 5}, n_experiences=2)
    )
    assert [step.sleeps for step in result.steps] == [1, 2]
    for step in result.steps:
        assert step.seconds > 2 * tired
        assert 0 < step.eval_seconds < 2 * tired


def test_same_seed_same_result_other_seed_other_result():
    first, again, other = (run(config("dgr", seed=seed)) for seed in (3, 3, 4))
    assert first.matrix == again.matrix
    assert first.steps[-1].histogram == again.steps[-1].histogram
    assert first.matrix != other.matrix


@pytest.mark.parametrize("method", ["naive", "ewc", "dgdmn"])
def test_revisited_experiences_come_again(method):
    result = run(config(method, revisit=[0, 4]))
    assert [step.experience for step in result.steps] == [0, 1, 2, 3, 4, 0, 4]
    assert len(result.tasks) == 5
    theirs = run(on_avalanche(result.config))
    assert [s.stm_occupancy for s in result.steps] == [s.stm_occupancy for s in theirs.steps]


def test_multi_head_stream_gets_a_head_for_each_task():
    more = {"stream_options": {**TINY, "task_labels": True}}
    result = run(config("naive", epochs=60, **more))
    assert np.mean([step.accuracy[step.experience] for step in result.steps]) > 0.7
    assert run(config("dgr", **more)).complete


def test_settings_reach_the_trainer():
    more = {"epochs": 5, "optimizer": "sgd", "lr": 0.3, "stream_options": {"fraction": 0.3}}
    plain = run(config("joint", **more))
    for changes in ({"precision": "bf16-mixed"}, {"accumulate": 2}, {"clip": 0.1}):
        other = run(config("joint", trainer=TrainerSettings(**changes), **more))
        assert other.matrix != plain.matrix, changes
    again = run(config("joint", trainer=TrainerSettings(save_every=7), **more))
    assert again.matrix == plain.matrix


@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_all_settings_together(precision):
    """Of Adam, whose fused steps Lightning does not clip in mixed precision."""
    settings = TrainerSettings(precision=precision, clip=0.5, accumulate=2)
    assert run(config("dgdmn", n_experiences=2, trainer=settings)).complete


# Resuming


def dies_at_batch(monkeypatch, n):
    calls, real = [0], StreamCheckpointer.on_step_end

    def on_step_end(self, *args, **more):
        real(self, *args, **more)
        calls[0] += 1
        if calls[0] == n:
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(StreamCheckpointer, "on_step_end", on_step_end)


def equal(one, two):
    assert one.matrix == two.matrix
    assert [s.histogram for s in one.steps] == [s.histogram for s in two.steps]
    assert [s.memory_bytes for s in one.steps] == [s.memory_bytes for s in two.steps]
    assert one.samples.keys() == two.samples.keys()
    for label, images in one.samples.items():
        np.testing.assert_array_equal(images, two.samples[label])


@pytest.mark.parametrize(
    # Of four batches an epoch, and of phases of 30 steps.
    ("method", "batch"),
    [("naive", 11), ("naive", 12), ("dgr", 77), ("dgdmn", 101), ("joint", 15)],
)
def test_killed_within_an_experience(method, batch, tmp_path, monkeypatch):
    settings = config(method, epochs=2, batch_size=4, trainer=TrainerSettings(save_every=1))
    with monkeypatch.context() as patch:
        dies_at_batch(patch, batch)
        died = in_a_process(lambda: run(settings, folder=tmp_path))
    assert died == -signal.SIGKILL
    saved = storage.read_result(tmp_path)
    assert len(saved.steps) < 4
    with pytest.raises(ConfigError, match="unfinished run"):
        storage.check_folder(tmp_path, settings, RunOptions())
    trained = []
    with monkeypatch.context() as patch:
        real = StreamCheckpointer.on_step_end
        patch.setattr(
            StreamCheckpointer, "on_step_end", lambda *a, **k: (trained.append(1), real(*a, **k))
        )
        resumed = run(settings, folder=tmp_path, resume=True)
    whole = []
    with monkeypatch.context() as patch:
        # Nothing is saved: the run's other callback counts.
        patch.setattr(StreamCallback, "on_step_end", lambda *a, **k: whole.append(1))
        equal(resumed, run(settings))
    assert 0 <= len(trained) - (len(whole) - batch) <= 1, "nearly nothing is trained twice"
    assert not (tmp_path / "checkpoints").exists()
    assert storage.read_result(tmp_path).complete


@pytest.mark.parametrize("method", ["ewc", "replay", "dgr", "joint"])
def test_killed_between_experiences(method, tmp_path, monkeypatch):
    settings = config(method, trainer=TrainerSettings(save_every=1))
    write = storage.write_result

    def fail(folder, result):
        if len(result.steps) == 3:
            raise KeyboardInterrupt
        write(folder, result)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_result", fail)
        with pytest.raises(KeyboardInterrupt):
            run(settings, folder=tmp_path)
    assert len(storage.read_result(tmp_path).steps) == 2
    # Elsewhere, as folders are renamed and moved.
    moved = tmp_path.rename(tmp_path.with_name(f"{tmp_path.name}-moved"))
    equal(run(settings, folder=moved, resume=True), run(settings))
    assert storage.read_result(moved).complete
    assert not (moved / "checkpoints").exists()
    assert not tmp_path.exists()


def test_overwriting_removes_what_was_there(tmp_path, monkeypatch):
    settings = config("naive", batch_size=4, trainer=TrainerSettings(save_every=1))
    with monkeypatch.context() as patch:
        dies_at_batch(patch, 7)
        in_a_process(lambda: run(settings, folder=tmp_path))
    assert list((tmp_path / "checkpoints").iterdir())
    other = settings.replace(seed=1)
    with pytest.raises(ConfigError, match=r"other settings: seed 1 \(was 0\)"):
        run(other, folder=tmp_path)
    equal(run(other, folder=tmp_path, overwrite=True), run(other))
    names = ["accuracy.csv", "accuracy.png", "config.yaml", "panels", "results.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_an_error_before_training_leaves_nothing(tmp_path):
    settings = config("dgdmn", method_options={"stm_size": 0})
    with pytest.raises(ConfigError, match="stm_size"):
        run(settings, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_only_the_first_process_minds_the_folder(tmp_path):
    settings, others = config("naive"), partial(RunOptions, is_global_zero=False)
    run(settings, folder=tmp_path)
    result = storage.read_result(tmp_path)
    assert storage.check_folder(tmp_path, settings, others(resume=True)).complete
    assert storage.check_folder(tmp_path, settings, others()) is None
    result.steps.pop()
    storage.write_result(tmp_path, result)
    for resume in (True, False):
        assert storage.check_folder(tmp_path, settings, others(resume=resume)) is None


# What cannot be run


def test_a_method_that_no_trainer_reaches():
    with pytest.raises(ConfigError, match="generative-replay.*naive, dropout, replay"):
        make_engine(config("generative-replay"))
    with pytest.raises(ConfigError, match=r"der\+\+ has its own Avalanche training loop"):
        check_buffers({"dgr": [config("dgr")]}, ["replay", "der++"])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"accelerator": "abacus"}, "abacus"),
        ({"accelerator": "mps"}, "mps|MPS"),
        ({"strategy": "ddp_nothing"}, "ddp_nothing"),
    ],
)
def test_a_trainer_that_cannot_be_made(fields, words):
    """What only Lightning and the machine know, said before data are loaded."""
    with pytest.raises(ConfigError, match=words):
        make_engine(config("naive", trainer=TrainerSettings(**fields)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("devices", 0),
        ("devices", "all"),
        ("num_nodes", 0),
        ("strategy", "fsdp"),
        ("precision", "64-true"),
        ("accumulate", 1.5),
        ("clip", 0.0),
        ("clip", float("nan")),
        ("save_every", 0),
    ],
)
def test_settings_that_cannot_be_made(field, value):
    with pytest.raises(ConfigError, match=field):
        TrainerSettings(**{field: value})


def test_settings_are_part_of_the_config():
    settings = config("dgr", trainer=TrainerSettings(devices=4, strategy="ddp", accumulate=2))
    assert ExperimentConfig.from_json(json.loads(json.dumps(settings.to_json()))) == settings
    with pytest.raises(ConfigError, match="Unknown trainer setting: 'device'"):
        ExperimentConfig.from_json({"backend": "lightning", "trainer": {"device": 3}})
    with pytest.raises(ConfigError, match="backend='lightning'"):
        ExperimentConfig(trainer=TrainerSettings(devices=2))
    with pytest.raises(ConfigError, match="backend='jax' is not known"):
        ExperimentConfig(backend="jax")
    old = {k: v for k, v in config("dgr").to_json().items() if k not in ("backend", "trainer")}
    assert ExperimentConfig.from_json(old).backend == "avalanche"


def test_what_changes_numbers_is_a_difference():
    """Where they are computed is none, but another backend shuffles differently."""
    settings = config("dgr")
    for changes in ({"devices": 2}, {"num_nodes": 2}, {"strategy": "ddp"}, {"save_every": 3}):
        changed = settings.replace(trainer=TrainerSettings(**changes), device="auto")
        assert changed.differences(settings) == []
    for name, value in {"precision": "bf16-mixed", "accumulate": 2, "clip": 1.0}.items():
        (found,) = settings.replace(trainer=TrainerSettings(**{name: value})).differences(settings)
        assert found.startswith(f"{name} {value} (was ")
    assert settings.differences(on_avalanche(settings)) == ["backend lightning (was avalanche)"]
