"""Avalanche's iCaRL around a model of one piece, and the other references by name."""

import pytest
import torch
from torch import nn

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments import ExperimentConfig
from avalanche_dgm.experiments.runner import run
from avalanche_dgm.plugins.icarl import SplitICaRL

from .conftest import mlp


def strategy_of(model, **changes):
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    arguments = {"train_mb_size": 32, "train_epochs": 4, "eval_mb_size": 256, "evaluator": None}
    return SplitICaRL(model=model, optimizer=optimizer, **{**arguments, **changes})


def test_the_model_is_cut_before_its_last_layer(benchmark):
    model = mlp()
    head, x = model[-1], torch.rand(3, 1, 8, 8)
    wanted = model(x)
    strategy = strategy_of(model)
    strategy.model.train()
    torch.testing.assert_close(strategy.model(x), wanted)
    assert strategy.model.train_classifier is head
    assert strategy.model.feature_extractor(x).shape == (3, 40)


def test_old_classes_are_known(benchmark):
    strategy = strategy_of(mlp(), mem_size=40)
    for experience in list(benchmark.train_stream)[:3]:
        strategy.train(experience)
    strategy.model.eval()
    data = benchmark.test_stream[0].dataset
    x = torch.stack([torch.as_tensor(data[i][0]) for i in range(len(data))])
    answers = strategy.model(x).argmax(dim=1)
    assert (answers == torch.tensor([data[i][1] for i in range(len(data))])).float().mean() > 0.6


def test_what_cannot_be_learned(benchmark):
    with pytest.raises(ConfigError, match="last layer"):
        strategy_of(nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten()))
    strategy = strategy_of(mlp())
    with pytest.raises(ConfigError, match="order of the stream"):
        strategy.train(benchmark.train_stream[1])


@pytest.mark.parametrize("method", ["icarl", "si", "rwalk"])
def test_references_by_name(method):
    stream = {"n_train_per_class": 8, "fraction": 0.2}
    result = run(
        ExperimentConfig.create(
            method, "sklearn-digits", n_experiences=5, stream_options=stream, fast=True
        )
    )
    assert result.complete
    assert result.steps[-1].memory_bytes > 0
