"""The inner training loop against one written by hand, and what it does when things go wrong."""

import copy
import math
from itertools import islice

import pytest
import torch
from torch import nn

from avalanche_dgm.errors import ConfigError, DivergenceError
from avalanche_dgm.fitting import Batches, OptimizationStep, Phase, epochs_to_steps, fit
from avalanche_dgm.optimizers import OptimizerSpec


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def problem(seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(5, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    x = torch.randn(50, 5)
    return net, x, x.sum(1, keepdim=True)


def phase_of(net, x, y, spec, *, steps=23, batch_size=16, **changes):
    def loss(batch, r):
        return (net(batch[0]) - batch[1]).square().mean()

    return Phase("name", net, changes.pop("loss", loss), spec, steps, batch_size, (x, y), **changes)


def orders(n, batch_size, steps, generator):
    """Shuffled passes, cut into batches."""
    parts = []
    while len(parts) < steps:
        parts += torch.randperm(n, generator=generator).split(batch_size)
    return parts[:steps]


def keras_clip(parameters, norm, value):
    """Keras 2's get_gradients: global norm first, then each element."""
    if norm is not None:
        total = math.sqrt(sum(float(p.grad.double().square().sum()) for p in parameters))
        if total >= norm:
            for p in parameters:
                p.grad *= norm / total
    if value is not None:
        for p in parameters:
            p.grad = p.grad.clip(-value, value)


SPECS = [
    (OptimizerSpec("adam", 1e-2), lambda p: torch.optim.Adam(p, lr=1e-2)),
    (
        OptimizerSpec("rmsprop", 1e-3, options={"alpha": 0.9, "eps": 1e-8}),
        lambda p: torch.optim.RMSprop(p, lr=1e-3, alpha=0.9, eps=1e-8),
    ),
    (
        OptimizerSpec("sgd", 1e-2, options={"momentum": 0.9}),
        lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
    ),
    (OptimizerSpec("sgd", 0.1, clip_norm=0.5), lambda p: torch.optim.SGD(p, lr=0.1)),
    (OptimizerSpec("sgd", 0.1, clip_value=0.05), lambda p: torch.optim.SGD(p, lr=0.1)),
    (
        OptimizerSpec("sgd", 0.1, clip_norm=1.0, clip_value=0.1),
        lambda p: torch.optim.SGD(p, lr=0.1),
    ),
]


@pytest.mark.parametrize(("spec", "make"), SPECS, ids=lambda v: getattr(v, "name", ""))
def test_same_weights_as_a_loop_by_hand(spec, make):
    net, x, y = problem()
    other = copy.deepcopy(net)
    fit(phase_of(net, x, y, spec), rng())
    optimizer = make(other.parameters())
    for index in orders(50, 16, 23, rng()):
        optimizer.zero_grad()
        (other(x[index]) - y[index]).square().mean().backward()
        keras_clip(list(other.parameters()), spec.clip_norm, spec.clip_value)
        optimizer.step()
    for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_rmsprop_s_fused_step_is_rmsprop_s_own():
    """Also for parameters that come later, and for a state that was saved."""
    (net, x, y), options = problem(), {"alpha": 0.8, "eps": 1e-6, "weight_decay": 0.01}
    other = copy.deepcopy(net)
    spec = OptimizerSpec("rmsprop", 1e-3, options=options)
    mine, theirs = spec.build(net[:1]), torch.optim.RMSprop(other[:1].parameters(), 1e-3, **options)
    assert type(mine) is not type(theirs)
    for step in range(12):
        if step == 3:
            for optimizer, model in ((mine, net), (theirs, other)):
                optimizer.add_param_group({"params": list(model[1:].parameters())})
        if step == 6:
            saved = copy.deepcopy(mine.state_dict())
            mine = spec.build(net[:1])
            mine.add_param_group({"params": list(net[1:].parameters())})
            mine.load_state_dict(saved)
        for optimizer, model in ((mine, net), (theirs, other)):
            optimizer.zero_grad()
            (model(x) - y).square().mean().backward()
            optimizer.step()
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_what_no_fused_step_has_is_left_to_rmsprop_itself():
    net, _, _ = problem()
    plain = OptimizerSpec("rmsprop").build(net, fused=False)
    heavy = OptimizerSpec("rmsprop", options={"momentum": 0.9}).build(net)
    assert type(plain) is type(heavy) is torch.optim.RMSprop


def test_clipping_makes_a_difference():
    free, norm, value = [], [], []
    for spec, out in [
        (OptimizerSpec("sgd", 0.1), free),
        (OptimizerSpec("sgd", 0.1, clip_norm=0.5), norm),
        (OptimizerSpec("sgd", 0.1, clip_value=0.05), value),
    ]:
        net, x, y = problem()
        fit(phase_of(net, x, y, spec, steps=2), rng())
        out += [net[0].weight.clone()]
    assert not torch.allclose(free[0], norm[0])
    assert not torch.allclose(free[0], value[0])
    assert not torch.allclose(norm[0], value[0])


def test_one_cycle():
    """From a low rate up to twice `lr` at 30 % of the steps, and down to almost nothing."""
    spec = OptimizerSpec("sgd", 0.1, "one-cycle")
    net = nn.Linear(1, 1, bias=False)
    optimizer = spec.build(net)
    schedule = spec.build_schedule(optimizer, 100)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert max(rates) == pytest.approx(0.2)
    assert rates.index(max(rates)) == 29
    assert rates[0] == pytest.approx(0.2 / 25)
    assert rates[-1] < 1e-5
    assert sum(rates) / 100 == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("turns", [1, 2])
def test_cosine_falls_to_zero_and_begins_anew(turns):
    spec = OptimizerSpec("sgd", 0.1, "cosine")
    optimizer = spec.build(nn.Linear(2, 2))
    for _ in range(2):
        schedule = spec.build_schedule(optimizer, 50, turns=turns)
        for step in range(50):
            part = (step // turns) / (50 // turns)
            assert optimizer.param_groups[0]["lr"] == pytest.approx(
                0.1 * math.cos(math.pi * part / 2) ** 2
            )
            optimizer.step()
            schedule.step()
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 7])
def test_one_cycle_of_a_few_steps(steps):
    net, x, y = problem()
    before = net[0].weight.clone()
    fit(phase_of(net, x, y, OptimizerSpec("adam", 1e-2, "one-cycle"), steps=steps), rng())
    assert not torch.equal(before, net[0].weight)


@pytest.mark.parametrize("bad_step", [1, 30, 50, 60, 75])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_divergence_puts_everything_back(bad_step, value):
    net, x, y = problem()
    before, calls = copy.deepcopy(net.state_dict()), []

    def loss(batch, r):
        calls.append(1)
        good = (net(batch[0]) - batch[1]).square().mean()
        return good * value if len(calls) == bad_step else good

    spec = OptimizerSpec("sgd", 0.01)
    with pytest.raises(DivergenceError, match=r"learning rate \(now 0.01\).*clip_norm"):
        fit(phase_of(net, x, y, spec, steps=75, loss=loss), rng())
    after = net.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(p.grad is None for p in net.parameters())


def test_a_gradient_that_is_lost_in_the_last_step_is_found():
    """Its loss is finite, its weights are not."""
    net = nn.Linear(1, 1)
    before = copy.deepcopy(net.state_dict())

    def loss(batch, r):
        return (net(torch.zeros(1, 1)) * 0).sqrt().sum()

    phase = Phase("name", net, loss, OptimizerSpec("sgd", 0.1), 1, 1)
    with pytest.raises(DivergenceError):
        fit(phase, rng())
    assert all(torch.equal(before[key], net.state_dict()[key]) for key in before)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_puts_everything_back(error):
    net, x, y = problem()
    net.eval()
    before, calls = copy.deepcopy(net.state_dict()), []

    def loss(batch, r):
        calls.append(1)
        if len(calls) == 10:
            raise error
        return (net(batch[0]) - batch[1]).square().mean()

    with pytest.raises(error):
        fit(phase_of(net, x, y, OptimizerSpec("adam", 0.1), loss=loss), rng())
    after = net.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not net.training
    # The same phase runs afterwards.
    calls = [None] * 20
    fit(phase_of(net, x, y, OptimizerSpec("adam", 0.1)), rng())
    assert not torch.equal(before["0.weight"], net[0].weight)


def test_the_mode_is_training_within_and_restored_afterwards():
    net, x, y = problem()
    net.eval()
    modes = []

    def loss(batch, r):
        modes.append((net.training, torch.is_grad_enabled()))
        return (net(batch[0]) - batch[1]).square().mean()

    with torch.no_grad():
        fit(phase_of(net, x, y, OptimizerSpec("sgd", 0.1), loss=loss, steps=3), rng())
    assert modes == [(True, True)] * 3
    assert not net.training


def test_finish_is_called_once_after_success_only():
    net, x, y = problem()
    done = []
    fit(phase_of(net, x, y, OptimizerSpec(), finish=lambda: done.append(1)), rng())
    assert done == [1]
    with pytest.raises(DivergenceError):
        fit(
            phase_of(
                net,
                x,
                y,
                OptimizerSpec(),
                finish=lambda: done.append(1),
                loss=lambda b, r: net(b[0]).sum() * float("nan"),
            ),
            rng(),
        )
    assert done == [1]


def test_progress_goes_to_standard_error(capsys):
    net, x, y = problem()
    fit(phase_of(net, x, y, OptimizerSpec()), rng(), progress=True)
    shown = capsys.readouterr()
    assert "name" in shown.err
    assert shown.out == ""
    fit(phase_of(net, x, y, OptimizerSpec()), rng())
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("epochs", "n", "size"), [(1, 10, 5), (3, 10, 4), (2, 3, 128), (5, 1, 1)])
def test_epochs_to_steps_counts_batches(epochs, n, size):
    expected = epochs * len(torch.arange(n).split(size))
    assert epochs_to_steps(epochs, n, size) == expected


