"""Latent replay inside Avalanche's loop: what the loop sees, and what it costs."""

from __future__ import annotations

import copy

import pytest
import torch
from avalanche.benchmarks.scenarios.online import split_online_stream
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import ReplayPlugin
from avalanche.training.supervised import Naive
from torch import nn
from torch.utils.data import DataLoader, WeightedRandomSampler

from avalanche_dgm import LatentReplayPlugin, LatentReplayStrategy, latent_split, sklearn_digits
from avalanche_dgm.errors import CapacityError, ConfigError, UnsupportedModelError
from avalanche_dgm.plugins.loop import PreparedBatches
from avalanche_dgm.plugins.wrapped import WrappedModel

from .conftest import naive


def parts(seed=0):
    torch.manual_seed(seed)
    compressor = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ELU(), nn.MaxPool2d(2)
    )
    classifier = nn.Sequential(
        nn.Flatten(), nn.Linear(128, 64), nn.BatchNorm1d(64), nn.ELU(), nn.Linear(64, 10)
    )
    return compressor, classifier


def convolutional(seed=0):
    return nn.Sequential(*parts(seed))


@pytest.fixture(scope="module")
def halves():
    """Real digits in two experiences of five."""
    return latent_split(dataset="sklearn-digits", case=1, seed=0)


class Spy(SupervisedPlugin):
    """Notes what the loop trains on, and how often the compressor runs."""

    def __init__(self, model):
        super().__init__()
        self.shapes, self.encoded, self.loaders = [], [], []
        model[0].register_forward_hook(self.count)

    def count(self, module, inputs, output):
        self.encoded.append(len(output))

    def before_training_epoch(self, strategy, **kwargs):
        self.loaders.append(type(strategy.dataloader))

    def after_forward(self, strategy, **kwargs):
        self.shapes.append(tuple(strategy.mb_x.shape))


def accuracies(strategy, stream):
    results = strategy.eval(stream)
    return [v for k, v in sorted(results.items()) if "Top1_Acc_Exp" in k]


def learn(benchmark, *plugins, model=None, epochs=12, **kwargs):
    model = model if model is not None else convolutional()
    torch.manual_seed(0)
    strategy = naive(model, *plugins, epochs=epochs, **kwargs)
    for experience in benchmark.train_stream:
        strategy.train(experience)
    old, new = accuracies(strategy, benchmark.test_stream)
    return strategy, old, new


def test_old_digits_stay_known(halves):
    """And are forgotten by the same strategy without the plugin."""
    _, old, new = learn(halves)
    assert new > 0.95
    assert old < 0.1
    for settings in ({"per_class": 20}, {"memory": "density"}):
        _, old, new = learn(halves, LatentReplayPlugin(seed=0, **settings))
        assert new > 0.9
        assert old > 0.85


@pytest.mark.parametrize("schedule", ["mixed", "alternating"])
def test_the_loop_is_given_latents_once_the_compressor_is_frozen(halves, schedule):
    model = convolutional()
    spy = Spy(model)
    strategy = naive(model, LatentReplayPlugin(seed=0, schedule=schedule), spy, epochs=3)
    first, second = halves.train_stream
    strategy.train(first)
    assert {shape[1:] for shape in spy.shapes} == {(1, 8, 8)}
    spy.shapes.clear(), spy.encoded.clear(), spy.loaders.clear()
    strategy.train(second)
    assert {shape[1:] for shape in spy.shapes} == {(8, 4, 4)}
    assert sum(shape[0] for shape in spy.shapes) == 3 * len(second.dataset)
    assert set(spy.loaders) == {PreparedBatches}
    # Once before the epochs; besides, some to check the cut, and what is stored at the end.
    assert spy.encoded.count(len(second.dataset)) == 1
    assert sum(n for n in spy.encoded if n > 4) < 1.2 * len(second.dataset)


