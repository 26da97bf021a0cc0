"""Growing generators: what earlier tasks keep, growth, and their state."""

import copy
import io
import pickle
from math import ceil

import pytest
import torch
from torch import nn

from avalanche_dgm.errors import CheckpointError, ConfigError, ShapeError, UnknownTaskError
from avalanche_dgm.generators import (
    Group,
    Mask,
    MaskedConvTranspose2d,
    MaskedLinear,
    MaskedResidualBlock,
    NormReLU,
    build_generator,
)
from avalanche_dgm.generators.gan_settings import MaskedGANSettings
from avalanche_dgm.generators.growing import MaskedGenerator
from avalanche_dgm.generators.masked_layers import MaskedLayer
from avalanche_dgm.generators.masks import View
from avalanche_dgm.generators.scaler import Scaler

SHAPES = {"dcgan": (2, 8, 16), "resnet": (1, 16, 8), "dense": (7,)}
#: masking, placement, protection: those under which nothing may leak.
SAFE = [
    ("units", "before", "fan"),
    ("units", "after", "fan"),
    ("units", "after", "ends"),
    ("weights", "before", "fan"),
]
LEAKY = ("units", "before", "ends")
SMAX = 50.0

every_network = pytest.mark.parametrize("architecture", SHAPES)
every_type = pytest.mark.parametrize("at_rest", ["float32", "float16"])
every_option = pytest.mark.parametrize("options", [*SAFE, LEAKY], ids="-".join)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def settings_of(architecture, options=SAFE[0], **changes):
    masking, placement, protection = options
    changes = {"width": 3, "latent": 5, **changes}
    return MaskedGANSettings(
        architecture=architecture,
        masking=masking,
        placement=placement,
        protection=protection,
        **changes,
    )


def scaler_of(shape):
    return Scaler(shape, (-1.0,), (1.0,))


def generator_of(architecture, options=SAFE[0], *, shape=None, **changes):
    scaler = scaler_of(shape or SHAPES[architecture])
    return build_generator(settings_of(architecture, options, **changes), scaler)


@pytest.mark.parametrize("missing", ["features", "head"])
def test_a_generator_without_a_network_cannot_be_made(missing):
    rest = {name: lambda *_: None for name in {"features", "head"} - {missing}}
    kind = type("Unfinished", (MaskedGenerator,), rest)
    with pytest.raises(TypeError, match=f"abstract.*{missing}"):
        kind(settings_of("dense"), scaler_of((7,)))


def test_a_layer_that_does_not_apply_its_weight_cannot_be_made():
    with pytest.raises(TypeError, match="abstract"):
        MaskedLayer(5, Group("a", 3, None), (), settings_of("dense"))


def learn(generator, *, steps=8, lr=1e-2, compensation="hat", end=True):
    """One task with a random linear loss, the way that a memory would train it."""
    generator.begin_task()
    generator.train()
    for mask in masks(generator):
        # Short training has to use something of every mask, but not everything.
        mask.embedding.data.normal_(0, 0.3).view(-1)[[0, -1]] = torch.tensor([1.0, -1.0])
    parameters = [p for p in generator.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=lr)
    goal = torch.randn(generator.scaler.padded)
    for step in range(steps):
        scale = 1 / SMAX + (SMAX - 1 / SMAX) * step / steps
        optimizer.zero_grad()
        images = generator(torch.randn(8, generator.settings.latent), scale=scale)
        (-(images * goal).sum(dim=1).mean() + generator.sparsity(scale)).backward()
        generator.protect(scale=scale, smax=SMAX, compensation=compensation)
        optimizer.step()
    if end:
        generator.end_task()


@torch.no_grad()
def draw(generator, task):
    z = torch.randn(4, generator.settings.latent, generator=torch.Generator().manual_seed(1))
    return generator(z, task=task)


def layers(generator):
    return [m for m in generator.modules() if isinstance(m, MaskedLayer)]