def test_each_pass_shows_each_sample_once():
    data = (torch.arange(10), torch.arange(10) * 2)
    parts = list(islice(Batches(data, batch_size=4, rng=rng()), 6))
    assert [len(p[0]) for p in parts] == [4, 4, 2, 4, 4, 2]
    for start in (0, 3):
        seen = torch.cat([p[0] for p in parts[start : start + 3]])
        assert sorted(seen.tolist()) == list(range(10))
        assert seen.tolist() != list(range(10))
    assert all(torch.equal(2 * a, b) for a, b in parts)


def test_a_single_last_sample_is_left_out():
    sizes = [len(p[0]) for p in islice(Batches((torch.arange(9),), batch_size=4, rng=rng()), 5)]
    assert sizes == [4, 4, 4, 4, 4]
    # But not where there is nothing else.
    for n, size in [(1, 4), (3, 1)]:
        parts = list(islice(Batches((torch.arange(n),), batch_size=size, rng=rng()), 4))
        assert [len(p[0]) for p in parts] == [1] * 4


def test_batches_continue_where_they_were():
    data, one = (torch.arange(10),), rng()
    source = Batches(data, batch_size=4, rng=one)
    for _ in range(4):  # into the second pass
        next(source)
    state, numbers = source.state(), one.get_state()
    expected = [b[0] for b in islice(source, 5)]
    other = rng(7)
    again = Batches(data, batch_size=4, rng=other)
    again.set_state(state)
    other.set_state(numbers)
    assert all(torch.equal(a, b[0]) for a, b in zip(expected, islice(again, 5), strict=True))


