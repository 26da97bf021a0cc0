"""Memories that are GANs, in Avalanche: who answers, what is left alone, what is refused."""

import pytest
import torch
from nets import Growing, MultiHead

from avalanche_dgm import (
    DGDMNPlugin,
    DynamicMemory,
    DynamicMemoryPlugin,
    EWCGenerator,
    EWCGeneratorPlugin,
    GANReplay,
    GANReplayPlugin,
    MeRGAN,
    MeRGANPlugin,
    maybe_load_checkpoint,
    save_checkpoint,
    sklearn_digits,
)
from avalanche_dgm.errors import ConfigError, LabelError
from avalanche_dgm.plugins.wrapped import WrappedModel

from .conftest import GAN, MASKED, mlp, naive, weights

CONDITIONAL = {**GAN, "class_inputs": 10}
PLUGINS = [
    (DynamicMemoryPlugin, MASKED),
    (DynamicMemoryPlugin, {**MASKED, "masking": "weights"}),
    (MeRGANPlugin, CONDITIONAL),
    (EWCGeneratorPlugin, {**CONDITIONAL, "fisher_samples": 4}),
    (GANReplayPlugin, CONDITIONAL),
]
EACH = pytest.mark.parametrize(("kind", "hyper"), PLUGINS)
BOTH = pytest.mark.parametrize("classifier", ["learner", "discriminator"])


def images_of(experience):
    dataset = experience.dataset.eval()
    return torch.stack([dataset[i][0] for i in range(len(dataset))])


@EACH
def test_the_discriminator_answers_and_the_model_learns_nothing(kind, hyper, benchmark):
    net = mlp()
    before = weights(net).clone()
    plugin = kind(**hyper, classifier="discriminator")
    strategy = naive(net, plugin, epochs=3)
    optimised = {id(p) for group in strategy.optimizer.param_groups for p in group["params"]}
    for experience in benchmark.train_stream[:2]:
        strategy.train(experience)
    assert isinstance(strategy.model, WrappedModel)
    assert strategy.model.model is net
    assert torch.equal(weights(net), before)
    assert optimised == {id(p) for g in strategy.optimizer.param_groups for p in g["params"]}
    assert not optimised & {id(p) for p in plugin.method.deployed.parameters()}
    assert plugin.stats.replayed == 0
    assert len(strategy.eval(benchmark.test_stream)) > 0

    images = images_of(benchmark.test_stream[0])
    strategy.model.eval()
    with torch.no_grad():
        answers = strategy.model(images)
        method = plugin.method
        discriminator = method.deployed.eval().classify(method.generator.scaler.transform(images))
    assert answers.shape == (len(images), 10)
    known = method.generator.classes.rows[:, 2]
    torch.testing.assert_close(answers[:, known], discriminator)
    assert answers.argmax(dim=1).max() < 4, "what was not learned is never the answer"


def test_the_answers_are_what_is_evaluated():
    stream = sklearn_digits(n_experiences=5, seed=0, n_train_per_class=60)
    plugin = DynamicMemoryPlugin(
        **{**MASKED, "discriminator_finetune_epochs": 15}, classifier="discriminator"
    )
    strategy = naive(mlp(), plugin)
    strategy.train(stream.train_stream[0])
    result = strategy.eval(stream.test_stream[:1])
    (accuracy,) = [v for k, v in result.items() if "Top1_Acc_Stream" in k]
    images = images_of(stream.test_stream[0])
    labels = torch.tensor(stream.test_stream[0].dataset.targets)
    answers = plugin.method.predict(images, torch.zeros(len(images), dtype=torch.int64))
    assert accuracy == pytest.approx(float((answers.argmax(dim=1) == labels).float().mean()))
    assert accuracy > 0.9


def test_finish_gives_the_model_back(benchmark):
    net = mlp()
    plugin = DynamicMemoryPlugin(**MASKED, classifier="discriminator")
    strategy = naive(net, plugin)
    strategy.train(benchmark.train_stream[0])
    assert plugin.finish(strategy) is net
    assert strategy.model is net
    strategy.eval(benchmark.test_stream[:1])
    # And it may go on.
    strategy.train(benchmark.train_stream[1])
    assert strategy.model.model is net


@EACH
def test_a_model_that_learns_is_left_alone(kind, hyper, benchmark):
    net = mlp()
    plugin = kind(**hyper)
    strategy = naive(net, plugin)
    before = weights(net).clone()
    for experience in benchmark.train_stream[:2]:
        strategy.train(experience)
        assert strategy.model is net
    assert not torch.equal(weights(net), before)
    assert set(plugin.stats.histogram) >= {0, 1}
    assert plugin.finish(strategy) is net


@BOTH
@pytest.mark.parametrize("net", [Growing, MultiHead])
def test_models_that_grow(net, classifier, benchmark, task_benchmark):
    stream = task_benchmark if net is MultiHead else benchmark
    plugin = DynamicMemoryPlugin(**MASKED, classifier=classifier)
    strategy = naive(net(), plugin)
    for experience in stream.train_stream[:3]:
        strategy.train(experience)
    strategy.eval(stream.test_stream[:3])
    entries = plugin.method.generator.classes.rows
    assert len(entries) == 6
    assert len(entries[:, 1].unique()) == (3 if net is MultiHead else 1)
    for experience in stream.test_stream[:3]:
        images = images_of(experience)
        tasks = torch.full((len(images),), experience.task_labels[0])
        strategy.model.eval()
        answers = plugin.method.predict(images, tasks).argmax(dim=1)
        if net is MultiHead and classifier == "discriminator":
            own = entries[entries[:, 1] == experience.task_labels[0], 2]
            assert set(answers.tolist()) <= set(own.tolist())


