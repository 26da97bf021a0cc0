"""The VAE and the classifier in a plain Trainer, on real digits."""

import json
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from avalanche_dgm import sklearn_digits
from avalanche_dgm.errors import (
    ConfigError,
    DataError,
    LabelError,
    RangeError,
    ShapeError,
    UnsupportedModelError,
)
from avalanche_dgm.generators.vae import VAESpec
from avalanche_dgm.lightning.data import StreamDataModule
from avalanche_dgm.lightning.networks import ClassifierModule, VAEModule
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.optimizers import OptimizerSpec

SMALL = {"hidden": (64, 64), "latent": 8}
FAST = OptimizerSpec(lr=5e-3)


@pytest.fixture(scope="module")
def data():
    """Training and held-out digits: images in [0, 1] and classes."""
    raw = load_digits()
    images = torch.tensor(raw.images / 16.0, dtype=torch.float32)[:, None]
    labels = torch.tensor(raw.target, dtype=torch.int64)
    return SimpleNamespace(
        images=images[:1400],
        labels=labels[:1400],
        held_out=images[1400:],
        held_out_labels=labels[1400:],
    )


def loader(*tensors, batch_size=64, shuffle=False):
    return DataLoader(TensorDataset(*tensors), batch_size=batch_size, shuffle=shuffle)


def once(batch):
    return DataLoader([batch], batch_size=None)


def trainer(epochs=1, **kwargs):
    return pl.Trainer(
        **{
            "max_epochs": epochs,
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **kwargs,
        }
    )


def linear(n_outputs=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, n_outputs))


def bound(vae, images, rng):
    """The negative bound for Bernoulli pixels, written out."""
    mean, log_variance = vae.encode(images)
    noise = torch.randn(mean.shape, generator=rng)
    decoded = vae.decode(mean + noise * (log_variance / 2).exp())
    low, high = float(vae.low), float(vae.high)
    p, x = (decoded - low) / (high - low), (images - low) / (high - low)
    likelihood = (x * p.log() + (1 - x) * (1 - p).log()).flatten(1).sum(dim=1)
    divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=1)
    return divergence - likelihood


