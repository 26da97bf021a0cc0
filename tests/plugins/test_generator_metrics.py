"""Metrics of memories in Avalanche: errors, labels and coverage of replay, sizes and times."""

import pickle
import time

import pytest
import torch
from avalanche.evaluation import PluginMetric
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from torch import nn

from avalanche_dgm import (
    DGDMNPlugin,
    DGRPlugin,
    LatentReplayPlugin,
    cost_metrics,
    generator_metrics,
    memory_metrics,
    sklearn_digits,
)
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.lightning import DGRModule, fit_stream
from avalanche_dgm.metrics import train_reference

pytestmark = pytest.mark.filterwarnings("ignore:No loggers")
SMALL = {"generator_steps": 20, "hidden": (32, 32), "latent": 4}
MSE = "StreamReconstructionMSE/eval_phase/test_stream"
MAE = "StreamReconstructionMAE/eval_phase/test_stream"
REPLAY = ("ReplayCoverage", "ReplayEntropy", "ReplayLabelAgreement")


@pytest.fixture(scope="module")
def benchmark():
    return sklearn_digits(n_experiences=5, seed=0, fraction=0.3)


def images_of(dataset):
    return torch.stack([dataset[i][0] for i in range(len(dataset))])


@pytest.fixture(scope="module")
def reference(benchmark):
    sets = [experience.dataset for experience in benchmark.train_stream]
    images = torch.cat([images_of(dataset) for dataset in sets])
    labels = torch.cat([torch.as_tensor(list(dataset.targets)) for dataset in sets])
    return train_reference(images, labels)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 10))


def strategy(plugin, *metrics, **kwargs):
    net = network()
    return Naive(
        model=net,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.02),
        train_mb_size=32,
        plugins=[plugin] if plugin is not None else [],
        evaluator=EvaluationPlugin(*metrics, loggers=[]),
        **kwargs,
    )


def dgr(**hyper):
    return DGRPlugin(**{**SMALL, "seed": 0, **hyper})


def run(naive, benchmark, n=3):
    """Values after each experience, those of its training and of the test after it."""
    values = []
    for experience in benchmark.train_stream[:n]:
        naive.evaluator.reset_last_metrics()
        naive.train(experience)
        values.append(naive.eval(benchmark.test_stream))
    return values


def differences(method, experiences):
    images = torch.cat([images_of(experience.dataset) for experience in experiences])
    with torch.no_grad():
        made = method.reconstruct(images, torch.zeros(len(images), dtype=torch.int64))
    return images - made


@pytest.mark.parametrize("kind", [DGRPlugin, DGDMNPlugin])
def test_errors_are_those_of_the_learned_test_images(benchmark, kind):
    plugin = kind(**SMALL, seed=0)
    naive = strategy(plugin, generator_metrics(coverage=False), eval_mb_size=17)
    assert naive.eval(benchmark.test_stream) == {}
    for i, experience in enumerate(benchmark.train_stream[:3]):
        naive.train(experience)
        values = naive.eval(benchmark.test_stream)
        off = differences(plugin.method, benchmark.test_stream[: i + 1])
        assert values == {
            MSE: pytest.approx(float(off.square().mean()), rel=1e-4),
            MAE: pytest.approx(float(off.abs().mean()), rel=1e-4),
        }
    # Of a part of the stream, of other streams, and of nothing that was learned.
    last = naive.eval(benchmark.test_stream[1:2])[MSE]
    expected = differences(plugin.method, benchmark.test_stream[1:2]).square().mean()
    assert last == pytest.approx(float(expected), rel=1e-4)
    naive.evaluator.reset_last_metrics()
    assert naive.eval(benchmark.train_stream[:1]) == {}
    assert naive.eval(benchmark.test_stream[4:]) == {}


def test_learned_classes_in_a_joint_test_stream(benchmark):
    plugin = dgr()
    naive = strategy(plugin, generator_metrics())
    whole = sklearn_digits(n_experiences=1, seed=0, fraction=0.3)
    naive.train(benchmark.train_stream[0])
    learned = set(benchmark.train_stream[0].classes_in_this_experience)
    test = whole.test_stream[0]
    mine = torch.tensor([int(label) in learned for label in test.dataset.targets])
    off = differences(plugin.method, [test])[mine]
    assert naive.eval(whole.test_stream)[MSE] == pytest.approx(float(off.square().mean()), rel=1e-4)


