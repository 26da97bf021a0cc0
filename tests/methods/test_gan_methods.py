"""Dynamic memory, MeRGAN, EWC on a generator and GAN replay: what their papers say they do."""

import copy
from dataclasses import replace

import pytest
import torch
from driver import Driver, digits, network
from torch import nn

from avalanche_dgm.data import ExperienceData, SamplePool, even_weights
from avalanche_dgm.errors import ConfigError, LabelError, RangeError, ShapeError, UnknownTaskError
from avalanche_dgm.fitting import fit
from avalanche_dgm.generators.gan import GAN
from avalanche_dgm.generators.keeping import Alignment, JointReplay
from avalanche_dgm.generators.masked_networks import noise_with_class
from avalanche_dgm.losses import gradient_penalty
from avalanche_dgm.methods import DynamicMemory, EWCGenerator, GANReplay, MeRGAN
from avalanche_dgm.methods.adversarial import GANMethod, shifted
from avalanche_dgm.methods.dynamic_memory import DynamicMemorySettings, paper_hyper
from avalanche_dgm.optimizers import OptimizerSpec

SMALL = {
    "generator_steps": 6,
    "width": 4,
    "discriminator_width": 4,
    "latent": 16,
    "batch_size": 16,
    "replay_per_class": 24,
    "discriminator_finetune_epochs": 1,
}
CONDITIONAL = {**SMALL, "class_inputs": 10}
KINDS = {
    "dynamic": lambda **h: DynamicMemory(**{**SMALL, **h}),
    "mergan": lambda **h: MeRGAN(**{**CONDITIONAL, **h}),
    "alignment": lambda **h: MeRGAN(replay="alignment", **{**CONDITIONAL, **h}),
    "ewc": lambda **h: EWCGenerator(fisher_samples=5, **{**CONDITIONAL, **h}),
    "gan replay": lambda **h: GANReplay(**{**CONDITIONAL, **h}),
}


@pytest.fixture(params=KINDS, ids=lambda name: name.replace(" ", "-"))
def kind(request):
    return KINDS[request.param]


def driver(method):
    return Driver(method, network(), steps=3)


def images_of(method, label, n=7, seed=4):
    before = method.random.get_state()
    method.random.set_state({"seed": seed, "generators": {}})
    images = method.sample_class(label, n)
    method.random.set_state(before)
    return images


def test_sampling_leaves_every_part_in_its_mode(kind):
    method = kind(seed=1)
    driver(method).train(digits(0))
    generator = method.generator.network
    part = [*generator.children()][-1]
    generator.train()
    part.eval()
    method.sample(3)
    assert generator.training
    assert not part.training


def test_what_is_left_out_of_a_subclass_is_said_when_it_is_made():
    with pytest.raises(TypeError, match="abstract.*_generate"):
        GAN(DynamicMemorySettings())
    with pytest.raises(TypeError, match="abstract.*_make_generator"):
        GANMethod()


# Dynamic memory


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"placement": "after", "protection": "ends"},
        {"masking": "weights"},
        {"annealing": "steps", "compensation": "hat", "smax": 400.0},
        {"aux_classifier_loss": "always", "class_steps": None, "classifier": "discriminator"},
        {"accelerate": True},
        {"aux_classifier_loss": "always", "class_steps": 1},
    ],
)
def test_old_images_never_change(options):
    """Not in a single bit, for the same noise, whatever is learned later."""
    method = KINDS["dynamic"](seed=1, **options)
    learner, seen = driver(method), {}
    for classes in [(0,), (1, 2), (3,), (4,)]:
        learner.train(digits(*classes))
        for label, images in seen.items():
            assert torch.equal(images_of(method, label), images)
        seen |= {label: images_of(method, label) for label in classes}
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("class_steps", [1, None])
def test_class_steps_where_another_classifier_answers(kind, class_steps):
    """The discriminator's logits are those of the new classes, or of all where it goes on."""
    method = kind(seed=1, class_steps=class_steps, generator_steps=2)
    learner = driver(method)
    for classes in [(0, 3), (1, 2), (4,)]:
        learner.train(digits(*classes))
    assert method.generator.learned == 5


