"""Checks of a strategy's training steps: what its loop and other plugins must leave to replay."""

from __future__ import annotations

import warnings
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from avalanche_dgm.data import ExperienceData, Latents
from avalanche_dgm.errors import ConfigError

#: The hooks of a step that every plugin with replay needs, in order.
STEP = ("before_forward", "after_forward", "before_backward")
#: Ratio of standard deviations above which batches are unlike what was read.
_UNLIKE = 1.9


def check_batch_labels(labels: Tensor, expected: Tensor | None = None) -> None:
    """Checks that other plugins leave a batch as replay needs it.

    Once replay was appended, the labels must be those ``expected``.

    Raises:
        ConfigError: They are not one class index for each sample, or have changed.
    """
    if labels.ndim != 1 or labels.dtype != torch.int64:
        raise ConfigError(
            f"The batch has labels of shape {tuple(labels.shape)} and type {labels.dtype}; replay"
            " needs one int64 class index for each sample. Remove the plugin that replaces them."
        )
    if labels is not expected and expected is not None and not torch.equal(labels, expected):
        raise ConfigError(
            "A plugin changes the samples of a batch to which replay was appended. Place it before"
            " this package's plugin in the list of plugins."
        )


class SeenSteps:
    """Compares a strategy's steps in an experience with the hooks that it calls in each of them.

    A training loop that is overridden may leave hooks out, and replay with them. A plugin needs the
    hooks of `STEP` and then, in each step, the ``further`` ones.
    """

    def __init__(self, strategy: Any = None, *further: str) -> None:
        self._name, self._hooks, self._next = type(strategy).__name__, (*STEP, *further), 0
        self._batches = self._steps = 0
        self._optimizer: torch.optim.Optimizer | None = None
        self._handle: Any = None

    def count(self, optimizer: torch.optim.Optimizer) -> None:
        """Counts the steps of an optimiser from now on."""
        if optimizer is not self._optimizer:
            self.close()
            self._optimizer = optimizer
            with suppress(AttributeError):  # A wrapper may lack what an Optimizer has.
                self._handle = optimizer.register_step_pre_hook(self._step)

    def _step(self, *_: Any) -> None:
        self._steps += 1

    def close(self) -> None:
        """Ends the counting."""
        if self._handle is not None:
            self._handle.remove()
        self._optimizer = self._handle = None

    def call(self, hook: str) -> None:
        """Notes the call of a hook.

        Raises:
            ConfigError: The one before it was left out.
        """
        if hook != self._hooks[self._next]:
            raise ConfigError(self._left_out(self._hooks[self._next]))
        self._next = (self._next + 1) % len(self._hooks)
        self._batches += self._next == 0

    def step_on_replay(self) -> None:
        """Notes a further step, of the plugin's own."""
        self._batches += 1

    def end(self) -> None:
        """Ends the experience: see `check`; warns if some steps had no hooks."""
        self.close()
        self.check()
        if self._steps > self._batches:
            warnings.warn(
                f"The optimizer took {self._steps} steps, but {self._name} called the hooks of"
                f" {self._batches} only, so the others had no replay.",
                stacklevel=3,
            )

    def check(self) -> None:
        """Checks that the steps had hooks.

        Raises:
            ConfigError: None of them had.
        """
        if self._steps and not self._batches:
            raise ConfigError(self._left_out(self._hooks[self._next]))

    def _left_out(self, hook: str) -> str:
        return (
            f"{self._name} takes a step without self._{hook}(), so replay is lost. Call all hooks"
            " in each step and in the order of Avalanche's SGDUpdate.training_epoch, or change the"
            " training by a plugin instead of an overridden loop."
        )


class BatchLossFactor:
    """The factor of a batch's criterion in a strategy's loss, which plugins may scale or replace.

    A zero that requires a gradient is added to the loss after the forward pass, before the
    criterion; its gradient is the factor.
    """

    def __init__(self, strategy: Any) -> None:
        self._zero = torch.zeros_like(strategy.loss, requires_grad=True)
        strategy.loss = strategy.loss + self._zero

    def measure(self, strategy: Any) -> Tensor:
        """The factor, before the backward pass.

        Raises:
            ConfigError: A plugin has replaced the loss.
        """
        total = strategy.loss.sum()
        found: Any
        (found,) = torch.autograd.grad(total, self._zero, retain_graph=True, allow_unused=True)
        if found is not None:
            factor: Tensor = found.sum()
            return factor
        # A training loop may also assign the criterion instead of adding it.
        if not torch.equal(total.detach(), strategy.criterion().detach()):
            raise self._replaced()
        strategy.loss = total + self._zero.sum()
        return torch.ones_like(total)

    def check(self) -> None:
        """Checks, after the backward pass, that no later plugin has replaced the loss.

        Raises:
            ConfigError: A plugin has replaced the loss.
        """
        if self._zero.grad is None:
            raise self._replaced()

    @staticmethod
    def _replaced() -> ConfigError:
        return ConfigError(
            "A plugin replaces strategy.loss, so replay has no effect or the wrong weight. Add to"
            " strategy.loss or scale it, or put the new loss into the strategy's criterion."
        )


class BatchMoments:
    """Compares the batches of an experience's first epoch with what a memory has read.

    Normalisation in a strategy or plugin, or in one group of transforms only, does not reach the
    memory: it would replay images that are unlike those of the batches. Nor do changes of labels.

    Args:
        width: Number of the model's outputs; 0 to compare nothing.
    """

    def __init__(self, width: int = 0) -> None:
        self._width, self._n = width, 0
        self._sums: Tensor | None = None
        self._has_label = torch.zeros(width, dtype=torch.bool)

    def add(self, images: Tensor, labels: Tensor) -> None:
        """Adds the images and labels of a batch, until `compare`; latents are not compared."""
        if not self._width or isinstance(images, Latents):
            return
        self._has_label = self._has_label.to(labels.device)
        self._has_label[labels] = True
        images = images.detach().float()
        sums = torch.stack([images.sum(), images.square().sum()])
        self._n += images.numel()
        self._sums = sums if self._sums is None else self._sums + sums

    def compare(self, read: ExperienceData | None) -> None:
        """Warns of batches that were unlike what was read, once; ``None`` never does."""
        sums, self._sums, self._width = self._sums, None, 0
        if read is None or sums is None:
            return
        mean, square = (sums.double() / self._n).tolist()
        deviation = max(square - mean**2, 0.0) ** 0.5
        expected, spread = float(read.images.mean()), float(read.images.std(correction=0))
        large, small = max(deviation, spread), min(deviation, spread)
        if large > _UNLIKE * small or abs(mean - expected) > large:
            warnings.warn(
                f"The images in the batches have the mean {mean:.3g} and the standard deviation"
                f" {deviation:.3g}, those that the memory has read {expected:.3g} and"
                f" {spread:.3g}, so replay does not resemble the batches. Put normalisation into"
                " both groups of transforms of the data set, or into the model.",
                stacklevel=3,
            )
        others = sorted(set(self._has_label.nonzero().flatten().tolist()) - set(read.classes))
        # With more samples than were read, another plugin has added some to the batches.
        if others and self._n <= read.images.numel():
            warnings.warn(
                f"The batches have the labels {', '.join(map(str, others))}, which the memory has"
                " not read, so replay has other labels than the batches. Change labels in both"
                " groups of transforms of the data set.",
                stacklevel=3,
            )
