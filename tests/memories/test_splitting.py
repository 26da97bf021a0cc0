"""Models cut behind a layer: the halves make the whole, and the first stays frozen."""

import copy
import pickle
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import torchvision
from avalanche.models import IncrementalClassifier, MultiHeadClassifier, SimpleMLP, as_multitask
from avalanche.models.dynamic_modules import MultiTaskModule
from torch import nn

from avalanche_dgm.errors import ConfigError, UnsupportedModelError
from avalanche_dgm.memories import SplitModel


def flat():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
    )


def nested():
    body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.ReLU()))
    return nn.Sequential(body, nn.Sequential(nn.Flatten(), nn.Linear(144, 10)))


class Custom(nn.Module):
    """One activation and one dropout module on both sides of the cut, a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.full((1, 1, 1, 1), 1.5))
        self.shift = nn.Parameter(torch.zeros(10))
        self.one = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.drop = nn.Dropout(0.5)
        self.two = nn.Conv2d(4, 4, 3)
        self.last = nn.Linear(64, 10)

    def forward(self, x):
        x = self.drop(self.relu(self.norm(self.one(x * self.scale))))
        x = F.dropout(self.relu(self.two(x)), 0.2, self.training)
        return self.last(self.drop(x.flatten(1))) + self.shift


class Residual(nn.Module):
    """Blocks with skip connections, and a first block that notes the size of the batch."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.inner, self.outer = nn.Conv2d(4, 4, 3, padding=1), nn.Identity()
        self.unused = nn.Linear(3, 3)
        self.last = nn.Linear(256, 10)

    def forward(self, x):
        n = x.size(0)
        x = self.norm(self.stem(x))
        x = self.outer(x + self.inner(x).relu())
        return self.last(x.reshape(n, -1))


class Heads(MultiTaskModule):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU())
        self.classifier = MultiHeadClassifier(20, 3, masking=False)
        self.classifier.classifiers["1"] = copy.deepcopy(self.classifier.classifiers["0"])
        nn.init.normal_(self.classifier.classifiers["1"].classifier.weight)

    def forward(self, x, task_labels):
        return self.classifier(self.features(x), task_labels)


class Divided(MultiTaskModule):
    """Divides its input by task before anything else, as Avalanche's own base class does."""

    def __init__(self):
        super().__init__()
        self.body, self.max_class_label = nn.Linear(64, 20), 3
        self.heads = nn.ModuleList(nn.Linear(20, 3) for _ in range(2))

    def forward_single_task(self, x, task_label):
        return self.heads[task_label](self.body(x.flatten(1)).relu())


def images(n=7, seed=0):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


CASES = {
    "flat 0": (flat, "0"),
    "flat 2": (flat, "2"),
    "nested, whole part": (nested, "0"),
    "nested, inside": (nested, "0.1"),
    "nested, deep": (nested, "0.2.0"),
    "nested, second part": (nested, "1.0"),
    "custom, conv": (Custom, "one"),
    "custom, second conv": (Custom, "two"),
    "custom, norm": (Custom, "norm"),
    "residual, norm": (Residual, "norm"),
    "residual, end of block": (Residual, "outer"),
}


@pytest.fixture(params=CASES)
def case(request):
    torch.manual_seed(0)
    kind, layer = CASES[request.param]
    return kind(), layer


def test_the_halves_make_the_whole(case):
    model, layer = case
    split = SplitModel(model, layer)
    x = images()
    split.check(x)
    model.eval()
    latents = split.encode(x)
    seen = []
    handle = model.get_submodule(layer).register_forward_hook(lambda m, i, o: seen.append(o))
    expected = model(x)
    handle.remove()
    torch.testing.assert_close(latents, seen[0])
    torch.testing.assert_close(split.answer(latents), expected)
    assert not latents.requires_grad


