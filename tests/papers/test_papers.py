"""`avalanche-dgm paper`: exhibits draw, runs are shared and go on, and the numbers are theirs."""

import csv
import json
from functools import cache

import numpy as np
import pytest
from idx_files import random_set
from PIL import Image
from scipy import stats

from avalanche_dgm import papers
from avalanche_dgm.cli import main
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments import ExperimentConfig, deep_linear, runner
from avalanche_dgm.experiments.on_avalanche import AvalancheEngine
from avalanche_dgm.experiments.paper import FOLDER, run_name
from avalanche_dgm.papers import saez2022
from avalanche_dgm.papers.numbers import PRINTED, cell_text, command_of, printed


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data root with a few random images in the place of MNIST and its like."""
    root = tmp_path_factory.mktemp("data")
    for name in ("MNIST", "FashionMNIST", "KMNIST"):
        random_set(root / name / "raw", n_train=150, n_test=50)
    return root


@pytest.fixture(autouse=True)
def few_images(data, monkeypatch):
    monkeypatch.setenv("AVALANCHE_DGM_DATA", str(data))


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """One folder of runs: what exhibits share is trained once."""
    return tmp_path_factory.mktemp("runs")


def make(out, *names, seeds=1, **words):
    """Makes exhibits, with all of the few images."""
    options = [w for k, v in words.items() for w in (f"--{k}", *([v] if isinstance(v, str) else v))]
    command = ["paper", *names, "--fast", "--scale", "1", "--seeds", str(seeds), *options]
    return main([*command, "--out", str(out), "--quiet", "--log", "none"])


def numbers(out, name):
    return json.loads((out / f"{name}-fast" / "numbers.json").read_text())


def cells(found):
    return {(cell["row"], cell["column"]): cell for cell in found["rows"]}


def results(out, found, row):
    """The results of a row's runs, by seed."""
    folders = [run["folder"] for run in found["runs"] if run["row"] == row]
    return [json.loads((out / FOLDER / f / "results.json").read_text()) for f in folders]


WITH_RUNS = [exhibit for exhibit in papers.EXHIBITS.values() if exhibit.plan is not None]


#: Fifteen runs, ten of them of GANs; and those that differ from others in the images alone.
LONG = {"ostapenko2019-table1", "ostapenko2019-fig4", "kamra2017-fig5a", "kamra2017-fig6"}
LONG |= {f"saez2022-table{n}" for n in range(7, 13)}


@pytest.mark.parametrize(
    "exhibit",
    [
        pytest.param(e, id=e.name, marks=pytest.mark.slow if e.name in LONG else [])
        for e in WITH_RUNS
    ],
)
def test_every_exhibit_is_made(exhibit, out, capsys, monkeypatch):
    # Two of the four, whose runs differ in classes alone.
    monkeypatch.setattr(saez2022, "CASES", dict([*saez2022.CASES.items()][:2]))
    assert make(out, exhibit.name) == 0
    text = capsys.readouterr().out
    assert exhibit.title in text
    folder = out / f"{exhibit.name}-fast"
    found = numbers(out, exhibit.name)
    assert found["exhibit"] == exhibit.name
    assert found["fast"]
    measured = [cell for cell in found["rows"] if cell["values"]]
    assert measured
    assert all(len(cell["values"]) == 1 and cell["half"] is None for cell in measured)
    assert {run["row"] for run in found["runs"]}
    assert all(run["bytes"] is None or run["bytes"] >= 0 for run in found["runs"])
    assert found["machines"][0]["cpu"]
    assert (folder / "numbers.json").stat().st_size < 100_000
    for path in folder.glob("*.png"):
        assert str(path) in text
        with Image.open(path) as image:
            assert len(image.convert("RGB").getcolors(image.width * image.height)) > 20
    # The rows of the CSV file are the JSON's.
    rows = list(csv.DictReader((folder / "numbers.csv").open()))
    ours = [r for r in rows if not r["x"] and r["seed"] != "paper"]
    assert len(ours) == sum(len(cell["values"]) for cell in found["rows"])
    lines = sum(
        len(line) for c in found["curves"].values() for r in c["rows"].values() for line in r
    )
    assert len([r for r in rows if r["x"]]) == lines


