"""Every example runs from an empty folder, and ends with a plausible accuracy."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from wandb_reader import isolated, runs

EXAMPLES = Path(__file__).parent.parent / "examples"
FOLDER, LIGHTNING = EXAMPLES / "avalanche", EXAMPLES / "lightning"
GENERATORS = EXAMPLES / "generators"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs an example as a script, but in this process: importing Avalanche takes seconds."""
    monkeypatch.chdir(tmp_path)

    def run_example(name, *arguments, folder=FOLDER, fast=True):
        fast = ["--fast"] if fast else []
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *fast, *arguments])
        runpy.run_path(str(folder / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    with isolated(tmp_path):
        yield run_example


def final_accuracy(text):
    (value,) = re.findall(r"final accuracy: ([0-9.]+)", text)
    return float(value)


METHODS = [
    *("dgdmn", "dgr", "altm", "latent_replay", "pseudo_rehearsal", "multi_head"),
    *("dynamic_memory", "dashboard"),
]


@pytest.mark.parametrize("name", METHODS)
def test_example(name, run, tmp_path):
    assert 0.0 < final_accuracy(run(name)) <= 1.0
    if name == "dashboard":
        assert_dashboard(tmp_path)


def assert_dashboard(folder):
    """A run of W&B that has the panels of all five experiences."""
    (logged,) = runs(folder)
    assert [at for at, _ in logged.curve("stream/average_accuracy", "experience")] == [
        1,
        2,
        3,
        4,
        5,
    ]
    assert len(logged.rows("accuracy/matrix")) == len(logged.rows("samples/grid")) == 5
    assert logged.rows("latents/tsne")


def test_paper_figures_example(run, tmp_path):
    assert "plain network: " in run("paper_figures")
    for number in (9, 10, 11):
        assert (tmp_path / f"figure-{number}.png").stat().st_size > 10_000


def test_checkpoint_example_ends_as_if_it_had_not_stopped(run):
    first = run("checkpoint", "--stop-after", "2")
    assert "run this again" in first
    second = run("checkpoint")
    assert "2 of 5 experiences are learned already" in second
    through = run("checkpoint", "--path", "other/strategy.pt")
    assert final_accuracy(second) == final_accuracy(through)


@pytest.mark.parametrize("name", [*METHODS, "strategy"])
def test_lightning_example(name, run, tmp_path):
    assert 0.0 < final_accuracy(run(name, folder=LIGHTNING)) <= 1.0
    if name == "dashboard":
        assert_dashboard(tmp_path)


def test_lightning_checkpoint_example_ends_as_if_it_had_not_stopped(run):
    first = run("checkpoint", "--stop-after", "2", folder=LIGHTNING)
    assert "run this again" in first
    second = run("checkpoint", folder=LIGHTNING)
    assert "3 of 5" in second
    assert "1 of 5" not in second
    through = run("checkpoint", "--folder", "other", folder=LIGHTNING)
    assert final_accuracy(second) == final_accuracy(through)


def test_lightning_cli_example(run):
    file = ["fit", "--config", str(LIGHTNING / "cli.yaml"), "--data.n_train_per_class", "20"]
    few = ["--model.generator_steps", "20", "--model.learner_steps", "20", "--model.stm_size", "1"]
    few += ["--trainer.max_epochs", "1", "--ckpt_path", "saved"]
    text = run("cli", *file, *few, folder=LIGHTNING, fast=False)
    assert 0.0 < final_accuracy(text) <= 1.0
    assert any(Path("saved").iterdir()), "a run that can be resumed"
    script = [sys.executable, str(LIGHTNING / "cli.py"), "fit", "--help"]
    shown = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    assert "--model.stm_size STM_SIZE\n" in shown
    assert "Tasks that the short-term memory holds" in shown


def test_vae_example(run):
    (loss,) = re.findall(r"final loss: ([0-9.]+)", run("vae", folder=LIGHTNING))
    assert 0 < float(loss) < 40, "an untrained one is above 44"


OWN = ["gaussian_mixture", "normalizing_flow", "diffusion"]


@pytest.mark.parametrize("name", OWN)
def test_generator_example(name, run):
    assert 0.0 < final_accuracy(run(name, folder=GENERATORS)) <= 1.0


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN)
def test_generator_example_remembers(name, run):
    text = run(name, folder=GENERATORS, fast=False)
    (forgetting,) = re.findall(r"without a memory: ([0-9.]+)", text)
    assert float(forgetting) < 0.25
    assert final_accuracy(text) > 0.8


def test_an_example_as_users_start_it(tmp_path):
    script = [sys.executable, str(FOLDER / "pseudo_rehearsal.py"), "--fast"]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "final accuracy" in done.stdout


@pytest.mark.parametrize(
    ("folder", "tested"),
    [
        (FOLDER, {*METHODS, "checkpoint", "paper_figures"}),
        (LIGHTNING, {*METHODS, "checkpoint", "cli", "strategy", "vae"}),
        (GENERATORS, {*OWN}),
    ],
    ids=["avalanche", "lightning", "generators"],
)
def test_no_example_is_forgotten(folder, tested):
    assert {path.stem for path in folder.glob("*.py")} == tested