def masks(generator):
    return [m for m in generator.modules() if isinstance(m, Mask)]


def block(weight, shape):
    return weight.detach()[tuple(slice(n) for n in shape)]


def kept(layer):
    """Which weights Eq. 4, or the rule of both ends, protects: one weight after the other."""
    if layer.mask is not None:
        return layer.mask.reserved.clone()
    result = torch.zeros(layer.weight.shape, dtype=torch.bool)
    target = layer.target.mask.reserved
    source = layer.source.mask.reserved if layer.source is not None else None
    both = layer.settings.protection == "ends" and source is not None
    for o in range(layer.weight.shape[layer.out_dim]):
        for i in range(layer.weight.shape[layer.in_dim]):
            place = (o, i) if layer.out_dim == 0 else (i, o)
            result[place] = target[o] and (not both or source[i])
    return result


@every_network
@every_option
@every_type
def test_old_images_stay_bit_equal_and_reserved_weights_too(architecture, options, at_rest):
    generator = generator_of(architecture, options, at_rest=at_rest)
    images, drift = [], 0.0
    for task in range(3):
        before = [(layer.weight.detach().clone(), kept(layer)) for layer in layers(generator)]
        learn(generator, steps=8 if task == 0 else 15)
        for (weight, reserved), layer in zip(before, layers(generator), strict=True):
            now = block(layer.weight, weight.shape)
            assert torch.equal(now[reserved], weight[reserved])
            assert not torch.equal(now, weight)
        assert len(images) == generator.n_tasks - 1
        images.append(draw(generator, task))
        for mode in (True, False):
            generator.train(mode)
            for earlier, old in enumerate(images):
                drift = max(drift, float((draw(generator, earlier) - old).abs().max()))
                assert options == LEAKY or torch.equal(draw(generator, earlier), old)
    # The test would be empty if everything or nothing were reserved.
    usage = generator.usage()
    assert all(u["reserved"] > 0 and u["free"] > 0 for u in usage if u["task"] == 0)
    assert sum(u["reused"] for u in usage) > 0
    # The authors' combination leaks through the shifts of unused units.
    assert (drift > 0) == (options == LEAKY)
    assert not torch.equal(images[0], images[1])


@every_network
@pytest.mark.parametrize("masking", ["units", "weights"])
def test_free_capacity_returns(architecture, masking):
    generator = generator_of(architecture, (masking, "before", "fan"), width=2)
    start = [m.n_free for m in masks(generator)]
    for task in range(3):
        learn(generator, steps=3)
        assert any(m.n_free < n for m, n in zip(masks(generator), start, strict=True))
        parameters = sum(p.numel() for p in generator.parameters())
        generator.begin_task()
        free = [m.n_free for m in masks(generator)]
        assert free == start if masking == "units" else all(map(int.__ge__, free, start))
        present = {name: g.width for name, g in generator.groups.items()}
        assert generator.widths[task] != present
        for layer in layers(generator):
            assert layer.weight.shape == layer.shape()
        assert parameters < sum(p.numel() for p in generator.parameters())
        # A task that is dropped has grown the generator; the next one finds enough.
        generator.drop_task()
    total = sum(present.values())
    assert generator.capacity_ratio == total / sum(g.initial for g in generator.groups.values())
    assert generator.capacity_ratio > 1
    assert [u["width"] for u in generator.usage()[: len(start)]] == [
        m.reserved[tuple(slice(n) for n in m.shapes[0])].numel() for m in masks(generator)
    ]