def test_answers_have_the_whole_model_s_gradients(case):
    model, layer = case
    split = SplitModel(model, layer)
    x, labels = images(), torch.arange(7)
    split.check(x)
    front = set(split.freeze().parameters)
    model.eval()
    found, expected = {}, {}
    for kept, answer in (
        (found, lambda: split.answer(split.encode(x))),
        (expected, lambda: model(x)),
    ):
        model.zero_grad()
        F.cross_entropy(answer(), labels).backward()
        kept |= {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    assert not front & found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)


def test_the_front_never_changes_again(case):
    """Whatever mode is set from outside: weights, and BatchNorm's statistics, bit by bit."""
    model, layer = case
    split = SplitModel(model, layer)
    split.check(images())
    front = split.freeze()
    x, labels = images(), torch.arange(7)
    before = copy.deepcopy(model.state_dict())
    latents = split.encode(x).clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        model.train()
        for answer in (lambda: split.answer(split.encode(x)), lambda: model(x)):
            optimizer.zero_grad()
            F.cross_entropy(answer(), labels).backward()
            optimizer.step()
    assert torch.equal(split.encode(x), latents)
    after = model.state_dict()
    modules = dict(model.named_modules())
    kept = set(front.parameters)
    for name in front.modules:
        assert not modules[name].training
        kept |= {f"{name}.{key}" for key in modules[name].state_dict()}
    assert all(torch.equal(before[key], after[key]) for key in kept)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained & after.keys()
    changed = {name for name in trained if not torch.equal(before[name], after[name])}
    assert changed == {name for name in trained if "unused" not in name}


def test_without_freezing_it_does_change():
    torch.manual_seed(0)
    model = flat()
    before = copy.deepcopy(model.state_dict())
    model.train()
    model(images())
    assert not torch.equal(before["1.running_mean"], model.state_dict()["1.running_mean"])


def test_what_is_frozen_of_a_model_with_parts_on_both_sides():
    model = Custom()
    split = SplitModel(model, "two")
    split.check(images())
    front = split.freeze()
    assert set(front.parameters) == {
        "scale", "one.weight", "one.bias", "norm.weight", "norm.bias", "two.weight", "two.bias"
    }  # fmt: skip
    assert set(front.modules) == {"one", "norm", "two"}
    model.train()
    # Used behind the cut, too, so it still drops there.
    assert model.drop.training
    assert model.training
    first, second = (split.encode(images()) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"]
)
def test_copies_are_frozen_too(duplicate):
    split = SplitModel(flat(), "2")
    split.check(images())
    split.freeze()
    other = duplicate(split)
    other.model.train()
    split.model.eval()
    assert [m.training for m in other.model] == [False, False, False, True, True]
    assert not any(m.training for m in split.model)
    assert torch.equal(other.encode(images()), split.encode(images()))


def test_freezing_by_names_again():
    split = SplitModel(Custom(), "two")
    split.check(images())
    front = split.freeze()
    other = Custom()
    SplitModel(other, "two").freeze(front)
    assert {n for n, p in other.named_parameters() if not p.requires_grad} == set(front.parameters)
    other.train()
    assert not other.norm.training


def test_a_pretrained_front_may_be_frozen_before():
    model = flat()
    model[0].requires_grad_(False)
    split = SplitModel(model, "2")
    split.check(images())
    assert not model[0].weight.requires_grad
    assert model[1].weight.requires_grad
    assert set(split.freeze().parameters) == {"0.weight", "0.bias", "1.weight", "1.bias"}


def test_checking_changes_nothing(case):
    model, layer = case
    model.train()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    SplitModel(model, layer).check(images())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert all(m.training for m in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())


def multitask():
    model = as_multitask(SimpleMLP(3, 64, 20, drop_rate=0.3), "classifier")
    model.classifier.masking = False
    model.classifier.classifiers["1"] = copy.deepcopy(model.classifier.classifiers["0"])
    nn.init.normal_(model.classifier.classifiers["1"].classifier.weight)
    return model