def test_an_alternating_step_on_old_latents_follows_each_new_one(halves):
    plugin = LatentReplayPlugin(seed=0, schedule="alternating")
    model = convolutional()
    strategy = naive(model, plugin, epochs=2)
    first, second = halves.train_stream
    strategy.train(first)
    steps, answered, answer = [], [], plugin.method.split.answer
    step = strategy.optimizer.step
    strategy.optimizer.step = lambda *a, **k: steps.append(1) or step(*a, **k)

    def noted(x, tasks, model=None):
        if model is None:  # Otherwise the former classifier's, for the labels of replay.
            answered.append(len(x))
        return answer(x, tasks, model=model)

    plugin.method.split.answer = noted
    strategy.train(second)
    batches = -(-len(second.dataset) // 64)
    assert len(steps) == 2 * 2 * batches
    assert answered[::2] == answered[1::2]
    assert plugin.stats.replayed == 2 * len(second.dataset)


def test_the_compressor_never_changes_again(halves):
    model = convolutional()
    strategy = naive(model, LatentReplayPlugin(seed=0, encode_once=False), epochs=2)
    strategy.train(halves.train_stream[0])
    before = copy.deepcopy(model[0].state_dict())
    rest = copy.deepcopy(model[1].state_dict())
    strategy.train(halves.train_stream[1])
    strategy.eval(halves.test_stream)
    assert all(torch.equal(before[k], v) for k, v in model[0].state_dict().items())
    assert not any(torch.equal(rest[k], v) for k, v in model[1].state_dict().items())


def test_encoding_on_the_way_ends_the_same(halves):
    ends = []
    for once in (True, False):
        plugin = LatentReplayPlugin(seed=0, encode_once=once)
        strategy = naive(convolutional(), plugin, epochs=2)
        for experience in halves.train_stream:
            strategy.train(experience, shuffle=False)
        ends.append(plugin.finish(strategy).state_dict())
    for key, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][key])


class Flipping:
    """Turns images upside down, at random and in training only."""

    def __call__(self, image):
        return image.flip(-2) if torch.rand(()) < 0.5 else image


def test_augmented_experiences_are_encoded_on_the_way():
    benchmark = sklearn_digits(n_experiences=5, seed=0)
    model = convolutional()
    spy, plugin = Spy(model), LatentReplayPlugin(seed=0)
    strategy = naive(model, plugin, spy, epochs=2)
    for experience in benchmark.train_stream[:2]:
        group = (Flipping(), None)
        experience._dataset = experience.dataset.replace_current_transform_group(group)
        spy.shapes.clear(), spy.encoded.clear(), spy.loaders.clear()
        strategy.train(experience)
    assert PreparedBatches not in spy.loaders
    assert {shape[1:] for shape in spy.shapes} == {(8, 4, 4)}
    assert spy.encoded.count(64) > 4
    assert strategy.eval(benchmark.test_stream[:2])


def test_samples_of_other_plugins_are_not_lost(halves):
    """Avalanche's own replay brings images of the first experience: they are encoded, too."""
    for order in (slice(None), slice(None, None, -1)):
        model = convolutional()
        pair = [LatentReplayPlugin(seed=0), ReplayPlugin(mem_size=50)][order]
        spy, seen = Spy(model), set()

        class Labels(SupervisedPlugin):
            def before_backward(self, strategy, seen=seen, **kwargs):
                seen |= set(strategy.mb_y.tolist())

        strategy = naive(model, *pair, spy, Labels())
        strategy.train(halves.train_stream[0])
        seen.clear()
        strategy.train(halves.train_stream[1])
        assert PreparedBatches not in spy.loaders
        assert len(seen) == 10


def test_the_parts_may_be_given_as_objects(halves):
    compressor, classifier = parts()
    model = nn.Sequential(nn.Identity(), nn.Sequential(compressor, classifier))
    named = learn(halves, LatentReplayPlugin(seed=0, layer="1.0"), model=model, epochs=1)
    compressor, classifier = parts()
    model = nn.Sequential(nn.Identity(), nn.Sequential(compressor, classifier))
    plugin = LatentReplayPlugin(seed=0, compressor=compressor, classifier=classifier)
    given = learn(halves, plugin, model=model, epochs=1)
    assert plugin.method.split.layer == "1.0"
    assert given[1:] == named[1:]
    stranger = LatentReplayPlugin(compressor=nn.Flatten())
    with pytest.raises(ConfigError, match="compressor is not a module of the model"):
        naive(convolutional(), stranger).train(halves.train_stream[0])
    with pytest.raises(ConfigError, match="layer or compressor, not both"):
        LatentReplayPlugin(layer="0", compressor=compressor)


def test_the_ready_strategy_makes_the_model_of_its_parts(halves):
    compressor, classifier = parts()
    optimizer = torch.optim.SGD([*compressor.parameters(), *classifier.parameters()], lr=0.05)
    strategy = LatentReplayStrategy(
        compressor=compressor,
        classifier=classifier,
        optimizer=optimizer,
        train_mb_size=64,
        evaluator=None,
        per_class=5,
    )
    for experience in halves.train_stream:
        strategy.train(experience)
    assert len(strategy.replay_plugin.method.stored) == 50
    model = strategy.replay_plugin.finish(strategy)
    assert next(iter(model.state_dict())) == "compressor.0.weight"
    assert model.compressor is compressor


