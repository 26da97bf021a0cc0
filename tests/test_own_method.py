"""A method from outside the package: its classes, its name on the command line, its arguments."""

import json
from pathlib import Path

import pytest
from own_method import ClassMeans

from avalanche_dgm.cli import main
from avalanche_dgm.lightning import DGDMNModule, module_of
from avalanche_dgm.plugins import plugin_of, strategy_of

SMALL = [
    *("--stream", "sklearn-digits", "--experiences", "2", "--fast", "--quiet"),
    *("--stream-set", "n_train_per_class=8", "--set", "noise=0.3"),
]


def test_the_page_has_this_method():
    here = Path(__file__).parent
    page = (here.parent / "docs" / "write_your_own.md").read_text()
    assert f"```python\n{(here / 'own_method.py').read_text()}```" in page


def test_its_classes():
    assert plugin_of(ClassMeans)(noise=0.3).method.settings.noise == 0.3
    assert strategy_of(ClassMeans).__name__ == "ClassMeansStrategy"
    assert "noise: Standard deviation" in module_of(ClassMeans).__doc__


@pytest.mark.parametrize("backend", ["avalanche", "lightning"])
def test_it_is_a_name_on_the_command_line(backend, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    command = ["run", "--plugin", "own_method", "--method", "class-means", *SMALL]
    assert main([*command, "--backend", backend, "--out", str(tmp_path), "--name", "own"]) == 0
    (path,) = tmp_path.rglob("results.json")
    result = json.loads(path.read_text())
    assert result["complete"]
    assert result["config"]["method"] == "class-means"
    assert (path.parent / "panels" / "images.csv").exists()
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "page.html")]) == 0
    assert "class-means" in (tmp_path / "page.html").read_text()
    assert main(["list", "--plugin", "own_method"]) == 0
    assert "noise around the mean image" in capsys.readouterr().out


def test_a_module_that_is_not_there(capsys):
    assert main(["list", "--plugin", "not_there"]) == 2
    assert "--plugin not_there" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "name"), [(DGDMNModule, "stm_size"), (ClassMeans, "noise")])
def test_command_lines_show_every_argument(kind, name):
    kind = kind if kind is DGDMNModule else module_of(kind)
    jsonargparse = pytest.importorskip("jsonargparse")
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, "model")
    assert f"--model.{name}" in parser.format_help()
    given = ["--model.model=torch.nn.Identity", f"--model.{name}=3"]
    assert parser.parse_args(given).model[name] == 3


@pytest.mark.parametrize("name", ["stm_size", "seed"])
def test_command_lines_read_settings(name):
    from avalanche_dgm.methods import DGDMN

    jsonargparse = pytest.importorskip("jsonargparse")
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--memory", type=DGDMN.settings_type, default=DGDMN.settings_type())
    assert f"--memory.{name}" in parser.format_help()
    assert getattr(parser.parse_args([f"--memory.{name}=3"]).memory, name) == 3
