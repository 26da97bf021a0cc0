"""Runs as files: recipes, files of the user's with own classes, and the file that repeats a run."""

import json
import textwrap

import pytest
import yaml

from avalanche_dgm.cli import main
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments import ExperimentConfig, planning, recipes
from avalanche_dgm.experiments.methods import check_options
from avalanche_dgm.streams import STREAMS

OWN = """
import torch
from avalanche.core import SupervisedPlugin
from avalanche_dgm.streams import sklearn_digits

class Net(torch.nn.Module):
    def __init__(self, width, activation):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(64, width), activation, torch.nn.Linear(width, 10))

    def forward(self, x):
        return self.layers(x)

class Shrink(SupervisedPlugin):
    '''Pulls all weights towards 0.'''

    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def after_training_exp(self, strategy, **kwargs):
        for weight in strategy.model.parameters():
            weight.data.mul_(1 - self.rate)

def stream(n):
    return sklearn_digits(n_experiences=n, fraction=0.1)
"""
RUN = """
method: {class_path: own_parts.Shrink, init_args: {rate: 0.5}}
stream: {class_path: own_parts.stream, init_args: {n: 5}}
model:
  class_path: own_parts.Net
  init_args: {width: 12, activation: {class_path: torch.nn.Tanh}}
n_experiences: 2
epochs: 2
lr: 1e-2
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, with a module of the user's."""
    (tmp_path / "own_parts.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder, text, name="run.yaml"):
    (folder / name).write_text(textwrap.dedent(text))
    return str(folder / name)


def without_times(path):
    """What a run leaves in its result, but for when, how long and by which command."""
    result = json.loads((path / "results.json").read_text())
    del result["training_seconds"]
    for key in ("started", "command"):
        del result["provenance"][key]
    for step in result["steps"]:
        step["phases"] = sorted(step["phases"])
        for key in ("seconds", "eval_seconds", "sleep_seconds"):
            del step[key]
    return result


def printed(capsys, *words):
    assert main(["run", "--print-config", *words]) == 0
    return yaml.safe_load(capsys.readouterr().out)


# The recipes of the package


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_can_be_run(name, tmp_path):
    assert recipes.load(name)["description"]
    configs = planning.plan(recipes.load(name), methods=("naive",))
    for seeds in configs.values():
        check_options(seeds[0])
    again = recipes.load(write(tmp_path, recipes.dump(configs)))
    assert planning.plan(again, methods=()) == configs


def test_recipes_named_as_streams_are_of_them():
    for name in set(recipes.names()) & set(STREAMS):
        assert recipes.load(name)["stream"] == name


def test_what_outranks_what(tmp_path):
    file = recipes.load(
        write(
            tmp_path,
            """
            base: demo
            epochs: 7
            per_method: {dgr: {lr: 0.5, method_options: {latent: 8}}}
            """,
        )
    )
    dgr = planning.plan(file, {"batch_size": 4}, methods=())["dgr"][0]
    assert (dgr.epochs, dgr.lr, dgr.batch_size) == (7, 0.5, 4)
    assert dgr.method_options == {"generator_steps": 400, "latent": 8}
    naive = planning.plan(file, {"methods": ["naive"]}, methods=())["naive"][0]
    assert (naive.epochs, naive.lr, naive.batch_size) == (7, 1e-3, 32)
    # Fast replaces what stands below the layer that asks for it, and nothing above.
    fast = planning.plan(file, {"fast": True}, methods=())["dgr"][0]
    assert (fast.epochs, fast.hidden) == (1, (32, 32))
    assert fast.method_options == {"latent": 8}
    assert planning.plan(file, {"fast": True, "epochs": 3}, methods=())["dgr"][0].epochs == 3
    paper = planning.plan(file, {"paper": True}, methods=())["dgr"][0]
    assert (paper.epochs, paper.optimizer, paper.hidden) == (6, "rmsprop", (24, 24))


def test_null_takes_back_what_the_base_sets(tmp_path):
    base = recipes.load(write(tmp_path, "{base: null, until: 0.9, n_experiences: 2, epochs: 3}"))
    above = {"until": None, "epochs": None, "per_method": {"dgr": {"n_experiences": None}}}
    found = planning.plan(base, recipes.check(above, "above"), methods=["naive", "dgr"])
    (naive,), (dgr,) = found["naive"], found["dgr"]
    assert (naive.until, naive.n_experiences, dgr.n_experiences) == (None, 2, None)
    assert naive.epochs == ExperimentConfig(method="naive", stream="digits").epochs
    net = {"model": {"class_path": "own.Net", "init_args": {"width": 3}}, "method": "dgr"}
    usual = recipes.check({"model": None, "method": None, "stream": None}, "above")
    (plain,) = planning.plan(recipes.check(net, "below"), usual, methods=())["dgr"]
    assert (plain.model, plain.model_options) == ("mlp", {})


def test_several_methods_share_the_options_that_they_have():
    layer = {"methods": ["naive", "dgr", "dgdmn", "mergan"], "quality": True}
    layer["method_options"] = {"latent": 8, "stm_size": 3}
    layer["per_method"] = {"dgdmn": {"method_options": {"latent": 9}}}
    found = {name: seeds[0] for name, seeds in planning.plan(layer, methods=()).items()}
    assert not found["naive"].method_options
    assert found["dgr"].method_options == {"latent": 8}
    assert found["dgdmn"].method_options == {"latent": 9, "stm_size": 3}
    assert [config.quality for config in found.values()] == [False, False, False, True]
    without = planning.plan(layer, {"quality": False}, methods=())
    assert not without["mergan"][0].quality


def test_another_class_does_not_take_the_arguments_of_the_first():
    net = {"model": {"class_path": "own.Net", "init_args": {"width": 3}}}
    file, other = recipes.check(net, "a"), recipes.check({"model": "mlp"}, "b")
    assert planning.plan(file, other, methods=["naive"])["naive"][0].model_options == {}
    same = recipes.check({"model": {"init_args": {"width": 4}}}, "c")
    assert planning.plan(file, same, methods=["naive"])["naive"][0].model_options == {"width": 4}
    one = {"method": "dgdmn", "method_options": {"stm_size": 3}}
    assert not planning.plan(one, {"methods": ["dgr"]}, methods=())["dgr"][0].method_options


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch: 3", "Unknown setting in .*run.yaml: 'epoch'.*'epochs'"),
        ("epochs: many", "epochs is many; it must be a whole number. Epochs of"),
        ("revisit: 0", r"revisit is 0; it must be a list, such as \[0\]. .*counted from 0"),
        (
            "trainer: {devices: [3]}",
            r"trainer.devices is \[3\]; it must be a whole number or a name",
        ),
        ("trainer: {device: 2}", "Did you mean 'devices'"),
        ("optimizer: lbfgs", "optimizer is lbfgs; it must be one of 'adam', 'rmsprop', 'sgd'"),
        ("trainer: {precision: '64'}", "precision is 64; it must be one of .* 32 bits"),
        ("- 3", "has no settings"),
        ("a: [", "cannot be read"),
        ("", "has no settings"),
        ("epochs: 1\nlr: 0.1\nepochs: 2", "has 'epochs' twice"),
        ("stream_options: {seed: 1, seed: 2}", "has 'seed' twice"),
        ("method: dgr\nmethods: [naive]", "both 'method' and 'methods'"),
        ("model: {class: own.Net}", "class_path"),
        ("base: run.yaml", "its own base"),
        ("base: demp", "Did you mean 'demo'"),
        ("methods: [naive, dgr]\nmethod_options: {stm_size: 2}", "None of naive, dgr.*stm_size"),
        ("per_method: {dgr: {epoch: 3}}", "dgr: 'epoch'"),
        ("per_method: {dgrr: {epochs: 3}}", "Did you mean 'dgr'"),
        ("methods: dgr", "methods"),
    ],
)
def test_files_that_cannot_be_used(text, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, text)
    with pytest.raises(ConfigError, match=f"(?s){words}"):
        planning.plan(recipes.load("run.yaml"), methods=["naive"])