@BOTH
def test_several_classes_an_experience_and_one(classifier):
    """Five, and one at a time."""
    for n in (2, 10):
        stream = sklearn_digits(n_experiences=n, seed=0, n_train_per_class=20)
        plugin = DynamicMemoryPlugin(**MASKED, classifier=classifier)
        strategy = naive(mlp(), plugin)
        for experience in stream.train_stream[:2]:
            strategy.train(experience)
        strategy.eval(stream.test_stream)
        known = plugin.method.sample(20)
        assert known.labels.unique().tolist() == list(range(20 // n))
        assert known.images.shape == (20, 1, 8, 8)


@BOTH
def test_a_class_that_comes_back_changes_nothing(classifier, benchmark):
    net = mlp()
    plugin = DynamicMemoryPlugin(**MASKED, classifier=classifier)
    strategy = naive(net, plugin)
    strategy.train(benchmark.train_stream[0])
    method = plugin.method
    before = {k: v.clone() for k, v in method.state_dict().items() if torch.is_tensor(v)}
    with pytest.raises(LabelError, match="has the classes 0, 1"):
        strategy.train(benchmark.train_stream[0])
    after = method.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert method.experiences == 1
    strategy.train(benchmark.train_stream[1])
    assert method.experiences == 2


@EACH
@BOTH
def test_a_checkpoint_restores_what_has_grown(kind, hyper, classifier, benchmark, tmp_path):
    def fresh():
        return naive(mlp(), kind(**hyper, classifier=classifier))

    torch.manual_seed(0)
    straight, path = fresh(), tmp_path / "checkpoint.pkl"
    for experience in benchmark.train_stream[:2]:
        straight.train(experience)
    save_checkpoint(straight, path)
    straight.train(benchmark.train_stream[2])

    torch.manual_seed(5)
    resumed, done = maybe_load_checkpoint(fresh(), path)
    assert done == 2
    resumed.train(benchmark.train_stream[2])
    one, two = (s.plugins[0].method.state_dict() for s in (straight, resumed))
    assert one.keys() == two.keys()
    tensors = [key for key in one if torch.is_tensor(one[key])]
    assert all(torch.equal(one[key], two[key]) for key in tensors)
    assert torch.equal(weights(straight.model), weights(resumed.model))
    first, second = (s.plugins[0].method.sample(12).images for s in (straight, resumed))
    assert torch.equal(first, second)
    first, second = (s.eval(benchmark.test_stream[:3]) for s in (straight, resumed))
    assert first == second


def test_a_masked_generator_has_grown_and_a_checkpoint_knows_its_shape(benchmark, tmp_path):
    strategy = naive(mlp(), DynamicMemoryPlugin(**MASKED))
    shapes = []
    for experience in benchmark.train_stream[:3]:
        strategy.train(experience)
        state = strategy.plugins[0].method.generator.state_dict()
        shapes.append({k: v.shape for k, v in state.items() if torch.is_tensor(v)})
    assert shapes[0] != shapes[2]
    path = tmp_path / "checkpoint.pkl"
    save_checkpoint(strategy, path)
    loaded, _ = maybe_load_checkpoint(naive(mlp(), DynamicMemoryPlugin(**MASKED)), path)
    state = loaded.plugins[0].method.generator.state_dict()
    assert {k: v.shape for k, v in state.items() if torch.is_tensor(v)} == shapes[2]


def test_two_that_answer_in_place_of_one_model_are_refused(benchmark):
    discriminator = DynamicMemoryPlugin(**MASKED, classifier="discriminator")
    for pair in ([discriminator], [DGDMNPlugin(generator_steps=5, hidden=(8,), latent=4)]):
        other = DynamicMemoryPlugin(**MASKED, classifier="discriminator")
        strategy = naive(mlp(), *pair, other)
        with pytest.raises(ConfigError, match="among its plugins"):
            strategy.train(benchmark.train_stream[0])


@pytest.mark.parametrize(
    ("kind", "hyper"),
    [
        (DynamicMemory, MASKED),
        (MeRGAN, {**CONDITIONAL, "replay": "alignment"}),
        (EWCGenerator, {**CONDITIONAL, "fisher_samples": 4}),
        (GANReplay, CONDITIONAL),
    ],
)
def test_ready_strategies(kind, hyper, benchmark):
    net = mlp()
    strategy = kind(
        model=net,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.1),
        train_mb_size=64,
        evaluator=None,
        classifier="discriminator",
        **hyper,
    )
    strategy.train(benchmark.train_stream[0])
    assert strategy.replay_plugin.method.experiences == 1
    assert isinstance(strategy.model, WrappedModel)


def test_settings_that_cannot_work():
    with pytest.raises(ConfigError, match="classifier='judge'"):
        DynamicMemoryPlugin(classifier="judge")
    with pytest.raises(ConfigError, match="smx"):
        DynamicMemoryPlugin(smx=1e3)
    with pytest.raises(ConfigError, match="class_inputs"):
        MeRGANPlugin(latent=8, class_inputs=8)
