"""What a module was saved as loads again, whatever its method and its network became."""

from types import SimpleNamespace

import pytest
import torch
from backends import BACKENDS, MAIN, VARIANTS, look, made
from nets import Growing, MultiHead
from torch import nn

from avalanche_dgm import sklearn_digits
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.lightning import fit_stream
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.metrics.cost import memory_bytes_of

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False}


def mlp():
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 30),
        nn.BatchNorm1d(30),
        nn.ReLU(),
        nn.Linear(30, 10),
    )


@pytest.fixture(scope="module")
def streams():
    """Two streams of two experiences each, without and with task labels."""
    found = []
    for task_labels in (False, True):
        digits = sklearn_digits(n_experiences=5, n_train_per_class=20, task_labels=task_labels)
        train, test = list(digits.train_stream), list(digits.test_stream)
        parts = (train[:2], train[2:3])
        found.append([SimpleNamespace(train_stream=p, test_stream=test[:3]) for p in parts])
    return found


def equal(one, two):
    assert one.keys() == two.keys()
    for key, value in one.items():
        if torch.is_tensor(value):
            assert torch.equal(value, two[key]), key


def learn(module, stream, *callbacks, **changes):
    settings = {"batch_size": 16, "epochs": 1, "test": "seen", **changes}
    return fit_stream(module, stream, trainer=QUIET, callbacks=callbacks, **settings)


CASES = [
    *((name, mlp) for name in MAIN),
    *(pytest.param(name, mlp, marks=pytest.mark.slow) for name in sorted(VARIANTS)),
    *((name, Growing) for name in ("dgr", "dgdmn", "altm-stored", "latent", "pseudo-rehearsal")),
    *((name, MultiHead) for name in ("dgr", "dgdmn", "altm")),
]


@pytest.mark.parametrize(("name", "network"), CASES)
def test_it_loads_answers_and_goes_on(streams, tmp_path, name, network):
    """From `save_checkpoint` and from the file of a `ModelCheckpoint`."""
    first, second = streams[network is MultiHead]
    torch.manual_seed(0)
    module = made(name, 1, network(), seed=0)
    best = pl.callbacks.ModelCheckpoint(tmp_path / "best")
    result = learn(module, first, best)
    trainer = pl.Trainer(enable_checkpointing=False, **QUIET)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "module.ckpt")
    kind, hyper = BACKENDS[name][1:]
    objects = {key: value for key, value in hyper.items() if isinstance(value, nn.Module)}
    if objects:
        with pytest.raises(ConfigError, match="generator was an object, <Flow>"):
            kind.load_from_checkpoint(tmp_path / "module.ckpt", model=network())
    images = torch.stack([e.dataset[i][0] for e in first.test_stream[:2] for i in range(6)])
    tasks = torch.arange(12) // 6 if network is MultiHead else torch.zeros(12, dtype=torch.int64)
    torch.manual_seed(9)
    loaded = kind.load_from_checkpoint(
        tmp_path / "module.ckpt", model=network(), map_location="cpu", **objects
    )
    equal(module.state_dict(), loaded.state_dict())
    assert torch.equal(loaded.eval()(images, tasks), module.eval()(images, tasks))
    assert loaded.method.experiences == 2
    assert memory_bytes_of(loaded.method) == memory_bytes_of(module.method)
    # Random numbers go on where they were.
    mine, theirs = look(module.method), look(loaded.method)
    assert (mine is None and theirs is None) or torch.equal(mine, theirs)
    if result.best_checkpoints[-1]:
        early = kind.load_from_checkpoint(result.best_checkpoints[-1], model=network(), **objects)
        assert early.eval()(images, tasks).shape[0] == 12
    # An optimizer is no part of a module's weights.
    changes = {"shuffle": False}
    for again in (module, loaded):
        again.current_optimizer = again._optimized = None
        torch.manual_seed(1)
        learn(again, second, **changes)
    equal(module.state_dict(), loaded.state_dict())