# Files of runs


@pytest.mark.parametrize("backend", ["avalanche", "lightning"])
@pytest.mark.parametrize("method", ["dgdmn", "own"])
def test_a_run_is_repeated_from_its_file(method, backend, folder):
    words = ["--backend", backend, "--quiet"]
    if method == "own":
        words += ["--config", write(folder, RUN)]
    else:
        words += ["--method", "dgdmn", "--fast", "--experiences", "2", "--set", "stm_size=1"]
        words += ["--stream-set", "fraction=0.1", "--hidden", "9", "--seed", "3"]
    assert main(["run", *words, "--out", "a", "--name", "r"]) == 0
    assert main(["run", "--config", "a/r/config.yaml", "--out", "b", "--name", "r", "--quiet"]) == 0
    assert without_times(folder / "a" / "r") == without_times(folder / "b" / "r")
    files = [(folder / out / "r" / "config.yaml").read_text() for out in "ab"]
    assert files[0] == files[1]


def test_a_comparison_is_repeated_from_its_file(folder):
    words = ["--methods", "naive", "ewc", "--seeds", "2", "--fast", "--experiences", "2", "--quiet"]
    words += ["--set", "ewc_lambda=3", "--stream-set", "fraction=0.1", "--log", "none"]
    assert main(["compare", *words, "--out", "a", "--name", "c"]) == 0
    assert main(["run", "--config", "a/c/config.yaml", "--out", "b", "--name", "c", "--quiet"]) == 0
    for run in ("naive/seed1", "ewc/seed0"):
        assert without_times(folder / "a" / "c" / run) == without_times(folder / "b" / "c" / run)
    assert main(["run", "--config", "a/c/ewc/seed1/config.yaml", "--out", "d", "--quiet"]) == 0
    (alone,) = (folder / "d").glob("*/results.json")
    assert without_times(alone.parent) == without_times(folder / "a" / "c" / "ewc" / "seed1")