def test_the_figure_without_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(deep_linear, "run", cache(deep_linear.run))
    figure = ["paper", "altm-fig1", "--out", str(tmp_path), "--quiet"]
    assert main([*figure, "--seeds", "2"]) == 0
    text = capsys.readouterr().out
    folder = tmp_path / "furlanello2016-fig1"
    assert {p.name for p in folder.iterdir()} == {
        "numbers.json",
        "numbers.csv",
        "furlanello2016-fig1.png",
    }
    found = json.loads((folder / "numbers.json").read_text())
    # What is said is what the curves show: A's highest error after the switch, less that at it.
    for row, panel in (
        ("A, then B", "task A, then B"),
        ("A, then A and B", "task A, then A and B"),
    ):
        errors = found["curves"][f"error, {panel}"]["rows"]["task A"]
        rises = [max(line[300:]) - line[300] for line in errors]
        assert cells(found)[row, "rise of A's error"]["values"] == pytest.approx(rises, abs=1e-5)
        (line,) = (line for line in text.splitlines() if line.startswith(f"{row} "))
        assert f"{np.mean(rises):.3f}"[1:] in line
    delay = cells(found)["in turns", "epochs later than both at once"]
    assert min(delay["values"]) > 100
    assert delay["paper"] == "over 100"
    # Made again, the same; another figure's folder, or one with other files, is refused.
    assert main(figure) == 0
    assert main(["paper", "altm-fig1", "--out", str(tmp_path), "--name", "notes"]) == 0
    (tmp_path / "notes" / "numbers.json").write_text(json.dumps({"exhibit": "kamra2017-fig4"}))
    assert main([*figure, "--name", "notes"]) == 2
    assert "has the exhibit kamra2017-fig4" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.txt").write_text("")
    assert main([*figure, "--name", "mine"]) == 2
    assert "mine.txt" in capsys.readouterr().err


def test_numbers_are_those_of_the_runs(out):
    assert make(out, "fig4", seeds=3, methods=["naive", "ewc", "dgdmn"]) == 0
    found = numbers(out, "kamra2017-fig4")
    matrices = {
        row: np.array([r["accuracy"] for r in results(out, found, row)], dtype=float)
        for row in ("naive", "dgdmn", "ewc")
    }
    for row, matrix in matrices.items():
        assert matrix.shape == (3, 10, 10)
        finals = matrix[:, -1].mean(axis=1)
        cell = cells(found)[row, "average of all tasks"]
        assert cell["values"] == pytest.approx(finals, abs=1e-6)
        assert cell["mean"] == pytest.approx(finals.mean(), abs=1e-6)
        assert cell["half"] == pytest.approx(half(finals), abs=1e-6)
        lines = found["curves"]["average of the tasks so far"]["rows"][row]
        expected = [[m[i, : i + 1].mean() for i in range(10)] for m in matrix]
        np.testing.assert_allclose(lines, expected, atol=1e-6)
        by_task = found["curves"][f"accuracy by task, {row}"]["rows"]
        for j in range(10):
            shown = np.array(by_task[f"task {j + 1}"], dtype=float)
            assert np.isnan(shown[:, :j]).all()
            np.testing.assert_allclose(shown[:, j:], matrix[:, j:, j], atol=1e-6)
    paired = (matrices["dgdmn"] - matrices["ewc"])[:, -1].mean(axis=1)
    difference = next(d for d in found["differences"] if d["less"] == "ewc")
    assert difference["row"] == "dgdmn"
    assert difference["values"] == pytest.approx(paired, abs=1e-6)
    assert difference["half"] == pytest.approx(half(paired), abs=1e-6)
    seconds = [run["seconds"] for run in found["runs"] if run["row"] == "dgdmn"]
    saved = [r["training_seconds"] for r in results(out, found, "dgdmn")]
    assert seconds == pytest.approx(saved, abs=0.06)


def half(values):
    """Half of the 95 % interval of a mean, by the t distribution."""
    return stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)


