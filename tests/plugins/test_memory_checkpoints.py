"""Stopping at any experience boundary and going on, with each of our plugins."""

from __future__ import annotations

import pytest
import torch
from nets import Growing, MultiHead
from torch import nn

from avalanche_dgm import (
    ALTMPlugin,
    DGDMNPlugin,
    DGRPlugin,
    LatentReplayPlugin,
    load_memory,
    maybe_load_checkpoint,
    save_checkpoint,
    save_memory,
)
from avalanche_dgm.errors import CheckpointError, ConfigError

from .conftest import DUAL, SMALL, mlp, naive, weights


def _results(strategy, stream):
    return {k: v for k, v in strategy.eval(stream).items() if "Acc" in k or "Loss" in k}


def test_continuing_equals_not_stopping(make_plugin, benchmark, tmp_path):
    """From each of three checkpoints: the next experience ends as it does without a stop."""

    def fresh():
        net = mlp()
        return naive(net, make_plugin(), optimizer=torch.optim.Adam(net.parameters(), lr=1e-3))

    def state(strategy):
        results = _results(strategy, benchmark.test_stream[:4])
        # Samples and evaluations draw numbers that what follows would else not have drawn.
        random = strategy.plugins[0].method.random.get_state()
        samples = strategy.plugins[0].method.sample(20).images
        strategy.plugins[0].method.random.set_state(random)
        return results, weights(strategy.model).clone(), samples

    torch.manual_seed(0)
    straight, expected = fresh(), []
    for i, experience in enumerate(benchmark.train_stream[:4]):
        straight.train(experience)
        expected.append(state(straight))
        save_checkpoint(straight, tmp_path / f"{i + 1}.pkl")

    for stop in (1, 2, 3):
        torch.manual_seed(99)
        resumed, done = maybe_load_checkpoint(fresh(), tmp_path / f"{stop}.pkl")
        assert done == stop
        resumed.train(benchmark.train_stream[done])
        results, weighed, samples = state(resumed)
        assert results == expected[done][0]
        assert torch.equal(weighed, expected[done][1])
        assert torch.equal(samples, expected[done][2])


def test_multi_head(make_plugin, task_benchmark, tmp_path):
    file = tmp_path / "checkpoint.pkl"
    torch.manual_seed(0)
    straight = naive(MultiHead(), make_plugin())
    straight.train(task_benchmark.train_stream[0])
    save_checkpoint(straight, file)
    straight.train(task_benchmark.train_stream[1])

    resumed, done = maybe_load_checkpoint(naive(MultiHead(), make_plugin()), file)
    resumed.train(task_benchmark.train_stream[done])
    assert torch.equal(weights(straight.model), weights(resumed.model))
    stream = task_benchmark.test_stream[:2]
    assert _results(straight, stream) == _results(resumed, stream)


def test_no_image_is_in_the_file(benchmark, tmp_path):
    """The bytes of no training image appear in the checkpoint."""
    strategy = naive(mlp(), DGDMNPlugin(**DUAL, seed=0))
    for experience in benchmark.train_stream[:3]:
        strategy.train(experience)
    file = tmp_path / "checkpoint.pkl"
    save_checkpoint(strategy, file)
    content = file.read_bytes()
    for experience in benchmark.train_stream[:3]:
        for image, *_ in (experience.dataset[i] for i in range(0, len(experience.dataset), 7)):
            assert image.numpy().tobytes() not in content


def sgd(net, *plugins):
    """Without momentum, so that an optimizer that begins anew takes the same steps."""
    return naive(net, *plugins, optimizer=torch.optim.SGD(net.parameters(), lr=0.05))


def goes_on_equally(strategy, make_net, plugin, file, stream, following):
    """A memory's file, loaded into a new plugin and model, answers and learns as the saved one."""
    save_memory(strategy.plugins[0], file)
    torch.manual_seed(7)
    net = make_net()
    load_memory(plugin, file, model=net)
    other = sgd(net, plugin)
    found = []
    for one in (strategy, other):
        torch.manual_seed(8)
        before = _results(one, stream)
        one.train(following)
        found.append((before, _results(one, stream), weights(one.model)))
    first, second = found
    assert first[:2] == second[:2]
    assert torch.equal(first[2], second[2])
    samples = [s.plugins[0].method.sample(20).images for s in (strategy, other)]
    assert torch.equal(*samples)


