"""A learning rate that falls within each experience, in Avalanche's loop and under a Trainer."""

import math

import pytest
import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from rates import Noting, network, stream

from avalanche_dgm import CosineAnnealingPlugin, LatentReplayPlugin
from avalanche_dgm.lightning import LatentReplayModule, fit_stream, run_on_trainer
from avalanche_dgm.lightning.strategies.checks import check_strategy
from avalanche_dgm.lightning.trainers import make_trainer
from avalanche_dgm.optimizers import OptimizerSpec


def strategy(*plugins, net=None, **options):
    net = net or network()
    return Naive(
        model=net,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9),
        train_mb_size=16,
        train_epochs=2,
        plugins=list(plugins),
        evaluator=EvaluationPlugin(loggers=[]),
        **options,
    )


def test_rates_of_every_experience():
    noting = Noting()
    learner = strategy(CosineAnnealingPlugin(), noting)
    for experience in stream().train_stream:
        noting.rates.clear()
        learner.train(experience, num_workers=0)
        n = len(noting.rates)
        assert n == 2 * math.ceil(len(experience.dataset) / 16)
        wanted = [0.1 * (1 + math.cos(math.pi * k / n)) / 2 for k in range(n)]
        assert noting.rates == pytest.approx(wanted)
        assert learner.optimizer.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("schedule", ["mixed", "alternating"])
def test_a_specification_on_a_trainer_is_the_same(schedule):
    hyper = {"per_class": 5, "schedule": schedule, "seed": 0}
    net = network()
    ours = strategy(LatentReplayPlugin(**hyper), CosineAnnealingPlugin(), net=net)
    plain = network()
    theirs = strategy(LatentReplayPlugin(**hyper), net=plain)
    for learner in (ours, theirs):
        for experience in stream().train_stream:
            learner.train(experience, shuffle=False, num_workers=0)
    spec = OptimizerSpec("sgd", 0.1, "cosine", options={"momentum": 0.9})
    module = LatentReplayModule(network(), optimizer=spec, **hyper)
    fit_stream(
        module,
        stream(),
        trainer={"accelerator": "cpu", "enable_progress_bar": False},
        epochs=2,
        batch_size=16,
        shuffle=False,
        test="none",
    )
    trained = module.model.state_dict()
    assert all(torch.equal(trained[k], v) for k, v in net.state_dict().items())
    assert not any(torch.equal(trained[k], v) for k, v in plain.state_dict().items())


class Interrupting(SupervisedPlugin):
    def before_training_iteration(self, strategy, **kwargs):
        if strategy.clock.train_exp_iterations == 2:
            raise KeyboardInterrupt


def test_an_interruption_costs_no_learning_rate():
    noting, interrupting = Noting(), Interrupting()
    learner = strategy(CosineAnnealingPlugin(), noting, interrupting)
    experience = stream().train_stream[0]
    with pytest.raises(KeyboardInterrupt):
        learner.train(experience, num_workers=0)
    assert learner.optimizer.param_groups[0]["lr"] < 0.1
    learner.plugins.remove(interrupting)
    noting.rates.clear()
    learner.train(experience, num_workers=0)
    assert noting.rates[0] == 0.1


def test_under_a_trainer_and_on_several_devices():
    ours, theirs = strategy(CosineAnnealingPlugin()), strategy(CosineAnnealingPlugin())
    train = list(stream().train_stream)
    for experience in train:
        ours.train(experience, shuffle=False, num_workers=0)
    quiet = {"accelerator": "cpu", "enable_progress_bar": False}
    run_on_trainer(theirs, train, trainer=quiet, shuffle=False, num_workers=0)
    state = theirs.model.state_dict()
    assert all(torch.equal(state[k], v) for k, v in ours.model.state_dict().items())
    check_strategy(theirs, make_trainer({**quiet, "devices": 2, "strategy": "ddp"}))