def test_a_layer_that_nothing_uses_is_said():
    method = KINDS["dynamic"](seed=1, sparsity=50.0, generator_steps=40)
    with pytest.warns(UserWarning, match="layer wide, middle, narrow is used.*Decrease sparsity"):
        driver(method).train(digits(0))


def test_optimisers_may_be_mappings_and_must_not_decay():
    given = {"lr": 5e-4, "options": {"betas": [0.5, 0.999]}}
    method = KINDS["dynamic"](seed=1, gan_optimizer=given)
    assert method.settings.gan_optimizer == OptimizerSpec("adam", **given)
    driver(method).train(digits(0))
    with pytest.raises(ConfigError, match="gan_optimizer has weight_decay=0.01"):
        DynamicMemory(gan_optimizer=OptimizerSpec(options={"weight_decay": 0.01}))
    MeRGAN(gan_optimizer=OptimizerSpec(options={"weight_decay": 0.01}))
    for wrong in ({"learning_rate": 1}, "adam", None):
        with pytest.raises(
            ConfigError, match="discriminator_finetune_optimizer=.*must be an OptimizerSpec"
        ):
            DynamicMemory(discriminator_finetune_optimizer=wrong)


def test_without_reserving_they_do():
    method = KINDS["mergan"](seed=1, replay="none")
    learner = driver(method)
    learner.train(digits(0))
    before = images_of(method, 0)
    learner.train(digits(1))
    assert not torch.equal(images_of(method, 0), before)


def test_free_units_are_the_same_for_every_task():
    method = KINDS["dynamic"](seed=2)
    learner, widths = driver(method), []
    for label in range(4):
        learner.train(digits(label))
        generator = method.generator.network
        groups = generator.groups.values()
        generator.begin_task()
        assert [g.mask.n_free for g in groups] == [16, 8, 4]
        generator.drop_task()
        widths.append([g.width for g in groups])
    assert widths[0] != widths[-1], "it grew"
    assert method.generator.network.capacity_ratio == sum(widths[-1]) / 28


def test_the_scale_of_equation_3():
    s = DynamicMemorySettings(smax=100.0, generator_epochs=5)
    low, high = 1 / 100, 100.0
    for number in range(50):
        epoch = number // 10
        assert s.scale(number, 50) == pytest.approx(low + (high - low) * epoch / 5)
    steps = DynamicMemorySettings(smax=100.0, annealing="steps")
    assert [steps.scale(i, 3) for i in range(3)] == pytest.approx([low, (low + high) / 2, high])


def test_a_class_that_comes_back_is_refused():
    method = KINDS["dynamic"](seed=1)
    learner = driver(method).train(digits(0, 1))
    before = images_of(method, 1)
    with pytest.raises(LabelError, match="has the classes 1, which.*frozen"):
        learner.train(digits(1, 2))
    assert torch.equal(images_of(method, 1), before)
    learner.train(digits(2))
    assert method.generator.learned == 3


RETURNING = {name: kind for name, kind in KINDS.items() if name != "dynamic"}