def test_weight_masks_grow_by_the_weights_that_are_missing():
    """The rule by hand: dense layers 2 -> 4 -> 8."""
    generator = generator_of("dense", SAFE[3], width=1, latent=2, shape=(3,))
    first, second = generator.layer1, generator.layer2

    def use(*numbers):
        generator.begin_task()
        with torch.no_grad():
            for layer, n_used in zip((first, second), numbers, strict=True):
                free = (~layer.mask.reserved).nonzero()[:n_used]
                layer.mask.embedding.fill_(-1.0)[free.unbind(1)] = 1.0
        generator.end_task()

    use(5, 27)
    assert (first.weight.shape, second.weight.shape) == ((4, 2), (8, 4))
    use(0, 0)
    added = ceil(5 / 2)
    assert first.weight.shape == (4 + added, 2)
    # New inputs bring 3 * 8 weights, so 3 of 27 are missing: one output of 7 weights.
    assert second.weight.shape == (8 + ceil((27 - added * 8) / (4 + added)), 4 + added)
    assert generator.groups["second"].width == 9
    assert generator.heads[0].weight.shape == (3, 8)
    # One weight more than at the start is free in the first layer, and four in the second.
    assert (first.mask.n_free, second.mask.n_free) == (8 + 1, 32 + 4)
    use(1, 4)
    use(0, 0)
    assert (first.weight.shape, second.weight.shape) == ((7, 2), (9, 7))


def test_the_last_task_needs_no_room_after_it():
    generator = generator_of("dcgan")
    generator.begin_task()
    generator.end_task()
    assert generator.capacity_ratio == 1
    assert generator.sparsity(1.0) == 0  # nothing is free, and nothing divides by zero
    generator.begin_task()
    assert generator.capacity_ratio == 2
    assert all((m.embedding == 0).all() for m in masks(generator))


def test_units_grow_by_what_is_newly_reserved():
    generator = generator_of("resnet", width=4)
    generator.begin_task()
    used = {"stream": 3, "inner1": 0, "inner2": 1, "inner3": 4}
    with torch.no_grad():
        for name, n in used.items():
            generator.masks[name].embedding.fill_(-1.0)[:n] = 1.0
    generator.end_task()
    generator.begin_task()
    assert {n: g.width for n, g in generator.groups.items()} == {n: 4 + u for n, u in used.items()}
    assert generator.blocks[2].conv1.weight.shape == (8, 7, 3, 3)
    assert generator.blocks[2].conv2.weight.shape == (7, 8, 3, 3)
    assert generator.usage()[0] == {
        "name": "stream",
        "task": 0,
        "width": 4,
        "reserved": 3,
        "reused": 0,
        "free": 1,
    }


@every_network
@every_option
def test_gradients_are_masked_like_the_plain_rule(architecture, options):
    generator = generator_of(architecture, options)
    learn(generator)
    generator.begin_task()
    generator(torch.randn(8, 5), scale=2.0).square().sum().backward()
    expected = [layer.weight.grad.masked_fill(kept(layer), 0) for layer in layers(generator)]
    generator.protect(scale=2.0, smax=SMAX, compensation="none")
    for layer, gradient in zip(layers(generator), expected, strict=True):
        assert torch.equal(layer.weight.grad, gradient)
        assert (gradient != 0).any()
    old = [*generator.heads[0].parameters()]
    old += [
        p for n in generator.modules() if isinstance(n, NormReLU) for p in n.norms[0].parameters()
    ]
    assert all(p.grad is None and not p.requires_grad for p in old)


def test_sparsity_is_one_ratio_over_all_masks():
    generator = generator_of("dcgan", width=1)
    learn(generator)
    generator.begin_task()
    top, bottom = 0.0, 0
    for mask in masks(generator):
        mask.embedding.data.normal_()
        for e, reserved in zip(mask.embedding.tolist(), mask.reserved.tolist(), strict=True):
            if not reserved:
                top += 1 / (1 + 2.718281828459045 ** (-3 * e))
                bottom += 1
    assert generator.sparsity(3.0).item() == pytest.approx(top / bottom, rel=1e-5)
    assert generator.sparsity(torch.tensor(3.0)).item() == pytest.approx(top / bottom, rel=1e-5)