def test_the_user_gets_the_model_back(halves):
    model = convolutional()
    plugin = LatentReplayPlugin(seed=0)
    strategy, *_ = learn(halves, plugin, model=model, epochs=1)
    assert isinstance(strategy.model, WrappedModel)
    expected = accuracies(strategy, halves.test_stream)
    assert plugin.finish(strategy) is model
    assert strategy.model is model
    assert accuracies(strategy, halves.test_stream) == expected


def test_evaluation_in_the_middle_of_training_is_on_images(halves):
    model = convolutional()
    strategy = naive(model, LatentReplayPlugin(seed=0), epochs=2, eval_every=1)
    for experience in halves.train_stream:
        strategy.train(experience, eval_streams=[halves.test_stream])
    assert accuracies(strategy, halves.test_stream)


@pytest.mark.parametrize("encode_once", [None, False])
def test_latents_of_the_images_own_shape(halves, encode_once):
    """Nothing but the moment tells them apart."""
    torch.manual_seed(0)
    same = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1), nn.ELU())
    rest = nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 10))
    model = nn.Sequential(same, rest)
    spy = Spy(model)
    plugin = LatentReplayPlugin(seed=0, per_class=20, encode_once=encode_once)
    strategy = naive(model, plugin, spy, epochs=12, eval_every=1)
    for experience in halves.train_stream:
        spy.encoded.clear()
        strategy.train(experience, eval_streams=[halves.test_stream[:1]])
    once = spy.encoded.count(len(halves.train_stream[1].dataset))
    assert once == (1 if encode_once is None else 0)
    old, new = accuracies(strategy, halves.test_stream)
    assert min(old, new) > 0.8
    assert accuracies(strategy, halves.test_stream) == [old, new]


class Sampling(Naive):
    """Draws even digits only."""

    def make_train_dataloader(self, **kwargs):
        data = self.adapted_dataset
        even = torch.tensor([*data.targets]) % 2 == 0
        sampler = WeightedRandomSampler(even.double(), 40)
        self.dataloader = DataLoader(data, batch_size=10, sampler=sampler)


def test_a_strategy_s_own_sampler_is_kept(halves):
    class Labels(SupervisedPlugin):
        seen = ()

        def after_forward(self, strategy, **kwargs):
            self.seen = [*self.seen, strategy.mb_y]

    spy = Labels()
    strategy = naive(convolutional(), LatentReplayPlugin(layer="0"), spy, template=Sampling)
    for experience in halves.train_stream:
        strategy.train(experience)
    assert [len(labels) for labels in spy.seen] == [10] * 8
    assert not (torch.cat(spy.seen) % 2).any()


def test_online_streams(halves):
    model = convolutional()
    plugin = LatentReplayPlugin(seed=0, per_class=10)
    strategy = naive(model, plugin)
    stream = split_online_stream(
        halves.train_stream, experience_size=100, access_task_boundaries=True
    )
    before = None
    for experience in stream:
        strategy.train(experience)
        if plugin.method.frozen:
            before = before or copy.deepcopy(model[0].state_dict())
    assert all(torch.equal(before[k], v) for k, v in model[0].state_dict().items())
    assert plugin.method.experiences == 2
    assert len(plugin.method.stored) == 100


def test_a_last_batch_of_one_sample_is_left_out_when_shuffling(halves):
    data = halves.train_stream[1].dataset
    plugin = LatentReplayPlugin(seed=0)
    strategy = naive(convolutional(), plugin)
    strategy.train(halves.train_stream[0])
    # All but one in a batch: BatchNorm could not train on the one that remains.
    strategy.train_mb_size = len(data) - 1
    strategy.train(halves.train_stream[1])
    assert plugin.method.experiences == 2
    strategy.train_mb_size = 100
    strategy.train(halves.train_stream[1], drop_last=True)
    assert plugin.stats.replayed == len(data) // 100 * 100


def test_errors_come_before_anything_is_trained(halves):
    for plugin, error, text in [
        (LatentReplayPlugin(layer="1.9"), ConfigError, "no layer '1.9'.*1.4"),
        (LatentReplayPlugin(layer="1.4"), UnsupportedModelError, "No parameters remain to train"),
        (LatentReplayPlugin(share=0.001), CapacityError, "share=0.001"),
    ]:
        model = convolutional()
        before = copy.deepcopy(model.state_dict())
        strategy = naive(model, plugin)
        with pytest.raises(error, match=text):
            strategy.train(halves.train_stream[0])
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
        assert strategy.model is model
    with pytest.raises(ConfigError, match="among its plugins"):
        naive(convolutional(), LatentReplayPlugin(), LatentReplayPlugin()).train(
            halves.train_stream[0]
        )
