"""A run that is killed goes on, and ends as if nothing had happened."""

import os
import random
import shutil
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
    benchmark = sklearn_digits(n_experiences=5, n_train_per_class=24, seed=0)
    return SimpleNamespace(
        train_stream=list(benchmark.train_stream)[:N], test_stream=list(benchmark.test_stream)
    )


class Dying(pl.Callback):
    """Notes where each batch is that is trained or tested, and kills the process at one.

    Args:
        at: Where to kill it: an entry of ``places``.
        note: File for the number of batches until then.
    """

    def __init__(self, at=None, note=None):
        self.at, self.note, self.places = at, note, []

    def batch(self, *place):
        if place == self.at:
            if self.note is not None:
                self.note.write_text(str(len(self.places)))
            os.kill(os.getpid(), signal.SIGKILL)
        self.places.append(place)

    def on_train_batch_start(self, trainer, pl_module, *args):
        stage = pl_module.stage
        self.batch(stage.name, stage.epoch, stage.batch)

    def on_test_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.batch(f"{pl_module.method.experiences}: test", dataloader_idx, batch_idx)


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
            i for i, p in enumerate(watch.places) if p[0].startswith(f"experience {experience}")
        )
        folder = tmp_path / str(experience)
        assert in_a_process(partial(grown, folder, Dying(watch.places[first + 8]))) != 0
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
def test_killed_again_and_again(name, stream, tmp_path):
    """In each kind of stage that there is, at random places, one after the other."""
    watch, note = Dying(), tmp_path / "note"
    expected = outcome(*learn(name, stream, callback=watch))
    assert len(set(watch.places)) == len(watch.places)
    kinds = {}
    for moment, (stage, *_) in enumerate(watch.places):
        kinds.setdefault(stage.partition(": ")[2], []).append(moment)
    choose = random.Random(name)
    moments = {choose.choice(found) for found in kinds.values()}
    moments |= {choose.randrange(len(watch.places)) for _ in range(2)}
    assert len(moments) >= 4 or name == "pseudo-rehearsal"
    before = 0
    for moment in sorted(moments):
        dying = Dying(watch.places[moment], note)
        # From other random numbers: everything has to come from the folder.
        again = partial(learn, name, stream, tmp_path / "run", resume=True, drawn=bool(before) * 5)
        assert in_a_process(partial(again, callback=dying)) == -signal.SIGKILL
        assert int(note.read_text()) <= moment - before + 3 * 9, "little is trained twice"
        before = moment
    last = Dying()
    found = learn(name, stream, tmp_path / "run", callback=last, resume=True, drawn=5)
    equal(expected, outcome(*found))
    assert len(last.places) < len(watch.places) - before + 3 * 9


@pytest.fixture(scope="module")
def saved(stream, tmp_path_factory):
    """A folder with a run that is complete, and its outcome."""
    folder = tmp_path_factory.mktemp("saved")
    return folder, outcome(*learn("dgr", stream, folder))


def test_writing_it_down_changes_nothing(stream, saved):
    equal(outcome(*learn("dgr", stream)), saved[1])


def test_a_finished_run_is_not_run_again(stream, saved):
    folder, expected = saved
    watch = Dying()
    equal(expected, outcome(*learn("dgr", stream, folder, callback=watch, resume=True)))
    assert watch.places == []
    assert len(list(folder.iterdir())) == 1, "only the last state is kept"


def test_folders_that_cannot_be_used(stream, saved, tmp_path):
    tmp_path = shutil.copytree(saved[0], tmp_path / "copy")
    with pytest.raises(ConfigError, match="resume=True"):
        learn("dgr", stream, tmp_path)
    other = sklearn_digits(n_experiences=5, n_train_per_class=24, seed=1)
    data = SimpleNamespace(
        train_stream=list(other.train_stream)[:N], test_stream=stream.test_stream
    )
    for name, learned, options, said in (
        ("dgr", stream, {"batch_size": 32}, "batch_size: 16 in the checkpoint, 32 now"),
        ("dgr", stream, {"seed": 1}, "seed: 0 in the checkpoint, 1 now"),
        ("dgdmn", stream, {}, "method: DGRModule in the checkpoint, DGDMNModule now"),
        ("dgr", data, {}, r"experience 1: 48 samples, data .* in the checkpoint, 48 samples, data"),
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