def test_the_last_ten_of_a_long_stream(out):
    assert make(out, "fig7", "fig8a") == 0
    found, times = numbers(out, "kamra2017-fig7"), numbers(out, "kamra2017-fig8a")
    for row in ("dgr", "dgdmn"):
        (result,) = results(out, found, row)
        last = np.mean(result["accuracy"][-1][-10:])
        assert cells(found)[row, "average of the last ten"]["values"] == [pytest.approx(last)]
        time = cells(times)[row, "seconds of training"]["values"]
        assert time == [pytest.approx(result["training_seconds"], abs=1e-3)]
    assert cells(found)["dgdmn", "average of all tasks"]["paper"] == "about .40"
    assert found["runs"][0]["folder"] == times["runs"][0]["folder"]
    slow, fast = (cells(times)[row, "seconds of training"]["mean"] for row in ("dgr", "dgdmn"))
    ratio = cells(times)["dgr / dgdmn", "seconds of training"]
    assert ratio["mean"] == pytest.approx(slow / fast, rel=1e-3)
    assert ratio["paper"] == "about 10"


def test_runs_are_shared_and_go_on_after_a_kill(tmp_path, monkeypatch, capsys):
    learned, learn = [], AvalancheEngine.learn_experience

    def interrupted(engine, position):
        config = engine.run.spec.config
        if config.method == "dropout" and len(learned) == 13:
            raise KeyboardInterrupt
        learned.append((config.method, position))
        learn(engine, position)

    monkeypatch.setattr(AvalancheEngine, "learn_experience", interrupted)
    assert make(tmp_path, "fig4", methods=["naive", "dropout"]) == 130
    assert "--resume" not in capsys.readouterr().err
    assert not (tmp_path / "kamra2017-fig4-fast").exists()
    assert learned[-1] == ("dropout", 2)
    learned.append("")  # Not interrupted again.
    assert make(tmp_path, "fig4", methods=["naive", "dropout"]) == 0
    # Another figure of the same runs, and one more.
    assert make(tmp_path, "fig5b", methods=["naive", "dropout", "joint"]) == 0
    expected = [(m, i) for m in ("naive", "dropout", "joint") for i in range(10)]
    assert [entry for entry in learned if entry] == expected
    assert len(list((tmp_path / FOLDER).iterdir())) == 3
    for entry in ("kamra2017-fig4", "kamra2017-fig5b"):
        assert [run["row"] for run in numbers(tmp_path, entry)["runs"]][:2] == ["naive", "dropout"]


def test_overwriting_trains_a_shared_run_once(tmp_path, monkeypatch):
    trained, run = [], runner.run

    def noted(config, *more):
        trained.append(config.method)
        return run(config, *more)

    monkeypatch.setattr(runner, "run", noted)
    for more in ([], ["--overwrite"]):
        command = ["paper", "fig4", "fig5b", "--fast", "--scale", "1", "--methods", "naive"]
        where = ["--out", str(tmp_path), "--quiet", "--log", "none"]
        assert main([*command, *where, *more]) == 0
    assert trained == ["naive", "naive"]


def test_names_of_runs():
    config = ExperimentConfig.create("dgr", "digits", paper=True)
    name = run_name(config)
    assert name.startswith("digits-dgr-seed0-")
    # What changes no number, changes no name.
    assert run_name(config.replace(data_root="/elsewhere", device="auto", download=True)) == name
    others = [
        config.replace(seed=1),
        config.replace(method="dgdmn"),
        config.replace(epochs=7),
        config.replace(method_options={"latent": 8}),
        config.replace(stream_options={"fraction": 0.5}),
    ]
    assert len({name, *map(run_name, others)}) == 6


def test_exhibits_by_name():
    assert [e.name for e in papers.find("fig4", "fig8a", "altm-fig1", "kamra2017-fig4")] == [
        "kamra2017-fig4",
        "kamra2017-fig8a",
        "furlanello2016-fig1",
    ]
    assert papers.find("all") == list(papers.EXHIBITS.values())
    assert papers.find("kamra2017") == [e for e in papers.find("all") if e.paper == "kamra2017"]
    with pytest.raises(ConfigError, match=r"Did you mean 'altm-fig\d'"):
        papers.find("altm-fig")
    names = [name for e in papers.find("all") for name in (e.name, *e.aliases)]
    assert len(names) == len(set(names))


