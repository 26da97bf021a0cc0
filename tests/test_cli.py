"""The command itself, on tiny data: files, tables, errors, interruption."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import forked
import numpy as np
import pytest
from idx_files import random_set
from PIL import Image

from avalanche_dgm.cli import main
from avalanche_dgm.experiments import recipes
from avalanche_dgm.experiments.arguments import build_parser
from avalanche_dgm.experiments.storage import read_result
from avalanche_dgm.experiments.tables import course_table, final_table

ROOT = Path(__file__).parent.parent
LIGHTNING = ["run", "--backend", "lightning"]
TINY = ["--fast", "--quiet", "--stream-set", "n_train_per_class=12", "--stream-set", "fraction=0.3"]


def size_and_colours(path: Path) -> tuple[tuple[int, int], int]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return image.size, len(image.convert("RGB").getcolors(image.width * image.height))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of the dual memory, five experiences of two digits."""
    out = tmp_path_factory.mktemp("runs")
    status = main(
        ["run", "--method", "dgdmn", "--experiences", "5", "--out", str(out), "--name", "d", *TINY]
    )
    assert status == 0
    return out / "d"


def test_results_tell_how_they_came_about(finished):
    results = json.loads((finished / "results.json").read_text())
    assert results["complete"]
    assert results["config"]["method"] == "dgdmn"
    assert results["config"]["stream_options"] == {"n_train_per_class": 12, "fraction": 0.3}
    assert results["seed"] == 0
    versions = results["provenance"]["versions"]
    assert {"python", "torch", "avalanche", "avalanche_dgm"} <= versions.keys()
    assert versions["avalanche"].startswith("0.6")
    assert "run --method dgdmn" in results["provenance"]["command"]
    assert results["provenance"]["platform"]


def test_results_hold_what_was_measured(finished):
    results = json.loads((finished / "results.json").read_text())
    accuracy = np.array(results["accuracy"], dtype=float)
    assert accuracy.shape == (5, 5)
    assert ((accuracy >= 0) & (accuracy <= 1)).all()
    for i, average in enumerate(results["average_accuracy"]):
        assert average == pytest.approx(accuracy[i, : i + 1].mean())
    assert results["final_average_accuracy"] == results["average_accuracy"][-1]
    steps = results["steps"]
    assert [step["sleeps"] for step in steps] == [0, 1, 1, 2, 2]
    assert [step["stm_occupancy"] for step in steps] == [1, 0, 1, 0, 1]
    assert all(step["memory_bytes"] > 0 and step["seconds"] > 0 for step in steps)
    assert 0 == steps[0]["sleep_seconds"] < steps[1]["sleep_seconds"] < steps[3]["sleep_seconds"]
    assert any("sleep" in phase for phase in steps[1]["phases"])


def test_csv_is_the_matrix(finished):
    results = json.loads((finished / "results.json").read_text())
    rows = list(csv.reader((finished / "accuracy.csv").open()))
    assert rows[0] == ["after", "0/1", "2/3", "4/5", "6/7", "8/9", "average_of_seen"]
    assert [row[0] for row in rows[1:]] == rows[0][1:-1]
    table = np.array([row[1:-1] for row in rows[1:]], dtype=float)
    np.testing.assert_allclose(table, results["accuracy"], atol=1e-6)


@pytest.mark.parametrize("name", ["accuracy.png", "samples.png"])
def test_pictures_show_something(finished, name):
    size, colours = size_and_colours(finished / name)
    assert min(size) > 200
    assert colours > 20


def test_nothing_is_left_behind(finished):
    names = sorted(path.name for path in finished.iterdir())
    assert names == [
        *("accuracy.csv", "accuracy.png", "config.yaml", "panels", "results.json", "samples.png")
    ]


def names_of(value):
    """The names in nested dictionaries, whatever their values; phases and labels are data."""
    if isinstance(value, dict):
        data = {"phases", "histogram", "stream_options", "method_options"}
        return {k: None if k in data else names_of(v) for k, v in value.items()}
    return [names_of(v) for v in value] if isinstance(value, list) else None


