"""Learning real digits without old data, and forgetting them without the plugins."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from torch import nn

from avalanche_dgm import (
    DGDMNPlugin,
    DGRPlugin,
    DynamicMemoryPlugin,
    OptimizerSpec,
    digits,
    sklearn_digits,
)


def _final_accuracy(stream, plugins, *, epochs, n_inputs=64, width=400, batch_size=32):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Flatten(),
        nn.Linear(n_inputs, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, 10),
    )
    evaluator = EvaluationPlugin(accuracy_metrics(stream=True), loggers=[])
    strategy = Naive(
        model=net,
        optimizer=torch.optim.Adam(net.parameters(), lr=1e-3),
        train_mb_size=batch_size,
        train_epochs=epochs,
        eval_mb_size=512,
        plugins=plugins,
        evaluator=evaluator,
    )
    for experience in stream.train_stream:
        strategy.train(experience)
    result = strategy.eval(stream.test_stream)
    return next(v for k, v in result.items() if k.startswith("Top1_Acc_Stream"))


@pytest.fixture(scope="module")
def two_a_time():
    return sklearn_digits(n_experiences=5, seed=0)


def test_a_plain_network_forgets(two_a_time):
    """The negative of the tests below: one of five experiences is known at the end."""
    assert _final_accuracy(two_a_time, [], epochs=10) < 0.35


def test_generative_replay_remembers(two_a_time):
    assert _final_accuracy(two_a_time, [DGRPlugin(generator_steps=250)], epochs=10) > 0.85


@pytest.fixture(scope="module")
def one_a_time():
    stream = sklearn_digits(n_experiences=10, seed=0)
    return SimpleNamespace(
        train_stream=list(stream.train_stream)[:3], test_stream=list(stream.test_stream)[:3]
    )


def test_a_plain_network_forgets_single_classes(one_a_time):
    """The negative of the next test: one of three classes is known at the end."""
    assert _final_accuracy(one_a_time, [], epochs=10) < 0.4


@pytest.mark.slow
def test_dynamic_memory_remembers(one_a_time):
    """A GAN needs more steps than a test has; these are enough for images of 8x8."""
    slower = OptimizerSpec("adam", 5e-4, "cosine", options={"betas": (0.5, 0.999)})
    small = {
        "generator_steps": 400,
        "width": 12,
        "discriminator_width": 12,
        "gan_optimizer": slower,
    }
    plugin = DynamicMemoryPlugin(seed=0, **small)
    assert _final_accuracy(one_a_time, [plugin], epochs=10) > 0.75


def test_dual_memory_remembers(two_a_time):
    plugin = DGDMNPlugin(generator_steps=250, learner_steps=250)
    assert _final_accuracy(two_a_time, [plugin], epochs=10) > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("plugin", [DGRPlugin, DGDMNPlugin])
def test_one_class_at_a_time(plugin):
    """Defaults, ten experiences of one digit each; a plain network ends near 0.10."""
    stream = sklearn_digits(n_experiences=10, seed=0)
    assert _final_accuracy(stream, [plugin()], epochs=40) > 0.85


@pytest.mark.slow
def test_mnist_digits():
    """One MNIST digit an experience, 1,500 images each."""
    root = os.environ.get("AVALANCHE_DGM_DATA")
    if not root or not (Path(root) / "MNIST").is_dir():
        pytest.skip("AVALANCHE_DGM_DATA names no folder with MNIST")
    stream = digits(root, n_train_per_class=1500)
    accuracy = _final_accuracy(stream, [DGRPlugin()], epochs=10, n_inputs=784, batch_size=128)
    assert accuracy > 0.88
