"""Checkpoints, each continued in a process of its own."""

import io
import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import forked
import numpy as np
import pytest
import torch
from avalanche.models import SimpleMLP
from avalanche.training.supervised import Cumulative, Naive

from avalanche_dgm.errors import CheckpointError
from avalanche_dgm.plugins.checkpoints import maybe_load_checkpoint, save_checkpoint
from avalanche_dgm.streams import sklearn_digits

VARIANTS = ("sgd", "adam replay", "adam ewc")

# The first process trains every variant once without a stop, and once for two experiences, saved;
# the second, which begins from nothing, loads and trains the rest.
SCRIPT = textwrap.dedent(
    """
    import random, sys
    from pathlib import Path
    import numpy as np
    import torch
    from torch import nn
    from avalanche.evaluation.metrics import accuracy_metrics
    from avalanche.models import IncrementalClassifier
    from avalanche.training.plugins import EvaluationPlugin, EWCPlugin, ReplayPlugin
    from avalanche.training.supervised import Naive
    from avalanche_dgm.plugins.checkpoints import maybe_load_checkpoint, save_checkpoint
    from avalanche_dgm.streams import sklearn_digits

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.1))
            self.head = IncrementalClassifier(16, 2)

        def forward(self, x):
            return self.head(self.body(x))

    benchmark = sklearn_digits(n_experiences=5, n_train_per_class=20)

    def run(variant, seed, start, stop, checkpoint, result):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        net = Net()
        if "sgd" in variant:
            optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        else:
            optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
        plugins, options = [], {}
        if "replay" in variant:
            plugins = [ReplayPlugin(mem_size=20)]
        if "ewc" in variant:
            plugins = [EWCPlugin(ewc_lambda=1.0)]
        if plugins:  # the other variant has the default one, which prints
            options["evaluator"] = EvaluationPlugin(accuracy_metrics(stream=True), loggers=[])
        strategy = Naive(model=net, optimizer=optimiser, train_mb_size=8, train_epochs=2,
                         plugins=plugins, **options)
        if checkpoint:
            strategy, done = maybe_load_checkpoint(strategy, checkpoint)
            assert done == start, done
        for experience in benchmark.train_stream[start:stop]:
            strategy.train(experience)
            strategy.eval(benchmark.test_stream)
            if checkpoint:
                save_checkpoint(strategy, checkpoint)
        torch.save({
            "weights": strategy.model.state_dict(),
            "optimiser": strategy.optimizer.state_dict()["state"],
            "accuracy": strategy.evaluator.get_last_metrics(),
            "iterations": strategy.clock.train_iterations,
            "random": [random.random(), float(np.random.rand()), float(torch.rand(()))],
        }, result)

    first, folder, *variants = sys.argv[1:]
    for variant in variants:
        whole, saved, part = (Path(folder) / f"{variant} {n}" for n in ("whole", "ckpt", "part"))
        if first == "first":
            run(variant, 0, 0, 4, None, whole)
            run(variant, 0, 0, 2, saved, part)
        else:
            run(variant, 1, 2, 4, saved, part)
    """
)


@pytest.fixture(scope="module")
def continued(tmp_path_factory):
    """The folder that the two processes wrote to, and what the second one printed."""
    folder = tmp_path_factory.mktemp("runs")
    root = Path(__file__).parents[2]
    script = folder / "script.py"
    script.write_text(SCRIPT)
    first = forked.run(script, "first", folder, *VARIANTS)
    assert first.returncode == 0, first.stderr[-3000:]
    second = subprocess.run(
        [sys.executable, "-W", "ignore", script, "second", folder, *VARIANTS],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
        check=False,
    )
    assert second.returncode == 0, second.stderr[-3000:]
    return folder, second.stdout


@pytest.mark.parametrize("variant", VARIANTS)
def test_continuing_equals_not_stopping(variant, continued):
    folder, _ = continued
    expected, got = (
        torch.load(folder / f"{variant} {name}", weights_only=False) for name in ("whole", "part")
    )
    assert expected["iterations"] == got["iterations"]
    assert expected["random"] == got["random"]
    assert expected["accuracy"] == got["accuracy"]
    for what in ("weights", "optimiser"):
        torch.testing.assert_close(got[what], expected[what], rtol=0, atol=0)


def test_loading_prints_no_device_mappings(continued):
    printed = continued[1]
    assert "[InteractiveLogger] Resuming from checkpoint" in printed
    assert "Mapping" not in printed


def make(strategy_class=Naive, **attributes):
    model = SimpleMLP(num_classes=10, input_size=64, hidden_size=8)
    strategy = strategy_class(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=torch.nn.CrossEntropyLoss(),
        train_mb_size=32,
        evaluator=None,
    )
    strategy.__dict__.update(attributes)
    return strategy