class TestVAE:
    def test_learns_digits(self, data):
        # What every image would cost if the model knew their mean only.
        mean = data.images.mean(dim=0).clamp(1e-3, 1 - 1e-3).expand_as(data.held_out)
        baseline = F.binary_cross_entropy(mean, data.held_out, reduction="sum") / len(mean)
        torch.manual_seed(0)
        module = VAEModule.for_images(data.images, seed=0, optimizer=FAST, **SMALL)
        run = trainer(50)
        before = run.test(module, loader(data.held_out), verbose=False)[0]["test/loss"]
        run.fit(module, loader(data.images, shuffle=True), loader(data.held_out))
        assert before > 64 * math.log(2) - 1
        assert run.callback_metrics["val/loss"] < baseline - 1
        assert run.callback_metrics["train/loss"] < baseline - 1
        samples = module.sample(100)
        assert samples.shape == (100, 1, 8, 8)
        assert not samples.requires_grad
        assert float(samples.min()) >= 0
        assert float(samples.max()) <= 1
        # The spread of the samples is that of digits, not of one blurred image.
        assert samples.var(dim=0).mean() > 0.3 * data.images.var(dim=0).mean()
        shown = torch.cat(trainer().predict(module, loader(data.held_out)))
        error = F.mse_loss(shown, data.held_out)
        assert error < 0.7 * data.held_out.var(dim=0).mean()
        other = data.held_out.flatten(2)[..., torch.randperm(64)].view_as(data.held_out)
        assert F.mse_loss(module(other), other) > 2 * error

    def test_does_not_learn_without_steps_worth_the_name(self, data):
        module = VAEModule.for_images(
            data.images, seed=0, optimizer=OptimizerSpec(lr=1e-9), **SMALL
        )
        run = trainer(3)
        run.fit(module, loader(data.images), loader(data.held_out))
        assert run.callback_metrics["val/loss"] > 64 * math.log(2) - 1

    def test_what_is_logged_is_the_bound_of_every_image(self, data):
        module = VAEModule.for_images(data.images, seed=0, kl_weight=0.3, **SMALL)
        images = data.held_out[:150]
        run = trainer()
        run.test(module, loader(images), verbose=False)
        with torch.no_grad():
            values = [
                bound(module.vae, part, torch.Generator().manual_seed(i))
                for i, part in enumerate(images.split(64))
            ]
        expected = float(torch.cat(values).mean())
        assert float(run.callback_metrics["test/loss"]) == pytest.approx(expected, rel=1e-5)

    def test_the_weight_of_the_divergence_is_trained_with(self, data):
        divergences = []
        for weight in (1.0, 0.01):
            module = VAEModule.for_images(data.images, seed=0, kl_weight=weight, **SMALL)
            trainer(5).fit(module, loader(data.images))
            mean, log_variance = module.vae.encode(data.held_out)
            kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=1).mean()
            divergences.append(float(kl.detach()))
        assert divergences[1] > 2 * divergences[0]

    def test_checkpoints_need_no_arguments(self, data, tmp_path):
        module = VAEModule.for_images(
            data.images,
            seed=3,
            kl_weight=0.5,
            optimizer=OptimizerSpec("sgd", lr=0.01, clip_norm=1.0, options={"momentum": 0.5}),
            **SMALL,
        )
        run = trainer()
        run.fit(module, loader(data.images))
        run.save_checkpoint(tmp_path / "vae.ckpt")
        again = VAEModule.load_from_checkpoint(tmp_path / "vae.ckpt", weights_only=True)
        assert again.vae.spec == module.vae.spec
        assert again.optimizer == module.optimizer
        assert again.kl_weight == 0.5
        assert torch.equal(again.sample(20), module.sample(20))
        assert not torch.equal(again.sample(20), VAEModule(module.vae.spec, seed=3).sample(20))

    def test_continues_from_a_checkpoint_as_if_nothing_had_been(self, data, tmp_path):
        whole = VAEModule.for_images(data.images, seed=1, **SMALL)
        parts = VAEModule.for_images(data.images, seed=1, **SMALL)
        trainer(3).fit(whole, loader(data.images), loader(data.held_out))
        run = trainer(1)
        run.fit(parts, loader(data.images))
        run.save_checkpoint(tmp_path / "half.ckpt")
        parts = VAEModule.for_images(data.images, seed=7, **SMALL)
        trainer(3).fit(parts, loader(data.images), ckpt_path=tmp_path / "half.ckpt")
        for mine, theirs in zip(whole.parameters(), parts.parameters(), strict=True):
            assert torch.equal(mine, theirs)

    def test_the_seed_governs_everything(self, data):
        def weights(seed, other):
            torch.manual_seed(other)
            module = VAEModule.for_images(data.images, seed=seed, **SMALL)
            trainer(1).fit(module, loader(data.images[:300]))
            return torch.cat([p.detach().flatten() for p in module.parameters()])

        assert torch.equal(weights(0, 0), weights(0, 1))
        assert not torch.equal(weights(0, 0), weights(1, 0))
        assert torch.equal(weights(None, 0), weights(None, 0))
        assert not torch.equal(weights(None, 0), weights(None, 1))

    def test_samples_are_in_the_range_of_the_images(self, data):
        images = data.images[:400] * 3 - 1
        module = VAEModule.for_images(images, seed=0, optimizer=FAST, **SMALL)
        trainer(10).fit(module, loader(images))
        samples = module.sample(30)
        assert -1 <= float(samples.min()) < -0.9
        assert 1 < float(samples.max()) <= 2

    @pytest.mark.parametrize("form", ["tensor", "list", "tuple"])
    def test_any_form_of_batch(self, data, form):
        images, labels = data.images[:40], data.labels[:40]
        batch = {"tensor": images, "list": [images, labels], "tuple": (images, labels, labels)}
        module = VAEModule.for_images(images, seed=0, **SMALL)
        run = trainer()
        run.fit(module, once(batch[form]))
        other = VAEModule.for_images(images, seed=0, **SMALL)
        trainer().fit(other, once(images))
        for mine, theirs in zip(module.parameters(), other.parameters(), strict=True):
            assert torch.equal(mine, theirs)

    def test_convolutions_and_half_precision(self):
        images = torch.rand(32, 3, 16, 16)
        module = VAEModule.for_images(images, hidden=(8, 16), latent=4)
        assert module.vae.spec.architecture == "conv"
        run = trainer(precision="bf16-mixed")
        run.fit(module, loader(images, batch_size=16))
        assert math.isfinite(run.callback_metrics["train/loss"])
        assert module.sample(2).shape == (2, 3, 16, 16)

    def test_processes_draw_noise_of_their_own_while_training(self, data):
        drawn, after = [], []
        for rank in range(2):
            module = VAEModule.for_images(data.images, seed=0, **SMALL)
            module._trainer = SimpleNamespace(world_size=2, global_rank=rank)
            module.on_train_start()
            drawn.append(torch.rand(3, generator=module.random.on("cpu")))
            module.on_train_end()
            after.append(module.sample(2))
        assert not torch.equal(*drawn)
        assert torch.equal(*after)

    def test_errors(self, data):
        spec = VAESpec((1, 8, 8), "dense", (16,), 4, "bernoulli", (0.0,), (1.0,))
        with pytest.raises(ConfigError, match="kl_weight"):
            VAEModule(spec, kl_weight=-1)
        with pytest.raises(RangeError, match="value_range"):
            VAEModule.for_images(data.images, value_range=(0.0, 0.5))
        with pytest.raises(RangeError, match="Bernoulli"):
            trainer().fit(VAEModule(spec), once(data.images * 16))
        with pytest.raises(ShapeError, match="shape"):
            trainer().fit(VAEModule(spec), once(data.images[:, :, :4]))
        with pytest.raises(DataError, match="dict"):
            trainer().fit(VAEModule(spec), once({"images": data.images}))