@pytest.mark.parametrize(
    ("kind", "layer"),
    [(Heads, None), (Divided, "body"), (multitask, "model.features"), (multitask, None)],
)
def test_multi_head_models(kind, layer):
    torch.manual_seed(0)
    model = kind().eval()
    x, tasks = images(9), torch.tensor([0, 1, 1, 0, 1, 0, 0, 1, 1])
    split = SplitModel(model, layer, task_aware=True)
    for part in (tasks[:1], tasks):
        split.check(x[: len(part)], part)
        latents = split.encode(x, tasks)
        assert latents.shape == (9, 20)
        torch.testing.assert_close(split.answer(latents, tasks), model(x, tasks))
    # Unnamed, the cut is before every head.
    assert split.classifier == ("classifier" if layer is None else None)
    wrong = split.answer(latents, 1 - tasks)
    assert not torch.allclose(wrong, model(x, tasks))


def test_many_images_in_chunks():
    split = SplitModel(flat(), "2")
    x = images(2500)
    split.check(x)
    torch.testing.assert_close(split.encode(x)[2049], split.encode(x[2049:2050])[0])
    assert len(split.encode(x)) == 2500
    assert len(split.encode(x[:0])) == 0


def parts(first, second):
    model = nn.Module()
    setattr(model, first, nn.Flatten())
    setattr(model, second, nn.Linear(64, 10))
    return model


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (parts("compressor", "classifier"), ("compressor", "classifier")),
        (nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 10)), ("0", "1")),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), (None, None)),
        (parts("features", "classifier"), (None, None)),
    ],
    ids=["compressor", "sequence", "nothing to freeze", "any other"],
)
def test_the_cut_is_found_where_it_is_named_so(model, expected):
    split = SplitModel(model)
    assert (split.layer, split.classifier) == expected


def test_a_layer_that_does_not_exist_lists_those_that_do():
    with pytest.raises(ConfigError, match=r"no layer 'norn'.*Did you mean 'norm'") as raised:
        SplitModel(Custom(), "norn")
    for name in ("one", "norm", "relu", "drop", "two", "last"):
        assert name in str(raised.value)
    with pytest.raises(ConfigError, match=r"0\.2\.0, 1, 1\.0, 1\.1"):
        SplitModel(nested(), "0.7")
    with pytest.raises(ConfigError, match="no layer 'head'"):
        SplitModel(Custom(), "one", classifier="head")
    with pytest.raises(ConfigError, match="Pass layer=<name>. Its layers are: 0, 1"):
        SplitModel(nn.Sequential(nn.Identity(), nn.Conv2d(1, 10, 8)))


class Shared(nn.Module):
    def __init__(self, tied):
        super().__init__()
        self.one, self.norm = nn.Linear(64, 64), nn.BatchNorm1d(64, affine=False)
        self.two, self.last = nn.Linear(64, 64), nn.Linear(64, 10)
        self.tied = tied

    def forward(self, x):
        x = self.norm(self.one(x.flatten(1)))
        if self.tied == "module":
            x = self.one(x)
        elif self.tied == "statistics":
            x = self.norm(self.two(x))
        elif self.tied == "weight":
            x = F.linear(x, self.one.weight)
        return self.last(x)


@pytest.mark.parametrize(
    ("tied", "layer"), [("module", "norm"), ("statistics", "two"), ("weight", "norm")]
)
def test_parts_on_both_sides_of_the_cut_are_refused(tied, layer):
    with pytest.raises(UnsupportedModelError, match=r"(one|norm)\S* is used on both sides"):
        SplitModel(Shared(tied), layer).check(images())
    SplitModel(Shared("nothing"), "norm").check(images())


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.last, self.idle = nn.Linear(64, 64), nn.Linear(64, 10), nn.Linear(2, 2)
        self.memory = nn.LSTM(64, 64, batch_first=True)

    def forward(self, x):
        x = self.one(self.one(x.flatten(1)))
        return self.last(self.memory(x[:, None])[0][:, 0])