@pytest.mark.parametrize("scale", [0.02, 1.0, 7.0])
def test_compensated_gradient_does_not_depend_on_the_scale(scale):
    """The loss is sum(c * m), so that dL/dm is c."""
    generator = generator_of("dense")
    generator.begin_task()
    factors = []
    for mask in masks(generator):
        mask.embedding.data.uniform_(-1, 1)
        factors.append(torch.randn(mask.embedding.shape))
        (factors[-1] * mask.soft(scale)).sum().backward()
    slopes = [m.embedding.sigmoid() * (1 - m.embedding.sigmoid()) for m in masks(generator)]
    generator.protect(scale=scale, smax=SMAX)
    for mask, factor, slope in zip(masks(generator), factors, slopes, strict=True):
        torch.testing.assert_close(
            mask.embedding.grad, SMAX * slope.detach() * factor, rtol=1e-3, atol=1e-6
        )


@every_network
@pytest.mark.parametrize("options", [SAFE[0], SAFE[2], SAFE[3]], ids="-".join)
@pytest.mark.parametrize("middle", [False, True])
@every_type
def test_state_survives(architecture, options, middle, at_rest):
    generator = generator_of(architecture, options, at_rest=at_rest)
    for _ in range(2):
        learn(generator, steps=4)
    if middle:
        learn(generator, steps=4, end=False)
    generator.eval()
    file = io.BytesIO()
    torch.save(generator.state_dict(), file)
    file.seek(0)
    loaded = build_generator(generator.settings, generator.scaler)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    learned = build_generator(generator.settings, generator.scaler)  # one that has to lose a task
    for _ in range(3):
        learn(learned, steps=1)
    learned.load_state_dict(generator.state_dict())
    copies = [loaded, learned, copy.deepcopy(generator), pickle.loads(pickle.dumps(generator))]
    z = torch.randn(3, 5)
    for other in copies:
        other.eval()
        for task in range(2):
            assert torch.equal(draw(other, task), draw(generator, task))
        assert other.usage() == generator.usage()
        assert other.widths == generator.widths
        flags = [(n, p.requires_grad) for n, p in other.named_parameters()]
        assert flags == [(n, p.requires_grad) for n, p in generator.named_parameters()]
        if middle:
            assert torch.equal(other(z, scale=3.0), generator(z, scale=3.0))
    if middle:
        generator.end_task()
        for other in copies:
            other.end_task()
            assert torch.equal(draw(other, 2), draw(generator, 2))
    else:
        # A copy goes on independently of the original.
        old = draw(generator, 1)
        learn(copies[2])
        assert torch.equal(draw(copies[2], 1), old)
        assert generator.n_tasks == 2


def test_loading_the_same_shapes_keeps_the_parameters():
    """An optimiser that is in use must not lose them."""
    generator = generator_of("resnet")
    learn(generator)
    generator.begin_task()
    before = [id(p) for p in generator.parameters()]
    generator.load_state_dict(generator.state_dict())
    assert [id(p) for p in generator.parameters()] == before


def test_half_precision_is_at_rest_alone():
    whole = generator_of("dcgan")
    torch.manual_seed(0)
    half = generator_of("dcgan", at_rest="float16")
    learn(whole, end=False)
    torch.manual_seed(1)
    learn(half, end=False)
    half.load_state_dict({**whole.state_dict(), "_extra_state": half.get_extra_state()})
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    half.norm3.norms[0].running_var.fill_(1e9)  # beyond the smaller type's range
    for generator in (whole, half):
        generator.end_task()
    assert {p.dtype for p in half.parameters()} == {torch.float16}
    assert half.norm3.norms[0].running_var.max() == torch.finfo(torch.float16).max
    half.norm3.norms[0].running_var.copy_(whole.norm3.norms[0].running_var)
    made, with_all = draw(half, 0), draw(whole, 0)
    assert made.dtype == torch.float32
    assert {p.dtype for p in half.parameters()} == {torch.float16}
    assert not torch.equal(made, with_all)
    torch.testing.assert_close(made, with_all, rtol=0, atol=5e-3)
    with torch.inference_mode():
        assert torch.equal(draw(half, 0), made)
    learn(half)  # what was drawn in inference mode can still be trained
    assert torch.equal(draw(half, 0), made)
    with pytest.raises(CheckpointError, match="at_rest='float16'"):
        half.load_state_dict(whole.state_dict())


