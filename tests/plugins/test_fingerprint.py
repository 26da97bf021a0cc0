"""What a run that is continued must have in common with the one that was interrupted."""

import re
import warnings

import pytest
import torch
from avalanche.models import IncrementalClassifier
from avalanche.training.plugins import LwFPlugin, ReplayPlugin
from avalanche.training.supervised import EWC, Naive
from nets import Growing
from torch import nn

from avalanche_dgm import DGRPlugin, maybe_load_checkpoint, save_checkpoint, sklearn_digits
from avalanche_dgm.errors import CheckpointError
from avalanche_dgm.generators.vae_generator import VAEGenerator
from avalanche_dgm.plugins import fingerprint

TINY = {"generator_steps": 2}


@pytest.fixture(scope="module")
def benchmark():
    return sklearn_digits(n_experiences=5, n_train_per_class=4, seed=0)


def strategy(model=None, *, lr=0.1, plugins=(), kind=Naive, optimizer=torch.optim.SGD, **arguments):
    model = model or nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    arguments = {"train_mb_size": 8, "eval_mb_size": 64, **arguments}
    arguments.setdefault("criterion", nn.CrossEntropyLoss())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = optimizer(model.parameters(), lr=lr)
        return kind(model=model, optimizer=made, plugins=list(plugins), **arguments)


def wider():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.Linear(20, 10))


CHANGES = {
    "learning rate": (
        {},
        {"lr": 0.2},
        "optimizer.lr: 0.1 in the checkpoint, 0.2 now",
    ),
    "batch size": (
        {},
        {"train_mb_size": 16},
        "train_mb_size: 8 in the checkpoint, 16 now",
    ),
    "epochs": ({}, {"train_epochs": 3}, "train_epochs: 1 in the checkpoint, 3 now"),
    "optimizer": (
        {},
        {"optimizer": torch.optim.Adam},
        "optimizer.class: SGD in the checkpoint, Adam",
    ),
    "network": (
        {},
        {"model": wider},
        r"network: 1.weight: float32 \(10, 64\) in the checkpoint, float32 \(20, 64\) now",
    ),
    "criterion": ({}, {"criterion": nn.MultiMarginLoss}, "criterion: CrossEntropyLoss"),
    "plugin": (
        {},
        {"plugins": lambda: [ReplayPlugin(mem_size=9)]},
        "plugins.ReplayPlugin.class: none",
    ),
    "plugin's argument": (
        {"plugins": lambda: [ReplayPlugin(mem_size=9)]},
        {"plugins": lambda: [ReplayPlugin(mem_size=5)]},
        "plugins.ReplayPlugin.mem_size: 9 in the checkpoint, 5 now",
    ),
    "part of a plugin": (
        {"plugins": lambda: [LwFPlugin(alpha=1.0)]},
        {"plugins": lambda: [LwFPlugin(alpha=2.0)]},
        "alpha: 1.0 in the checkpoint, 2.0 now",
    ),
    "strategy's argument": (
        {"kind": EWC, "ewc_lambda": 1.0},
        {"kind": EWC, "ewc_lambda": 2.0},
        "ewc_lambda: 1.0 in the checkpoint, 2.0 now",
    ),
    "method's setting": (
        {"plugins": lambda: [DGRPlugin(hidden=(8, 4), **TINY)]},
        {"plugins": lambda: [DGRPlugin(hidden=[8, 5], **TINY)]},
        r"method.hidden: \[8, 4\] in the checkpoint, \[8, 5\] now\. ",
    ),
    "generator's setting": (
        {"plugins": lambda: [DGRPlugin(generator=VAEGenerator(latent=2, **TINY))]},
        {"plugins": lambda: [DGRPlugin(generator=VAEGenerator(latent=3, **TINY))]},
        "method.generator.VAEGenerator.latent: 2 in the checkpoint, 3 now",
    ),
    "method's seed": (
        {"plugins": lambda: [DGRPlugin(seed=1, **TINY)]},
        {"plugins": lambda: [DGRPlugin(seed=2, **TINY)]},
        "seed: 1 in the checkpoint, 2 now",
    ),
}


def made(arguments):
    ready = {"model", "plugins", "criterion"}
    return strategy(**{k: v() if k in ready and callable(v) else v for k, v in arguments.items()})