@pytest.mark.parametrize("classifier", ["learner", "discriminator"])
@pytest.mark.parametrize("kind", RETURNING.values(), ids=RETURNING)
def test_a_class_that_comes_back_is_learned_again(kind, classifier):
    """It stays one class; real and generated samples weigh half of it each."""
    method = kind(seed=1, classifier=classifier, own_fake_fraction=0.5)
    learner = driver(method).train(digits(0, 1)).train(digits(2))
    data = digits(1, 3, skip=60)
    method.begin(data)
    learner.run(method.before_learning(data))
    gan = method.generator
    assert gan.classes.labels.tolist() == [0, 1, 2, 3]
    assert gan.real_shares().tolist() == [0, 0.5, 0, 1]
    if classifier == "learner":
        assert method._new_weight == pytest.approx(0.5 * 1.5 / 4)
        labels = torch.cat([method.replay(16).labels for _ in range(60)])
        # Of 1: half from before, and half of the other half made now.
        expected = len(labels) * torch.tensor([1, 0.75, 1, 0.5], dtype=torch.float64) / 3.25
        counts = torch.bincount(labels, minlength=4).double()
        assert ((counts - expected).abs() < 5 * expected.sqrt()).all()
    method.end(data)
    assert gan.learned == 4
    assert sorted(set(method.sample(40).labels.tolist())) == [0, 1, 2, 3]
    learner.train(digits(0, 1, 2, 3))
    assert gan.classes.labels.tolist() == [0, 1, 2, 3]


def test_joint_replay_weighs_each_class_alike():
    method = KINDS["mergan"](seed=1)
    driver(method).train(digits(0, 1)).train(digits(2))
    data = digits(1, 3, skip=60)
    method.begin(data)
    next(method.before_learning(data))
    weights, batch = torch.zeros(4), (torch.zeros(200, 1, 8, 8), torch.zeros(200).long())
    for _ in range(100):
        for shown in method.generator.keep.shown(batch, method.rng):
            weights += shown.weight * torch.bincount(shown.rows, minlength=4) / 200 / 100
    # The sum over the classes of the experience is 1, as it is without old ones.
    torch.testing.assert_close(weights, torch.full((4,), 0.5), atol=0.02, rtol=0)


def test_alignment_lets_a_class_that_comes_back_go():
    method = KINDS["alignment"](seed=1)
    driver(method).train(digits(0, 1)).train(digits(2))
    for classes, held in [((1, 3), [0, 2]), ((0, 1, 2), [])]:
        data = digits(*classes)
        method.begin(data)
        next(method.before_learning(data))
        former = method.generator.keep._former
        assert (former[1].tolist() if former else []) == held
        method.undo()


class BreakError(Exception):
    """Stands for Ctrl-C."""


def interrupt(method, data, after):
    """Breaks the phase of that number off in its third step."""
    method.begin(data)
    for number, phase in enumerate(method.before_learning(data)):
        if number == after:
            last = phase.loss if callable(phase.loss) else phase.loss[-1].loss
            seen = []

            def breaking(*arguments, last=last, seen=seen):
                seen.append(1)
                if len(seen) > 1:
                    raise BreakError
                return last(*arguments)

            if callable(phase.loss):
                object.__setattr__(phase, "loss", breaking)
            else:
                object.__setattr__(phase.loss[-1], "loss", breaking)
        fit(phase, method.rng)
    raise RuntimeError("there was no such phase")


@pytest.mark.parametrize("accelerate", [False, True])
def test_an_interruption_loses_nothing(kind, accelerate):
    method = kind(seed=1, classifier="discriminator", accelerate=accelerate)
    learner = driver(method).train(digits(0)).train(digits(1))
    old, test = images_of(method, 0), digits(0, 1)
    answers = learner.predict(test.images)
    for phase in (0, 1):
        with pytest.raises(BreakError):
            interrupt(method, digits(2), phase)
        assert torch.equal(learner.predict(test.images), answers)
        if isinstance(method, DynamicMemory):
            assert torch.equal(images_of(method, 0), old)
    learner.train(digits(2))
    assert method.generator.learned == 3
    assert method.generator.experiences == 3


