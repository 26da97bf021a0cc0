"""Conditional GANs on streams in which classes come back, on both backends."""

import pytest
import torch
from avalanche.benchmarks.scenarios.dataset_scenario import benchmark_from_datasets
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from driver import digits, network
from torch.utils.data import TensorDataset

from avalanche_dgm import EWCGeneratorPlugin, GANReplayPlugin, MeRGANPlugin
from avalanche_dgm.lightning import (
    EWCGeneratorModule,
    GANReplayModule,
    MeRGANModule,
    fit_stream,
)

KINDS = {
    "mergan": (MeRGANPlugin, MeRGANModule, {}),
    "gan-replay": (GANReplayPlugin, GANReplayModule, {"generator_steps": 200}),
    "ewc-generator": (
        EWCGeneratorPlugin,
        EWCGeneratorModule,
        {"fisher_samples": 16, "ewc_weight": 1e5},
    ),
}
SETTINGS = {
    "generator_steps": 120,
    "width": 8,
    "discriminator_width": 8,
    "latent": 24,
    "class_inputs": 8,
    "replay_per_class": 60,
    "discriminator_finetune_epochs": 10,
    "classifier": "discriminator",
    "seed": 0,
}
#: Class 1 comes once, 0 and 2 come back.
STREAM = [(0, 1), (2, 3), (0, 2)]
QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False}


def stream():
    sets = []
    for i, classes in enumerate(STREAM):
        data = digits(*classes, per_class=50, skip=50 * (i == 2))
        sets.append(TensorDataset(data.images, data.labels))
        sets[-1].targets = data.labels.tolist()
    data = [as_classification_dataset(one) for one in sets]
    return benchmark_from_datasets(train=data, test=data[:1])


def with_plugin(plugin, model):
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05),
        train_mb_size=32,
        evaluator=EvaluationPlugin(loggers=[]),
        plugins=[plugin],
    )
    for experience in stream().train_stream:
        strategy.train(experience)
    return plugin.method


def with_module(module):
    fit_stream(module, stream(), trainer=QUIET, batch_size=32)
    return module.method


CASES = [
    pytest.param(name, backend, marks=[pytest.mark.slow] if slow else [], id=f"{name}-{backend}")
    for name in KINDS
    for backend, slow in (("plugin", False), ("module", name != "mergan"))
]


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_all_classes_are_remembered(name, backend):
    plugin, module, more = KINDS[name]
    model, settings = network(), {**SETTINGS, **more}
    if backend == "plugin":
        method = with_plugin(plugin(**settings), model)
    else:
        method = with_module(module(model, **settings))
    assert method.generator.classes.labels.tolist() == [0, 1, 2, 3]
    data = digits(0, 1, 2, 3, skip=100, per_class=60)
    found = method.predict(data.images, data.tasks).argmax(dim=1)
    right = (found == data.labels).double()
    accuracies = [float(right[data.labels == label].mean()) for label in range(4)]
    assert sum(accuracies) / 4 > 0.7
    assert min(accuracies) > 0.25, "a class that is forgotten is at 0"
