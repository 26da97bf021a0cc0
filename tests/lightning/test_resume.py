"""A run that is killed goes on, and ends as if nothing had happened."""

import os
import random
import signal
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from avalanche.evaluation.metrics import accuracy_metrics, forgetting_metrics, loss_metrics
from avalanche.training.plugins import EvaluationPlugin
from backends import look, made
from driver import in_a_process
from nets import Growing
from torch import nn

from avalanche_dgm import sklearn_digits
from avalanche_dgm.errors import CheckpointError, ConfigError
from avalanche_dgm.files import lock
from avalanche_dgm.lightning import fit_stream
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.randomness import RandomSource

N = 4


@pytest.fixture(scope="module")
def stream():
    benchmark = sklearn_digits(n_experiences=5, n_train_per_class=40, seed=0)
    return SimpleNamespace(
        train_stream=list(benchmark.train_stream)[:N], test_stream=list(benchmark.test_stream)
    )


class Dying(pl.Callback):
    """Kills the process at a batch, counted over everything that is trained or tested."""

    def __init__(self, at=None):
        self.at, self.count, self.stages = at, 0, []

    def batch(self, pl_module):
        self.stages.append(pl_module.stage_name or "test")
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1

    def on_train_batch_start(self, trainer, pl_module, *args):
        self.batch(pl_module)

    def on_test_batch_start(self, trainer, pl_module, *args):
        self.batch(pl_module)


def learn(name, stream, folder=None, *, callback=None, resume=False, seed=0, drawn=0, **changes):
    """One run with everything that has a state: momentum, dropout, BatchNorm, metrics."""
    torch.manual_seed(drawn)
    net = nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 30),
        nn.BatchNorm1d(30),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(30, 10),
    )
    module = made(name, 1, net, seed=seed)
    if drawn:
        module.method.random.set_state(RandomSource(drawn).get_state())
    evaluator = EvaluationPlugin(
        accuracy_metrics(epoch_running=True, epoch=True, experience=True, stream=True),
        loss_metrics(minibatch=True, epoch=True),
        forgetting_metrics(experience=True, stream=True),
        loggers=[],
    )
    settings = {"batch_size": 16, "save_every": 3, **changes}
    result = fit_stream(
        module,
        stream,
        trainer={"accelerator": "cpu", "enable_progress_bar": False, "max_epochs": 2},
        evaluator=evaluator,
        callbacks=[callback] if callback else [],
        checkpoint_dir=folder,
        resume=resume,
        **settings,
    )
    return module, result


def outcome(module, result):
    tensors = {k: v for k, v in module.state_dict().items() if torch.is_tensor(v)}
    tensors["accuracy"] = result.accuracy
    tensors["sample"] = look(module.method)
    if tensors["sample"] is None:
        del tensors["sample"]
    histograms = [record.histogram for record in result.records]
    return tensors, result.metrics, histograms


def equal(one, two):
    tensors, metrics, histograms = one
    assert tensors.keys() == two[0].keys()
    for key, value in tensors.items():
        assert torch.equal(value.nan_to_num(), two[0][key].nan_to_num()), key
    assert (metrics, histograms) == two[1:]


@pytest.mark.parametrize("test", ["all", pytest.param("none", marks=pytest.mark.slow)])
def test_a_model_that_grows_goes_on(stream, tmp_path, test):
    """It has the sizes that tests gave it, those of classes to come among them, or training."""

    def grown(folder=None, callback=None, resume=False):
        torch.manual_seed(0)
        module = made("dgr", 1, Growing(), seed=0)
        result = fit_stream(
            module,
            stream,
            trainer={"accelerator": "cpu", "enable_progress_bar": False, "max_epochs": 1},
            callbacks=[callback] if callback else [],
            checkpoint_dir=folder,
            resume=resume,
            batch_size=16,
            test=test,
        )
        return outcome(module, result)

    watch = Dying()
    expected = grown(callback=watch)
    for experience in (2, 3):
        first = next(
            i for i, s in enumerate(watch.stages) if s.startswith(f"experience {experience}")
        )
        folder = tmp_path / str(experience)
        assert in_a_process(partial(grown, folder, Dying(first + 8))) != 0
        equal(expected, grown(folder, resume=True))


