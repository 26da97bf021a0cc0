"""Strategies in two processes, which `two_processes.py` has started; in one, for comparison."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import strategy_cases as cases
import torch
from avalanche.training.plugins import RWalkPlugin
from torch import nn

from avalanche_dgm.errors import ConfigError, RanksDifferError
from avalanche_dgm.lightning.strategies import run_on_trainer

ONE = {"accelerator": "cpu", "enable_progress_bar": False}
SEVERAL = {**ONE, "strategy": "ddp", "devices": 2}
STEPS = {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5}


def train(name, trainer, *, folder=None, n=3, n_train_per_class=60, **options):
    """Trains one case; returns weights and metrics."""
    plugins, _, network = name.partition("@")
    benchmark = cases.digits(task_labels=network == "heads", n_train_per_class=n_train_per_class)
    run = {"checkpoint_dir": folder} if folder else {}
    if network == "metrics":
        options = {"metrics": cases.supervised_metrics, "eval_every": 0}
        run["eval_streams"] = [cases.tested(benchmark, n)]
    if network == "odd":
        options = {"train_mb_size": 33, "eval_mb_size": 51}
    if network == "ordered":
        run["shuffle"] = False
    if network == "steps":
        trainer = {**trainer, **STEPS}
    if plugins == "stopping":
        options = {"eval_every": 1, "train_epochs": 6}
    make = {
        "simple": cases.simple,
        "growing": cases.Growing,
        "heads": cases.MultiHead,
        "dropout": cases.dropout,
        "normed": cases.normed,
    }.get(network, cases.mlp)
    run.update({k: options.pop(k) for k in ("resume", "allow") if k in options})
    strategy = cases.build(plugins, make, **options)
    return report(strategy, benchmark, trainer, n=n, **run)


def report(strategy, benchmark, trainer, *, n=3, **run):
    """Runs a strategy; what it gave, in a form that can be saved and compared."""
    train = cases.stream(benchmark, n)
    test = cases.tested(benchmark, n)
    results = run_on_trainer(strategy, train, test_stream=test, trainer=dict(trainer), **run)
    return {
        "weights": cases.weights(strategy.model),
        "results": [cases.values(r) for r in results],
        "names": [sorted(r) for r in results],
        "iterations": strategy.clock.train_iterations,
        "loggers": len(strategy.evaluator.loggers),
    }


class Spare(nn.Module):
    """A network with a part that is not used."""

    def __init__(self):
        super().__init__()
        self.used, self.spare = cases.mlp(), nn.Linear(3, 3)

    def forward(self, x):
        return self.used(x)


def unused(trainer=None):
    """Parameters without gradient are an error that names them, and nothing was trained."""
    strategy = cases.build(network=Spare)
    before = cases.weights(strategy.model)
    try:
        report(strategy, cases.digits(), trainer or SEVERAL)
    except ConfigError as error:
        after = cases.weights(strategy.model)
        same = all(torch.equal(before[k], after[k]) for k in before)
        return {"error": str(error), "untouched": same}
    return {"error": ""}


def expected():
    """The same where the Trainer expects it."""
    trainer = {**SEVERAL, "strategy": "ddp_find_unused_parameters_true"}
    return report(cases.build(network=Spare), cases.digits(), trainer, n=1)


def different_data(rank):
    """Processes that read different data are told so."""
    benchmark = cases.sklearn_digits(n_experiences=5, seed=rank)
    try:
        report(cases.build(), benchmark, SEVERAL, n=1)
    except RanksDifferError as error:
        return {"error": str(error)}
    return {"error": ""}


def refused():
    """A plugin that is not known to be correct is refused, unless the user says otherwise."""
    options = {"n_train_per_class": None, "allow": [RWalkPlugin]}
    try:
        train("rwalk@ordered", SEVERAL)
    except ConfigError as error:
        return {"error": str(error), **train("rwalk@ordered", SEVERAL, **options)}
    return {"error": ""}


def noise(**options):
    """A plugin that makes the processes differ is found out after the experience."""
    strategy = cases.build(more=[cases.Noise()])
    allow = [cases.Noise]
    try:
        report(strategy, cases.digits(), SEVERAL, n=1, allow=allow, **options)
    except RanksDifferError as error:
        return {"error": str(error)}
    return {"error": ""}


def unseeded(rank):
    """Processes that begin with different weights and random numbers begin alike all the same."""
    strategy = cases.build("replay", seed=100 + rank)
    return report(strategy, cases.digits(), SEVERAL)


def halves():
    """16 bits, dropout, and a logger in each process."""
    strategy = cases.build("dgr", cases.dropout, loggers=[cases.Recording()])
    return report(strategy, cases.digits(), {**SEVERAL, "precision": "bf16-mixed"}, n=2)


def learned(trainer=None):
    """Generative replay that is trained long enough to remember."""
    before = dict(cases.SMALL)
    cases.SMALL.update(generator_steps=150, hidden=(64, 64), latent=8)
    try:
        return train("dgr", trainer or SEVERAL, train_epochs=8, n_train_per_class=None)
    finally:
        cases.SMALL.update(before)


def resumed(folder):
    """A run that fails in its second experience, and one that goes on."""
    options = {"checkpoint_dir": folder, "allow": [cases.Failing]}
    failing = cases.build("replay", more=[cases.Failing()])
    with contextlib.suppress(InterruptedError):
        report(failing, cases.digits(), SEVERAL, **options)
    cases.Failing.active = False
    # What is saved takes the place of other weights and random numbers.
    strategy = cases.build("replay", more=[cases.Failing()], seed=5)
    return report(strategy, cases.digits(), SEVERAL, resume=True, **options)


OTHERS = {
    "unused": lambda rank, folder: unused(),
    "expected": lambda rank, folder: expected(),
    "different data": lambda rank, folder: different_data(rank),
    "refused": lambda rank, folder: refused(),
    "noise": lambda rank, folder: noise(),
    "noise, unchecked": lambda rank, folder: noise(check_ranks=False),
    "unseeded": lambda rank, folder: unseeded(rank),
    "halves": lambda rank, folder: halves(),
    "learned": lambda rank, folder: learned(),
    "resumed": lambda rank, folder: resumed(folder / "checkpoint"),
}


def main(folder: Path, names: list[str]) -> None:
    """Runs the cases that are named; each process writes what it found."""
    # Where a script is started again, it knows its place before the processes have met.
    rank = int(os.environ.get("LOCAL_RANK", 0))
    found = {}
    for name in names:
        other = OTHERS.get(name)
        found[name] = other(rank, folder) if other else train(name, SEVERAL)
    torch.save(found, folder / f"rank{rank}.pt")