def test_a_trainer_leaves_the_same_files(finished, tmp_path, capsys):
    run = ["run", "--method", "dgdmn", "--experiences", "5", "--backend", "lightning"]
    assert main([*run, "--out", str(tmp_path), "--name", "d", *TINY]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("sklearn-digits")
    assert captured.err == ""
    folder = tmp_path / "d"
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in finished.iterdir())
    ours, theirs = (json.loads((f / "results.json").read_text()) for f in (folder, finished))
    assert ours["provenance"].pop("training_processes") == 1
    assert names_of(ours) == names_of(theirs)
    assert ours["config"]["backend"] == "lightning"
    for key in ("sleeps", "stm_occupancy", "memory_bytes"):
        assert [step[key] for step in ours["steps"]] == [step[key] for step in theirs["steps"]]
    header = (finished / "accuracy.csv").read_text().splitlines()[0]
    assert (folder / "accuracy.csv").read_text().splitlines()[0] == header
    for name in ("accuracy.png", "samples.png"):
        assert size_and_colours(folder / name)[1] > 20


def test_deprecations_of_third_parties_are_not_shown(tmp_path, recwarn):
    """Avalanche's replay calls a function that it deprecates, and asks for its warning itself."""
    command = ["run", "--method", "replay", "--experiences", "2", "--out", str(tmp_path), *TINY]
    assert main(command) == 0
    assert [str(w.message) for w in recwarn if issubclass(w.category, DeprecationWarning)] == []


