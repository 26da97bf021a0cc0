"""Models and data as users have them: learned, or refused by name before anything was changed."""

from __future__ import annotations

import os
import threading
from contextlib import nullcontext

import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets, tensors_benchmark
from avalanche.benchmarks.utils import (
    AvalancheDataset,
    DataAttribute,
    TransformGroups,
    make_avalanche_dataset,
)
from avalanche.models import IncrementalClassifier
from avalanche.training.supervised import Naive
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.utils import parameters_to_vector, parametrizations, spectral_norm, weight_norm
from torch.utils.data import TensorDataset

from avalanche_dgm import ALTMPlugin, DGRPlugin, MeRGANPlugin
from avalanche_dgm.errors import (
    AvalancheDGMError,
    ConfigError,
    DataError,
    LabelError,
    RangeError,
    ShapeError,
    UnsupportedModelError,
)
from avalanche_dgm.plugins.experiences import load
from avalanche_dgm.plugins.wrapped import WrappedModel

from .conftest import GAN, PLUGINS, naive

MINE = {name: PLUGINS[name] for name in ("dgr", "dgdmn", "latent", "pseudo-rehearsal")}
MINE["altm"] = lambda **kw: ALTMPlugin(
    **{"replay": "stored", "per_class": 5, "consolidation": "distil", "distil_steps": 5, "seed": 0},
    **kw,
)
MINE["mergan"] = lambda **kw: MeRGANPlugin(**{**GAN, "class_inputs": 10, **kw})
#: Those that make no copy of the model.
WITHOUT_COPIES = {"mergan"}


@pytest.fixture(params=sorted(MINE))
def name(request):
    return request.param


def digits(*classes, n=12):
    raw = load_digits()
    index = [i for c in classes for i in (raw.target == c).nonzero()[0][:n]]
    images = torch.tensor(raw.images[index] / 16, dtype=torch.float32)[:, None]
    return images, torch.tensor(raw.target[index])


PARTS = [digits(0, 1), digits(2, 3), digits(4, 5)]


def stream(parts):
    return tensors_benchmark(train_tensors=parts, test_tensors=parts, task_labels=[0] * len(parts))


def with_images(change):
    return [(change(images), labels) for images, labels in PARTS]


def mlp(n_outputs=10, wrap=lambda layer: layer):
    return nn.Sequential(
        nn.Flatten(), wrap(nn.Linear(64, 32)), nn.ReLU(), wrap(nn.Linear(32, n_outputs))
    )


class Around(nn.Module):
    """A network, and something before or after it."""

    def __init__(self, net=None, *, before=lambda x: x, after=lambda y: y, **attributes):
        super().__init__()
        self.net = net or mlp()
        self.before, self.after = before, after
        vars(self).update(attributes)

    def forward(self, x):
        return self.after(self.net(self.before(x)))


class Remembering(Around):
    """Keeps what it answered last, as networks for visualisation do."""

    def forward(self, x):
        self.last = [super().forward(x)]
        return self.last[0]


class Shared(nn.Module):
    """The same weights in two layers, and perhaps in a lambda that belongs to this object."""

    def __init__(self, *, by_closure):
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)
        self.second.weight = self.first.weight
        self.act, self.head = nn.ReLU(), nn.Linear(64, 10)
        self.encode = (lambda x: self.second(self.first(x))) if by_closure else None

    def forward(self, x):
        x = x.flatten(1)
        x = self.encode(x) if self.encode else self.second(self.first(x))
        return self.head(self.act(x))


def used(model):
    model(PARTS[0][0])
    return model


def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(32), nn.ReLU(), nn.LazyLinear(10))


def hooked():
    model = mlp()
    model.seen = []
    model[1].register_forward_hook(lambda layer, inputs, output: model.seen.append(output))
    return used(model)


class Growing(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU())
        self.features.requires_grad_(False)
        self.classifier = IncrementalClassifier(32, 2)

    def forward(self, x):
        return self.classifier(self.features(x))


LEARN = {
    "weight_norm": lambda: mlp(wrap=weight_norm),
    "weight_norm, used": lambda: used(mlp(wrap=weight_norm)),
    "spectral_norm": lambda: mlp(wrap=spectral_norm),
    "parametrised": lambda: mlp(wrap=parametrizations.weight_norm),
    "an answer kept": Remembering,
    "a hook": hooked,
    "tied weights": lambda: Shared(by_closure=False),
    "lazy": lazy,
    "frozen body, growing head": Growing,
    "double inside": lambda: Around(mlp().double(), before=torch.Tensor.double),
    "bfloat16 inside": lambda: Around(mlp().bfloat16(), before=torch.Tensor.bfloat16),
    "bfloat16 answers": lambda: Around(after=torch.Tensor.bfloat16),
    "data parallel": lambda: nn.DataParallel(mlp()),
}


