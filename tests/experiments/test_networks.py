"""The network follows the stream: which one each run trains, and what of the settings shapes it."""

import pytest
import torch

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments import ExperimentConfig
from avalanche_dgm.experiments.building import (
    build_model,
    build_stream,
    heads_of,
    seed_everything,
)
from avalanche_dgm.experiments.methods import check_options
from avalanche_dgm.experiments.models import MLP, MultiHeadMLP, MultiTaskAlexNet
from avalanche_dgm.experiments.runner import run
from avalanche_dgm.models import AlexNetLike, LatentCompressor

TINY = {"n_train": 1, "n_test": 1, "size": 8, "fraction": 0.3}
DIGITS = {"dataset": "sklearn-digits"}


def model_of(config):
    check_options(config)
    benchmark = build_stream(config)
    seed_everything(config.seed)
    shape = tuple(benchmark.train_stream[0].dataset[0][0].shape)
    return build_model(config, benchmark, shape)


def make(method, stream, **fields):
    options = DIGITS if stream == "latent-split" else TINY
    options = options | fields.pop("stream_options", {})
    return ExperimentConfig.create(method, stream, stream_options=options, **fields)


@pytest.mark.parametrize("order", ["category-viewpoint", "viewpoint-category"])
def test_the_turntable_has_a_head_for_each_task(order):
    model = model_of(make("altm", "turntable", stream_options={"order": order}))
    assert isinstance(model, MultiTaskAlexNet)
    heads = model.network.heads.heads
    assert {task: head.out_features for task, head in heads.items()} == {"0": 10, "1": 88}


def test_heads_of_experiences_with_several_task_labels():
    config = make("naive", "turntable-domains", stream_options={"categories": True})
    benchmark = build_stream(config)
    assert len(benchmark.train_stream[0].task_labels) == 2
    assert heads_of([*benchmark.train_stream, *benchmark.test_stream]) == {0: 10, 1: 88, 2: 10}
    # A head that is only tested is there, too.
    assert heads_of(benchmark.test_stream) == {0: 10, 1: 88, 2: 10}
    assert heads_of(benchmark.train_stream[1:]) == {2: 10}


def test_one_head_for_all_labels():
    model = model_of(make("naive", "turntable", stream_options={"task_labels": False}))
    assert isinstance(model, AlexNetLike)
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 98)


def test_settings_shape_the_turntable_s_network():
    wide = model_of(make("naive", "turntable", hidden=[48], dropout=0.25))
    assert {layer.p for layer in wide.modules() if isinstance(layer, torch.nn.Dropout)} == {0.25}
    assert {head.in_features for head in wide.network.heads.heads.values()} == {48}
    fast, usual = (model_of(make("naive", "turntable", fast=flag)) for flag in (True, False))
    small, large = (sum(p.numel() for p in net.parameters()) for net in (fast, usual))
    assert small * 10 < large
    dropped = make("dropout", "turntable")
    assert dropped.dropout > 0


def test_latent_split_has_one_network_for_all_methods():
    """So that naive is latent replay without replay, from the same initial weights."""
    models = [model_of(make(m, "latent-split", seed=3)) for m in ("latent-replay", "naive", "dgr")]
    states = [model.state_dict() for model in models]
    assert isinstance(models[1].compressor, LatentCompressor)
    for other in states[1:]:
        assert other.keys() == states[0].keys()
        assert all(torch.equal(value, states[0][key]) for key, value in other.items())


def test_other_streams_and_the_other_paper_keep_dense_networks():
    assert isinstance(model_of(ExperimentConfig.create("naive")), MLP)
    labels = {"stream_options": {"task_labels": True}}
    assert isinstance(model_of(make("naive", "latent-split", **labels)), MultiHeadMLP)
    paper = make("naive", "latent-split", paper=True)
    assert isinstance(model_of(paper), MLP)
    kept = model_of(ExperimentConfig.create("latent-replay"))
    assert isinstance(kept.compressor, LatentCompressor)


@pytest.mark.parametrize(
    ("method", "stream", "given"),
    [
        ("naive", "latent-split", {"hidden": [64]}),
        ("naive", "latent-split", {"dropout": 0.1}),
        ("dropout", "latent-split", {}),
        ("latent-replay", "sklearn-digits", {"hidden": [64]}),
        ("naive", "turntable", {"hidden": [64, 64]}),
    ],
)
def test_settings_without_a_place_are_refused(method, stream, given):
    word = "one number" if stream == "turntable" else "--hidden, --dropout"
    options = DIGITS if stream == "latent-split" else {}
    config = ExperimentConfig.create(method, stream, stream_options=options, **given)
    with pytest.raises(ConfigError, match=word):
        run(config)


@pytest.mark.parametrize("method", ["naive", "ewc", "dgr", "dgdmn", "altm", "replay", "joint"])
def test_methods_learn_the_turntable_s_heads(method):
    result = run(make(method, "turntable-domains", fast=True))
    assert result.complete
    assert result.tasks == ["viewpoints", "sklearn-digits"]


def test_the_two_replays_of_altm_have_names():
    few = {"method_options": {"per_class": 1}}
    stored = run(make("altm-stored", "turntable-domains", fast=True, **few))
    assert stored.samples
    assert stored.steps[1].replayed > 0
    generated = run(make("altm-generated", "turntable-domains", fast=True))
    assert any("generator" in phase for phase in generated.steps[0].phases)
    assert set(generated.samples) <= set(range(88))
    with pytest.raises(ConfigError, match="replay"):
        check_options(make("altm-stored", "turntable", method_options={"replay": "generated"}))
