"""A phase on a Trainer ends where the in-memory loop ends."""

import copy
import math

import pytest
import torch
from driver import digits, network
from torch import nn

from avalanche_dgm.errors import DivergenceError
from avalanche_dgm.fitting import OptimizerSpec, Phase, fit
from avalanche_dgm.lightning.staged import run_phase_on
from avalanche_dgm.lightning.stages import kind_of
from avalanche_dgm.lightning.trainers import launch, make_trainer
from avalanche_dgm.methods import DGR

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def method_and_phase(optimizer=None, **changes):
    method = DGR(seed=0)
    net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    method.attach(net, task_aware=False)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for layer in (net[0], net[3]):
            layer.reset_parameters()
        x = torch.randn(49, 5)

    def loss(batch, rng):
        inputs, wanted = batch
        noise = torch.randn(inputs.shape, generator=rng)
        return ((net(inputs + 0.1 * noise) - wanted) ** 2).mean()

    settings = {"steps": 23, "batch_size": 16, "data": (x, x.sum(1, keepdim=True)), **changes}
    spec = optimizer or OptimizerSpec("adam", 1e-2, "one-cycle", clip_norm=0.5, clip_value=0.1)
    return method, Phase("test", net, loss, spec, **settings)


def on_trainer(method, phase, **arguments):
    return launch(make_trainer({**QUIET, **arguments}), run_phase_on, method, phase)


@pytest.mark.parametrize("name", ["adam", "sgd", "rmsprop"])
def test_equal_to_the_in_memory_loop(name):
    spec = OptimizerSpec(name, 1e-2, "one-cycle" if name == "adam" else "constant", clip_norm=0.5)
    method, phase = method_and_phase(spec)
    other, same = method_and_phase(spec)
    fit(phase, method.rng)
    assert on_trainer(other, same) > 0
    for a, b in zip(phase.module.parameters(), same.module.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(phase.module.buffers(), same.module.buffers(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(method.rng.get_state(), other.rng.get_state())


def test_accumulated_batches_divide_a_step(monkeypatch):
    """As many steps as without, on the same samples."""
    method, phase = method_and_phase(steps=6)
    sizes, loss = [], phase.loss

    def counting(batch, rng):
        sizes.append(len(batch[0]))
        return loss(batch, rng)

    object.__setattr__(phase, "loss", counting)
    on_trainer(method, phase, accumulate_grad_batches=2)
    assert sizes == [8, 8] * 6  # 49 samples: the fourth batch of a single one is left out


def test_nan_puts_the_old_weights_back():
    method, phase = method_and_phase()
    before = copy.deepcopy(phase.module.state_dict())
    object.__setattr__(phase, "loss", lambda batch, rng: phase.module(batch[0]).mean() * math.nan)
    with pytest.raises(DivergenceError, match="'test' was not finite"):
        on_trainer(method, phase)
    after = phase.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_other_modules_and_modes_are_left_alone():
    method, phase = method_and_phase()
    phase.module.eval()
    on_trainer(method, phase)
    assert not any(part.training for part in phase.module.modules())
    assert all(p.grad is None for p in phase.module.parameters())


def test_all_phases_of_a_method():
    """A whole experience of DGR, its generator trained on a Trainer."""
    runs = []
    for on in (False, True):
        method = DGR(seed=2, hidden=(16,), latent=4, generator_steps=12)
        method.attach(network(), task_aware=False)
        data = digits(0, 1)
        method.begin(data)
        for phase in method.before_learning(data):
            if on:
                on_trainer(method, phase)
            else:
                fit(phase, method.rng)
        method.end(data)
        runs.append(method.sample(8).images)
    assert torch.equal(*runs)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("generator", "generator"),
        ("generator (short-term)", "generator/short-term"),
        ("sleep: consolidating tasks 3, 4 (generator)", "sleep/generator"),
        ("sleep: consolidating tasks 3, 4 (learner, with replay)", "sleep/learner"),
    ],
)
def test_kinds_do_not_name_tasks(name, kind):
    assert kind_of(name) == kind
