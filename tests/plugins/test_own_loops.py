"""Strategies whose own training loop or hooks leave out some of Avalanche's hooks."""

from __future__ import annotations

import warnings

import pytest
import torch
from avalanche.training.supervised import Naive
from torch import nn

from avalanche_dgm import DGDMNPlugin, DGRPlugin, LatentReplayPlugin, sklearn_digits
from avalanche_dgm.errors import ConfigError

TINY = {"generator_steps": 2, "hidden": (8,), "latent": 2, "seed": 0}
OURS = {
    "dgr": lambda: DGRPlugin(**TINY),
    "dgdmn": lambda: DGDMNPlugin(**TINY, learner_steps=2),
    "latent": lambda: LatentReplayPlugin(layer=1, seed=0),
}
STEP = ("before_forward", "after_forward", "before_backward", "after_backward", "after_update")


@pytest.fixture(scope="module")
def stream():
    return sklearn_digits(n_experiences=5, n_train_per_class=12, seed=0).train_stream


class Loop(Naive):
    """The user's own loop, with some of Avalanche's hooks."""

    left_out: tuple[str, ...] = ()
    further_steps = 0

    def training_epoch(self, **kwargs):
        def call(hook):
            if hook not in self.left_out:
                getattr(self, f"_{hook}")(**kwargs)

        for batch in self.dataloader:
            self.mbatch = batch
            self._unpack_minibatch()
            call("before_training_iteration")
            self.optimizer.zero_grad()
            self.loss = self._make_empty_loss()
            call("before_forward")
            self.mb_output = self.forward()
            call("after_forward")
            self.loss += self.criterion()
            call("before_backward")
            self.backward()
            call("after_backward")
            for _ in range(1 + self.further_steps):
                self.optimizer_step()
            call("after_update")
            call("after_training_iteration")


def strategy_of(template, plugin):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    options = {"train_mb_size": 8, "train_epochs": 2, "plugins": [plugin]}
    return template(model=net, optimizer=optimizer, criterion=nn.CrossEntropyLoss(), **options)


def learn(stream, template, plugin):
    strategy = strategy_of(template, plugin)
    for experience in stream[:2]:
        strategy.train(experience)
    return strategy


@pytest.mark.parametrize("left_out", [STEP, *((hook,) for hook in STEP[:3])])
@pytest.mark.parametrize("name", OURS)
def test_steps_without_a_hook_are_refused(stream, name, left_out):
    loop = type("Mine", (Loop,), {"left_out": left_out})
    with pytest.raises(ConfigError, match=rf"Mine takes a step without self\._{left_out[0]}\(\)"):
        learn(stream, loop, OURS[name]())


def test_a_step_on_replay_needs_its_hook(stream):
    plugin = LatentReplayPlugin(layer=1, schedule="alternating", seed=0)
    with pytest.raises(ConfigError, match="after_update"):
        learn(stream, type("Mine", (Loop,), {"left_out": ("after_update",)}), plugin)


@pytest.mark.parametrize("name", OURS)
def test_a_loop_with_the_hooks_may_replace_avalanches(stream, name):
    found = []
    for template in (Naive, Loop):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*had no replay")
            model = learn(stream, template, OURS[name]()).model
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*found)


def test_further_steps_are_warned_of(stream):
    loop = type("Mine", (Loop,), {"further_steps": 2})
    with pytest.warns(UserWarning, match=r"took 18 steps, but Mine called the hooks of 6 only"):
        learn(stream[:1], loop, OURS["dgr"]())


HOOKS = ("before_train_dataset_adaptation", "after_training_exp")


@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_around_an_experience_are_needed(stream, hook):
    mine = type("Mine", (Naive,), {f"_{hook}": lambda self, **kwargs: None})
    plugin = OURS["dgr"]()
    with pytest.raises(ConfigError, match=rf"Mine trains without self\._{hook}\(\)"):
        learn(stream, mine, plugin)
    assert not plugin.method.experiences
