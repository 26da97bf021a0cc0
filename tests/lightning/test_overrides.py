"""Modules of the user's own that override hooks in which a stream is learned."""

from __future__ import annotations

import functools
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from avalanche_dgm import sklearn_digits
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.lightning import DGDMNModule, DGRModule, StreamDataModule, fit_stream
from avalanche_dgm.lightning.package import pl

TRAINER = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False}


def learn(kind, epochs=1, **options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    module = kind(net, generator_steps=2, hidden=(8,), latent=2, seed=0)
    stream = sklearn_digits(n_experiences=5, n_train_per_class=12, seed=0)
    stream = type("Two", (), {"train_stream": stream.train_stream[:2], "test_stream": []})
    result = fit_stream(module, stream, trainer=TRAINER, epochs=epochs, batch_size=8, **options)
    return result, torch.cat([p.detach().flatten() for p in net.parameters()])


class OwnLoss(DGRModule):
    """Learns from the batch alone, as in any LightningModule; phases as they are."""

    def training_step(self, batch, batch_idx):
        if not isinstance(batch, (list, tuple)):
            return super().training_step(batch, batch_idx)
        return F.cross_entropy(self.model(batch[0]), batch[1])


def nothing(self, *args, **kwargs):
    """A hook that is overridden."""


HOOKS = (
    *("configure_gradient_clipping", "on_train_epoch_start", "on_after_backward"),
    *("on_before_optimizer_step", "on_train_batch_end", "on_train_epoch_end"),
)


@pytest.mark.parametrize(
    ("hook", "kind"),
    [
        ("training_step", OwnLoss),
        *((hook, type("Mine", (DGRModule,), {hook: nothing})) for hook in HOOKS),
    ],
)
def test_hooks_that_are_not_called_are_refused(hook, kind):
    with pytest.raises(ConfigError, match=rf"{hook}\(\) of {kind.__name__} does not call super"):
        learn(kind)


def test_a_test_step_that_is_not_called_is_refused():
    class Mine(DGRModule):
        def test_step(self, batch, batch_idx, dataloader_idx=0):
            """Without the accuracy matrix."""

    module = Mine(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), generator_steps=2, hidden=(8,))
    stream = sklearn_digits(n_experiences=2, n_train_per_class=4)
    with pytest.raises(ConfigError, match=r"test_step\(\) of Mine"):
        fit_stream(module, stream, trainer=TRAINER, epochs=1)


class Watching(DGRModule):
    """Calls what it overrides, and counts."""

    counted = 0

    def training_step(self, batch, batch_idx):
        self.counted += 1
        return super().training_step(batch, batch_idx)

    def on_train_batch_start(self, batch, batch_idx):
        """Has nothing to call."""

    def on_train_epoch_end(self):
        super().on_train_epoch_end()
        self.log("counted", float(self.counted))


def test_hooks_that_are_called_change_nothing():
    (found, weights), (expected, plain) = learn(Watching), learn(DGRModule)
    assert torch.equal(weights, plain)
    assert [record.replayed for record in found.records] == [
        record.replayed for record in expected.records
    ]
    assert found.records[1].replayed


class Manual(DGRModule):
    automatic_optimization = False


def test_manual_optimization_is_refused():
    with pytest.raises(ConfigError, match="automatic_optimization"):
        learn(Manual)


class Changing(DGRModule):
    """Changes a batch on its device."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        if not isinstance(batch, (list, tuple)):
            return batch
        images, labels, *others = batch
        return [*self.changed(images, labels), *others]


def test_batches_unlike_what_the_memory_has_read_are_warned_of():
    changes = {
        "does not resemble the batches": lambda self, x, y: ((x - 0.5) / 0.25, y),
        "the labels 0, 1, which the memory has not read": lambda self, x, y: (x, y % 2),
    }
    for message, change in changes.items():
        with pytest.warns(UserWarning, match=message) as caught:
            learn(type("Mine", (Changing,), {"changed": change}))
        assert sum(message in str(w.message) for w in caught) == (2 if "resemble" in message else 1)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(resemble|has not read)")
        learn(DGRModule)


class Head(DGRModule):
    """A loss of the user's own, with parameters of its own."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.head = nn.Linear(10, 1)

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if self.stage_name.endswith("learning"):
            loss = loss + self.head(self.method.active(batch[0])).square().mean()
        return loss


class OwnHead(Head):
    def __init__(self, *args, **kwargs):
        def make(parameters):
            return torch.optim.Adam([*parameters, *self.head.parameters()])

        super().__init__(*args, optimizer=make, **kwargs)


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(10))

    def forward(self, logits, labels):
        return F.cross_entropy(self.scale * logits, labels)


def test_parameters_that_no_step_changes_are_refused():
    """They would silently stay as they are."""
    with pytest.raises(ConfigError, match=r"gradients for head\.weight, head\.bias, which"):
        learn(Head)
    with pytest.raises(ConfigError, match=r"gradients for criterion\.scale"):
        learn(functools.partial(DGRModule, criterion=Scaled()))
    made = []
    learn(lambda *args, **kwargs: made.append(OwnHead(*args, **kwargs)) or made[0])
    module, before = made[0], OwnHead(nn.Linear(64, 10)).head
    torch.manual_seed(0)
    assert not torch.equal(module.head.weight, before.weight)


def test_a_loss_of_a_model_that_is_not_in_training_is_refused():
    """DGDMN trains a copy of it, and the loss would have no effect."""

    class Wrong(DGDMNModule):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            if self.stage_name.endswith("learning"):
                loss = loss + self.model(batch[0]).square().mean()
            return loss

    with pytest.raises(ConfigError, match=r"gradients for model\.1\.weight.* module.method.active"):
        learn(Wrong)


class OwnValidation(DGRModule):
    """Validation of the user's own, also of a metric with integer sums, in learning only."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.right = MulticlassAccuracy(10)

    def val_dataloader(self):
        data = TensorDataset(torch.rand(9, 1, 8, 8), torch.arange(9))
        return DataLoader(data, batch_size=4)

    def validation_step(self, batch, batch_idx):
        self.right(self(batch[0]), batch[1])
        self.log("own", self.right)

    def configure_callbacks(self):
        return [pl.callbacks.EarlyStopping("own", mode="max", patience=0, min_delta=2.0)]


def test_validation_and_callbacks_of_the_user_s_own():
    result, weights = learn(OwnValidation, epochs=5)
    assert result.iterations == [6, 6]
    assert torch.equal(weights, learn(DGRModule, epochs=2)[1])


@pytest.mark.parametrize("hook", ["setup", "train_dataloader", "on_after_batch_transfer"])
def test_hooks_of_a_data_module_that_are_not_called_are_refused(hook):
    data = type("Mine", (StreamDataModule,), {hook: nothing})(sklearn_digits(n_experiences=5))
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(ConfigError, match=rf"not call {hook}\(\) of Mine"):
        fit_stream(DGRModule(net), data, trainer=TRAINER)
