"""Every method shows the same panels on both backends, and learns the same as without them."""

import pytest
import torch
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from backends import BACKENDS, made
from recording import Recording
from test_backend_contract import Dropping, adam, loaders_apart, stream_of  # noqa: F401

from avalanche_dgm import DashboardLogger
from avalanche_dgm.dashboards import keys
from avalanche_dgm.lightning import DashboardCallback, fit_stream

#: One of each kind; the others have the same panels.
QUICK = {"dgr", "dgdmn", "altm-stored", "latent", "dynamic-memory", "pseudo-rehearsal"}
METHODS = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in BACKENDS
    # It sleeps before a test: Avalanche's logger shows what was remembered before, a Trainer's
    # callback what is remembered after it.
    if name != "dgdmn-sleep"
]

IMAGES = ("image", "samples/grid")
ALWAYS = {
    "stream/average_accuracy",
    "accuracy/matrix",
    "accuracy/table",
    "memory/bytes",
    "memory/parameters",
    "memory/stored_samples",
    "memory/stm_occupancy",
    "replay/samples",
    "time/learn",
    "time/test",
}


def in_avalanche(name, sink):
    torch.manual_seed(1)
    stream, net = stream_of(n_tested=5), Dropping()
    plugin = made(name, 0, net, seed=0)
    loggers = [DashboardLogger([sink])] if sink is not None else []
    strategy = Naive(
        model=net,
        optimizer=adam(net.parameters()),
        train_mb_size=16,
        train_epochs=2,
        eval_mb_size=100,
        plugins=[plugin],
        evaluator=EvaluationPlugin(loggers=loggers),
    )
    for experience in stream.train_stream:
        strategy.train(experience, shuffle=False)
        strategy.eval(stream.test_stream)
    return net, plugin.method


def on_trainer(name, sink):
    torch.manual_seed(1)
    stream, net = stream_of(n_tested=5), Dropping()
    module = made(name, 1, net, optimizer=adam, seed=0)
    fit_stream(
        module,
        stream,
        trainer={"accelerator": "cpu", "enable_progress_bar": False},
        callbacks=[DashboardCallback([sink], latents=False)],
        epochs=2,
        batch_size=16,
        eval_batch_size=100,
        shuffle=False,
    )
    return net, module.method


def equal(one, two):
    one, two = one.state_dict(), two.state_dict()
    return all(torch.equal(one[key], two[key]) for key in one if torch.is_tensor(one[key]))


@pytest.mark.usefixtures("loaders_apart")
@pytest.mark.parametrize("name", METHODS)
def test_panels(name):
    mine, theirs = Recording(), Recording()
    net, method = in_avalanche(name, mine)
    bare, plain = in_avalanche(name, None)
    assert equal(net, bare)
    assert equal(method, plain)
    assert torch.equal(method.rng.get_state(), plain.rng.get_state())

    other, _ = on_trainer(name, theirs)
    assert equal(net, other)
    here, there = mine.without_times(), theirs.without_times()
    # Values of one step are logged at once, in no order.
    steps = [sorted(p for p in panels if p[1] == keys.STEP) for panels in (here, there)]
    rest = [[p for p in panels if p[1] != keys.STEP] for panels in (here, there)]
    assert [p[:4] for p in rest[0]] == [p[:4] for p in rest[1]]
    for one, two in zip(*rest, strict=True):
        # A Trainer counts accuracies in single precision.
        close = pytest.approx(two[4], rel=1e-6) if two[0] == "scalar" else two[4]
        assert (one[4], one[5:]) == (close, two[5:])
    assert [p[:4] for p in steps[0]] == [p[:4] for p in steps[1]]
    if "alternating" not in name:  # Where a step on replay counts as a part of the one before it.
        for one, two in zip(*steps, strict=True):
            assert one[4] == pytest.approx(two[4], rel=1e-5)

    assert mine.names() >= ALWAYS
    assert mine.names() == theirs.names()
    for _, axis, at, key, *_ in mine.shown:
        assert keys.axis_of(key) == axis
        assert at >= 1
    expected = {"dgr": True, "dgdmn": True, "altm": False, "pseudo-rehearsal": True}
    if name in expected:
        assert ("samples/grid" in mine.names("image")) == expected[name]
    if name.startswith(("dgr", "dgdmn", "altm-generated")):
        assert mine.names() >= {"reconstructions/grid", "reconstructions/error"}
    if name.startswith("dynamic-memory"):
        assert mine.names() >= {"masks/usage", "masks/capacity_ratio"}
    if name.startswith("dgdmn"):
        assert mine.names() >= {"sleeps/seconds", "sleeps/experiences"}
    if name.startswith("latent"):
        # Latents cannot be looked at, but images that are stored until the compressor is frozen.
        shown = [at for kind, _, at, key, *_ in mine.shown if (kind, key) == IMAGES]
        assert shown == ([1] if name == "latent-late" else [])
