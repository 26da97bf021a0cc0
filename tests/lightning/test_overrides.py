"""Modules of the user's own that override hooks in which a stream is learned."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from avalanche_dgm import sklearn_digits
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.lightning import DGRModule, fit_stream

TRAINER = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False}


def learn(kind, **options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    module = kind(net, generator_steps=2, hidden=(8,), latent=2, seed=0)
    stream = sklearn_digits(n_experiences=5, n_train_per_class=12, seed=0)
    stream = type("Two", (), {"train_stream": stream.train_stream[:2], "test_stream": []})
    result = fit_stream(module, stream, trainer=TRAINER, epochs=1, batch_size=8, **options)
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