#: Left to the slow suite: much like another one.
VARIANTS = {
    "weight_norm, used",
    "tied weights",
    "data parallel",
    "bfloat16 answers",
}
LEARNING = [pytest.param(k, marks=pytest.mark.slow if k in VARIANTS else []) for k in LEARN]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", LEARNING)
def test_models_that_learn(name, kind):
    torch.manual_seed(0)
    model = LEARN[kind]()
    strategy = naive(model, MINE[name]())
    benchmark = stream(PARTS)
    for experience in benchmark.train_stream:
        strategy.train(experience)
    assert strategy.plugins[0].method.experiences == 3
    assert strategy.eval(benchmark.test_stream)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["scripted", "compiled"])
def test_models_that_cannot_be_cut(name, kind):
    torch.manual_seed(0)
    model = torch.jit.script(mlp()) if kind == "scripted" else torch.compile(mlp(), backend="eager")
    plugin = MINE[name]() if name != "latent" else PLUGINS["dgdmn-no-stm"]()
    strategy = naive(model, plugin)
    for experience in stream(PARTS).train_stream:
        strategy.train(experience)
    assert plugin.method.experiences == 3


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_another_type_learns_the_same(name, dtype):
    """As float32, up to rounding: replay is what it would be, in the batch's type."""

    def trained(dtype):
        torch.manual_seed(0)
        model = mlp().to(dtype)
        strategy = naive(model, MINE[name](), optimizer=torch.optim.SGD(model.parameters(), 0.1))
        for experience in stream(with_images(lambda x: x.to(dtype))).train_stream:
            strategy.train(experience)
        return torch.cat([p.detach().flatten().float() for p in model.parameters()])

    expected = trained(torch.float32)
    start = torch.cat([p.flatten() for p in _seeded(mlp).parameters()]).detach()
    away = (trained(dtype) - expected).norm() / (expected - start).norm()
    assert away < (0.01 if dtype == torch.float64 else 0.5)


def trained(name, parts=PARTS, *, weights=torch.float32, within=nullcontext, epochs=1):
    """The weights after a training, and an evaluation, in a context."""
    model = _seeded(mlp).to(weights)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    strategy = naive(model, MINE[name](), optimizer=optimizer, epochs=epochs)
    with within():
        for experience in stream(parts).train_stream:
            strategy.train(experience)
        strategy.eval(stream(parts).test_stream)
    return parameters_to_vector(model.parameters()).detach().float()


@pytest.mark.parametrize(
    ("images", "weights"),
    [(torch.float64, torch.float32), (torch.float16, torch.float32), (torch.float32, torch.double)],
)
def test_images_of_another_type_than_the_weights(name, images, weights):
    found = trained(name, with_images(lambda x: x.to(images)), weights=weights)
    torch.testing.assert_close(found, trained(name), atol=2e-3, rtol=0.01)


def in_bfloat16():
    return torch.autocast("cpu", dtype=torch.bfloat16)


def test_autocast_around_the_training(name):
    """It copies each weight once, until its end: the copies must follow the weights."""
    start, expected = parameters_to_vector(_seeded(mlp).parameters()), trained(name, epochs=40)
    away = trained(name, within=in_bfloat16, epochs=40) - expected
    assert away.norm() < 0.5 * (expected - start).norm()


@pytest.mark.parametrize("within", [torch.no_grad, torch.inference_mode, in_bfloat16])
def test_phases_do_not_depend_on_the_context_of_an_evaluation(within):
    def weights(within):
        plugin = PLUGINS["dgdmn-sleep"]()
        strategy = naive(_seeded(mlp), plugin)
        strategy.train(stream(PARTS).train_stream[0])
        with within():
            strategy.eval(stream(PARTS).test_stream)
        strategy.train(stream(PARTS).train_stream[1])
        with within():
            plugin.consolidate()
        return parameters_to_vector(strategy.model.model.parameters())

    torch.testing.assert_close(weights(within), weights(nullcontext))


def test_training_transforms_of_another_shape(name):
    """Refused where a replayed image could not be appended to the batch."""
    groups = TransformGroups({"train": (lambda x: x[:, 1:7, 1:7], None), "eval": (None, None)})
    datasets = [
        make_avalanche_dataset(
            TensorDataset(*part),
            data_attributes=[DataAttribute(part[1].tolist(), "targets")],
            transform_groups=groups,
        )
        for part in PARTS
    ]
    benchmark = benchmark_from_datasets(train=datasets, test=datasets)
    pooling = nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.ReLU(), nn.Linear(32, 10)
    model, plugin = nn.Sequential(nn.Conv2d(1, 8, 3), *pooling), MINE[name]()
    strategy = naive(model, plugin)
    if name == "latent":
        for experience in benchmark.train_stream:
            strategy.train(experience)
        return
    before = everything(strategy, strategy.optimizer, plugin, model)
    with pytest.raises(ShapeError, match=r"\(1, 6, 6\), but the memory replays \(1, 8, 8\)"):
        strategy.train(benchmark.train_stream[0])
    assert not same(before, everything(strategy, strategy.optimizer, plugin, model))