def test_the_discriminator_answers_with_every_class(kind):
    method = kind(seed=3, classifier="discriminator")
    learner = driver(method).train(digits(3)).train(digits(0, 7))
    before = copy.deepcopy(learner.learner.state_dict())
    answers = learner.predict(digits(0, 3, 7, 9).images)
    assert answers.shape[1] == 10
    assert set(answers.argmax(dim=1).tolist()) <= {0, 3, 7}
    assert answers[:, 9].max() < answers[:, [0, 3, 7]].min()
    assert all(torch.equal(before[k], v) for k, v in learner.learner.state_dict().items())
    noisy = digits(0).images - 0.5
    assert not torch.equal(learner.predict(noisy), learner.predict(noisy.clamp(0, 1)))


def test_replay_is_balanced(kind):
    """Old classes alike; the experience's own generated samples weigh their share."""
    method = kind(seed=1, own_fake_fraction=0.5)
    learner = driver(method).train(digits(0, 1, 2))
    data = digits(3)
    method.begin(data)
    learner.run(method.before_learning(data))
    assert method._new_weight == pytest.approx(0.5 / 4)
    labels = torch.cat([method.replay(16).labels for _ in range(60)])
    counts = torch.bincount(labels, minlength=4).double()
    expected = len(labels) * torch.tensor([1, 1, 1, 0.5], dtype=torch.float64) / 3.5
    # Five standard deviations of a binomial count.
    assert ((counts - expected).abs() < 5 * expected.sqrt()).all()


@pytest.mark.parametrize("side", [8, 6])
def test_replay_is_in_the_users_units(kind, side):
    """Cropped and scaled back once: a step of the classifier picks what is there."""
    method = kind(seed=1, value_range=(0.0, 4.0))
    learner = Driver(method, nn.Sequential(nn.Flatten(1), nn.LazyLinear(10)), steps=1)
    first, second = (
        replace(data, images=4 * data.images[:, :, :side, :side])
        for data in (digits(0, 1), digits(2))
    )
    learner.train(first)
    method.begin(second)
    learner.run(method.before_learning(second))
    replay = method.replay(16)
    assert replay.images.shape[1:] == (1, side, side)
    assert replay.images.min() >= 0
    assert 1 < replay.images.max() <= 4
    stored = method._pool.samples.flatten(1)
    assert all((image == stored).all(dim=1).any() for image in replay.images.flatten(1))


def test_without_own_samples_only_old_ones_are_replayed():
    method = KINDS["dynamic"](seed=1, own_fake_fraction=0.0)
    learner = driver(method).train(digits(0, 1))
    method.begin(digits(2))
    learner.run(method.before_learning(digits(2)))
    assert method._new_weight == pytest.approx(1 / 3)
    assert set(method.replay(64).labels.tolist()) == {0, 1}


# The others


def test_mergan_goes_on_and_gan_replay_begins_anew():
    for kind, goes_on in ((KINDS["mergan"], True), (KINDS["gan replay"], False)):
        method = kind(seed=1)
        driver(method).train(digits(0))
        before = copy.deepcopy(method.generator.network.state_dict())
        data = digits(1)
        method.begin(data)
        phases = method.before_learning(data)
        next(phases)
        after = method.generator.network.state_dict()
        equal = [torch.equal(v, after[k]) for k, v in before.items() if "layer" in k]
        assert all(equal) if goes_on else not any(equal)