@pytest.fixture
def trained():
    """A strategy after one experience of the embedded digits."""
    strategy = make()
    strategy.train(sklearn_digits(n_experiences=5, n_train_per_class=5).train_stream[0])
    return strategy


def same_weights(first, second):
    return all(
        torch.equal(a, b)
        for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True)
    )


def test_without_a_file_nothing_changes(tmp_path):
    strategy = make()
    loaded, done = maybe_load_checkpoint(strategy, tmp_path / "absent")
    assert loaded is strategy
    assert done == 0


def test_generators_lambdas_and_file_objects(trained):
    generator = torch.Generator().manual_seed(7)
    torch.rand(3, generator=generator)
    trained.extra = {"generator": generator, "function": lambda x: x + 1}
    file = io.BytesIO()
    save_checkpoint(trained, file)
    file.seek(0)
    loaded, done = maybe_load_checkpoint(make(), file)
    assert done == 1
    assert same_weights(trained, loaded)
    assert loaded.extra["function"](1) == 2
    assert torch.equal(
        torch.rand(5, generator=loaded.extra["generator"]), torch.rand(5, generator=generator)
    )


def test_the_data_is_not_in_the_file(trained, tmp_path):
    save_checkpoint(trained, tmp_path / "new" / "folder" / "ckpt")
    size = (tmp_path / "new" / "folder" / "ckpt").stat().st_size
    weights = sum(p.numel() for p in trained.model.parameters()) * 4
    # Experiences hold 50 images of 256 bytes; what is there besides the weights is pickled state.
    assert size < weights + 50_000
    assert os.listdir(tmp_path / "new" / "folder") == ["ckpt"]


def test_excluded_attributes_stay_as_they_are(trained, tmp_path):
    trained.secret = 1
    save_checkpoint(trained, tmp_path / "ckpt", exclude=["secret"])
    loaded, _ = maybe_load_checkpoint(make(secret=2), tmp_path / "ckpt")
    assert loaded.secret == 2
    assert trained.secret == 1


def test_torch_optim_is_left_as_it_was(trained, tmp_path):
    before = set(vars(torch.optim))
    save_checkpoint(trained, tmp_path / "ckpt")
    trained.broken = Unpicklable()
    with pytest.raises(CheckpointError):
        save_checkpoint(trained, tmp_path / "ckpt")
    assert set(vars(torch.optim)) == before


class Unpicklable:
    def __reduce__(self):
        raise TypeError("holds a connection")


def test_a_failed_write_leaves_the_old_file(trained, tmp_path):
    path = tmp_path / "ckpt"
    save_checkpoint(trained, path)
    old = path.read_bytes()
    trained.broken = Unpicklable()
    with pytest.raises(
        CheckpointError, match=r"Naive strategy cannot be saved.*connection.*exclude"
    ):
        save_checkpoint(trained, path)
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["ckpt"]
    assert maybe_load_checkpoint(make(), path)[1] == 1


def test_an_interrupted_write_leaves_the_old_file(trained, tmp_path, monkeypatch):
    path = tmp_path / "ckpt"
    save_checkpoint(trained, path)
    old = path.read_bytes()

    def interrupted(data, file, **_):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(trained, path)
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["ckpt"]


def draw():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "tensor", "other class"])
def test_files_that_cannot_be_used_change_nothing(damage, trained, tmp_path):
    path = tmp_path / "ckpt"
    save_checkpoint(trained, path)
    target, message = make(), "cannot be read.*damaged"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "text":
        path.write_text("hello")
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "tensor":
        torch.save({"weights": torch.zeros(1)}, path)
        message = "not a checkpoint of a strategy"
    else:
        target, message = make(Cumulative), r"class .*\.Naive, not .*\.Cumulative"
    before = {name: value.clone() for name, value in target.model.state_dict().items()}
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = draw()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with pytest.raises(CheckpointError, match=message) as caught:
        maybe_load_checkpoint(target, path)
    assert str(path) in str(caught.value)
    assert draw() == expected
    torch.testing.assert_close(target.model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    "place", ["cpu", torch.device("cpu"), {"cuda:0": "cpu"}, lambda storage, name: storage]
)
def test_map_location(place, trained, tmp_path):
    save_checkpoint(trained, tmp_path / "ckpt")
    loaded, _ = maybe_load_checkpoint(make(), tmp_path / "ckpt", map_location=place)
    assert loaded.device == torch.device("cpu")
    assert same_weights(trained, loaded)


def test_a_strategy_of_a_gpu_comes_back_on_the_cpu(trained, tmp_path):
    trained.device = torch.device("cuda")
    save_checkpoint(trained, tmp_path / "ckpt")
    loaded, _ = maybe_load_checkpoint(make(), tmp_path / "ckpt", map_location="cpu")
    assert loaded.device == torch.device("cpu")