class Quick(Naive):
    def forward(self):
        with in_bfloat16():
            return super().forward()


def test_autocast_in_a_strategy_s_forward_is_refused(name):
    strategy = naive(mlp(), MINE[name](), template=Quick)
    with pytest.raises(ConfigError, match=r"Quick.forward.*autocast, into the model"):
        strategy.train(stream(PARTS).train_stream[0])


def _seeded(make):
    torch.manual_seed(0)
    return make()


class NoParameters(nn.Module):
    def __init__(self):
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(x.flatten(1)[:, :10])


class Rigid(nn.Module):
    """Grows never, though Avalanche asks it to."""

    def __init__(self):
        super().__init__()
        self.net = mlp(3)
        self.grower = IncrementalClassifier(4, 2)

    def forward(self, x):
        return self.net(x)


def frozen():
    return mlp().requires_grad_(False)


#: Model, images and labels of the first experience, error, and who learns from it.
BAD = {
    "lock": (lambda: Around(lock=threading.Lock()), {}, UnsupportedModelError, WITHOUT_COPIES),
    "closure": (lambda: Shared(by_closure=True), {}, UnsupportedModelError, WITHOUT_COPIES),
    "frozen": (frozen, {}, UnsupportedModelError, ()),
    "no parameters": (NoParameters, {}, UnsupportedModelError, ()),
    "tuple": (lambda: Around(after=lambda y: (y, y)), {}, UnsupportedModelError, ()),
    "dict": (lambda: Around(after=lambda y: {"logits": y}), {}, UnsupportedModelError, ()),
    "narrow": (lambda: mlp(1), {}, LabelError, ()),
    "rigid": (Rigid, {"labels": lambda y: 3 + y}, LabelError, ()),
    "lazy and narrow": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(),
        nn.LazyLinear(1)), {}, LabelError, ("latent",)),
    "huge label": (mlp, {"labels": lambda y: y + 10**9}, LabelError, ()),
    "negative label": (mlp, {"labels": lambda y: y - 1}, LabelError, ()),
    "float labels": (mlp, {"labels": lambda y: y.float()}, LabelError, ()),
    "no labels": (mlp, {"labels": lambda y: y / 0 * 0}, LabelError, ()),
    "bytes": (lambda: Around(before=torch.Tensor.float), {"images": lambda x: x.byte()},
        RangeError, ()),
    "complex": (mlp, {"images": lambda x: x.to(torch.complex64)}, RangeError, ()),
    "constant": (mlp, {"images": lambda x: 0 * x + 0.5}, RangeError, ("altm", "latent")),
    "outlier": (mlp, {"images": lambda x: x.index_fill(0, torch.tensor(3), 1e6)}, RangeError,
        ("altm", "latent")),
}  # fmt: skip


def everything(strategy, optimizer, plugin, model):
    """All that an error must leave as it was."""
    method = plugin.method
    state = {k: v for k, v in method.state_dict().items() if "learner." not in k}
    return {
        "model": [p.clone() for p in model.parameters() if not nn.parameter.is_lazy(p)],
        "lazy": [nn.parameter.is_lazy(p) for p in model.parameters()],
        "flags": [p.requires_grad for p in model.parameters()],
        "buffers": [b.clone() for b in model.buffers()],
        "optimizer": repr(optimizer.state_dict()),
        "random": torch.get_rng_state(),
        "wrapped": isinstance(strategy.model, WrappedModel),
        "method": repr(sorted(state.items(), key=lambda pair: pair[0])),
        "kept": len(list(method.buffers()))
        - len(list(model.buffers())) * (method.learner is model),
    }


def same(one, two):
    def equal(a, b):
        if isinstance(a, list):
            return len(a) == len(b) and all(map(equal, a, b))
        return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b

    return [key for key in one if not equal(one[key], two[key])]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", BAD)
def test_what_is_refused_changes_nothing_and_spoils_nothing(name, kind):
    make, change, error, fine = BAD[kind]
    if name in fine:
        return
    torch.manual_seed(0)
    model, plugin = make(), MINE[name]()
    parameters = list(model.parameters()) or [nn.Parameter(torch.zeros(1))]
    strategy = naive(model, plugin, optimizer=torch.optim.SGD(parameters, lr=0.1))
    images, labels = PARTS[0]
    images = change.get("images", lambda x: x)(images)
    labels = change.get("labels", lambda y: y)(labels)
    bad, good = stream([(images, labels)]), stream(PARTS)
    before = everything(strategy, strategy.optimizer, plugin, model)
    with pytest.raises(AvalancheDGMError) as raised:
        strategy.train(bad.train_stream[0])
    if not (name == "latent" and kind in ("no parameters", "rigid")):
        assert isinstance(raised.value, error)
    assert not same(before, everything(strategy, strategy.optimizer, plugin, model))
    if change and kind != "rigid":
        if kind == "bytes":
            return
        for experience in good.train_stream[:2]:
            strategy.train(experience)
        assert plugin.method.experiences == 2


