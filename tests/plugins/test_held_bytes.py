"""What strategies hold, by another count than the package's: pickles, and images one by one."""

import random

import numpy as np
import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import make_avalanche_dataset
from avalanche.benchmarks.utils.data_attribute import DataAttribute
from avalanche.training.plugins import (
    AGEMPlugin,
    EvaluationPlugin,
    EWCPlugin,
    GDumbPlugin,
    LwFPlugin,
    ReplayPlugin,
    SynapticIntelligencePlugin,
)
from avalanche.training.supervised import Naive
from nets import MultiHead
from pickled_tensors import tensors_in
from torch import nn
from torch.utils.data import Dataset

from avalanche_dgm import (
    ALTMPlugin,
    maybe_load_checkpoint,
    memory_metrics,
    save_checkpoint,
    sklearn_digits,
)
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments import ExperimentConfig, RunResult
from avalanche_dgm.experiments.results import Step
from avalanche_dgm.experiments.sweep import buffer_of
from avalanche_dgm.held import held_bytes, image_bytes
from avalanche_dgm.plugins.byte_replay import ByteDER, ByteReplayPlugin

pytestmark = pytest.mark.filterwarnings("ignore:No loggers", "ignore::DeprecationWarning")
IMAGE = 64 * 4


@pytest.fixture(scope="module")
def benchmark():
    return sklearn_digits(n_experiences=5, seed=0, fraction=0.3)


def strategy(*plugins):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))
    return Naive(
        model=net,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.02),
        train_mb_size=32,
        plugins=list(plugins),
        evaluator=EvaluationPlugin(memory_metrics(), loggers=[]),
    )


def trained(benchmark, *plugins, n=2):
    naive = strategy(*plugins)
    for experience in list(benchmark.train_stream)[:n]:
        naive.train(experience)
    return naive, naive.evaluator.get_last_metrics()


def model_bytes(naive):
    return sum(t.nbytes for t in naive.model.state_dict().values())


def test_nothing_is_held_by_a_plain_network(benchmark):
    _, found = trained(benchmark)
    assert found == {"MemoryBytes": 0, "PeakMemoryBytes": 0}


@pytest.mark.parametrize("make", [ReplayPlugin, GDumbPlugin])
def test_images_of_a_buffer(make, benchmark):
    naive, found = trained(benchmark, make(mem_size=30))
    buffer = naive.plugins[0].storage_policy.buffer
    images = {tuple(x.flatten().tolist()) for x, *_ in buffer}
    assert len(images) == len(buffer) == 30
    # Beside the images, a weight of each for the reservoir; GDumb's untrained model, too.
    tensors = sum(t.nbytes for t in tensors_in([g._buffer_weights for g in groups(naive)]))
    model = model_bytes(naive) if make is GDumbPlugin else 0
    assert found["MemoryBytes"] == 30 * IMAGE + tensors + model
    assert found["PeakMemoryBytes"] >= found["MemoryBytes"]


@pytest.mark.parametrize("budget", [IMAGE + 4, 5000, 10**9])
def test_a_budget_of_bytes(budget, benchmark):
    plugin = ByteReplayPlugin(memory_budget=budget)
    _, found = trained(benchmark, plugin)
    learned = sum(len(e.dataset) for e in list(benchmark.train_stream)[:2])
    assert len(plugin.storage_policy.buffer) == min(budget // (IMAGE + 4), learned)
    assert found["MemoryBytes"] == len(plugin.storage_policy.buffer) * (IMAGE + 4) <= budget


def test_a_budget_must_hold_an_image(benchmark):
    with pytest.raises(ConfigError, match="256 bytes"):
        trained(benchmark, ByteReplayPlugin(memory_budget=100))
    with pytest.raises(ConfigError, match="memory_budget"):
        ByteReplayPlugin(memory_budget=0)


def with_der(benchmark, n=3, **options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))
    strategy = ByteDER(
        model=net,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.05),
        train_mb_size=16,
        train_epochs=10,
        evaluator=EvaluationPlugin(memory_metrics(), loggers=[]),
        **options,
    )
    for experience in list(benchmark.train_stream)[:n]:
        strategy.train(experience)
    return strategy, strategy.evaluator.get_last_metrics().get("MemoryBytes")


