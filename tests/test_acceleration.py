"""What acceleration may change, and what it may not."""

from dataclasses import replace

import pytest
import torch
from driver import Driver, digits, network
from torch import nn

from avalanche_dgm.acceleration import accelerate
from avalanche_dgm.fitting import Phase, fit
from avalanche_dgm.generators.discriminators import build_discriminator
from avalanche_dgm.methods import DynamicMemory, MeRGAN
from avalanche_dgm.optimizers import OptimizerSpec

SMALL = {"generator_steps": 8, "width": 8, "discriminator_width": 8, "latent": 16, "batch_size": 32}
KINDS = {
    "dynamic": lambda **h: DynamicMemory(**SMALL, **h),
    "weights": lambda **h: DynamicMemory(masking="weights", **SMALL, **h),
    "mergan": lambda **h: MeRGAN(class_inputs=10, **SMALL, **h),
}


def first_phase(method, data):
    method.attach(network(), task_aware=False)
    method.begin(data)
    return next(method.before_learning(data))


def step(phase, kind):
    """The loss of a kind on one batch, and the gradients of what it trains."""
    batch = tuple(tensor[:32] for tensor in phase.data)
    phase.module.train()
    loss = kind.loss(batch, torch.Generator().manual_seed(5), 1)
    loss.backward()
    grads = torch.cat([p.grad.flatten() for p in kind.parameters if p.grad is not None])
    phase.module.zero_grad()
    return loss.detach(), grads


def images_32():
    """Digits of 32x32 pixels, of two classes."""
    data = digits(0, 1)
    large = nn.functional.interpolate(data.images, scale_factor=4)
    return type(data)(large, data.labels, data.tasks, data.key)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("data", [images_32, lambda: digits(0, 1)], ids=["32x32", "8x8"])
def test_losses_and_gradients_are_those_of_float32_within_bfloat16(kind, data):
    """Eight bits of mantissa: a relative error of 1/256 each, some of it averaged out."""
    plain = first_phase(kind(seed=1), data())
    quick = first_phase(kind(seed=1, accelerate=True), data())
    names = [kind.name for kind in plain.cycle]
    assert names == [kind.name for kind in quick.cycle] == ["discriminator", "generator"]
    for one, other in zip(plain.cycle, quick.cycle, strict=True):
        (loss, grads), (close, near) = step(plain, one), step(quick, other)
        assert near.dtype == close.dtype == torch.float32
        torch.testing.assert_close(close, loss, rtol=0.02, atol=0.02)
        assert torch.cosine_similarity(grads, near, dim=0) > 0.99
        assert not torch.equal(grads, near), "nothing was computed in bfloat16"


def test_convolutions_read_bfloat16_with_channels_last():
    method = DynamicMemory(seed=1, accelerate=True, **SMALL)
    phase = first_phase(method, images_32())
    seen = []
    convolutions = [m for m in method.generator.discriminator.modules() if isinstance(m, nn.Conv2d)]
    for layer in convolutions:
        layer.register_forward_hook(lambda m, x, y: seen.append((m, y)))
    step(phase, phase.cycle[0])
    assert len(seen) >= 3 * len(convolutions), "real, generated and in between"
    assert all(y.dtype == torch.bfloat16 for _, y in seen)
    assert all(y.is_contiguous(memory_format=torch.channels_last) for _, y in seen)
    assert all(m.weight.dtype == torch.float32 for m, _ in seen)


def test_afterwards_everything_is_as_it_is_without():
    method = DynamicMemory(seed=1, accelerate=True, classifier="discriminator", **SMALL)
    driver = Driver(method, network()).train(digits(0, 1)).train(digits(2))
    for module in (method.generator, method.deployed):
        for tensor in (*module.parameters(), *module.buffers()):
            assert tensor.is_contiguous()
            assert tensor.dtype in (torch.float32, torch.int64, torch.bool, torch.uint8)
    assert method.sample(6).images.dtype == torch.float32
    assert driver.predict(digits(0, 1, 2).images).dtype == torch.float32


class BreakError(Exception):
    """Stands for Ctrl-C."""