def test_alignment_is_the_authors_sum():
    """Half of the summed squared difference on 64/t samples of each of t old classes, over t."""
    method = KINDS["alignment"](seed=1, alignment=0.01)
    driver(method).train(digits(0)).train(digits(1)).train(digits(2))
    data = digits(3)
    method.begin(data)
    next(method.before_learning(data))
    gan = method.generator
    untouched = gan.keep.loss(gan, torch.Generator().manual_seed(0))
    assert untouched.detach() == 0, "nothing has moved yet"
    with torch.no_grad():
        for p in method.generator.network.parameters():
            p.add_(0.1)
    found = gan.keep.loss(gan, torch.Generator().manual_seed(0))
    old = torch.arange(3).repeat_interleave(16 // 3)
    inputs = gan.inputs(old, torch.Generator().manual_seed(0))
    assert inputs[:, :3].argmax(dim=1).equal(old)
    now, then = gan.network(inputs, scale=1.0), gan.keep._former[0](inputs, scale=1.0)
    total = sum(((a - b) ** 2).sum() for a, b in zip(now, then, strict=True))
    torch.testing.assert_close(found, 0.01 * 0.5 * total / 3)


def test_the_fisher_information_is_the_mean_of_squared_gradients():
    method = KINDS["ewc"](seed=1)
    data = digits(0, 1)
    method.begin(data)
    phase = next(method.before_learning(data))
    fit(phase, method.rng)
    generator, discriminator = (
        method.generator.network.eval(),
        method.generator.discriminator.eval(),
    )
    state = method.random.get_state()
    found = method.generator.keep.information(method.generator, method.rng)
    method.random.set_state(state)
    rows = torch.arange(2).repeat_interleave(5)
    found = torch.cat([found[name].flatten() for name, _ in generator.named_parameters()])
    total = torch.zeros_like(found)
    for one in method.generator.inputs(rows, method.rng):
        generator.zero_grad()
        (-discriminator.score(generator(one[None], scale=1.0)).sum()).backward()
        total += torch.cat([p.grad.flatten() for p in generator.parameters()]).square()
    torch.testing.assert_close(found, total / 10 * 2, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "more", "keep"),
    [("joint", {}, JointReplay()), ("alignment", {"alignment": 0.01}, Alignment(0.01))],
)
def test_an_object_says_how_old_classes_are_kept(name, more, keep):
    methods = [MeRGAN(seed=1, **CONDITIONAL, replay=name, **more) for name in (name, keep)]
    for method in methods:
        driver(method).train(digits(0)).train(digits(1))
    one, other = (images_of(method, 0) for method in methods)
    assert torch.equal(one, other)


def test_a_new_generator_gets_the_steps_of_all_classes():
    method = GANReplay(seed=0, **{**CONDITIONAL, "discriminator_steps": 2})
    learner, steps = driver(method), []
    for labels in ((0,), (1,), (2, 3)):
        data = digits(*labels)
        method.begin(data)
        (phase,) = method.before_learning(data)
        steps.append(phase.steps)
        method.undo()
        learner.train(data)
    # Three steps a round, of which one class has six.
    assert steps == [3 * 6, 3 * 12, 3 * 12]


@pytest.mark.parametrize("every", [1, 3])
def test_a_lazy_penalty_comes_seldom_and_weighs_more(every):
    method = DynamicMemory(seed=1, **SMALL, penalty=2.0, penalty_every=every)
    data = digits(0)
    method.attach(network(), task_aware=False)
    method.begin(data)
    next(method.before_learning(data))
    gan = method.generator
    real, rows = gan.scaler.transform(data.images[:9]), gan.opened_rows[:9]
    score = gan.opponent.eval().score
    for number in range(4):
        found = gan.discriminator_loss((real, rows), torch.Generator().manual_seed(3), number)
        same = torch.Generator().manual_seed(3)
        made = gan.network(gan.inputs(rows, same), scale=gan.scale(number)).detach()
        wanted = score(made).mean() - score(real).mean()
        if number % every == 0:
            shares = torch.rand(9, generator=same)
            wanted = wanted + every * 2.0 * gradient_penalty(score, real, made, shares)
        torch.testing.assert_close(found, wanted)


def test_ewc_holds_the_generator():
    def way(weight):
        method = KINDS["ewc"](seed=1, ewc_weight=weight)
        learner = driver(method).train(digits(0))
        penalty = copy.deepcopy(method.generator.keep.penalty)
        learner.train(digits(1))
        return float(penalty(method.generator.network))

    assert way(1e13) < 0.1 * way(1e-6)


# What they share