def test_methods_that_do_not_reconstruct_report_no_error(benchmark):
    plugin = LatentReplayPlugin(per_class=5, layer="1", seed=0)
    for memory in (plugin, None):
        values = run(strategy(memory, generator_metrics()), benchmark, n=2)
        assert not {MSE, MAE} & set(values[-1])


def test_coverage_is_that_of_the_record(benchmark):
    plugin = dgr()
    values = run(strategy(plugin, generator_metrics()), benchmark)
    assert not set(REPLAY) & set(values[0]), "there was nothing to replay"
    known = {c for e in benchmark.train_stream[:2] for c in e.classes_in_this_experience}
    counts = {c: n for c, n in plugin.stats.histogram.items() if c in known}
    assert values[2]["ReplayCoverage"] == pytest.approx(len(counts) / len(known))
    shares = torch.tensor([counts.get(c, 0) for c in known]).double()
    entropy = torch.special.entr(shares / shares.sum()).sum() / torch.tensor(len(known)).log()
    assert values[2]["ReplayEntropy"] == pytest.approx(float(entropy), rel=1e-5)
    assert "ReplayLabelAgreement" not in values[2]


def test_agreement_of_real_samples_is_the_reference_s_accuracy(benchmark, reference):
    """What a memory stores is real: a reference that knows it agrees; what is noise it does not."""
    from avalanche_dgm import ALTMPlugin, PseudoRehearsalPlugin

    values = {}
    for kind, hyper in ((ALTMPlugin, {"replay": "stored", "per_class": 8}), (DGRPlugin, SMALL)):
        plugin = kind(**hyper, seed=0)
        metrics = generator_metrics(reference=reference, reconstruction=False)
        values[kind] = [
            v["ReplayLabelAgreement"] for v in run(strategy(plugin, metrics), benchmark)
        ]
        assert len(values[kind]) == 3
    assert min(values[ALTMPlugin]) > 0.9
    assert all(0 <= value <= 1 for value in values[DGRPlugin])
    latents = LatentReplayPlugin(per_class=5, layer="1", seed=0)
    for plugin in (latents, None):
        found = run(strategy(plugin, generator_metrics(reference=reference)), benchmark, n=1)[-1]
        assert "ReplayLabelAgreement" not in found
    noise = PseudoRehearsalPlugin(seed=0)
    found = run(strategy(noise, generator_metrics(reference=reference)), benchmark, n=1)[-1]
    assert found["ReplayLabelAgreement"] < 0.6


@pytest.mark.parametrize("seed", [0, None])
@pytest.mark.parametrize("kind", [DGRPlugin, DGDMNPlugin])
def test_what_is_learned_is_the_same(benchmark, reference, kind, seed):
    states = []
    for metrics in ([], [generator_metrics(reference=reference), cost_metrics(), memory_metrics()]):
        plugin = kind(**SMALL, seed=seed)
        naive = strategy(plugin, *metrics, eval_every=1)
        for experience in benchmark.train_stream[:2]:
            naive.train(experience, eval_streams=[benchmark.test_stream[:2]])
            naive.eval(benchmark.test_stream[:2])
        weights = [*naive.model.parameters(), *plugin.method.parameters()]
        states.append(torch.cat([p.detach().flatten() for p in weights]))
        states.append(torch.rand(3))
        states.append(torch.rand(3, generator=plugin.method.rng))
    for plain, watched in zip(states[:3], states[3:], strict=True):
        assert torch.equal(plain, watched)


def test_metrics_continue_from_a_pickle(benchmark):
    plugin = dgr()
    metrics = generator_metrics()
    naive = strategy(plugin, metrics)
    run(naive, benchmark, n=2)
    again = [pickle.loads(pickle.dumps(metric)) for metric in metrics]
    expected = naive.eval(benchmark.test_stream)[MSE]
    naive.evaluator.metrics = again
    naive.evaluator.reset_last_metrics()
    assert naive.eval(benchmark.test_stream)[MSE] == expected
    assert again[0].result() == {
        MSE.split("/")[0]: expected,
        MAE.split("/")[0]: pytest.approx(metrics[0].result()["StreamReconstructionMAE"]),
    }
    again[0].reset()
    naive.evaluator.reset_last_metrics()
    assert naive.eval(benchmark.test_stream) == {}


