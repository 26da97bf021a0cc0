"""What every generator promises to what uses it: one set of tests over all of them."""

import copy

import pytest
import torch
from driver import digits
from outside import Diffusion, Flow, Mixtures

from avalanche_dgm.data import ExperienceData
from avalanche_dgm.errors import ConfigError, DataError, LabelError, ShapeError
from avalanche_dgm.fitting import fit
from avalanche_dgm.generators.conditional_gan import ConditionalGAN
from avalanche_dgm.generators.density import ClassDensity, make_density
from avalanche_dgm.generators.gan_settings import ConditionalGANSettings, MaskedGANSettings
from avalanche_dgm.generators.keeping import JointReplay
from avalanche_dgm.generators.masked_gan import MaskedGAN
from avalanche_dgm.generators.vae_generator import VAEGenerator
from avalanche_dgm.modules import Frozen
from avalanche_dgm.randomness import RandomSource

GAN = {"width": 8, "discriminator_width": 8, "latent": 32}
#: Generators that train for n steps, and how many they need for two digits: a new one joins here.
GENERATORS = {
    "mixture of Gaussians": (lambda n: Mixtures(components=2), 0),
    "normalising flow": (lambda n: Flow(layers=4, hidden=32, steps=n), 150),
    "diffusion": (lambda n: Diffusion(hidden=64, sampling_steps=8, steps=n), 500),
    "autoencoder": (lambda n: VAEGenerator(generator_steps=n), 150),
    "autoencoder, rehearsal": (
        lambda n: VAEGenerator(generator_steps=n, consolidation="rehearsal"),
        150,
    ),
    "density": (lambda n: ClassDensity(), 0),
    "density, shared": (lambda n: make_density("shared"), 0),
    "density, low rank": (lambda n: make_density("low-rank"), 0),
    "density, diagonal": (lambda n: make_density("diagonal"), 0),
    "density, mixture": (lambda n: make_density("mixture"), 0),
    "density, mixture of low rank": (
        lambda n: make_density("low-rank", components=3, tied="component"),
        0,
    ),
    "density, several means and one covariance": (
        lambda n: make_density("shared", components=3),
        0,
    ),
    "conditional GAN": (
        lambda n: ConditionalGAN(
            ConditionalGANSettings(generator_steps=n, class_inputs=10, batch_size=16, **GAN),
            keep=JointReplay(),
        ),
        300,
    ),
    "masked GAN": (lambda n: MaskedGAN(MaskedGANSettings(generator_steps=n, **GAN)), 200),
}
DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    ),
]


def new(name, steps=5):
    """One that has learned nothing."""
    return GENERATORS[name][0](steps)


def on(device, data):
    moved = (t.to(device) for t in (data.images, data.labels, data.tasks))
    return ExperienceData(*moved, data.key, data.name)


def learn(generator, data, *, seed=0):
    """Does what a method does with a generator in an experience."""
    random = RandomSource(seed)
    rng = random.on(data.images.device)
    generator.check(data)
    with random.seeded_init():
        generator.build(data.images)
    previous = Frozen(generator).module if len(generator.classes) else None
    for phase in generator.learn(data, rng, previous=previous):
        fit(phase, rng)
    generator.end(rng)


def draw(generator, rows, *, seed=1):
    device = generator.classes.rows.device
    rng = torch.Generator(device=device).manual_seed(seed)
    return generator.sample(rows.to(device), rng)


def every_row(generator, n=20):
    return torch.arange(len(generator.classes)).repeat_interleave(n)