def test_a_pool_is_drawn_from_by_weight():
    rows = torch.tensor([0] * 10 + [1] * 30 + [2] * 20)
    weights = even_weights(rows)
    torch.testing.assert_close(torch.bincount(rows, weights), torch.ones(3, dtype=torch.float64))
    pool = SamplePool(torch.arange(60.0)[:, None], rows, weights)
    samples, drawn = pool.sample(6000, torch.Generator().manual_seed(0))
    assert torch.equal(rows[samples.flatten().long()], drawn)
    assert ((torch.bincount(drawn) - 2000).abs() < 200).all()
    assert len(samples.unique()) == 60


def test_noise_says_the_class():
    noise = noise_with_class(torch.tensor([1, 0]), 2, 6, torch.Generator().manual_seed(0))
    assert noise[:, :2].tolist() == [[0, 1], [1, 0]]
    assert noise.shape == (2, 6)


def test_images_are_shifted_by_no_more_than_their_share():
    """Each place is equally likely, and what comes in is dark."""
    images = -torch.ones(600, 2, 10, 20)
    images[:, 0, 5, 10], images[:, 1, 5, 10] = 1.0, 0.5
    moved = shifted(images, 0.1, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape
    _, rows, columns = (moved[:, 0] == 1).nonzero(as_tuple=True)
    assert len(rows) == 600
    assert torch.equal((moved[:, 1] == 0.5), (moved[:, 0] == 1)), "channels move together"
    assert torch.bincount(rows, minlength=7)[4:7].min() > 150
    assert sorted(set(rows.tolist())) == [4, 5, 6]
    assert sorted(set(columns.tolist())) == [8, 9, 10, 11, 12]
    assert torch.equal(shifted(images, 0.0, torch.Generator()), images)
    flat = torch.rand(3, 5)
    assert shifted(flat, 0.3, torch.Generator()) is flat


@pytest.mark.parametrize(
    ("hyper", "match"),
    [
        ({"width": 0}, "width"),
        ({"own_fake_fraction": 1.0}, "own_fake_fraction"),
        ({"penalty": -1.0}, "penalty"),
        ({"smax": 1.0}, "smax"),
        ({"masking": "neurons"}, "masking"),
        ({"placement": "inside"}, "placement"),
        ({"annealing": "never"}, "annealing"),
        ({"sparsity": -0.1}, "sparsity"),
        ({"class_steps": -1}, "class_steps"),
        ({"batch_size": 1}, "batch_size"),
        ({"shift": 0.5}, "shift"),
        ({"accelerate": "yes"}, "accelerate"),
        ({"classifier": "oracle"}, "classifier"),
        ({"replay_size": 0}, "replay_size"),
        ({"kapa": 1}, "kapa"),
    ],
)
def test_hyper_parameters_that_cannot_work(hyper, match):
    with pytest.raises(ConfigError, match=match):
        DynamicMemory(**hyper)


def test_more_of_them():
    with pytest.raises(ConfigError, match="class_inputs"):
        MeRGAN(latent=8, class_inputs=8)
    with pytest.raises(ConfigError, match="replay"):
        MeRGAN(replay="sometimes")
    with pytest.raises(ConfigError, match="ewc_weight"):
        EWCGenerator(ewc_weight=0.0)
    method = MeRGAN(**{**CONDITIONAL, "class_inputs": 2})
    learner = driver(method).train(digits(0, 1))
    with pytest.raises(ConfigError, match="class_inputs"):
        learner.train(digits(2))


def test_samples_that_it_cannot_make():
    flat = digits(0)
    flat = ExperienceData(flat.images.flatten(1), flat.labels, flat.tasks, "0")
    with pytest.raises(ShapeError, match="architecture"):
        driver(DynamicMemory(architecture="dcgan", **SMALL)).train(flat)
    with pytest.raises(ConfigError, match="latent"):
        driver(DynamicMemory(**{**SMALL, "latent": 3})).train(digits(0, 1, 2))
    method = KINDS["dynamic"](seed=0)
    learner = driver(method).train(digits(0))
    loud = digits(1)
    loud = ExperienceData(9 * loud.images, loud.labels, loud.tasks, "loud")
    with pytest.raises(RangeError, match="value_range"):
        learner.train(loud)
    with pytest.raises(UnknownTaskError, match="learned classes: 0"):
        method.sample_class(5, 1)


def test_flat_samples_are_learned():
    def flat(label):
        data = digits(label)
        return ExperienceData(data.images.flatten(1), data.labels, data.tasks, str(label))

    method = KINDS["dynamic"](seed=0)
    learner = Driver(method, nn.Linear(64, 10), steps=2)
    learner.train(flat(0))
    before = images_of(method, 0)
    learner.train(flat(1))
    assert torch.equal(images_of(method, 0), before)
    assert before.shape == (7, 64)


@pytest.mark.parametrize("name", ["mnist", "mnist-weights", "svhn", "svhn-weights", "cifar10"])
def test_the_authors_configurations_learn(name):
    """Cut to a few small steps, on images of 8x8."""
    small = {"generator_epochs": None, "generator_steps": 2, "width": 4, "discriminator_width": 1}
    method = DynamicMemory(seed=0, **{**paper_hyper(name), **small, "batch_size": 8})
    learner = driver(method).train(digits(0, per_class=16))
    before = images_of(method, 0)
    learner.train(digits(1, per_class=16))
    assert torch.equal(images_of(method, 0), before)
    assert learner.predict(digits(0, 1).images).argmax(dim=1).max() <= 1


def test_what_the_authors_published():
    hyper = paper_hyper("mnist")
    assert (hyper["generator_epochs"], hyper["batch_size"]) == (101, 64)
    assert hyper["gan_optimizer"].lr == 2e-3
    assert hyper["gan_optimizer"].options == {"betas": (0.5, 0.999)}
    assert (hyper["smax"], hyper["sparsity"]) == (1e5, 0.01)
    generator = DynamicMemory(**hyper).generator
    generator.build(torch.rand(2, 1, 32, 32))
    generator.open(digits(0))
    # 228,160 weights, 280 of the norms and 140 embeddings (a task).
    assert sum(p.numel() for p in generator.parameters()) == 228_160 + 280 + 140
    with pytest.raises(ConfigError, match="imagenet"):
        paper_hyper("imagenet")


def break_once(monkeypatch, times):
    """The first ``times`` trainings count as failed; the weights at the start of each."""
    original, starts = GAN._phase, []

    def phase(self, samples, rows):
        starts.append([p.detach().clone() for p in self.network.parameters()])
        return original(self, samples, rows)

    def failed(self, samples, rows, rng):
        return self.opened.tolist() if len(starts) <= times else []

    monkeypatch.setattr(GAN, "_phase", phase)
    monkeypatch.setattr(GAN, "_failed", failed)
    return starts


def test_a_training_that_failed_is_repeated(kind, monkeypatch):
    method = kind(seed=1)
    learner = driver(method).train(digits(0))
    old = images_of(method, 0)
    starts = break_once(monkeypatch, times=1)
    with pytest.warns(UserWarning, match="class 3 .*repeated once, with other random numbers"):
        learner.train(digits(3))
    assert len(starts) == 2
    # GAN replay begins with a new network each time.
    same = all(torch.equal(*pair) for pair in zip(*starts, strict=True))
    assert same != isinstance(method, GANReplay)
    assert method.generator.learned == 2
    if isinstance(method, DynamicMemory):
        assert torch.equal(images_of(method, 0), old)


def test_a_training_that_fails_again_is_said(monkeypatch):
    starts = break_once(monkeypatch, times=5)
    with pytest.warns(UserWarning, match="a smaller learning rate"):
        driver(KINDS["dynamic"](seed=1)).train(digits(0))
    assert len(starts) == 2