@pytest.mark.parametrize("budget", [10 * (IMAGE + 44), 5000, 10**9])
def test_logits_stored_beside_images_count(budget, benchmark):
    """Ten of four bytes each; and the budget holds them."""
    strategy, found = with_der(benchmark, memory_budget=budget)
    learned = sum(len(e.dataset) for e in list(benchmark.train_stream)[:3])
    stored = strategy.storage_policy.buffer
    assert len(stored) == min(budget // (IMAGE + 44), learned)
    assert found == len(stored) * (IMAGE + 44) <= budget
    # By another count: what a sample of the buffer consists of.
    assert found == sum(4 + x.nbytes + logits.nbytes for x, _, _, logits in stored)


def test_a_memory_smaller_than_a_batch_of_replay_is_replayed(benchmark):
    small = {"memory_budget": 12 * (IMAGE + 44), "batch_size_mem": 16}
    strategy, _ = with_der(benchmark, n=2, **small)
    without, _ = with_der(benchmark, n=2, **small, alpha=0.0, beta=0.0)
    weights = [s.model.state_dict()["3.weight"] for s in (strategy, without)]
    assert len(strategy.storage_policy.buffer) == 12
    assert not torch.equal(*weights)


def test_der_goes_on_from_a_checkpoint(benchmark, tmp_path):
    settings = {"memory_budget": "10kB", "batch_size_mem": 64}
    whole, _ = with_der(benchmark, n=2, **settings)
    save_checkpoint(whole, tmp_path / "der.pt")
    loaded, _ = with_der(benchmark, n=0, **settings)
    loaded, n = maybe_load_checkpoint(loaded, tmp_path / "der.pt", stream=benchmark.train_stream)
    assert n == 2
    for strategy in (whole, loaded):
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        strategy.train(benchmark.train_stream[2])
    one, two = (s.model.state_dict() for s in (whole, loaded))
    assert all(torch.equal(value, two[key]) for key, value in one.items())
    assert held_bytes(whole) == held_bytes(loaded) <= 10_000


def test_der_refuses_what_it_cannot_store(benchmark):
    with pytest.raises(ConfigError, match="296 bytes"):
        with_der(benchmark, memory_budget=200)
    for fewer in ({"mem_size": 9}, {"memory_budget": 9 * (IMAGE + 44)}):
        with pytest.raises(ConfigError, match="9 images are fewer than 10 classes"):
            with_der(benchmark, n=1, **fewer)
    with pytest.raises(ConfigError, match="memory_budget"):
        with_der(benchmark, memory_budget=0)
    with pytest.raises(ConfigError, match="one head"):
        ByteDER(model=MultiHead())


def test_a_buffer_as_large_as_a_memory():
    """The config that stands beside a generative method: the same run, but for what remembers."""
    own = ExperimentConfig.create("dgr", "sklearn-digits", seed=3, method_options={"latent": 4})
    result = RunResult(own, ["a"], [0], [Step(0, [0.5], memory_bytes=7000)])
    found = buffer_of(result)
    assert (found.method, found.method_options) == ("replay", {"memory_budget": 7000})
    other = buffer_of(result, "der++")
    assert (other.method, other.method_options) == ("der++", {"memory_budget": 7000})
    assert (found.seed, found.stream, found.epochs) == (3, own.stream, own.epochs)
    result.steps[0].memory_bytes = None
    assert buffer_of(result) is None
    plain = ExperimentConfig.create("der++", "sklearn-digits")
    assert buffer_of(RunResult(plain, ["a"], [0], [Step(0, [0.5], memory_bytes=7000)])) is None


def groups(naive):
    return naive.plugins[0].storage_policy.buffer_groups.values()


def test_weights_importances_and_copies(benchmark):
    for plugin, copies in (
        (EWCPlugin(ewc_lambda=1.0), 4),
        (EWCPlugin(ewc_lambda=1.0, mode="online", decay_factor=0.5), None),
        (LwFPlugin(), 1),
        (SynapticIntelligencePlugin(si_lambda=1.0), None),
    ):
        naive, found = trained(benchmark, plugin)
        theirs = {t.data_ptr() for t in naive.model.state_dict().values()}
        held = [t for t in tensors_in(vars(plugin)) if t.data_ptr() not in theirs]
        assert found["MemoryBytes"] == sum(t.nbytes for t in held) > 0
        if copies is not None:
            assert found["MemoryBytes"] == copies * model_bytes(naive)


def test_an_image_in_several_buffers_counts_once(benchmark):
    naive, found = trained(benchmark, ReplayPlugin(mem_size=30), AGEMPlugin(20, 10), n=1)
    kept = [len(d) for d in naive.plugins[1].buffers]
    weights = sum(g._buffer_weights.nbytes for g in groups(naive))
    assert 30 * IMAGE < found["MemoryBytes"] - weights <= (30 + sum(kept)) * IMAGE
    dataset = benchmark.train_stream[0].dataset
    both = [dataset.subset(range(10)), dataset.subset(range(5, 12))]
    assert held_bytes(both) == 12 * IMAGE


def test_with_a_plugin_of_ours(benchmark):
    ours = ALTMPlugin(replay="stored", per_class=5, seed=0)
    _, alone = trained(benchmark, ours)
    assert alone["MemoryBytes"] == ours.memory_bytes() > 4 * 5 * IMAGE
    assert alone["PeakMemoryBytes"] > alone["MemoryBytes"]
    other = ALTMPlugin(replay="stored", per_class=5, seed=0)
    naive, both = trained(benchmark, other, LwFPlugin())
    assert both["MemoryBytes"] == alone["MemoryBytes"] + model_bytes(naive)


class Pixels(Dataset):
    """Images of one byte a pixel, which items are floats of."""

    def __init__(self, n):
        self.data = np.zeros((n, 8, 8), dtype=np.uint8)
        self.targets = [i % 2 for i in range(n)]

    def __len__(self):
        return len(self.data)

    def __getitem__(self, i):
        return torch.from_numpy(self.data[i] / 255).float().unsqueeze(0), self.targets[i]


class Riddle(Pixels):
    """Images that nothing is known of."""

    data = None

    def __init__(self, n):
        self.targets = [0] * n

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        return object(), 0


def stored(source):
    targets = DataAttribute(source.targets, "targets", use_in_getitem=True)
    return make_avalanche_dataset(source, data_attributes=[targets])


def test_images_are_as_large_as_they_are_stored():
    dataset = stored(Pixels(20)).subset(range(7))
    assert image_bytes(dataset) == 64
    assert held_bytes(dataset) == 7 * 64
    assert held_bytes({"buffer": [dataset, torch.zeros(3)]}) == 7 * 64 + 12
    view = torch.zeros(100)
    assert held_bytes([view[:10], view[10:20], view]) == 400
    assert held_bytes(benchmark_from_datasets(train=[dataset]).train_stream[0].dataset) == 448


def test_what_is_not_known_is_not_said():
    assert held_bytes([stored(Riddle(5)), torch.zeros(2)]) is None