def test_no_data_gives_empty_batches():
    assert list(islice(Batches((), batch_size=4, rng=rng()), 3)) == [()] * 3


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "lbfgs"},
        {"schedule": "linear"},
        {"lr": 0.0},
        {"lr": -1.0},
        {"lr": float("nan")},
        {"clip_norm": 0.0},
        {"clip_value": -1.0},
    ],
)
def test_bad_specifications(changes):
    with pytest.raises(ConfigError):
        OptimizerSpec(**changes)


class Players(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.three = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x):
        return self.three(torch.tanh(self.two(torch.tanh(self.one(x)))))


def turns_of(net, calls, *, fails=None, value=1.0):
    """Two turns of ``one`` and one of ``two`` a round; ``three`` is nobody's."""

    def loss_of(name):
        def loss(batch, r, number):
            calls.append(
                (name, number, [p.requires_grad for p in (net.one.weight, net.two.weight)])
            )
            assert not net.three.weight.requires_grad
            if len(calls) == fails:
                raise InterruptedError("on purpose")
            noise = torch.randn(batch[0].shape, generator=r)
            return net(batch[0] + 0.1 * noise).square().mean() * (value if name == "b" else 1.0)

        return loss

    def before_step(name, mine, other):
        def look(number):
            assert mine.weight.grad is not None
            assert other.weight.grad is None
            assert net.three.weight.grad is None
            calls.append((f"{name} steps", number, None))

        return look

    a = OptimizationStep(
        "a", list(net.one.parameters()), loss_of("a"), before_step("a", net.one, net.two)
    )
    b = OptimizationStep(
        "b", list(net.two.parameters()), loss_of("b"), before_step("b", net.two, net.one)
    )
    return [a, a, b]


