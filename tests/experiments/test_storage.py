"""What a run may touch in its folder."""

import json
import os
import random
import signal
import threading
import time

import pytest
from driver import in_a_process
from runs_on_disk import all_panels, result, write

from avalanche_dgm.cli import main
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments import ExperimentConfig, run_folders, runner, storage
from avalanche_dgm.experiments.config import TrainerSettings
from avalanche_dgm.experiments.on_avalanche import AvalancheEngine
from avalanche_dgm.files import lock

BACKENDS = ["avalanche", "lightning"]
TINY = ["--fast", "--quiet", "--experiences", "2", "--stream-set", "fraction=0.1"]
#: What users put into a run's folder, some of it under names that other runs write.
MINE = [
    "notes.txt",
    "usage.csv",
    "samples-000.png",
    "samples.png",
    "checkpoints/best.pt",
    "checkpoints/after-99.pt",
    "panels/mine.csv",
    "panels/tables/mine.csv",
    "panels/images/mine.png",
    "tensorboard/mine",
]


def config(method="naive", backend="avalanche", **fields):
    options = {"n_experiences": 2, "stream_options": {"fraction": 0.1}, "fast": True, **fields}
    return ExperimentConfig.create(method, "sklearn-digits", backend=backend, **options)


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def fails_in(monkeypatch, position, error=KeyboardInterrupt):
    """Ends a run of Avalanche's within an experience."""
    learn = AvalancheEngine.learn_experience

    def learn_or_stop(self, at):
        if at == position:
            raise error
        learn(self, at)

    monkeypatch.setattr(AvalancheEngine, "learn_experience", learn_or_stop)


@pytest.mark.parametrize("flags", [[], ["--overwrite"], ["--resume"]])
@pytest.mark.parametrize(
    "given",
    [
        {"notes.txt": "mine", "samples.png": "mine"},
        {"results.json": '{"accuracy": 1}', "accuracy.csv": "mine"},
        {"results.json": "no JSON"},
        {"checkpoints/after-1.pt": "mine"},
        {"panels/scalars.csv": "mine"},
    ],
)
def test_a_folder_without_a_run_of_ours_is_refused(given, flags, tmp_path, capsys):
    for name, text in given.items():
        (tmp_path / "r" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "r" / name).write_text(text)
    before = contents(tmp_path)
    run = ["run", "--method", "naive", "--out", str(tmp_path), "--name", "r", *TINY, *flags]
    assert main(run) == 2
    assert "choose another --name" in capsys.readouterr().err
    compare = ["compare", "--methods", "naive", "ewc", "--out", str(tmp_path), "--name", "r", *TINY]
    assert main([*compare, *flags]) == 2
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["../r", "a/../../r", "/r", "link", "link/r", "loop", "a\0b"])
def test_names_that_leave_the_folder_are_refused(name, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "link").symlink_to(tmp_path)
    (out / "loop").symlink_to(out / "loop")
    name = str(tmp_path) + name if name == "/r" else name
    for command in (["run", "--method", "naive", *TINY], ["paper", "altm-fig1"]):
        assert main([*command, "--out", str(out), "--name", name]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == ["out"]
    assert sorted(os.listdir(out)) == ["link", "loop"]
    with pytest.raises(ConfigError, match="is outside of"):
        storage.run_folder(out, "..")
    with pytest.raises(ConfigError, match="cannot be the name"):
        storage.run_folder(out, "a" * 300)
    assert storage.run_folder(out, "a/b") == out / "a" / "b"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_users_added_stays(backend, overwrite, tmp_path):
    run = runner.run
    run(config(backend=backend), folder=tmp_path)
    own = contents(tmp_path).keys()
    for name in MINE:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    first = storage.read_result(tmp_path)
    run(
        config(backend=backend, lr=0.1 if overwrite else None), folder=tmp_path, overwrite=overwrite
    )
    after = contents(tmp_path)
    assert after.keys() == own | set(MINE)
    assert all(after[name] == b"mine" for name in MINE)
    second = storage.read_result(tmp_path)
    assert second.complete
    assert (first.matrix == second.matrix) == (not overwrite)


def test_what_a_run_would_replace_of_others_is_refused(tmp_path):
    runner.run(config(), folder=tmp_path)
    (tmp_path / "samples.png").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=r"has samples\.png, which the previous run did not"):
        runner.run(config("dgr"), folder=tmp_path, overwrite=True)
    assert contents(tmp_path) == before


def test_links_are_not_followed(tmp_path):
    folder = write(tmp_path / "r", result("naive"), panels=all_panels)
    elsewhere = tmp_path / "elsewhere"
    (folder / "panels").rename(elsewhere)
    (folder / "panels").symlink_to(elsewhere)
    (folder / "accuracy.csv").symlink_to(elsewhere / "scalars.csv")
    found = storage.run_files(folder, result("naive"))
    assert [path.name for path in found] == ["results.json"]