@pytest.mark.slow
def test_two_devices(tmp_path):
    """The command starts itself again; only one of the two says and writes something."""
    compare = ["compare", "--methods", "naive", "ewc", "dgr", "--backend", "lightning", "--fast"]
    compare += ["--experiences", "5", "--epochs", "4", "--out", str(tmp_path)]
    two = ["--name", "two", "--devices", "2", "--accelerator", "cpu", "--strategy", "ddp"]
    done = subprocess.run(
        [sys.executable, "-m", "avalanche_dgm", *compare, *two],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert main([*compare, "--name", "one", "--quiet"]) == 0
    assert done.stdout.startswith("sklearn-digits")
    assert done.stdout.count("\nnaive ") == 1
    assert done.stderr.count("naive, seed 0: experience 5/5") == 1
    for chatter in ("GPU available", "Tip", "Initializing distributed", "deprecated"):
        assert chatter not in done.stderr
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert list(summary["methods"]) == ["naive", "ewc", "dgr"]
    assert not list(tmp_path.rglob("checkpoints"))
    both, alone = (
        {
            method: json.loads((tmp_path / name / method / "results.json").read_text())
            for method in summary["methods"]
        }
        for name in ("two", "one")
    )
    for method, result in both.items():
        assert result["complete"]
        assert result["provenance"]["training_processes"] == 2
        assert bool(result["steps"][-1]["replayed"]) == (method == "dgr")
    for method in ("naive", "ewc"):
        # The same batches; sums in another order move an image or two.
        mine, theirs = (np.array(r[method]["accuracy"]) for r in (both, alone))
        np.testing.assert_allclose(mine, theirs, atol=0.04)
    other = np.abs(np.array(alone["naive"]["accuracy"]) - alone["dgr"]["accuracy"])
    assert other.max() > 0.1


@pytest.mark.parametrize("dataset", ["fashion-mnist", "kmnist"])
def test_latent_replay_on_other_sets_ends_with_what_the_paper_tabulates(dataset, tmp_path, capsys):
    folder = {"fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}[dataset]
    random_set(tmp_path / folder / "raw", n_train=300, n_test=100)
    command = ["run", "--method", "latent-replay", "--stream", "latent-split", "--quiet"]
    command += ["--dataset", dataset, "--case", "2", "--share", "0.2", "--seed", "0", "--fast"]
    out = tmp_path / "out"
    assert main([*command, "--data-root", str(tmp_path), "--out", str(out)]) == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    found = re.fullmatch(
        r"latent-replay: accuracy on new classes (.*), on original classes (.*)", last
    )
    assert found, last
    results = json.loads(next(out.rglob("results.json")).read_text())
    original, new = results["steps"][-1]["accuracy"]
    assert [f"{new:.4f}", f"{original:.4f}"] == [value[:6] for value in found.groups()]


def test_compare_makes_one_table_over_seeds(tmp_path, capsys):
    compare = ["compare", "--methods", "naive", "joint", "--seeds", "2", "--experiences", "5"]
    status = main([*compare, "--out", str(tmp_path), "--name", "c", *TINY])
    table = capsys.readouterr().out
    assert status == 0
    assert "2 seeds" in table
    (naive,) = (line for line in table.splitlines() if line.startswith("naive"))
    assert "±" in naive
    summary = json.loads((tmp_path / "c" / "summary.json").read_text())
    assert list(summary["methods"]) == ["naive", "joint"]
    finals = summary["methods"]["joint"]["final_average_accuracy"]
    assert len(finals) == 2
    mean, sd = (summary["methods"]["joint"][f"final_average_accuracy_{s}"] for s in ("mean", "sd"))
    assert mean == pytest.approx(np.mean(finals))
    assert sd == pytest.approx(np.std(finals, ddof=1))
    assert (tmp_path / "c" / "joint" / "seed1" / "results.json").exists()
    for name in ("comparison.png", "tasks.png"):
        assert size_and_colours(tmp_path / "c" / name)[1] > 20


def test_compare_measures_the_generators_that_there_are(tmp_path, capsys):
    methods = ["naive", "ewc-generator"]
    compare = ["compare", "--methods", *methods, "--experiences", "2", "--quality"]
    assert main([*compare, "--out", str(tmp_path), "--name", "c", *TINY]) == 0
    text = capsys.readouterr().out
    assert "\newc-generator: generated samples that a classifier of real ones takes" in text
    assert "naive: generated" not in text
    saved = [json.loads((tmp_path / "c" / m / "results.json").read_text()) for m in methods]
    assert [result["config"]["quality"] for result in saved] == [False, True]
    assert saved[0]["steps"][-1]["generated_accuracy"] is None
    assert saved[1]["steps"][-1]["generated_accuracy"] >= 0


@pytest.mark.slow
def test_altm_with_the_images_of_a_gan(tmp_path):
    arguments = ["run", "--method", "altm", "--experiences", "2", *TINY, "--out", str(tmp_path)]
    assert main([*arguments, "--set", "replay=dynamic-memory", "--name", "a"]) == 0
    assert (tmp_path / "a" / "samples.png").exists()


@pytest.mark.parametrize("backend", ["avalanche", "lightning"])
def test_altm_with_the_latents_of_another_method(backend, tmp_path, capsys):
    arguments = ["run", "--method", "altm", "--backend", backend, "--experiences", "2", *TINY]
    arguments += ["--set", "replay=latent-replay", "--out", str(tmp_path), "--name", "a"]
    assert main([*arguments, "--set", 'source={"layer": "nowhere"}']) == 2
    assert "has no layer 'nowhere'" in capsys.readouterr().err
    assert main([*arguments, "--set", 'source={"layer": "body.2", "share": 0.5}']) == 0
    results = json.loads((tmp_path / "a" / "results.json").read_text())
    assert results["config"]["method_options"]["source"] == {"layer": "body.2", "share": 0.5}
    assert results["steps"][1]["memory_bytes"] > results["steps"][0]["memory_bytes"] > 0


def test_demo_runs_its_three_methods(tmp_path, capsys, monkeypatch):
    load, few = recipes.load, {"n_experiences": 2, "stream_options": {"n_train_per_class": 12}}
    monkeypatch.setattr(recipes, "load", lambda name: load(name) | (few if name == "demo" else {}))
    assert main(["demo", "--fast", "--quiet", "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    for method in ("naive", "dgr", "dgdmn"):
        assert f"\n{method} " in text
    assert str(tmp_path / "demo" / "comparison.png") in text
    assert (tmp_path / "demo" / "dgr" / "samples.png").exists()


def test_list_names_everything(capsys):
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    names = ["dgdmn-no-stm", "altm-stored", "generative-replay", "sklearn-digits", "permnist"]
    for name in (*names, "kamra2017-fig8b", "furlanello2016-fig1"):
        assert f"  {name} " in text


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("avalanche-dgm ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--method", "dgdm"], ["'dgdm'", "Did you mean 'dgdmn'", "pseudo-rehearsal"]),
        (["run", "--stream", "digit"], ["'digit'", "Did you mean 'digits'", "sklearn-digits"]),
        (["run", "--method", "dgr", "--set", "latents=3"], ["latents", "latent"]),
        (["run", "--method", "naive", "--set", "a=3"], ["naive", "no options"]),
        (["run", "--method", "dgdmn", "--set", "stm_size"], ["KEY=VALUE"]),
        (["run", "--method", "dgdmn", "--set", "stm_size=0"], ["stm_size", "at least 1"]),
        (["run", "--method", "naive", "--lr", "0"], ["lr", "above 0"]),
        (["run", "--method", "naive", "--epochs", "0"], ["epochs", "at least 1"]),
        (["run", "--method", "naive", "--epochs", "many"], ["--epochs", "run --help"]),
        (["run", "--method", "naive", "--seeds", "0"], ["--seeds", "at least 1"]),
        (["run", "--method", "naive", "--experiences", "3"], ["10 classes", "3"]),
        (["run", "--method", "naive", "--stream-set", "size=3"], ["size", "test_fraction"]),
        (["run", "--stream-set", "fractoin=0.3"], ["Did you mean 'fraction'"]),
        (["run", "--method", "generative-replay"], ["1x28x28", "1x8x8"]),
        (["compare", "--methods", "naive", "dgr", "--set", "stm=3"], ["stm", "naive, dgr"]),
        (["paper", "fig12"], ["fig12", "fig4"]),
        (["paper", "fig4", "--scale", "0"], ["--scale"]),
        (["paper", "altm-fig"], ["altm-fig1", "Did you mean"]),
        (["paper", "altm-fig1", "--scale", "0.5"], ["--scale", "furlanello2016-fig1"]),
        (["paper", "altm-fig1", "--methods", "altm"], ["--methods", "only has seeds"]),
        (["paper", "fig3", "fig4", "--name", "mine"], ["--name", "several"]),
        (["paper", "fig4", "--methods", "joint"], ["joint", "dgdmn"]),
        (["paper", "altm-fig1", "--seed", "-1"], ["seed", "at least 0"]),
        (["paper", "altm-fig1", "--backend", "lightning"], ["--backend"]),
        (["run", "--stream", "latent-split", "--hidden", "9"], ["--hidden", "latent replay paper"]),
        (["run", "--stream", "turntable", "--hidden", "9", "9"], ["--hidden", "one number"]),
        (["run", "--method", "dgr", "--quality"], ["--quality", "dgr", "mergan", "gan-replay"]),
        (["compare", "--methods", "dgr", "naive", "--quality"], ["--quality", "dgr", "mergan"]),
        (["run", "--devices", "2"], ["--devices", "--backend lightning"]),
        (["run", "--resume", "--overwrite"], ["--overwrite", "not allowed with", "--resume"]),
        (["run", "--stream", "photos", "--data-root", "no"], ["'no/train'", "for each class"]),
        (["run", "--backend", "jax"], ["jax", "lightning"]),
        ([*LIGHTNING, "--devices", "many"], ["many", "auto"]),
        ([*LIGHTNING, "--devices", "0"], ["devices", "at least 1"]),
        ([*LIGHTNING, "--precision", "64"], ["64", "bf16-mixed"]),
        ([*LIGHTNING, "--clip", "0"], ["clip", "above 0"]),
        ([*LIGHTNING, "--strategy", "fsdp"], ["fsdp", "ddp"]),
        ([*LIGHTNING, "--accelerator", "abacus"], ["abacus", "cpu"]),
        ([*LIGHTNING, "--method", "generative-replay"], ["generative-replay", "dgdmn"]),
        ([*LIGHTNING, "--set", "stm_size=0"], ["stm_size", "at least 1"]),
        (["fly"], ["fly"]),
    ],
)
def test_errors_are_one_helpful_line(tmp_path, capsys, arguments, words):
    place = ["--out", str(tmp_path), "--quiet"] if len(arguments) > 1 else []
    assert main([*arguments, *place]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("avalanche-dgm: error: ")
    for word in words:
        assert word in line
    assert not list(tmp_path.rglob("*.json"))


def test_a_comparison_that_fails_says_what_is_kept(tmp_path, capsys):
    words = ["compare", "--experiences", "2", *TINY[0:1], *TINY[2:]]
    words += ["--out", str(tmp_path), "--name", "c"]
    assert main([*words, "--methods", "naive", "generative-replay"]) == 2
    kept, error = capsys.readouterr().err.strip().splitlines()[-2:]
    assert kept.startswith(
        "generative-replay, seed 0, failed. The finished runs, 1 of 2, are saved"
    )
    assert "1x28x28" in error
    before = (tmp_path / "c" / "naive" / "results.json").read_text()
    assert main([*words, "--methods", "naive", "dropout", "--resume"]) == 0
    assert (tmp_path / "c" / "naive" / "results.json").read_text() == before
    assert main(["run", "--method", "naive", *words[1:]]) == 2
    assert "has several runs, each in a folder" in capsys.readouterr().err


def test_missing_data_says_what_to_do(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("AVALANCHE_DGM_DATA", raising=False)
    assert main(["run", "--method", "naive", "--stream", "digits", "--quiet"]) == 2
    assert "--data-root" in capsys.readouterr().err
    assert main(["run", "--stream", "digits", "--data-root", str(tmp_path), "--quiet"]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_no_gpu_says_so(tmp_path, capsys):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main(["run", "--device", "cuda", "--out", str(tmp_path)]) == 2
    assert "no GPU" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    status = main(["run", "--method", "naive", "--out", str(tmp_path / "file"), *TINY])
    assert status == 2
    assert "--out" in capsys.readouterr().err


def test_other_settings_do_not_replace_a_result(tmp_path, capsys):
    run = ["run", "--method", "naive", "--out", str(tmp_path), "--name", "n", *TINY]
    assert main(run) == 0
    assert main([*run, "--lr", "0.01"]) == 2
    message = capsys.readouterr().err
    assert "lr 0.01 (was 0.001)" in message
    assert "--overwrite" in message
    assert main([*run, "--lr", "0.01", "--overwrite"]) == 0
    assert json.loads((tmp_path / "n" / "results.json").read_text())["config"]["lr"] == 0.01


def test_a_comparison_takes_no_folder_of_one_run(finished, capsys):
    compare = ["compare", "--methods", "naive", "dgr", *TINY, "--out", str(finished.parent)]
    assert main([*compare, "--name", finished.name]) == 2
    message = capsys.readouterr().err
    assert "one run, of dgdmn" in message
    assert "Choose another --name" in message


def test_a_smaller_comparison_lists_its_own_pictures(tmp_path, capsys):
    for methods in (["dgr", "dgdmn"], ["dgr", "naive"]):
        where = ["--out", str(tmp_path), "--name", "c", "--resume", "--quiet"]
        assert main(["compare", "--methods", *methods, *TINY, *where]) == 0
    _, lines = capsys.readouterr().out.rsplit("Pictures:\n", 1)
    listed = [line.strip() for line in lines.split("\n\n")[0].splitlines()]
    names = ("comparison.png", "tasks.png", "dgr/samples.png")
    assert listed == [str(tmp_path / "c" / name) for name in names]


@pytest.mark.parametrize(
    ("backend", "number"),
    [
        ("avalanche", signal.SIGINT),
        ("lightning", signal.SIGINT),
        ("avalanche", signal.SIGTERM),
        ("lightning", signal.SIGTERM),
    ],
)
def test_interrupted_and_continued(tmp_path, backend, number):
    """A real process, a real Ctrl-C or a batch system's signal: it says how to go on, rightly."""
    command = ["run", "--method", "naive", "--experiences", "5", "--epochs", "12", "--hidden", "16"]
    command += ["--out", str(tmp_path), "--name", "r", "--backend", backend]
    script = tmp_path / "script.py"
    script.write_text("import sys\nfrom avalanche_dgm.cli import main\nsys.exit(main())")
    process = forked.Script(script, *command)
    process.interrupt(after="experience 1/5 (0/1) learned in", number=number)
    ended = process.wait(timeout=60)
    assert ended.returncode == 128 + number
    errors = ended.stderr
    last = errors.strip().splitlines()[-1]
    assert ("interrupted" if number == signal.SIGINT else "terminated") in last
    assert last.endswith("--resume")
    assert "Traceback" not in errors
    assert "resume=True" not in errors  # For those who call fit_stream.
    assert main([*command, "--quiet"]) == 2  # an unfinished run is not thrown away
    assert main([*command, "--quiet", "--resume"]) == 0
    assert json.loads((tmp_path / "r" / "results.json").read_text())["complete"]


SHELL = f'"{sys.executable}" -m avalanche_dgm options naive'


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("given", ["options naive", "--help"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_on_a_full_disk(given, unbuffered, monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    command = f'"{sys.executable}" -m avalanche_dgm {given} > /dev/full'
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("avalanche-dgm: error: Cannot write standard output")
    assert done.stderr.count("\n") == 1


def test_without_docstrings():
    command = [sys.executable, "-OO", "-m", "avalanche_dgm", "run", "--print-config"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "method: dgdmn" in done.stdout


@pytest.mark.skipif(os.name == "nt", reason="a shell's syntax")
def test_closed_output():
    command = f"{SHELL} >&-"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_a_command_it_shows_its_help(capsys):
    assert main([]) == 0
    assert "compare" in capsys.readouterr().out


def test_help_is_fast_and_imports_nothing_heavy():
    code = (
        "import sys; from avalanche_dgm.cli import main; main(['run', '--help']);"
        " sys.exit(any(name in sys.modules for name in"
        " ('torch', 'avalanche', 'matplotlib', 'jsonargparse', 'yaml', 'numpy')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "--method" in done.stdout


def test_output_that_nobody_reads_or_that_the_encoding_lacks():
    for words in ("run --print-config", "options dgr"):
        command = f"{sys.executable} -m avalanche_dgm {words} | true; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (141, "")
    code = "import sys; from avalanche_dgm.cli import main; main([]); print('\\xe9')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.endswith("\\xe9\n")


def test_every_option_is_on_the_page():
    text = (ROOT / "docs" / "cli.md").read_text()
    commands = next(a.choices for a in build_parser()._actions if a.choices)
    options = {
        option
        for parser in commands.values()
        for action in parser._actions
        for option in action.option_strings
        if option.startswith("--")
    }
    assert {"--devices", "--save-every", "--fast"} <= options
    assert {option for option in options if option not in text} == set()


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_names_method_and_experience_on_stderr(terminal, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    quietless = [word for word in TINY if word != "--quiet"]
    run = ["run", "--method", "dgr", "--experiences", "2", "--out", str(tmp_path), *quietless]
    assert main(run) == 0
    captured = capsys.readouterr()
    assert "dgr, seed 0: experience 2/2" in captured.err
    # No bars in a log file.
    bars = ("dgr, seed 0, experience 2/2, epoch 1/1", "generator", "it/s")
    assert [bar in captured.err for bar in bars[:2]] == [terminal] * 2
    assert ("\r" in captured.err) == terminal
    assert not any(bar in captured.out for bar in bars)


@pytest.mark.parametrize("columns", [80, 110, 300])
def test_tables_fit_the_terminal(columns, finished, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    result = read_result(finished)
    for table in (final_table({"dgdmn": [result, result]}), course_table(result)):
        assert max(map(len, table.splitlines())) <= columns
        assert f"{result.average():.3f}" in table
    for words in (["list"], ["options", "dgdmn"], ["options", "digits"], ["options", "ewc"]):
        assert main(words) == 0
        assert max(map(len, capsys.readouterr().out.splitlines())) <= columns


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dgdmn", ["stm_size: int = 2", "Tasks that the short-term memory holds"]),
        ("dgdmn-no-stm", ["Fixed by its name: short_term=False"]),
        ("ewc", ["ewc_lambda: float = 100.0", "Factor lambda of the penalty"]),
        ("der++", ["mem_size", "memory_budget"]),
        ("naive", ["no options"]),
        ("cumulative", ["no options"]),
        ("icarl", ["(Avalanche's ICaRL): reference mem_size: int = 200"]),
        ("digits", ["class_order", "classes in order", "n_experiences: int = 10"]),
        ("sklearn-digits", ["seed: int = 0 Determines the kept images and a shuffled order."]),
        ("dynamic-memory-paper", ["mnist-weights"]),
    ],
)
def test_options_are_explained(name, words, capsys):
    assert main(["options", name]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for word in words:
        assert word in text
    assert main(["options", name[:-1]]) == 2
    assert f"'{name}'" in capsys.readouterr().err