def turn_phase(net, turns, *, steps=9, spec=None):
    data = (torch.randn(20, 4, generator=rng(3)),)
    return Phase("turns", net, turns, spec or OptimizerSpec("adam", 1e-2), steps, 8, data)


def test_turns_are_taken_in_order_round_after_round():
    net, calls = Players(), []
    before = copy.deepcopy(net.three.state_dict())
    fit(turn_phase(net, turns_of(net, calls), steps=7), rng())
    names = [(name, number) for name, number, _ in calls]
    whole = [["a", "a steps", "a", "a steps", "b", "b steps"]] * 2 + [["a", "a steps"]]
    assert names == [(name, number) for number, one in enumerate(whole) for name in one]
    flags = {name: wanted for name, _, wanted in calls}
    assert (flags["a"], flags["b"]) == ([True, False], [False, True])
    assert all(p.requires_grad for p in net.parameters())
    assert all(torch.equal(before[key], net.three.state_dict()[key]) for key in before)


def test_turns_are_those_of_a_loop_by_hand_with_an_optimiser_for_each():
    """What a turn leaves out keeps its weights, and Adam its moments and its count of steps."""
    net = Players()
    other, data = copy.deepcopy(net), torch.randn(20, 4, generator=rng(3))
    fit(turn_phase(net, turns_of(net, []), steps=30), rng())
    mine = rng()
    players = [torch.optim.Adam(p.parameters(), lr=1e-2) for p in (other.one, other.two)]
    batches = Batches((data,), batch_size=8, rng=mine)
    for step in range(30):
        (x,) = next(batches)
        noise = torch.randn(x.shape, generator=mine)
        player = players[int(step % 3 == 2)]
        other.zero_grad()
        other(x + 0.1 * noise).square().mean().backward()
        player.step()
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert not torch.equal(net.one.weight, Players().one.weight)


def test_a_turn_may_change_gradients_before_its_step():
    net = Players()
    before = copy.deepcopy(net.state_dict())

    def drop(number):
        net.one.weight.grad[0] = 0

    def loss(batch, r, number):
        return net(batch[0]).square().mean()

    turn = OptimizationStep("only", list(net.one.parameters()), loss, drop)
    fit(turn_phase(net, [turn], spec=OptimizerSpec("sgd", 0.1)), rng())
    after = net.state_dict()
    assert torch.equal(before["one.weight"][0], after["one.weight"][0])
    assert not torch.equal(before["one.weight"][1], after["one.weight"][1])


@pytest.mark.parametrize("fails", [1, 3, 5])
def test_an_error_in_a_turn_puts_back_what_it_had_stopped(fails):
    net = Players()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(InterruptedError):
        fit(turn_phase(net, turns_of(net, [], fails=fails)), rng())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all(torch.equal(before[key], net.state_dict()[key]) for key in before)


def test_what_was_frozen_before_stays_frozen():
    net = Players()
    net.three.requires_grad_(False)
    fit(turn_phase(net, turns_of(net, [])), rng())
    assert [p.requires_grad for p in net.three.parameters()] == [False, False]


def test_divergence_in_a_turn_puts_everything_back():
    net = Players()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(DivergenceError, match="'turns' was not finite"):
        fit(turn_phase(net, turns_of(net, [], value=math.nan), steps=60), rng())
    assert all(torch.equal(before[key], net.state_dict()[key]) for key in before)
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