@pytest.fixture(scope="module")
def learned():
    """Each generator after two experiences, made once; tests do not change them."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = new(name, GENERATORS[name][1])
            learn(made[name], digits(0, 1))
            learn(made[name], digits(2, 3), seed=1)
        return made[name]

    return get


@pytest.fixture(params=list(GENERATORS))
def name(request):
    return request.param


def nearest_class(samples):
    """The digit whose mean image is nearest: no network of ours judges."""
    data = digits(0, 1, 2, 3, per_class=None)
    means = torch.stack([data.images[data.labels == c].mean(dim=0) for c in range(4)])
    return torch.cdist(samples.flatten(1), means.flatten(1)).argmin(dim=1)


def test_both_experiences_are_remembered(name, learned):
    generator = learned(name)
    assert generator.classes.labels.tolist() == [0, 1, 2, 3]
    rows = every_row(generator, 50)
    right = (nearest_class(draw(generator, rows)) == generator.classes.labels[rows]).float()
    assert (right.view(4, 50).mean(dim=1) > 0.6).all(), right.view(4, 50).mean(dim=1)


def test_samples_of_a_class_differ(name, learned):
    generator = learned(name)
    samples = draw(generator, torch.zeros(30, dtype=torch.int64))
    real = digits(0).images
    # A GAN that is trained for a few seconds knows few samples of a class.
    least = 0.05 if "GAN" in name else 0.3
    assert samples.std(dim=0).mean() > least * real.std(dim=0).mean()


def test_samples_have_shape_range_and_no_gradients(name, learned):
    generator = learned(name)
    samples = draw(generator, every_row(generator))
    assert samples.shape == (80, 1, 8, 8)
    assert samples.dtype == torch.float32
    assert not samples.requires_grad
    assert torch.isfinite(samples).all()
    # Real ones are from 0 to 1, and a density is not cut off there.
    low, high = samples.quantile(torch.tensor([0.02, 0.98])).tolist()
    assert -0.7 < low < 0.2
    assert 0.7 < high < 1.5


@pytest.mark.parametrize("n", [0, 1, 7])
def test_any_number_of_samples(name, learned, n):
    assert draw(learned(name), torch.zeros(n, dtype=torch.int64)).shape == (n, 1, 8, 8)


def test_mixed_precision(name, learned):
    """Drawing and scoring many samples within autocast, as in steps of a Trainer."""
    generator, data = learned(name), digits(0, 1, 2, 3)
    rows = every_row(generator, 600)
    expected, scores = draw(generator, rows), generator.score(data.images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        samples, found = draw(generator, rows), generator.score(data.images)
    assert (samples.float() - expected).abs().mean() < 0.01
    if scores is not None:
        assert torch.corrcoef(torch.stack([scores, found.float()]))[0, 1] > 0.99


def test_rows_come_balanced(name, learned):
    generator = learned(name)
    rows = generator.classes.balanced(10, torch.Generator().manual_seed(0))
    assert set(rows.bincount(minlength=4).tolist()) == {2, 3}


def test_only_the_given_random_numbers_are_drawn(name, learned):
    generator, before = learned(name), torch.get_rng_state()
    rows = every_row(generator)
    assert torch.equal(draw(generator, rows), draw(generator, rows))
    assert not torch.equal(draw(generator, rows), draw(generator, rows, seed=2))
    assert torch.equal(torch.get_rng_state(), before)


def test_learning_is_governed_by_its_random_numbers(name):
    one, other = new(name), new(name)
    torch.manual_seed(1)
    learn(one, digits(0, 1, per_class=20))
    torch.manual_seed(2)
    learn(other, digits(0, 1, per_class=20))
    assert torch.equal(draw(one, every_row(one)), draw(other, every_row(other)))


def test_sampling_changes_nothing(name, learned):
    generator = learned(name)
    before = copy.deepcopy(generator.state_dict())
    draw(generator, every_row(generator))
    assert same(generator.state_dict(), before)


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    return one == other


def test_a_state_makes_a_new_one_the_same(name, learned, tmp_path):
    generator, fresh = learned(name), new(name)
    torch.save(generator.state_dict(), tmp_path / "state.pt")
    before = torch.get_rng_state()
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(torch.get_rng_state(), before)
    rows = every_row(generator)
    assert torch.equal(draw(fresh, rows), draw(generator, rows))
    assert fresh.shape == (1, 8, 8)
    learn(fresh, digits(4, per_class=20), seed=2)
    assert fresh.classes.labels.tolist() == [0, 1, 2, 3, 4]


def test_a_frozen_copy_stays_as_it_is(name):
    generator = new(name)
    learn(generator, digits(0, 1, per_class=20))
    frozen, rows = Frozen(generator), every_row(generator)
    before = draw(frozen.module, rows)
    learn(generator, digits(2, per_class=20), seed=1)
    assert torch.equal(draw(frozen.module, rows), before)
    assert not any(p.requires_grad for p in frozen.parameters())
    assert not frozen.train().module.training


def test_what_is_shared_with_the_copy_for_undoing_is_replaced_and_not_changed(name):
    generator = new(name)
    learn(generator, digits(0, 1, per_class=20))
    shared = dict(generator.named_buffers(recurse=False))
    before = {key: buffer.clone() for key, buffer in shared.items()}
    learn(generator, digits(2, per_class=20), seed=1)
    assert same(shared, before)


def test_other_shapes_are_refused_and_change_nothing(name, learned):
    generator = copy.deepcopy(learned(name))
    before = copy.deepcopy(generator.state_dict())
    data = digits(5)
    small = ExperienceData(data.images[..., :4], data.labels, data.tasks, "small")
    with pytest.raises(ShapeError, match="[Rr]esize"):
        generator.check(small)
    assert same(generator.state_dict(), before)


def test_another_default_type_is_refused_before_anything_is_built(name):
    generator = new(name)
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(ConfigError, match="set_default_dtype"):
            generator.check(digits(0, 1, per_class=20))
    finally:
        torch.set_default_dtype(torch.float32)
    assert generator.spec is None


def test_flat_samples_are_learned(name):
    data, generator = digits(0, 1, per_class=20), new(name)
    flat = ExperienceData(data.images.flatten(1), data.labels, data.tasks, "flat")
    learn(generator, flat)
    assert draw(generator, torch.tensor([0, 1])).shape == (2, 64)


def test_a_returning_class_is_learned_again(name, learned):
    if name == "masked GAN":
        with pytest.raises(LabelError, match="learned before"):
            learned(name).check(digits(0, 4, skip=60))
        return
    generator = new(name)
    learn(generator, digits(0, 1))
    learn(generator, digits(0, 4, skip=60), seed=2)
    assert generator.classes.labels.tolist() == [0, 1, 4]


def test_scores_tell_what_was_learned(name, learned):
    generator = learned(name)
    known, unknown = digits(0, 1, 2, 3, skip=60).images, digits(4, 6, 9).images
    scores = generator.score(known)
    assert (scores is not None) == generator.scores
    if scores is None:
        return
    assert scores.shape == (len(known),)
    assert not scores.requires_grad
    assert scores.median() < generator.score(unknown).median()
    assert scores.median() < generator.score(torch.rand_like(known)).median()


@pytest.mark.parametrize("device", DEVICES)
def test_devices(name, device):
    generator = new(name)
    learn(generator, on(device, digits(0, 1, per_class=20)))
    learn(generator, on(device, digits(2, per_class=20)), seed=1)
    assert {t.device.type for t in generator.state_dict().values() if torch.is_tensor(t)} == {
        device
    }
    assert draw(generator, every_row(generator)).device.type == device
    generator.to("cpu")
    assert draw(generator, every_row(generator)).device.type == "cpu"


def test_a_mixture_says_which_class_has_too_few_samples():
    with pytest.raises(DataError, match=r"Class 1 has 2 samples.*lower components"):
        Mixtures(components=3).check(digits(1, per_class=2))