@pytest.mark.parametrize("change", CHANGES)
def test_every_difference_is_named(change, benchmark, tmp_path):
    before, after, said = CHANGES[change]
    first, _ = maybe_load_checkpoint(made(before), tmp_path / "x")
    first.train(benchmark.train_stream[0])
    save_checkpoint(first, tmp_path / "x")
    second = made(after if "kind" in after else {**before, **after})
    weights = [p.clone() for p in second.model.parameters()]
    numbers = torch.get_rng_state()
    with pytest.raises(CheckpointError, match=said):
        maybe_load_checkpoint(second, tmp_path / "x")
    assert all(map(torch.equal, weights, second.model.parameters()))
    assert torch.equal(numbers, torch.get_rng_state())
    assert maybe_load_checkpoint(made(before), tmp_path / "x")[1] == 1


def test_what_may_differ(benchmark, tmp_path):
    first, _ = maybe_load_checkpoint(strategy(), tmp_path / "x")
    first.train(benchmark.train_stream[0])
    save_checkpoint(first, tmp_path / "x")
    other = strategy(eval_mb_size=7, eval_every=0, evaluator=None)
    assert maybe_load_checkpoint(other, tmp_path / "x")[1] == 1


def test_a_setting_that_an_earlier_version_did_not_have():
    now = fingerprint.of_strategy(strategy(plugins=[DGRPlugin(seed=0)]))
    (name,) = (name for name in now if name.endswith("method.finetune_steps"))
    saved = {n: value for n, value in now.items() if n != name}
    fingerprint.check_same(saved, now, where="It")
    # One that is gone counts, and so does a method that is new.
    for before, after in ((now, saved), ({}, {"method.class": "DGR", "method.seed": 0})):
        with pytest.raises(CheckpointError, match="none (now|in the checkpoint)"):
            fingerprint.check_same(before, after, where="It")


@pytest.mark.parametrize("begun", [True, False])
def test_models_that_grow_go_on(begun, benchmark, tmp_path):
    first = strategy(Growing())
    if begun:
        maybe_load_checkpoint(first, tmp_path / "x")
    for experience in benchmark.train_stream[:2]:
        first.train(experience)
    assert first.model.classifier.classifier.out_features > 2
    save_checkpoint(first, tmp_path / "x")
    assert maybe_load_checkpoint(strategy(Growing()), tmp_path / "x")[1] == 2
    other = Growing()
    other.features[1], other.classifier = nn.Linear(64, 30), IncrementalClassifier(30, 2)
    with pytest.raises(CheckpointError, match=r"features.1.weight: float32 \(40, 64\)"):
        maybe_load_checkpoint(strategy(other), tmp_path / "x")
    # Into itself, as it is by now.
    assert maybe_load_checkpoint(first, tmp_path / "x")[1] == 2


def test_other_data_are_refused(benchmark, tmp_path):
    first, _ = maybe_load_checkpoint(strategy(), tmp_path / "x", unique_objects=benchmark)
    first.train(benchmark.train_stream[0])
    save_checkpoint(first, tmp_path / "x")
    same = sklearn_digits(n_experiences=5, n_train_per_class=4, seed=0)
    assert maybe_load_checkpoint(strategy(), tmp_path / "x", unique_objects=same)[1] == 1
    for options in ({"seed": 1}, {"n_train_per_class": 5}, {"n_experiences": 2}):
        other = sklearn_digits(**{"n_experiences": 5, "n_train_per_class": 4, "seed": 0, **options})
        with pytest.raises(CheckpointError, match=r"experience(s| 1): .* in the checkpoint"):
            maybe_load_checkpoint(strategy(), tmp_path / "x", stream=other.train_stream)


def test_reading_a_stream_changes_no_random_numbers(benchmark):
    numbers = torch.get_rng_state()
    one = fingerprint.of_stream(benchmark.train_stream)
    assert torch.equal(numbers, torch.get_rng_state())
    assert one == fingerprint.of_stream(benchmark.train_stream)
    assert one["experiences"] == 5
    assert re.fullmatch(
        r"8 samples, data \S+ \S+ \S+, classes \d, \d, task labels 0, labels \w{8}",
        one["experience 1"],
    )
