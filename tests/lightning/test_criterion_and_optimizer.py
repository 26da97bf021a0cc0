"""The user's criterion and optimiser under a Trainer; see the files of these names in plugins."""

import contextlib
import copy

import pytest
import torch
import torch.nn.functional as F
from backends import DUAL, SMALL
from nets import Growing, MultiHead
from torch import nn

from avalanche_dgm import sklearn_digits
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.lightning import (
    DGDMNModule,
    DGRModule,
    LatentReplayModule,
    NaiveModule,
    fit_stream,
)
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.ranks import Ranks
from avalanche_dgm.optimizers import OptimizerSpec

N = 20
QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}


@pytest.fixture(scope="module")
def two():
    return sklearn_digits(n_experiences=2, n_train_per_class=20, seed=0)


@pytest.fixture(scope="module")
def heads():
    return sklearn_digits(n_experiences=5, n_train_per_class=10, seed=0, task_labels=True)


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 10))


def sgd(rate):
    return lambda parameters: torch.optim.SGD(parameters, lr=rate)


def learn(module, benchmark, **options):
    return fit_stream(module, benchmark, epochs=1, trainer=QUIET, batch_size=N, **options)


SCALES = {
    "eight-times": (lambda o, t: 8 * F.cross_entropy(o, t), 8),
    "sum": (nn.CrossEntropyLoss(reduction="sum"), N),
}


@pytest.mark.parametrize(
    ("kind", "hyper"),
    [
        (DGRModule, {**SMALL, "labels": "hard"}),
        (DGRModule, SMALL),
        (LatentReplayModule, {"layer": "2", "schedule": "alternating", "replay_size": 50}),
    ],
    ids=["hard", "soft", "alternating"],
)
def test_steps_are_those_of_cross_entropy(two, kind, hyper):
    def weights(criterion, divisor):
        model = mlp()
        learn(kind(model, criterion=criterion, optimizer=sgd(0.1 / divisor), seed=0, **hyper), two)
        return nn.utils.parameters_to_vector(model.parameters())

    plain = weights(F.cross_entropy, 1)
    for criterion, divisor in SCALES.values():
        torch.testing.assert_close(weights(criterion, divisor), plain, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("n", [3, 4, 7, 32])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_losses_of_parts_average_to_that_of_the_whole(n, world):
    losses = torch.rand(n, dtype=torch.float64)
    ranks = [Ranks(rank, world) for rank in range(world)]
    means = [r.loss_weight(n) * losses[r.shard(n)].mean() for r in ranks]
    sums = [r.loss_weight(n, sums=True) * losses[r.shard(n)].sum() for r in ranks]
    torch.testing.assert_close(torch.stack(means).mean(), losses.mean())
    torch.testing.assert_close(torch.stack(sums).mean(), losses.sum())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": nn.CrossEntropyLoss(reduction="none")}, "not a scalar"),
        ({"optimizer": torch.optim.LBFGS}, "LBFGS needs closure"),
        ({"optimizer": lambda parameters: "adam"}, "torch.optim.Optimizer"),
    ],
    ids=["criterion", "step", "kind"],
)
def test_refused_before_anything_is_trained(two, options, message):
    module = DGRModule(mlp(), seed=0, **SMALL, **options)
    module.run_phase = lambda *args: pytest.fail("A phase was trained.")
    before = copy.deepcopy(module.model.state_dict())
    with pytest.raises(ConfigError, match=message):
        learn(module, two)
    assert all(torch.equal(before[k], v) for k, v in module.model.state_dict().items())


def test_what_the_user_leaves_out_stays_out(two):
    """The head alone is trained, in every experience, while it grows."""
    model = Growing()
    before = model.features[1].weight.clone()
    module = NaiveModule(model, optimizer=lambda parameters: torch.optim.SGD(parameters[-2:], 0.1))
    learn(module, two)
    assert torch.equal(model.features[1].weight, before)
    assert held(module) == [[*model.classifier.parameters()]]


def held(module):
    return [group["params"] for group in module.current_optimizer.param_groups]


def groups(parameters):
    """Two groups; the order in each is not the model's."""
    matrices = {"params": [p for p in parameters if p.ndim > 1][::-1], "weight_decay": 0.1}
    rest = {"params": [p for p in parameters if p.ndim < 2], "momentum": 0.9}
    return torch.optim.SGD([matrices, rest], lr=0.05)


def test_new_heads_join_the_groups_that_the_user_would_put_them_in(heads):
    model = MultiHead()
    module = NaiveModule(model, optimizer=groups)
    learn(module, heads)
    for group, wanted in zip(held(module), (2, 1), strict=True):
        mine = [p for p in model.parameters() if (p.ndim > 1) == (wanted == 2)]
        assert [id(p) for p in group] == [id(p) for p in mine]
    assert [g["momentum"] for g in module.current_optimizer.param_groups] == [0, 0.9]
    assert len(module.current_optimizer.param_groups[0]["params"]) == 6


class StoppedError(Exception):
    """Ends a run."""


class Backwards(MultiHead):
    """Its heads come before its features, so that new parameters are not the last ones."""

    def __init__(self):
        super().__init__()
        features = self.features
        del self.features
        self.features = features


def test_an_interrupted_run_ends_as_one_that_was_not(heads, tmp_path):
    """An optimiser's state is saved by position, which must not depend on when heads came."""

    def run(**options):
        torch.manual_seed(0)
        model = Backwards()
        module = NaiveModule(
            model, optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.01)
        )
        with contextlib.suppress(StoppedError):
            learn(module, heads, **options)
        return nn.utils.parameters_to_vector(model.parameters())

    def interrupt(result):
        if len(result) == 2:
            raise StoppedError

    whole = run()
    run(checkpoint_dir=tmp_path, after_experience=interrupt)
    assert torch.equal(run(checkpoint_dir=tmp_path, resume=True), whole)


def test_learners_that_are_gone_leave_the_optimiser(two):
    module = DGDMNModule(mlp(), seed=0, **DUAL)
    sizes = []

    def count(result):
        sizes.append([len(group) for group in held(module)] + [len(module.current_optimizer.state)])

    learn(module, two, after_experience=count)
    assert sizes == [[0, 0]] * 2


class Interrupting(pl.Callback):
    """Ends a run in the second epoch of the second experience."""

    def on_train_batch_start(self, trainer, pl_module, *args):
        stage = pl_module.stage
        if stage.name.startswith("experience 2") and (stage.epoch, stage.batch) == (1, 3):
            raise StoppedError


@pytest.mark.parametrize("schedule", ["cosine", "one-cycle"])
def test_a_schedule_goes_on_after_the_rest_of_an_interrupted_epoch(two, tmp_path, schedule):
    """The rest of the epoch is a fit of its own; later epochs belong to the same schedule."""

    def run(**options):
        model = mlp()
        module = NaiveModule(model, optimizer=OptimizerSpec("adam", 0.01, schedule))
        with contextlib.suppress(StoppedError):
            fit_stream(module, two, epochs=4, trainer=QUIET, batch_size=N, test="none", **options)
        return nn.utils.parameters_to_vector(model.parameters())

    whole = run()
    run(checkpoint_dir=tmp_path, save_every=2, callbacks=[Interrupting()])
    assert torch.equal(run(checkpoint_dir=tmp_path, resume=True), whole)