@pytest.mark.parametrize(
    ("model", "layer", "message"),
    [
        (Residual(), "inner", "skip connection"),
        (Residual(), "last", "with a cut after the layer 'last'"),
        (Residual(), "unused", "does not run"),
        (Twice(), "one", "runs 2 times"),
        (Twice(), "idle", "does not run"),
        (Twice(), "memory", "The value after the layer 'memory' is a tuple"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.Linear(20, 10)),
            "1",
            "whose latents after the layer '1' have shape",
        ),
    ],
)
def test_cuts_that_cannot_be(model, layer, message):
    with pytest.raises(UnsupportedModelError, match=message):
        SplitModel(model, layer).check(images())


def test_a_misnamed_classifier_is_not_believed():
    """Another layer follows it, so that it does not answer alone."""
    torch.manual_seed(0)
    model = Custom()
    split = SplitModel(model, "norm", classifier="two")
    split.check(images())
    model.eval()
    torch.testing.assert_close(split.answer(split.encode(images())), model(images()))


def test_a_model_that_has_diverged_is_cut_as_any_other():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    nn.init.constant_(model[1].weight, float("nan"))
    split = SplitModel(model, "2")
    split.check(torch.rand(5, 1, 2, 2))
    assert split.latent_shape == (3,)


# Without a name: before the last nn.Linear