def test_a_finished_run_stays_until_the_next_is_complete(tmp_path, monkeypatch):
    runner.run(config(), folder=tmp_path)
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        fails_in(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            runner.run(config(), folder=tmp_path)
    during = contents(tmp_path)
    assert {name: during[name] for name in before} == before
    with pytest.raises(ConfigError, match=r"unfinished run \(1 of 2"):
        runner.run(config(), folder=tmp_path)
    resumed = runner.run(config(), folder=tmp_path, resume=True)
    assert contents(tmp_path).keys() == before.keys()
    started = json.loads(before["results.json"])["provenance"]["started"]
    assert storage.read_result(tmp_path).provenance == resumed.provenance
    assert resumed.provenance["started"] >= started
    # To replace at once is for those who say so.
    with monkeypatch.context() as patch:
        fails_in(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            runner.run(config(), folder=tmp_path, overwrite=True)
    assert not storage.read_result(tmp_path).complete


@pytest.mark.parametrize("moves", range(0, 9, 2))
def test_a_kill_while_runs_are_swapped_is_made_good(moves, tmp_path, monkeypatch):
    old = write(tmp_path / "r", result("naive", n=2), panels=all_panels)
    (old / "tensorboard").mkdir()
    (old / "tensorboard" / "events.out.tfevents.1").write_text("old")
    new = result("naive", n=2, matrix=[[0.5, 0.5], [0.5, 0.5]])
    place = write(old / storage.STAGING, new, panels=all_panels)
    expected = contents(place)
    left, replace = [moves], os.replace

    def killed(source, target):
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            run_folders.finish(old, place, new)
    assert storage.read_result(old).complete
    assert storage.check_folder(old, new.config, runner.RunOptions(resume=True)) is None
    run_folders.finish(old, place, new)
    assert contents(old) == expected
    assert not place.exists()


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_second_of_two_runs_is_refused(backend, tmp_path, capsys):
    run = ["run", "--method", "naive", "--backend", backend, "--out", str(tmp_path), "--name", "r"]
    with lock(tmp_path / "r"):
        assert main([*run, *TINY]) == 2
        assert f"in use by another run (process {os.getpid()} on" in capsys.readouterr().err
        with pytest.raises(ConfigError, match="in use"):
            runner.run(config(backend=backend), folder=tmp_path / "r")
        compare = ["compare", "--methods", "naive", "ewc", "--out", str(tmp_path), "--name", "r"]
        assert main([*compare, *TINY]) == 2
        assert "in use" in capsys.readouterr().err
    assert not os.listdir(tmp_path / "r")


@pytest.mark.parametrize("backend", BACKENDS)
def test_files_are_complete_before_a_run_is(backend, tmp_path, monkeypatch):
    """Whatever is written last is the result: a kill before it leaves a run to be continued."""
    settings = config("dgr", backend=backend)
    runner.run(settings, folder=tmp_path / "through")
    with monkeypatch.context() as patch:

        def killed(folder, result):
            if result.complete:
                raise KeyboardInterrupt
            write_result(folder, result)

        write_result = storage.write_result
        patch.setattr(storage, "write_result", killed)
        with pytest.raises(KeyboardInterrupt):
            runner.run(settings, folder=tmp_path / "killed")
    assert not storage.read_result(tmp_path / "killed").complete
    runner.run(settings, folder=tmp_path / "killed", resume=True)
    through, killed = contents(tmp_path / "through"), contents(tmp_path / "killed")
    assert through.keys() == killed.keys()
    for name in through:
        if name.endswith(".png") or name == "accuracy.csv":
            assert through[name] == killed[name], name


@pytest.mark.parametrize("moment", [1, 2])
def test_killed_while_its_first_files_are_written(moment, tmp_path):
    """The folder is known to be a run's, and a resumed run is complete."""

    def learn_until_killed():
        replace, done = os.replace, []

        def killed(*paths):
            done.append(paths)
            if len(done) == moment:
                os._exit(1)
            replace(*paths)

        os.replace = killed
        runner.run(config("naive"), folder=tmp_path)

    in_a_process(learn_until_killed)
    assert any(name.endswith(".partial") for name in os.listdir(tmp_path))
    runner.run(config("naive"), folder=tmp_path, resume=True)
    assert {"config.yaml", "results.json"} <= set(os.listdir(tmp_path))
    assert not any(name.endswith(".partial") for name in os.listdir(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dgr", "dynamic-memory"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_killed_at_any_moment_every_file_is_complete(backend, method, tmp_path):
    trainer = TrainerSettings(save_every=3) if backend == "lightning" else TrainerSettings()
    settings = config(method, backend, trainer=trainer)

    def learn(folder, after=None, resume=True):
        if after is not None:
            threading.Timer(after, os.kill, (os.getpid(), signal.SIGKILL)).start()
        runner.run(settings, folder=folder, resume=resume)

    began = time.perf_counter()
    learn(tmp_path / "through", resume=False)
    seconds, choose = time.perf_counter() - began, random.Random(method)
    expected = measured(tmp_path / "through")
    for i in range(4):
        folder = tmp_path / str(i)
        for _ in range(3):
            moment = choose.uniform(0, seconds)
            in_a_process(lambda: learn(folder, moment))  # noqa: B023
        learn(folder)
        assert measured(folder) == expected


def measured(folder):
    """The files of a run without what is another one each time."""
    found = contents(folder)
    del found["results.json"]
    lines = found["panels/scalars.csv"].splitlines()
    found["panels/scalars.csv"] = sorted(line for line in lines if b"time/" not in line)
    return found