def test_a_memory_in_a_fresh_plugin(make_plugin, benchmark, tmp_path):
    """DGDMN's short-term memory answers for what was not slept on, before anything is learned."""
    torch.manual_seed(0)
    strategy = sgd(mlp(), make_plugin())
    strategy.train(benchmark.train_stream[0])
    plugin = make_plugin(seed=5)
    following, stream = benchmark.train_stream[1], benchmark.test_stream
    goes_on_equally(strategy, mlp, plugin, tmp_path / "memory", stream, following)


@pytest.mark.parametrize("make_net", [Growing, MultiHead])
@pytest.mark.parametrize(
    "make",
    [
        lambda: DGDMNPlugin(**DUAL, seed=0),
        # Its stable network is older than the heads that an evaluation makes.
        lambda: ALTMPlugin(replay="generated", **SMALL, seed=0),
        lambda: LatentReplayPlugin(layer="features", seed=0),
    ],
    ids=["dgdmn", "altm", "latent"],
)
def test_a_memory_of_a_model_that_has_grown(make_net, make, benchmark, task_benchmark, tmp_path):
    stream = task_benchmark if make_net is MultiHead else benchmark
    torch.manual_seed(0)
    strategy = sgd(make_net(), make())
    strategy.train(stream.train_stream[0])
    strategy.eval(stream.test_stream)
    following = stream.train_stream[1]
    goes_on_equally(strategy, make_net, make(), tmp_path / "memory", stream.test_stream, following)


def test_parts_of_the_model_by_object(benchmark, tmp_path):
    def make():
        parts = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU()), nn.Linear(20, 10)
        plugin = LatentReplayPlugin(compressor=parts[0], classifier=parts[1], seed=0)
        return nn.Sequential(*parts), plugin

    net, plugin = make()
    sgd(net, plugin).train(benchmark.train_stream[0])
    save_memory(plugin, tmp_path / "memory")
    net, other = make()
    load_memory(other, tmp_path / "memory", model=net)
    assert torch.equal(other.method.sample(9).images, plugin.method.sample(9).images)
    foreign, _ = make()
    with pytest.raises(CheckpointError, match="not a module of the model"):
        load_memory(make()[1], tmp_path / "memory", model=foreign)


def test_a_model_that_was_given_back_answers_alone(benchmark):
    net, plugin = mlp(), DGDMNPlugin(**DUAL, seed=0)
    strategy = sgd(net, plugin)
    strategy.train(benchmark.train_stream[0])
    assert plugin.finish(strategy) is net
    strategy.eval(benchmark.test_stream[:1])
    assert strategy.model is net


def test_loading_is_final(benchmark, tmp_path):
    """An experience that was interrupted before is not put back later over what was loaded."""
    plugin = DGRPlugin(**SMALL, seed=0)
    strategy = sgd(mlp(), plugin)
    with pytest.raises(CheckpointError, match="first"):
        save_memory(plugin, tmp_path / "memory")
    strategy.train(benchmark.train_stream[0])
    save_memory(plugin, tmp_path / "memory")
    method = plugin.method
    strategy.experience = benchmark.train_stream[1]
    plugin._start(strategy)
    with pytest.raises(CheckpointError, match="An experience is unfinished"):
        save_memory(plugin, tmp_path / "memory")
    load_memory(plugin, tmp_path / "memory")
    assert not method.unfinished
    method.undo()
    expected = DGRPlugin(**SMALL)
    load_memory(expected, tmp_path / "memory", model=mlp())
    assert torch.equal(method.sample(9).images, expected.method.sample(9).images)


def test_a_plugin_is_told_its_model(tmp_path, benchmark):
    strategy = sgd(mlp(), DGRPlugin(**SMALL, seed=0))
    strategy.train(benchmark.train_stream[0])
    save_memory(strategy.plugins[0], tmp_path / "memory")
    with pytest.raises(ConfigError, match="model="):
        load_memory(DGRPlugin(**SMALL), tmp_path / "memory")
