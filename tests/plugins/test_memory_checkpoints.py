"""Stopping at any experience boundary and going on, with each of our plugins."""

from __future__ import annotations

import pytest
import torch
from nets import MultiHead

from avalanche_dgm import maybe_load_checkpoint, save_checkpoint

from .conftest import mlp, naive, weights


def _results(strategy, stream):
    return {k: v for k, v in strategy.eval(stream).items() if "Acc" in k or "Loss" in k}


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_continuing_equals_not_stopping(make_plugin, benchmark, tmp_path, stop_after):
    file = tmp_path / "checkpoint.pkl"

    def fresh():
        net = mlp()
        return naive(net, make_plugin(), optimizer=torch.optim.Adam(net.parameters(), lr=1e-3))

    torch.manual_seed(0)
    straight = fresh()
    for i, experience in enumerate(benchmark.train_stream[:4], start=1):
        straight.train(experience)
        if i == stop_after:
            save_checkpoint(straight, file)
    expected = _results(straight, benchmark.test_stream)

    torch.manual_seed(99)
    resumed, done = maybe_load_checkpoint(fresh(), file)
    assert done == stop_after
    for experience in benchmark.train_stream[done:4]:
        resumed.train(experience)
    assert torch.equal(weights(straight.model), weights(resumed.model))
    assert _results(resumed, benchmark.test_stream) == expected
    first, second = straight.plugins[0].method, resumed.plugins[0].method
    assert torch.equal(first.sample(20).images, second.sample(20).images)


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
    from avalanche_dgm import DGDMNPlugin

    from .conftest import DUAL

    strategy = naive(mlp(), DGDMNPlugin(**DUAL, seed=0))
    for experience in benchmark.train_stream[:3]:
        strategy.train(experience)
    file = tmp_path / "checkpoint.pkl"
    save_checkpoint(strategy, file)
    content = file.read_bytes()
    for experience in benchmark.train_stream[:3]:
        for image, *_ in (experience.dataset[i] for i in range(0, len(experience.dataset), 7)):
            assert image.numpy().tobytes() not in content