class Slow(PluginMetric):
    """Takes its time in evaluations, and where batches are trained on."""

    def before_eval_exp(self, strategy):
        time.sleep(0.05)

    def after_training_iteration(self, strategy):
        time.sleep(0.01)

    def result(self, **kwargs):
        return None

    def reset(self, **kwargs):
        pass


def test_times_and_speed(benchmark):
    plugin = dgr()
    (metric,) = cost_metrics()
    naive = strategy(plugin, metric, Slow(), eval_every=1)
    for experience in benchmark.train_stream[:2]:
        started = time.perf_counter()
        values = naive.train(experience, eval_streams=[benchmark.test_stream])
        passed = time.perf_counter() - started
        n = len(experience.dataset)
        batches = -(-n // 32)
        assert 0.01 * batches < values["LearnSeconds"]
        # Two evaluations of five experiences took place within.
        assert values["LearnSeconds"] < passed - 2 * 5 * 0.05
        speed = n / values["LearnSeconds"]
        assert values["SamplesPerSecond"] == pytest.approx(speed)
        phases = {k: v for k, v in values.items() if k.startswith("PhaseSeconds/")}
        assert phases == {"PhaseSeconds/generator": plugin.stats.phase_seconds["generator"]}
        assert sum(phases.values()) < values["LearnSeconds"]
    assert metric.result()["SamplesPerSecond"] == values["SamplesPerSecond"]
    again = pickle.loads(pickle.dumps(metric))
    naive.evaluator.metrics = [again]
    naive.evaluator.reset_last_metrics()
    values = naive.train(benchmark.train_stream[2])
    assert values["LearnSeconds"] > 0
    metric.reset()
    assert metric.result() == {}


def test_a_plain_network_has_times_and_no_phases(benchmark):
    values = strategy(None, cost_metrics()).train(benchmark.train_stream[0])
    assert set(values) == {"LearnSeconds", "SamplesPerSecond"}


def test_sizes(benchmark):
    plugin = LatentReplayPlugin(per_class=5, layer="1", seed=0)
    values = strategy(plugin, memory_metrics()).train(benchmark.train_stream[0])
    assert values["StoredSamples"] == plugin.method.stored_samples() == 10
    assert values["MemoryParameters"] == 0
    generated = dgr()
    values = strategy(generated, memory_metrics()).train(benchmark.train_stream[0])
    assert values["StoredSamples"] == 0
    generator = generated.method.ltm.generator
    assert values["MemoryParameters"] == sum(p.numel() for p in generator.parameters())


def test_under_a_trainer(benchmark, reference):
    evaluator = EvaluationPlugin(
        generator_metrics(reference=reference), cost_metrics(), memory_metrics(), loggers=[]
    )
    module = DGRModule(network(), seed=0, **SMALL)
    trainer = {"accelerator": "cpu", "enable_progress_bar": False}
    result = fit_stream(module, benchmark, trainer=trainer, batch_size=32, evaluator=evaluator)
    values = result.metrics[-1]
    off = differences(module.method, benchmark.test_stream).square().mean()
    assert values[MSE] == pytest.approx(float(off), rel=1e-4)
    assert {"LearnSeconds", "SamplesPerSecond", "PhaseSeconds/generator", *REPLAY} <= set(values)
    assert values["LearnSeconds"] == pytest.approx(result.seconds[-1], rel=0.2)
    assert values["SamplesPerSecond"] == pytest.approx(result.shown[-1] / values["LearnSeconds"])


def test_errors_of_use(reference):
    with pytest.raises(ConfigError, match="per_class=0"):
        generator_metrics(reference=reference, per_class=0)
    assert generator_metrics(reconstruction=False, coverage=False) == []
    names = [str(metric) for metric in generator_metrics(reference=reference)]
    assert names == ["StreamReconstruction", "ReplayQuality", "ReplayAgreement"]