def test_listing(capsys):
    for command in (["paper"], ["paper", "list"]):
        assert main(command) == 0
        text = capsys.readouterr().out
        for exhibit in papers.EXHIBITS.values():
            assert f"  {exhibit.name} " in text
            assert exhibit.shows in text


def test_defaults_in_place_of_the_papers_settings():
    (exhibit,) = papers.find("fig4")
    theirs = exhibit.configs(papers.Request(only=("dgr",)))["dgr"][0]
    ours = exhibit.configs(papers.Request(only=("dgr",), defaults=True, seeds=(3, 4)))["dgr"]
    assert theirs.paper
    assert theirs.hidden == (24, 24)
    assert [config.seed for config in ours] == [3, 4]
    assert ours[0] == ExperimentConfig.create("dgr", "digits", seed=3)
    (revised,) = papers.find("fig6")
    again = revised.configs(papers.Request(defaults=True, scale=0.5))["dgdmn"][0]
    assert again.revisit == (0, 5)
    assert again.stream_options == {"fraction": 0.5}


def test_commands_and_folders_say_the_settings():
    (exhibit,) = papers.find("fig4")
    for request, words, suffix in (
        (papers.Request(), "", ""),
        (papers.Request(seeds=(0, 1, 2), fields={"data_root": "/a"}), " --seeds 3", ""),
        (papers.Request(scale=0.1, seeds=(2,)), " --scale 0.1 --seed 2", "-scale0.1"),
        (papers.Request(defaults=True, only=("dgr",)), " --defaults --methods dgr", "-defaults"),
        (papers.Request(fast=True), " --fast", "-fast"),
        (
            papers.Request(fields={"backend": "lightning"}),
            " --backend lightning",
            "-lightning",
        ),
    ):
        assert command_of(exhibit, request) == f"avalanche-dgm paper kamra2017-fig4{words}"
        assert request.suffix == suffix


def test_printed_values_have_a_place():
    theirs = {e.paper for e in papers.EXHIBITS.values() if not e.ours}
    assert {path.stem for path in PRINTED.glob("*.yaml")} == theirs
    for paper in theirs:
        assert set(printed(paper)) <= {e.short for e in papers.find(paper)}


@pytest.mark.parametrize(
    ("mean", "half", "text"),
    [
        (0.97345, None, ".973"),
        (0.5, 0.0123, ".500 ± .012"),
        (-0.5, 0.1, "-.500 ± .100"),
        (1.0, None, "1.000"),
        (1234.5, 20.0, "1,234 ± 20"),
        (None, None, "-"),
    ],
)
def test_texts_of_cells(mean, half, text):
    assert cell_text({"mean": mean, "half": half}) == text


@pytest.mark.slow
def test_the_table_of_dynamic_memory(out):
    methods = ["mergan", "dynamic-memory-discriminator", "joint", "joint, first half"]
    assert make(out, "ostapenko2019-table1", methods=methods) == 0
    found = numbers(out, "ostapenko2019-table1")
    for row in methods[:2]:
        (result,) = results(out, found, row)
        for n in (5, 10):
            expected = np.mean(result["accuracy"][n - 1][:n])
            assert cells(found)[row, f"A{n}"]["values"] == [pytest.approx(expected, abs=1e-6)]
            judged = result["steps"][n - 1]["generated_accuracy"]
            shown = cells(found)[row, f"generated A{n}"]["values"]
            assert shown == [pytest.approx(judged, abs=1e-6)]
    # One run on all classes, one on half of them; the table has them as one row.
    (whole,), (half,) = (results(out, found, row) for row in methods[2:])
    joint = [cells(found)["joint", name]["values"] for name in ("A10", "A5")]
    assert joint == [[pytest.approx(r["accuracy"][0][0], abs=1e-6)] for r in (whole, half)]
    assert ("joint, first half", "A10") not in cells(found)
    assert cells(found)["mergan", "generated A10"]["paper"] == 0.97
    (memory,) = (run for run in found["runs"] if run["row"] == methods[1])
    for share, name in ((4, "1/4"), (1, "1")):
        (buffer,) = results(out, found, f"real images, {name} of its bytes")
        budget = buffer["config"]["method_options"]["memory_budget"]
        assert budget == memory["bytes"] // share