class Heads(nn.Module):
    """Answers by the task label alone."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(3, 4))

    def forward(self, images, tasks):
        return self.bias[tasks]


class Gradients(pl.Callback):
    """Notes the gradients of each step, as they were when it was taken."""

    def __init__(self):
        self.seen = []

    def on_before_zero_grad(self, trainer, module, optimizer):
        grads = [p.grad for p in module.parameters() if p.grad is not None]
        if grads:
            self.seen.append(torch.cat([g.flatten() for g in grads]).clone())


class TestClassifier:
    def test_learns_digits(self, data):
        torch.manual_seed(0)
        module = ClassifierModule(linear(), optimizer=OptimizerSpec(lr=1e-2))
        run = trainer(10)
        run.fit(
            module, loader(data.images, data.labels), loader(data.held_out, data.held_out_labels)
        )
        assert run.callback_metrics["val/accuracy"] > 0.85
        assert run.callback_metrics["train/accuracy"] > 0.95
        assert run.callback_metrics["val/loss"] < 0.5
        run.test(module, loader(data.held_out, data.held_out_labels), verbose=False)
        assert run.callback_metrics["test/accuracy"] > 0.85

    def test_does_not_learn_from_labels_that_mean_nothing(self, data):
        torch.manual_seed(0)
        wrong = data.labels[torch.randperm(len(data.labels))]
        module = ClassifierModule(linear(), optimizer=OptimizerSpec(lr=1e-2))
        run = trainer(10)
        run.fit(module, loader(data.images, wrong), loader(data.held_out, data.held_out_labels))
        assert run.callback_metrics["val/accuracy"] < 0.3

    def test_values_are_means_over_samples_for_each_loader(self, data):
        torch.manual_seed(0)
        module = ClassifierModule(linear())
        sizes = (130, 65)
        loaders = [loader(data.images[:n], data.labels[:n]) for n in sizes]
        run = trainer()
        run.test(module, loaders, verbose=False)
        for j, n in enumerate(sizes):
            logits = module.model(data.images[:n])
            right = logits.argmax(dim=1) == data.labels[:n]
            loss = F.cross_entropy(logits, data.labels[:n])
            logged = run.callback_metrics
            assert float(logged[f"test/accuracy/dataloader_idx_{j}"]) == pytest.approx(
                float(right.float().mean())
            )
            assert float(logged[f"test/loss/dataloader_idx_{j}"]) == pytest.approx(float(loss))

    def test_predictions_are_logits(self, data):
        module = ClassifierModule(linear())
        for batches in (loader(data.images[:100]), once(data.images[:100])):
            answers = torch.cat(trainer().predict(module, batches))
            assert torch.allclose(answers, module.model(data.images[:100]), atol=1e-6)

    def test_task_labels(self, data):
        images = data.images[:90]
        tasks = torch.arange(90) % 3
        labels = tasks + 1
        module = ClassifierModule(
            Heads(), task_aware=True, optimizer=lambda p: torch.optim.SGD(p, lr=5.0)
        )
        run = trainer(10)
        run.fit(module, loader(images, labels, tasks))
        run.test(module, loader(images, labels, tasks), verbose=False)
        assert run.callback_metrics["test/accuracy"] == 1
        # With labels of one task only it answers for that one.
        run.test(module, loader(images, labels, torch.zeros_like(tasks)), verbose=False)
        assert float(run.callback_metrics["test/accuracy"]) == pytest.approx(1 / 3)

    def test_equals_a_plain_loop(self, data):
        torch.manual_seed(0)
        module = ClassifierModule(linear(), optimizer=lambda p: torch.optim.SGD(p, lr=0.5))
        torch.manual_seed(0)
        model = linear()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        trainer(2).fit(module, loader(data.images, data.labels))
        for _ in range(2):
            for images, labels in loader(data.images, data.labels):
                optimizer.zero_grad()
                F.cross_entropy(model(images), labels).backward()
                optimizer.step()
        for mine, theirs in zip(module.model.parameters(), model.parameters(), strict=True):
            assert torch.equal(mine, theirs)

    @pytest.mark.parametrize("of_trainer", [None, 0.02])
    def test_gradients_are_limited(self, data, of_trainer):
        seen = {}
        for limit in (None, 0.05):
            torch.manual_seed(0)
            spec = OptimizerSpec("sgd", lr=1e-6, clip_norm=limit)
            module, note = ClassifierModule(linear(), optimizer=spec), Gradients()
            # The Trainer's limit is one of values, so that the order of both can be told.
            run = trainer(
                callbacks=[note], gradient_clip_val=of_trainer, gradient_clip_algorithm="value"
            )
            run.fit(module, loader(data.images[:200], data.labels[:200]))
            seen[limit] = note.seen
        for free, limited in zip(seen[None], seen[0.05], strict=True):
            norm = float(free.norm())
            assert norm > 0.05
            assert torch.allclose(limited, free * 0.05 / norm, rtol=1e-3, atol=1e-6)
            if of_trainer is not None:
                assert float(free.abs().max()) <= of_trainer

    def test_the_schedule_spans_the_fit(self, data):
        spec = OptimizerSpec(lr=1e-3, schedule="one-cycle")
        module = ClassifierModule(linear(), optimizer=spec)
        rates = []

        class Rates(pl.Callback):
            def on_train_batch_start(self, trainer, module, batch, batch_idx):
                rates.append(trainer.optimizers[0].param_groups[0]["lr"])

        run = trainer(4, callbacks=[Rates()], accumulate_grad_batches=2)
        run.fit(module, loader(data.images[:640], data.labels[:640]))
        assert len(rates) == 40
        assert max(rates) == pytest.approx(2e-3, rel=0.02)
        assert rates[0] < 1e-4
        assert rates[-1] < 1e-4

    @pytest.mark.parametrize(("precision", "fused"), [("32-true", True), ("16-mixed", False)])
    def test_no_fused_steps_where_gradients_are_scaled(self, precision, fused):
        for module in (
            ClassifierModule(linear()),
            VAEModule.for_images(torch.rand(4, 1, 8, 8)),
        ):
            module._trainer = SimpleNamespace(precision=precision, estimated_stepping_batches=9)
            assert module.configure_optimizers().param_groups[0]["fused"] is (fused or None)

    def test_checkpoint(self, data, tmp_path):
        spec = OptimizerSpec("rmsprop", lr=1e-2, clip_value=1.0)
        module = ClassifierModule(linear(), optimizer=spec)
        run = trainer()
        run.fit(module, loader(data.images[:200], data.labels[:200]))
        run.save_checkpoint(tmp_path / "net.ckpt")
        again = ClassifierModule.load_from_checkpoint(
            tmp_path / "net.ckpt", model=linear(), weights_only=True
        )
        assert again.optimizer == spec
        assert torch.equal(again(data.images), module(data.images))

    def test_errors(self, data):
        with pytest.raises(ConfigError, match="OptimizerSpec"):
            ClassifierModule(linear(), optimizer=0.1)
        with pytest.raises(LabelError, match="0 to 9, but the model has 5 outputs"):
            trainer().fit(ClassifierModule(linear(5)), loader(data.images, data.labels))
        with pytest.raises(LabelError, match="float32"):
            trainer().fit(ClassifierModule(linear()), loader(data.images, data.labels.float()))
        with pytest.raises(DataError, match="images only"):
            trainer().fit(ClassifierModule(linear()), once(data.images))
        with pytest.raises(ConfigError, match="no parameters to train"):
            trainer().fit(ClassifierModule(nn.Flatten()), loader(data.images, data.labels))
        with pytest.raises(UnsupportedModelError, match="logits"):
            trainer().fit(ClassifierModule(nn.Conv2d(1, 1, 1)), loader(data.images, data.labels))


class TestWithTheDataModule:
    def test_one_experience_after_the_other(self):
        data = StreamDataModule(sklearn_digits(n_experiences=5, seed=0), batch_size=32)
        torch.manual_seed(0)
        module = ClassifierModule(linear(), optimizer=OptimizerSpec(lr=1e-2))
        for i in range(2):
            data.set_experience(i)
            trainer(3).fit(module, datamodule=data)
        run = trainer()
        run.test(module, datamodule=data, verbose=False)
        accuracy = [
            float(run.callback_metrics[f"test/accuracy/dataloader_idx_{j}"]) for j in range(5)
        ]
        # A plain network: it knows the last experience, has forgotten the first, met no other.
        assert accuracy[1] > 0.9
        assert accuracy[0] < 0.5
        assert max(accuracy[2:]) < 0.1


SCRIPT = """
import sys, json, torch
from avalanche_dgm import sklearn_digits
from avalanche_dgm.optimizers import OptimizerSpec
from avalanche_dgm.lightning.data import StreamDataModule
from avalanche_dgm.lightning.networks import ClassifierModule, VAEModule
from avalanche_dgm.lightning.package import pl
torch.set_num_threads(1)
devices = int(sys.argv[1])
data = StreamDataModule(
    sklearn_digits(n_experiences=5, seed=0), batch_size=48, eval_batch_size=30
)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
classifier = ClassifierModule(model, optimizer=OptimizerSpec("sgd", lr=0.3))
vae = VAEModule.for_images(data.experience_data(0).images, seed=0, hidden=(32,), latent=4)
values = {}
for name, module in (("classifier", classifier), ("vae", vae)):
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", devices=devices, logger=False,
        strategy="ddp" if devices > 1 else "auto", enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    weights = torch.cat([p.detach().flatten() for p in module.parameters()])
    trainer.test(module, datamodule=data, verbose=False)
    logged = {k: round(float(v), 4) for k, v in trainer.callback_metrics.items()}
    everyone = trainer.strategy.all_gather(weights).reshape(devices, -1)
    state = module.random.get_state() if name == "vae" else {}
    sample = module.sample(3) if name == "vae" else torch.zeros(1)
    samples = trainer.strategy.all_gather(sample).reshape(devices, -1)
    values[name] = {
        "logged": logged, "weight": round(float(weights.abs().sum()), 3),
        "same": bool((everyone == everyone[0]).all() and (samples == samples[0]).all()),
    }
    rank = trainer.global_rank
if rank == 0:
    print("RESULT" + json.dumps(values))
"""


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    results = []
    for devices in (1, 2):
        run = subprocess.run(
            [sys.executable, str(script), str(devices)],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=tmp_path,
        )
        assert run.returncode == 0, run.stderr[-3000:]
        (line,) = [line for line in run.stdout.splitlines() if line.startswith("RESULT")]
        results.append(json.loads(line.removeprefix("RESULT")))
    one, two = results
    assert two["classifier"]["same"]
    assert two["vae"]["same"]
    assert one["classifier"]["weight"] == pytest.approx(two["classifier"]["weight"], abs=2e-3)
    assert one["classifier"]["logged"] == pytest.approx(two["classifier"]["logged"], abs=2e-3)
    # Each process drew noise of its own.
    assert one["vae"]["weight"] != two["vae"]["weight"]
    assert one["vae"]["logged"] == pytest.approx(two["vae"]["logged"], rel=0.1)