@every_network
def test_dropped_task_leaves_no_trace_but_in_free_weights(architecture):
    generator = generator_of(architecture)
    learn(generator)
    old, names = draw(generator, 0), [n for n, _ in generator.named_parameters()]
    learn(generator, end=False)
    generator.drop_task()
    generator.drop_task()  # there is none any more: nothing happens
    assert not generator.learning
    assert [n for n, _ in generator.named_parameters()] == names
    assert torch.equal(draw(generator, 0), old)
    assert all((m.embedding == 0).all() for m in masks(generator))
    learn(generator)
    assert torch.equal(draw(generator, 0), old)


def test_old_norms_stay_in_eval_mode():
    group = Group("channels", 3)
    norm, learning = NormReLU(group, settings_of("dense")), View()
    norm.begin()
    for x in (torch.randn(16, 3), torch.randn(4, 3, 5, 2)):
        plain = nn.BatchNorm1d(3) if x.ndim == 2 else nn.BatchNorm2d(3)
        assert torch.equal(
            norm.train()(x, learning), plain(x).relu()
        )  # fresh ones: the batch's statistics
    norm(torch.randn(64, 3) + 5, learning)
    norm.norms.finish()
    group.width = 4
    norm.begin()
    assert [n.weight.numel() for n in norm.norms] == [3, 4]
    before = norm.norms[0].running_mean.clone()
    x = torch.randn(8, 3) * 3
    expected = (x - before) / (norm.norms[0].running_var + 1e-5).sqrt()
    torch.testing.assert_close(norm.train()(x, View(0)), expected.relu())
    assert torch.equal(norm.norms[0].running_mean, before)
    assert not any(p.requires_grad for p in norm.norms[0].parameters())
    assert norm(torch.randn(1, 4), learning).isfinite().all()  # a batch of one has no variance


def test_masks_act_where_they_are_placed():
    mask = Mask((2,))
    mask.embedding.data = torch.tensor([9.0, -9.0])
    mask.commit()
    group = Group("g", 2, mask)
    before, after = (settings_of("dense", ("units", place, "fan")) for place in ("before", "after"))
    x, finished = torch.randn(4, 3), View(0)
    layer = MaskedLinear(3, group, before)
    out = layer(x, finished)
    assert (out[:, 1] == 0).all()
    assert torch.equal(out[:, 0], (x @ layer.weight.T)[:, 0])
    assert (MaskedLinear(3, group, after)(x, finished)[:, 1] != 0).any()
    norm = NormReLU(group, after)
    norm.begin()
    norm.norms[0].bias.data += 2
    norm.eval()
    assert (norm(x[:, :2], finished)[:, 1] == 0).all()
    assert (norm(x[:, :2], finished)[:, 0] != 0).any()
    norm.settings = before  # then an unused unit emits its shift
    assert (norm(torch.zeros(1, 2), finished)[:, 1] == 2).all()


def test_residual_block_adds_to_the_upsampled_input():
    stream, inner = Group("s", 2, Mask((2,))), Group("i", 3, Mask((3,)))
    block = MaskedResidualBlock(stream, inner, settings_of("resnet", ("units", "after", "fan")))
    for norm in (block.norm1, block.norm2):
        norm.begin()
    block.conv2.weight.data.zero_()
    x = torch.randn(2, 2, 3, 4)
    assert torch.equal(block(x, View(scale=1.0)), nn.Upsample(scale_factor=2)(x))


