"""A phase on a Trainer ends where the in-memory loop ends."""

import copy
import math

import pytest
import torch
from driver import digits, network
from torch import nn

from avalanche_dgm.errors import DivergenceError
from avalanche_dgm.fitting import OptimizationStep, Phase, fit
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.staged import run_phase_on
from avalanche_dgm.lightning.stages import log_prefix_of
from avalanche_dgm.lightning.trainers import launch, make_trainer
from avalanche_dgm.methods import DGR
from avalanche_dgm.optimizers import OptimizerSpec

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


def method_and_turns(**changes):
    """Two steps of one player and one of the other; a third belongs to nobody."""
    method, plain = method_and_phase(data=(), batch_size=16)
    net, (x,) = plain.module, (torch.randn(40, 5, generator=torch.Generator().manual_seed(3)),)
    first, norm, last = net[0], net[1], net[3]
    seen = []

    def loss_of(name):
        def loss(batch, rng, number):
            noise = torch.randn(batch[0].shape, generator=rng)
            result = net(batch[0] + 0.1 * noise).square().mean()
            seen.append((name, number, len(batch[0]), float(result.detach())))
            return result

        return loss

    def double(number):
        seen.append(("before the step", number, last.weight.grad is None))
        first.weight.grad *= 2

    turns = [
        *[
            OptimizationStep(
                "discriminator", list(first.parameters()), loss_of("discriminator"), double
            )
        ]
        * 2,
        OptimizationStep("generator", list(last.parameters()), loss_of("generator")),
    ]
    spec = OptimizerSpec("adam", 1e-2, clip_norm=0.5, options={"betas": (0.5, 0.999)})
    phase = Phase(
        "turns", net, turns, spec, **{"steps": 12, "batch_size": 16, **changes}, data=(x,)
    )
    return method, phase, seen, norm


def test_turns_are_equal_to_the_in_memory_loop():
    method, phase, seen, norm = method_and_turns()
    other, same, others, _ = method_and_turns()
    before = copy.deepcopy(norm.state_dict())
    fit(phase, method.rng)
    on_trainer(other, same)
    assert seen == others
    assert ("before the step", 0, True) in seen
    for a, b in zip(phase.module.parameters(), same.module.parameters(), strict=True):
        assert torch.equal(a, b)
        assert b.requires_grad
        assert b.grad is None
    for a, b in zip(phase.module.buffers(), same.module.buffers(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(norm.weight, before["weight"]), "it is in no turn"
    assert torch.equal(method.rng.get_state(), other.rng.get_state())


class Losses(pl.loggers.Logger):
    """What was logged, in order."""

    def __init__(self):
        super().__init__()
        self.values = []

    name, version = "losses", "0"

    def log_hyperparams(self, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step=None):
        self.values += [(k, v) for k, v in metrics.items() if k.startswith("turns/")]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_accumulation_keeps_a_turn_together_and_values_are_logged_by_turn(accumulate):
    method, phase, seen, _ = method_and_turns()
    log = Losses()
    on_trainer(method, phase, accumulate_grad_batches=accumulate, logger=log, log_every_n_steps=1)
    losses = [entry for entry in seen if entry[0] != "before the step"]
    round_of = [
        name for name in ("discriminator", "discriminator", "generator") for _ in range(accumulate)
    ]
    assert [name for name, *_ in losses] == round_of * 4
    assert [number for _, number, *_ in losses] == [n for n in range(4) for _ in round_of]
    assert {size for _, _, size, _ in losses[: 2 * accumulate]} == {16 // accumulate}
    means = dict(log.values)
    for name in ("discriminator", "generator"):
        mine = [value for turn, *_, value in losses if turn == name]
        steps = [value for key, value in log.values if key == f"turns/{name}_step"]
        assert len(set(steps)) >= 4
        # A Trainer shows a part's loss by what it adds to the step.
        shown = [accumulate * value for value in steps]
        assert all(min(abs(value - m) for m in mine) < 1e-6 for value in shown)
        assert means[f"turns/{name}"] == pytest.approx(sum(mine) / len(mine), rel=1e-4)


def test_an_error_in_a_turn_puts_back_what_it_had_stopped():
    method, phase, _, _ = method_and_turns()
    before = copy.deepcopy(phase.module.state_dict())

    def fail(batch, rng, number):
        if number == 2:
            raise InterruptedError("on purpose")
        return phase.module(batch[0]).square().mean()

    turns = [OptimizationStep("one", list(phase.module[0].parameters()), fail)]
    object.__setattr__(phase, "loss", turns)
    with pytest.raises(InterruptedError):
        on_trainer(method, phase)
    assert all(p.requires_grad and p.grad is None for p in phase.module.parameters())
    after = phase.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_limits_hold_for_what_a_turn_made_of_its_gradients():
    """A turn may multiply gradients; the Trainer's limit and the phase's come after it."""
    method, phase, _, _ = method_and_turns(steps=1)
    first = phase.module[0]
    before, seen = first.weight.clone(), []

    def enlarge(number):
        for parameter in first.parameters():
            parameter.grad *= 1e6

    turn = OptimizationStep("one", list(first.parameters()), phase.loss[0].loss, enlarge)
    object.__setattr__(phase, "loss", [turn])
    object.__setattr__(phase, "optimizer", OptimizerSpec("sgd", 1.0))
    on_trainer(method, phase, gradient_clip_val=0.1)
    seen = (first.weight - before).norm()
    assert 0 < seen < 0.1001


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("generator", "generator"),
        ("generator (short-term)", "generator/short-term"),
        ("sleep: consolidating tasks 3, 4 (generator)", "sleep/generator"),
        ("sleep: consolidating tasks 3, 4 (learner, with replay)", "sleep/learner"),
        ("sleep: consolidating tasks a (b): c (generator)", "sleep/generator"),
    ],
)
def test_kinds_do_not_name_tasks(name, kind):
    assert log_prefix_of(name) == kind
