"""When training ends: the target by itself, in Avalanche's loop and under a Trainer."""

import math

import pytest
import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from rates import Noting, network, stream

from avalanche_dgm import LatentReplayPlugin, TargetAccuracyPlugin
from avalanche_dgm.errors import CheckpointError, ConfigError
from avalanche_dgm.lightning import LatentReplayModule, fit_stream, run_on_trainer
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.optimizers import OptimizerSpec
from avalanche_dgm.stopping import TrainingTarget

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def epochs_of(target, limit, accuracies):
    """Epochs that a loop trains which asks the target after each."""
    target.begin(limit)
    done = 0
    while done < target.last:
        done += 1
        target.end_epoch(done, accuracies[done - 1])
    return done


@pytest.mark.parametrize(
    ("settle", "limit", "reached_in", "wanted"),
    [
        (False, 9, 1, 1),
        (False, 9, 4, 4),
        (False, 3, 4, 3),
        (True, 9, 1, 2),
        (True, 9, 2, 3),
        (True, 9, 3, 5),
        (True, 9, 6, 9),
        # Too late to settle over half as many: it begins early enough.
        (True, 9, 99, 9),
        (True, 1, 99, 1),
        (True, 2, 1, 2),
    ],
)
def test_epochs(settle, limit, reached_in, wanted):
    accuracies = [0.9 if epoch >= reached_in else 0.5 for epoch in range(1, 100)]
    assert epochs_of(TrainingTarget(0.9, settle=settle), limit, accuracies) == wanted


@pytest.mark.parametrize("limit", range(1, 12))
def test_the_rate_falls_to_0_at_the_very_end_and_never_rises(limit):
    for reached_in in range(1, 13):
        target, factors, done = TrainingTarget(0.9, settle=True), [], 0
        target.begin(limit)
        while done < target.last:
            factors += [target.factor(done, batch, 10) for batch in range(10)]
            done += 1
            target.end_epoch(done, 0.9 if done >= reached_in else 0.5)
        assert factors[0] == 1.0
        assert factors == sorted(factors, reverse=True)
        # One step before 0, over at least one epoch.
        assert 0 < factors[-1] <= 0.5 * (1 - math.cos(math.pi / 10))


@pytest.mark.parametrize("accuracy", [0, 1.5, True, "much", None])
def test_what_is_no_share_is_refused(accuracy):
    with pytest.raises(ConfigError, match="until="):
        TargetAccuracyPlugin(accuracy)
    module = LatentReplayModule(network())
    with pytest.raises(ConfigError, match="until="):
        fit_stream(module, stream(), epochs=2, until=accuracy or 0)


def strategy(*plugins, net, epochs=12):
    return Naive(
        model=net,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9),
        train_mb_size=16,
        train_epochs=epochs,
        plugins=list(plugins),
        evaluator=EvaluationPlugin(*accuracy_metrics(epoch=True), loggers=[]),
    )


@pytest.mark.parametrize("settle", [False, True])
def test_it_stops_after_the_epoch_whose_running_accuracy_is_enough(settle):
    target, noting = TargetAccuracyPlugin(0.9, settle=settle), Noting()
    learner = strategy(target, noting, net=network())
    trained = []
    for experience in stream().train_stream:
        noting.rates.clear()
        learner.train(experience, num_workers=0)
        # Avalanche's own metric of the running accuracy.
        name = "Top1_Acc_Epoch/train_phase/train_stream/Task000"
        values = learner.evaluator.get_all_metrics()[name]
        own = values[1][sum(trained) :]
        first = next(i for i, value in enumerate(own, 1) if value >= 0.9)
        assert len(own) == first + (math.ceil(first / 2) if settle else 0)
        trained.append(len(own))
        batches = len(noting.rates) // len(own)
        assert noting.rates[: first * batches] == [0.1] * (first * batches)
        assert (noting.rates[-1] < 0.03) == settle
        assert learner.optimizer.param_groups[0]["lr"] == 0.1
    assert max(trained) < 12


@pytest.mark.parametrize("schedule", ["mixed", "alternating"])
@pytest.mark.parametrize("settle", [False, True])
def test_a_trainer_learns_the_same(schedule, settle):
    hyper = {"per_class": 5, "schedule": schedule, "seed": 0}
    net, also = network(), network()
    ours = strategy(LatentReplayPlugin(**hyper), TargetAccuracyPlugin(0.9, settle=settle), net=net)
    theirs = strategy(
        LatentReplayPlugin(**hyper), TargetAccuracyPlugin(0.9, settle=settle), net=also
    )
    train = list(stream().train_stream)
    for experience in train:
        ours.train(experience, shuffle=False, num_workers=0)
    run_on_trainer(theirs, train, trainer=QUIET, shuffle=False, num_workers=0)
    name = "cosine" if settle else "constant"
    spec = OptimizerSpec("sgd", 0.1, name, options={"momentum": 0.9})
    module = LatentReplayModule(network(), optimizer=spec, **hyper)
    options = {"epochs": 12, "until": 0.9, "batch_size": 16, "shuffle": False, "test": "none"}
    result = fit_stream(module, stream(), trainer=QUIET, **options)
    batches = math.ceil(len(train[0].dataset) / 16)
    assert any(n < 12 * batches for n in result.iterations)
    for trained in (also, module.model):
        state = trained.state_dict()
        assert all(torch.equal(state[k], v) for k, v in net.state_dict().items())


class Counting(pl.Callback):
    batches = 0

    def on_train_batch_start(self, trainer, pl_module, *args):
        self.batches += 1


class Interrupting(pl.Callback):
    """Ends everything at a batch, counted over the stream."""

    def __init__(self, at):
        self.left = at

    def on_train_batch_start(self, trainer, pl_module, *args):
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("stopped here")


def test_a_run_with_a_target_resumes_within_an_experience(tmp_path):
    spec = OptimizerSpec("sgd", 0.1, "cosine", options={"momentum": 0.9})
    options = {"epochs": 12, "until": 0.9, "batch_size": 16, "test": "none", "save_every": 7}

    def learn(folder, **more):
        module = LatentReplayModule(network(), optimizer=spec, per_class=5, seed=0)
        return module, fit_stream(
            module, stream(), trainer=QUIET, checkpoint_dir=folder, **options, **more
        )

    whole, result = learn(tmp_path / "whole")
    for stop in (result.iterations[0] - 3, result.iterations[0] + 2):
        folder = tmp_path / str(stop)
        with pytest.raises(RuntimeError, match="stopped here"):
            learn(folder, callbacks=[Interrupting(stop)])
        seen = Counting()
        resumed, _ = learn(folder, resume=True, callbacks=[seen])
        assert seen.batches <= sum(result.iterations) - stop + 7
        state = resumed.model.state_dict()
        assert all(torch.equal(state[k], v) for k, v in whole.model.state_dict().items())
    options["until"] = 0.8
    with pytest.raises(CheckpointError, match="until"):
        learn(tmp_path / "whole", resume=True)
