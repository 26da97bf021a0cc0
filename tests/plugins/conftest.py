"""Small benchmarks and networks for the plugins' tests."""

from __future__ import annotations

from dataclasses import replace

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
    LatentReplayPlugin,
    PseudoRehearsalPlugin,
    sklearn_digits,
)

SMALL = {"generator_steps": 20, "hidden": (32, 32), "latent": 4}
DUAL = {**SMALL, "learner_steps": 20}
GAN = {
    "generator_steps": 4,
    "width": 4,
    "discriminator_width": 4,
    "latent": 16,
    "replay_per_class": 16,
    "batch_size": 16,
    "discriminator_finetune_epochs": 1,
    "seed": 0,
}
MASKED = {**GAN, "smax": 1e3}


class CutAnywhere(LatentReplayPlugin):
    """Latent replay that cuts the models below behind their activation."""

    def attach(self, model):
        given = self.method.settings
        layer = next(name for name, part in model.named_modules() if isinstance(part, nn.ReLU))
        self.method.settings = replace(given, layer=layer)
        super().attach(model)
        self.method.settings = given


PLUGINS = {
    "latent": lambda **kw: CutAnywhere(**{"seed": 0, **kw}),
    "latent-density": lambda **kw: CutAnywhere(**{"seed": 0, "memory": "density", **kw}),
    "dgr": lambda **kw: DGRPlugin(**{**SMALL, "seed": 0, **kw}),
    "dgdmn": lambda **kw: DGDMNPlugin(**{**DUAL, "seed": 0, **kw}),
    "dgdmn-oracle": lambda **kw: DGDMNPlugin(**{**DUAL, "seed": 0, "routing": "oracle", **kw}),
    "dgdmn-sleep": lambda **kw: DGDMNPlugin(**{**DUAL, "seed": 0, "routing": "sleep", **kw}),
    "dgdmn-no-stm": lambda **kw: DGDMNPlugin(**{**DUAL, "seed": 0, "short_term": False, **kw}),
    "dynamic-memory": lambda **kw: DynamicMemoryPlugin(**{**MASKED, **kw}),
    "dynamic-memory-discriminator": lambda **kw: DynamicMemoryPlugin(
        **{**MASKED, "classifier": "discriminator", **kw}
    ),
    "pseudo-rehearsal": lambda **kw: PseudoRehearsalPlugin(**{"seed": 0, **kw}),
}


@pytest.fixture(params=sorted(PLUGINS))
def make_plugin(request):
    """A function that makes one of the plugins, small."""
    return PLUGINS[request.param]


@pytest.fixture(scope="session")
def benchmark():
    """Five experiences of two digits."""
    return sklearn_digits(n_experiences=5, seed=0)


@pytest.fixture(scope="session")
def task_benchmark():
    """The same with task labels."""
    return sklearn_digits(n_experiences=5, seed=0, task_labels=True)


def mlp(n_outputs=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, n_outputs))


def naive(model, *plugins, epochs=1, evaluator=None, optimizer=None, template=Naive, **kwargs):
    """A strategy around a model."""
    return template(
        model=model,
        optimizer=optimizer or torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=64,
        train_epochs=epochs,
        eval_mb_size=256,
        plugins=list(plugins),
        evaluator=evaluator
        or EvaluationPlugin(accuracy_metrics(stream=True, experience=True), loggers=[]),
        **kwargs,
    )


def weights(model):
    """All of a module's floating point state in one vector."""
    return torch.cat([v.flatten() for v in model.state_dict().values() if torch.is_tensor(v)])