class Tokens(nn.Module):
    """A small transformer that answers by its class token, as a ViT does."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(1, 16, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, 16))
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.heads = nn.Sequential(nn.Dropout(0.5), nn.Linear(16, 10))

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.block(torch.cat([self.token.expand(len(x), -1, -1), x], 1))
        return self.heads(x[:, 0])


class Scaled(nn.Module):
    """A head that does not answer alone."""

    def __init__(self):
        super().__init__()
        self.body, self.last = nn.Linear(64, 20), nn.Linear(20, 10)

    def forward(self, x):
        return 3.0 * self.last(torch.relu(self.body(x.flatten(1))))


class Grown(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.last = nn.Linear(64, 20), IncrementalClassifier(20, 10)

    def forward(self, x):
        return self.last(torch.relu(self.body(x.flatten(1))))


def torchvision_model(name):
    def make():
        return getattr(torchvision.models, name)(num_classes=10)

    return make


ORDINARY = {
    "flat": (flat, "4", (144,), 8),
    "custom": (Custom, "last", (64,), 8),
    "scaled": (Scaled, "last", (20,), 8),
    "tokens": (Tokens, "heads", (16,), 8),
    "grown": (Grown, "last", (20,), 8),
    "resnet18": (torchvision_model("resnet18"), "fc", (512,), 32),
    "mobilenet_v3_small": (torchvision_model("mobilenet_v3_small"), "classifier.3", (1024,), 32),
    "efficientnet_b0": (torchvision_model("efficientnet_b0"), "classifier", (1280,), 32),
    "shufflenet": (torchvision_model("shufflenet_v2_x0_5"), "fc", (1024,), 32),
    "swin_t": (torchvision_model("swin_t"), "head", (768,), 32),
    "convnext_tiny": (torchvision_model("convnext_tiny"), "classifier.2", (768,), 32),
}


@pytest.fixture(params=ORDINARY, scope="module")
def ordinary(request):
    torch.manual_seed(0)
    kind, head, shape, side = ORDINARY[request.param]
    x = torch.rand(3, 1 if side == 8 else 3, side, side)
    return kind().eval(), head, shape, x


def test_an_ordinary_network_is_cut_before_its_last_linear(ordinary):
    model, head, shape, x = ordinary
    split = SplitModel(model)
    assert split.check(x) == shape
    assert (split.layer, split.classifier) == (None, head)
    seen = []
    handle = last_linear(model).register_forward_pre_hook(lambda m, i: seen.append(i[0]))
    expected = model(x)
    handle.remove()
    latents = split.encode(x)
    torch.testing.assert_close(latents, seen[0])
    torch.testing.assert_close(split.answer(latents), expected)
    named = SplitModel(model, classifier=head)
    named.check(x)
    assert torch.equal(named.encode(x), latents)


def last_linear(model):
    """The last that is registered, which in these runs last, too."""
    return [m for m in model.modules() if isinstance(m, nn.Linear)][-1]


def test_the_head_alone_learns_then(ordinary):
    model, head, _, x = ordinary
    split = SplitModel(copy.deepcopy(model))
    split.check(x)
    split.freeze()
    learning = {n for n, p in split.model.named_parameters() if p.requires_grad}
    # Custom's shift is a parameter of its own, behind the head.
    assert learning - {"shift"} == {n for n, _ in model.named_parameters() if n.startswith(head)}


def test_dropout_of_the_head_still_drops():
    torch.manual_seed(0)
    split = SplitModel(Tokens())
    split.check(images())
    split.freeze()
    split.model.train()
    latents = split.encode(images())
    assert not torch.equal(split.answer(latents), split.answer(latents))
    assert torch.equal(split.encode(images()), latents)


def test_a_head_may_be_replaced_by_a_wider_one():
    torch.manual_seed(0)
    model = Grown()
    split = SplitModel(model)
    split.check(images())
    latents = split.encode(images())
    model.last.adaptation(SimpleNamespace(classes_in_this_experience=[14], task_labels=[0]))
    model.eval()
    answers = split.answer(latents)
    assert answers.shape == (7, 15)
    torch.testing.assert_close(answers, model(images()))


def test_copies_are_cut_at_the_same_place_before_any_image():
    torch.manual_seed(0)
    split = SplitModel(Custom())
    with pytest.raises(RuntimeError, match="call check"):
        split.answer(torch.rand(3, 64))
    other = copy.deepcopy(split)
    # Encoding finds it, too, as a memory that was loaded needs it.
    assert torch.equal(other.encode(images()), split.encode(images()))
    assert other.classifier == split.classifier == "last"


class Bypassed(Scaled):
    def forward(self, x):
        return super().forward(x) + x.flatten(1)[:, :10]


def test_a_head_that_values_bypass_is_refused():
    with pytest.raises(UnsupportedModelError, match="before the layer 'last'.*skip connection"):
        SplitModel(Bypassed()).check(images())


def test_a_linear_layer_that_does_not_run_is_none():
    model = nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten(), nn.Identity())
    model[2].idle = nn.Linear(3, 3)
    with pytest.raises(UnsupportedModelError, match=r"No nn\.Linear runs.*Pass layer=<name>"):
        SplitModel(model).check(images())


class Headed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 5), nn.ReLU())
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.body(x))


def compiled_in_place(model):
    model.compile(backend="eager")
    return model


@pytest.mark.parametrize("kind", [partial(torch.compile, backend="eager"), compiled_in_place])
def test_a_compiled_model_is_cut_like_the_model(kind):
    """Code that was compiled before the cut calls none of the cut's hooks."""
    model, images = Headed(), torch.rand(7, 6)
    plain, compiled = SplitModel(model), SplitModel(kind(copy.deepcopy(model)))
    compiled.model(images)
    for split in (plain, compiled):
        split.check(images)
    latents = plain.encode(images)
    assert torch.equal(compiled.encode(images), latents)
    assert torch.equal(compiled.answer(latents), plain.answer(latents))


@pytest.mark.parametrize("part", ["", "body"])
def test_modules_of_torchscript_are_refused(part):
    model = Headed()
    if part:
        model.body = torch.jit.script(model.body)
    with pytest.raises(UnsupportedModelError, match="TorchScript"):
        SplitModel(model if part else torch.jit.script(model))