def test_a_training_that_is_broken_off_leaves_everything_in_order():
    """The same noise gives the same bits afterwards."""
    method = DynamicMemory(seed=1, accelerate=True, **SMALL)
    learner = nn.Sequential(nn.Flatten(1), nn.Linear(1024, 10))
    first, second = images_32(), images_32()
    Driver(method, learner).train(replace(first, labels=first.labels + 2))

    def look():
        state = method.random.get_state()
        method.random.set_state({"seed": 4, "generators": {}})
        images = method.sample(8).images
        method.random.set_state(state)
        return images

    before = look()
    method.attach(learner, task_aware=False)
    method.begin(second)
    phase, steps = next(method.before_learning(second)), []
    weight = method.generator.network.layer2.weight
    assert not weight.is_contiguous()

    def stop(number):
        steps.append(number)
        if number == 3:
            raise BreakError

    object.__setattr__(phase.loss[-1], "before_step", stop)
    with pytest.raises(BreakError):
        fit(phase, method.rng)
    assert steps == [0, 1, 2, 3]
    assert weight.is_contiguous()
    assert torch.equal(look(), before)


def test_looking_at_samples_meanwhile_changes_nothing():
    """Weights and what the optimiser keeps of them stay arranged alike."""

    def trained(look):
        method = DynamicMemory(seed=1, accelerate=True, **SMALL)
        learner = nn.Sequential(nn.Flatten(1), nn.Linear(1024, 10))
        first, second = images_32(), images_32()
        Driver(method, learner).train(replace(first, labels=first.labels + 2))
        method.attach(learner, task_aware=False)
        method.begin(second)
        phase = next(method.before_learning(second))
        protect = phase.loss[-1].before_step

        def before_step(number):
            if look:
                state = method.random.get_state()
                method.sample(4)
                method.random.set_state(state)
            protect(number)

        object.__setattr__(phase.loss[-1], "before_step", before_step)
        fit(phase, method.rng)
        return list(method.generator.network.parameters())

    plain, looked_at = trained(False), trained(True)
    assert all(torch.equal(a, b) for a, b in zip(plain, looked_at, strict=True))


def test_alignment_is_computed_in_float32():
    """At first old samples hardly differ from what they were."""

    def gradients(quick):
        method = MeRGAN(
            replay="alignment", alignment=1.0, seed=1, class_inputs=10, accelerate=quick, **SMALL
        )
        Driver(method, nn.Sequential(nn.Flatten(1), nn.Linear(1024, 10))).train(images_32())
        data = images_32()
        data = replace(data, labels=data.labels + 2)
        method.begin(data)
        next(method.before_learning(data))
        generator = method.generator.network
        drift = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in generator.parameters():
                noise = torch.randn(parameter.shape, generator=drift)
                parameter.mul_(1 + 1e-3 * noise)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=quick):
            gan = method.generator
            loss = gan.keep.loss(gan, torch.Generator().manual_seed(5))
        loss.backward()
        return torch.cat([p.grad.flatten() for p in generator.parameters() if p.grad is not None])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("avalanche_dgm.generators.gan.accelerate", lambda phase: phase)
        one, other = (gradients(quick) for quick in (False, True))
    assert torch.cosine_similarity(one, other, dim=0) > 0.999


def test_a_phase_with_a_single_loss():
    """It learns as without, and says when it is over."""
    data = images_32()

    def learned(quick):
        torch.manual_seed(0)
        discriminator, over = build_discriminator("dcgan", (1, 32, 32), width=4, n_classes=2), []

        def loss(batch, rng):
            x, y = batch
            return nn.functional.cross_entropy(discriminator.classify(x), y)

        spec = OptimizerSpec("adam", 1e-3)
        images = 2 * data.images - 1
        finish = lambda: over.append(1)  # noqa: E731
        phase = Phase("classes", discriminator, loss, spec, 30, 32, (images, data.labels), finish)
        fit(accelerate(phase) if quick else phase, torch.Generator().manual_seed(1))
        assert over == [1]
        assert all(p.is_contiguous() for p in discriminator.parameters())
        discriminator.eval()
        with torch.no_grad():
            return discriminator.classify(images).argmax(dim=1)

    answers = [learned(quick) for quick in (False, True)]
    for found in answers:
        assert (found == data.labels).float().mean() > 0.95


def test_on_a_cpu_it_says_that_it_is_slow():
    with pytest.warns(UserWarning, match="accelerate=True is for GPUs"):
        first_phase(DynamicMemory(accelerate=True, **SMALL), digits(0))


def test_flat_samples():
    dense = nn.Linear(3, 2)
    flat = torch.rand(4, 3)
    phase = Phase("x", dense, lambda b, r: dense(b[0]).sum(), OptimizerSpec(), 1, 4, (flat,))
    assert torch.equal(accelerate(phase).data[0], flat)