def test_a_label_without_an_output_later_changes_nothing(name):
    torch.manual_seed(0)
    model, plugin = mlp(4), MINE[name]()
    strategy = naive(model, plugin)
    benchmark = stream(PARTS)
    for experience in benchmark.train_stream[:2]:
        strategy.train(experience)
    before = everything(strategy, strategy.optimizer, plugin, model)
    with pytest.raises(LabelError, match="label 5, but the model has 4 outputs"):
        strategy.train(benchmark.train_stream[2])
    assert not same(before, everything(strategy, strategy.optimizer, plugin, model))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_without_gradients_is_refused(name, mode):
    torch.manual_seed(0)
    model, plugin = mlp(), MINE[name]()
    strategy = naive(model, plugin)
    before = everything(strategy, strategy.optimizer, plugin, model)
    with mode(), pytest.raises(ConfigError, match="Gradients are disabled"):
        strategy.train(stream(PARTS).train_stream[0])
    assert not same(before, everything(strategy, strategy.optimizer, plugin, model))


@pytest.mark.parametrize("name", ["dgr", "dgdmn", "mergan"])
def test_vectors_that_lie_further_out_each_time(name):
    """No bounds by default: what is generated of a class lies where its samples lie."""
    rng = torch.Generator().manual_seed(0)
    centres = torch.tensor([1.0, 1, 4, 4, 12, 12])[:, None] * torch.randn(6, 16, generator=rng)
    centres = centres + torch.tensor([3.0, 300.0]).repeat(8)
    classes = [torch.tensor([2 * i, 2 * i + 1]).repeat(40) for i in range(3)]
    parts = [(centres[y] + torch.randn(len(y), 16, generator=rng), y) for y in classes]
    more = {"generator_steps": 200}
    if name == "mergan":
        more = {"generator_steps": 40, "width": 20, "discriminator_width": 20}
    else:
        more |= {"hidden": (64, 64), "latent": 8}
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 6))
    strategy = naive(model, MINE[name](**more))
    for experience in stream(parts).train_stream:
        strategy.train(experience)
    replay = strategy.plugins[0].method.sample(600)
    if name == "mergan":
        # So few steps of a GAN make rough samples, but none is held within the first range.
        last, first = replay.images[replay.labels >= 4], parts[0][0]
        beyond = (last.amax(dim=0) - first.amax(dim=0)) / (first.amax(dim=0) - first.amin(dim=0))
        assert beyond.max() > 0.5
        assert replay.images.isfinite().all()
        return
    for label, centre in enumerate(centres):
        mean = replay.images[replay.labels == label].mean(dim=0)
        apart = (centres - centres.mean(dim=0)).norm(dim=1).mean()
        assert (mean - centre).norm() < 0.3 * apart


def test_a_generator_that_is_given_a_range_keeps_it():
    parts = with_images(lambda x: x.flatten(1))
    plugin = DGRPlugin(generator_steps=5, hidden=(16,), latent=4, value_range=(0.0, 1.0))
    strategy = naive(mlp(), plugin)
    strategy.train(stream(parts).train_stream[0])
    assert plugin.method.ltm.generator.network.spec.likelihood == "bernoulli"
    with pytest.raises(RangeError, match="value_range"):
        strategy.train(stream([(2 * x, y) for x, y in parts[1:]]).train_stream[0])


class KilledWorker(torch.utils.data.Dataset):
    """Images whose reading ends the process, as the system does when memory is short."""

    targets = (0, 1)

    def __len__(self):
        return 2

    def __getitem__(self, i):
        if torch.utils.data.get_worker_info() is not None:
            os._exit(1)
        return torch.rand(1, 4, 4), self.targets[i]


def test_workers_that_are_killed():
    """Not blamed on the images' shape."""
    targets = DataAttribute([0, 1], "targets")
    tasks = DataAttribute([0, 0], "targets_task_labels")
    data = AvalancheDataset([KilledWorker()], data_attributes=[targets, tasks])
    (experience,) = benchmark_from_datasets(train=[data]).train_stream
    with pytest.raises(DataError, match="num_workers to 0") as caught:
        load(experience, key="k", device=torch.device("cpu"), num_workers=1)
    assert "Resize" not in str(caught.value)
