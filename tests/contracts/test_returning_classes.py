"""Conditional GANs on a stream in which a class comes back, on both backends."""

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
    "gan-replay": (GANReplayPlugin, GANReplayModule, {"generator_steps": 100}),
    "ewc-generator": (
        EWCGeneratorPlugin,
        EWCGeneratorModule,
        {"fisher_samples": 16, "ewc_weight": 1e5},
    ),
}
#: Dense networks, since samples are flat.
SETTINGS = {
    "generator_steps": 60,
    "width": 8,
    "discriminator_width": 8,
    "latent": 24,
    "class_inputs": 8,
    "replay_per_class": 60,
    "discriminator_finetune_epochs": 10,
    "classifier": "discriminator",
    "seed": 0,
}
#: Class 0 comes back, 1 comes once.
STREAM = [(0, 1), (0, 2)]
QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False}


def flat(*classes, **which):
    data = digits(*classes, **which)
    return data.images.flatten(1), data.labels


def stream():
    sets = []
    for i, classes in enumerate(STREAM):
        images, labels = flat(*classes, per_class=50, skip=50 * i)
        sets.append(TensorDataset(images, labels))
        sets[-1].targets = labels.tolist()
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


def look_alike(method):
    """The share of what is generated of each class that is nearest to that class's real mean."""
    means = torch.stack([flat(c, skip=100, per_class=60)[0].mean(dim=0) for c in range(3)])
    drawn = method.sample(120)
    nearest = torch.cdist(drawn.images, means).argmin(dim=1)
    return [float((nearest[drawn.labels == c] == c).float().mean()) for c in range(3)]


@pytest.mark.parametrize("backend", ["plugin", "module"])
@pytest.mark.parametrize("name", KINDS)
def test_all_classes_are_remembered(name, backend):
    plugin, module, more = KINDS[name]
    model, settings = network(), {**SETTINGS, **more}
    if backend == "plugin":
        method = with_plugin(plugin(**settings), model)
    else:
        method = with_module(module(model, **settings))
    assert method.generator.classes.labels.tolist() == [0, 1, 2]
    assert min(look_alike(method)[:2]) > 0.6
    images, labels = flat(0, 1, 2, skip=100, per_class=60)
    right = method.predict(images, torch.zeros_like(labels)).argmax(dim=1) == labels
    accuracies = [float(right[labels == c].float().mean()) for c in range(3)]
    assert sum(accuracies) / 3 > 0.6
    assert min(accuracies) > 0.1, "a class that is forgotten is at 0"


def test_a_generator_that_keeps_nothing_forgets_what_does_not_come_back():
    """The same networks without replay: what the numbers above are compared with."""
    method = with_plugin(MeRGANPlugin(replay="none", **SETTINGS), network())
    returned, gone, _ = look_alike(method)
    assert returned > 0.6
    assert gone < 0.2