@pytest.mark.parametrize(
    "name",
    [
        "dgdmn",
        "dgr",
        pytest.param("dgdmn-no-stm", marks=pytest.mark.slow),
        "altm-stored",
        pytest.param("altm-latent", marks=pytest.mark.slow),
        pytest.param("altm-dynamic", marks=pytest.mark.slow),
        pytest.param("latent-alternating", marks=pytest.mark.slow),
        pytest.param("latent-vae", marks=pytest.mark.slow),
        pytest.param("dynamic-memory-discriminator", marks=pytest.mark.slow),
        "pseudo-rehearsal",
    ],
)
def test_killed_at_random_moments(name, stream, tmp_path):
    """Twenty moments over these methods, among them one in each stage that there is."""
    watch = Dying()
    expected = outcome(*learn(name, stream, callback=watch))
    kinds = {}
    for moment, stage in enumerate(watch.stages):
        kinds.setdefault(stage.partition(": ")[2] or stage, []).append(moment)
    choose = random.Random(name)
    moments = {choose.choice(found) for found in kinds.values()}
    moments |= {choose.randrange(watch.count) for _ in range(2)}
    assert len(moments) >= 4 or name == "pseudo-rehearsal"
    for moment in sorted(moments):
        folder = tmp_path / str(moment)
        died = in_a_process(lambda: learn(name, stream, folder, callback=Dying(moment)))  # noqa: B023
        assert died == -signal.SIGKILL
        again = Dying()
        # From other random numbers: everything has to come from the folder.
        found = learn(name, stream, folder, callback=again, resume=True, drawn=5)
        equal(expected, outcome(*found))
        assert again.count < watch.count - moment + 3 * 9, "little is trained twice"


def test_killed_again_and_again(stream, tmp_path):
    expected = outcome(*learn("dgdmn", stream))
    for moment in (60, 45, 31, 17):
        work = lambda: learn("dgdmn", stream, tmp_path, callback=Dying(moment), resume=True)  # noqa: B023, E731
        assert in_a_process(work) == -signal.SIGKILL
    equal(expected, outcome(*learn("dgdmn", stream, tmp_path, resume=True)))


def test_writing_it_down_changes_nothing(stream, tmp_path):
    equal(outcome(*learn("dgr", stream)), outcome(*learn("dgr", stream, tmp_path)))


def test_a_finished_run_is_not_run_again(stream, tmp_path):
    expected = outcome(*learn("dgr", stream, tmp_path))
    watch = Dying()
    equal(expected, outcome(*learn("dgr", stream, tmp_path, callback=watch, resume=True)))
    assert watch.count == 0
    assert len(list(tmp_path.iterdir())) == 1, "only the last state is kept"


def test_folders_that_cannot_be_used(stream, tmp_path):
    learn("dgr", stream, tmp_path)
    with pytest.raises(ConfigError, match="resume=True"):
        learn("dgr", stream, tmp_path)
    other = sklearn_digits(n_experiences=5, n_train_per_class=40, seed=1)
    data = SimpleNamespace(
        train_stream=list(other.train_stream)[:N], test_stream=stream.test_stream
    )
    for name, learned, options, said in (
        ("dgr", stream, {"batch_size": 32}, "batch_size: 16 in the checkpoint, 32 now"),
        ("dgr", stream, {"seed": 1}, "seed: 0 in the checkpoint, 1 now"),
        ("dgdmn", stream, {}, "method: DGRModule in the checkpoint, DGDMNModule now"),
        ("dgr", data, {}, r"experience 1: 80 samples, data .* in the checkpoint, 80 samples, data"),
    ):
        with pytest.raises(CheckpointError, match=said):
            learn(name, learned, tmp_path, resume=True, **options)
    with (
        lock(tmp_path),
        pytest.raises(ConfigError, match=rf"in use by another run \(process {os.getpid()} on"),
    ):
        learn("dgr", stream, tmp_path, resume=True)
    with pytest.raises(ConfigError, match="checkpoint_dir"):
        learn("dgr", stream, resume=True)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="Remove the folder"):
        learn("dgr", stream, tmp_path, resume=True)