@pytest.mark.parametrize(("masking", "normal_first"), [("units", True), ("weights", False)])
def test_initial_and_added_weights(masking, normal_first):
    source, target = Group("a", 40), Group("b", 30)
    if masking == "units":
        source.mask, target.mask = Mask((40,)), Mask((30,))
    layer = MaskedConvTranspose2d(source, target, settings_of("dcgan", (masking, "before", "fan")))
    old = layer.weight.detach().clone()
    source.width, target.width = 60, 50
    layer.grow()
    assert torch.equal(layer.weight[:40, :30], old)
    bound = (2 * 6 / (16 * (60 + 50))) ** 0.5
    added = torch.cat([layer.weight[40:].flatten(), layer.weight[:40, 30:].flatten()])
    normal, uniform = (old, added) if normal_first else (added, old)
    assert normal.std().item() == pytest.approx(0.02, rel=0.05)
    largest = bound if normal_first else (2 * 6 / (16 * 70)) ** 0.5
    assert uniform.abs().max().item() == pytest.approx(largest, rel=0.01)
    assert uniform.std().item() == pytest.approx(largest / 3**0.5, rel=0.05)


@every_network
def test_images_have_the_shape_and_range(architecture):
    generator = generator_of(architecture)
    generator.begin_task()
    images = generator(torch.randn(6, 5), scale=torch.tensor(1.0))
    assert images.shape == (6, *SHAPES[architecture])
    assert images.abs().max() <= 1
    state = generator.get_extra_state()
    listed = {**state["spec"], "shape": list(state["spec"]["shape"])}
    generator.set_extra_state({**state, "spec": listed})  # as from a text file


def test_dcgan_has_the_authors_size():
    generator = build_generator(MaskedGANSettings(), scaler_of((1, 28, 28)))
    assert sum(layer.weight.numel() for layer in layers(generator)) == 163_840 + 51_200 + 12_800
    generator.begin_task()
    assert sum(p.numel() for p in generator.heads.parameters()) == 320


@pytest.mark.parametrize(
    ("architecture", "shape"), [("dcgan", (64,)), ("resnet", (64,)), ("dense", (1, 8, 8))]
)
def test_architectures_for_other_samples(architecture, shape):
    with pytest.raises(ShapeError, match="architecture='auto'"):
        generator_of(architecture, shape=shape)


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "gan"},
        {"width": 0},
        {"latent": 0},
        {"masking": "layers"},
        {"placement": "inside"},
        {"protection": "none"},
    ],
)
def test_bad_settings(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        MaskedGANSettings(**changes)


def test_misuse_is_explained():
    generator = generator_of("dense")
    z = torch.randn(2, 5)
    with pytest.raises(RuntimeError, match="begin_task"):
        generator(z, scale=1.0)
    with pytest.raises(RuntimeError, match="begin_task"):
        generator.end_task()
    generator.begin_task()
    with pytest.raises(RuntimeError, match="drop_task"):
        generator.begin_task()
    with pytest.raises(ConfigError, match="scale"):
        generator(z)
    with pytest.raises(ShapeError, match=r"\(n, 5\)"):
        generator(z[:, :4], scale=1.0)
    with pytest.raises(UnknownTaskError):
        generator(z, task=0)
    with pytest.raises(ConfigError, match="compensation"):
        generator.protect(scale=1.0, smax=2.0, compensation="all")
    with pytest.raises(CheckpointError, match="width=9"):
        generator_of("dense", width=9).load_state_dict(generator.state_dict())


@pytest.mark.parametrize(("compensation", "largest"), [("hat", 6.0), ("authors", 40.0)])
def test_embeddings_are_bounded_with_hat_compensation(compensation, largest):
    generator = generator_of("dense")
    generator.begin_task()
    for mask in masks(generator):
        mask.embedding.data.fill_(-40.0)
    generator.protect(scale=1.0, smax=SMAX, compensation=compensation)
    assert all((m.embedding == -largest).all() for m in masks(generator))
