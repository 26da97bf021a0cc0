"""A method ends the same in Avalanche's loop and under a Trainer; over every method."""

from types import SimpleNamespace

import pytest
import torch
from avalanche.evaluation.metrics import accuracy_metrics, forgetting_metrics, loss_metrics
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from backends import BACKENDS, MAIN, made
from nets import Growing, MultiHead
from torch import nn

from avalanche_dgm import memory_metrics, sklearn_digits
from avalanche_dgm.lightning import fit_stream


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 40), nn.BatchNorm1d(40), nn.Dropout(0.3), nn.Linear(40, 10)
        )

    def forward(self, x):
        return self.layers(x)


def stream_of(task_labels=False, n_tested=3):
    benchmark = sklearn_digits(n_experiences=5, n_train_per_class=50, task_labels=task_labels)
    return SimpleNamespace(
        train_stream=list(benchmark.train_stream)[:3],
        test_stream=list(benchmark.test_stream)[:n_tested],
    )


def evaluation():
    return EvaluationPlugin(
        accuracy_metrics(minibatch=True, epoch=True, epoch_running=True, experience=True),
        accuracy_metrics(stream=True),
        loss_metrics(minibatch=True, epoch=True, experience=True, stream=True),
        forgetting_metrics(experience=True, stream=True),
        memory_metrics(),
        loggers=[],
        collect_all=True,
    )


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=3e-3)


def in_avalanche(name, stream, net, optimizer):
    plugin, evaluator = made(name, 0, net, seed=0), evaluation()
    strategy = Naive(
        model=net,
        optimizer=optimizer(net.parameters()),
        train_mb_size=16,
        train_epochs=2,
        eval_mb_size=100,
        plugins=[plugin],
        evaluator=evaluator,
    )
    values = []
    for experience in stream.train_stream:
        strategy.train(experience, shuffle=False)
        values.append(strategy.eval(stream.test_stream))
    return plugin.method, values, evaluator.get_all_metrics()


def on_trainer(name, stream, net, optimizer):
    module, evaluator = made(name, 1, net, optimizer=optimizer, seed=0), evaluation()
    result = fit_stream(
        module,
        stream,
        trainer={"accelerator": "cpu", "enable_progress_bar": False},
        evaluator=evaluator,
        epochs=2,
        batch_size=16,
        eval_batch_size=100,
        shuffle=False,
    )
    return module.method, result.metrics, evaluator.get_all_metrics()


# What differs among these is inside their phases, where no classifier of the user's comes in.
ALIKE = ("dynamic-memory-weights", "mergan", "ewc-generator", "gan-replay")
# Samples of the prior have no task label, so a multi-head model cannot be used with them.
CASES = [
    pytest.param(name, net, marks=[] if name in MAIN else pytest.mark.slow)
    for net in (Dropping, Growing, MultiHead)
    for name in BACKENDS
    if not (net is MultiHead and name.endswith("paper"))
    if not (net is not Dropping and name in ALIKE)
]


@pytest.fixture
def loaders_apart(monkeypatch):
    """Lets data loaders draw from generators of their own.

    They take a seed for their workers from the global one even when nothing is shuffled, and
    dropout and the weights of new outputs would then differ between the backends.
    """
    init = torch.utils.data.DataLoader.__init__

    def with_generator(self, *args, **kwargs):
        init(self, *args, **{"generator": torch.Generator(), **kwargs})

    monkeypatch.setattr(torch.utils.data.DataLoader, "__init__", with_generator)


@pytest.mark.usefixtures("loaders_apart")
@pytest.mark.parametrize(("name", "net"), CASES)
def test_both_backends_end_equal(name, net):
    stream = stream_of(task_labels=net is MultiHead)
    optimizer = adam if net is Dropping else sgd
    found = []
    for run in (in_avalanche, on_trainer):
        torch.manual_seed(1)
        model = net()
        method, values, curves = run(name, stream, model, optimizer)
        found.append((model.state_dict(), method, values, curves))
    (one, method, values, curves), (two, other, others, more) = found
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    state, second = method.state_dict(), other.state_dict()
    assert state.keys() == second.keys()
    tensors = [key for key in state if torch.is_tensor(state[key])]
    assert all(torch.equal(state[key], second[key]) for key in tensors)
    assert torch.equal(method.rng.get_state(), other.rng.get_state())
    assert method.stats.read().histogram == other.stats.read().histogram
    for mine, theirs in zip(values, others, strict=True):
        assert without_times(mine) == without_times(theirs)
        assert mine
    assert without_times(curves) == without_times(more)


def without_times(values):
    return {name: value for name, value in values.items() if "Seconds" not in name}