def test_options_on_the_command_line_outrank_the_file(folder, capsys):
    file = ["--config", write(folder, RUN)]
    more = ["--model.init_args.width", "7", "--method.init_args.rate=0.1", "--n_experiences", "1"]
    found = printed(capsys, *file, *more, "--epochs", "4", "--revisit", "[0]")
    assert found["model"]["init_args"]["width"] == 7
    assert found["method"] == {"class_path": "own_parts.Shrink", "init_args": {"rate": 0.1}}
    assert (found["epochs"], found["n_experiences"], found["revisit"]) == (4, 1, [0])
    assert found["lr"] == 0.01
    words = ["--model", "own_parts.Net", "--model.init_args.width", "5", "--method", "naive"]
    assert printed(capsys, *words)["model"]["init_args"] == {"width": 5}
    assert printed(capsys, *file, "--n_experiences", "null")["n_experiences"] is None
    found = printed(capsys, "--method", "dgr", "--set", "hidden=(8, 4)")
    assert found["method_options"]["hidden"] == [8, 4]
    trainer = ["--backend", "lightning", "--trainer.devices", "2", "--clip", "1.5"]
    assert printed(capsys, *trainer)["trainer"]["devices"] == 2
    assert printed(capsys, *trainer)["trainer"]["clip"] == 1.5


def test_what_is_printed_is_what_would_run(folder, capsys):
    first = printed(capsys, "--config", "demo", "--methods", "dgr", "--fast")
    (folder / "again.yaml").write_text(yaml.safe_dump(first))
    assert printed(capsys, "--config", "again.yaml") == first
    assert not list(folder.glob("runs*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--metod", "dgr"], "Did you mean --method"),
        (["--epoch.s", "3"], "--epoch.s"),
        (["--n_experiences"], "needs a value"),
        (["--trainer.devics", "3"], "Did you mean 'devices'"),
        (["--config", "demp"], "Did you mean 'demo'"),
        (["--config", "demo", "--config", "photos"], "given twice"),
        (["--method", "own_parts.Shrunk"], "Did you mean 'Shrink'"),
        (["--method", "own_prts.Shrink"], "cannot be imported"),
        (["--method", "own_parts.Shrink"], "rate"),
        (["--method", "own_parts.Net"], "Net is no Avalanche plugin"),
        (
            ["--method", "own_parts.stream", "--set", "n=5"],
            "CLScenario is no Avalanche plugin",
        ),
        (["--stream", "own_parts.Net"], "width"),
        (["--model", "own_parts.Net", "--hidden", "3"], "model_options"),
        (["--model_options.width", "3"], "takes no model_options"),
        (["--model", "own_parts.stream", "--model.init_args.n", "2"], "no torch.nn.Module"),
    ],
)
def test_mistakes_are_one_helpful_line(words, said, folder, capsys):
    assert main(["run", "--method", "naive", "--fast", "--quiet", *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("avalanche-dgm: error: ")
    assert said in line
    assert not list(folder.rglob("results.json"))
