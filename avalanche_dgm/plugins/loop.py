"""Helpers for a strategy's training loop: checks, batches, criterion and interruptions."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

import torch
from avalanche.benchmarks.utils.data_loader import TaskBalancedDataLoader
from avalanche.models.dynamic_modules import (
    DynamicModule,
    MultiTaskModule,
    avalanche_model_adaptation,
)
from avalanche.training.templates import SupervisedTemplate
from avalanche.training.templates.base import BaseTemplate
from torch import Tensor, distributed, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from avalanche_dgm.data import ExperienceData
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.memories.classifiers import check_learner
from avalanche_dgm.methods import Method
from avalanche_dgm.modules import agree, evaluating, in_type_of
from avalanche_dgm.plugins.samples import seeded, with_class_labels

#: Ratio of standard deviations above which batches are unlike what was read.
_UNLIKE = 1.9


class PreparedBatches:
    """A data loader for data prepared by a method, in place of the strategy's.

    Args:
        data: The training data of the classifier.
        batch_size: Samples per batch.
        shuffle: Whether to shuffle in each epoch, with the global generator. A last batch of one
            sample is then dropped, as BatchNorm cannot train on it.
        drop_last: Whether to drop a smaller last batch.
    """

    def __init__(
        self, data: ExperienceData, batch_size: int, *, shuffle: bool, drop_last: bool = False
    ) -> None:
        self.data, self.batch_size, self.shuffle = data, batch_size, shuffle
        n_full, rest = divmod(len(data), batch_size)
        too_small = rest < batch_size if drop_last else shuffle and rest == 1 and n_full > 0
        self._n = len(data) - rest if too_small else len(data)

    def __len__(self) -> int:
        return -(-self._n // self.batch_size)

    def __iter__(self) -> Iterator[list[Tensor]]:
        data = self.data
        order = torch.randperm(len(data)) if self.shuffle else torch.arange(len(data))
        for index in order[: self._n].to(data.images.device).split(self.batch_size):
            yield [data.images[index], data.labels[index], data.tasks[index]]


class StrategyCriterion:
    """A strategy's ``criterion()``, which may be overridden, as a function of logits and labels."""

    def __init__(self, strategy: Any) -> None:
        self._strategy = strategy

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of logits (n, K) for labels (n,); the batch has no images or task labels."""
        strategy = self._strategy
        before = strategy.mbatch, strategy.mb_output
        strategy.mbatch, strategy.mb_output = [None, labels, None], logits
        try:
            return strategy.criterion()
        finally:
            strategy.mbatch, strategy.mb_output = before

    @property
    def __name__(self) -> str:
        criterion = self._strategy._criterion
        return getattr(criterion, "__name__", type(criterion).__name__)


def is_alone(strategy: Any) -> bool:
    """Whether a strategy's batches have each sample of its experience once, and no others.

    Strategies and plugins may add samples to the dataset, or use their own data loader.
    """
    same = len(strategy.adapted_dataset) == len(strategy.experience.dataset)
    return same and _is_avalanches(strategy.dataloader, strategy.train_mb_size)


def _is_avalanches(loader: Any, batch_size: int) -> bool:
    """Whether a data loader is one that Avalanche makes, without another sampler or batch size."""
    if type(loader) is TaskBalancedDataLoader:
        own = loader.loader_kwargs.keys() & {"sampler", "batch_sampler"}
        return not own and sum(loader.batch_sizes) == batch_size
    if type(loader) is not DataLoader or type(loader.batch_sampler) is not BatchSampler:
        return False
    sampler = loader.sampler
    once = type(sampler) is SequentialSampler or (
        type(sampler) is RandomSampler
        and not sampler.replacement
        and len(sampler) == len(sampler.data_source)
    )
    return once and loader.batch_size == batch_size


def check_batch_labels(labels: Tensor, expected: Tensor | None = None) -> None:
    """Checks that other plugins leave a batch as replay needs it.

    Args:
        labels: The batch's labels.
        expected: Its labels when replay was appended, or ``None`` before.

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

    A training loop that is overridden may leave hooks out, and replay with them.

    Args:
        strategy: The strategy.
        hooks: The hooks of a step that a plugin needs, in order.
    """

    def __init__(self, strategy: Any, *hooks: str) -> None:
        self._name, self._hooks, self._next = type(strategy).__name__, hooks, 0
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

    def check(self) -> None:
        """Checks that the steps had hooks.

        Raises:
            ConfigError: None of them had.
        """
        if self._steps and not self._batches:
            raise ConfigError(self._left_out(self._hooks[self._next]))

    def warn(self) -> None:
        """Warns if some steps had none."""
        if self._steps > self._batches:
            warnings.warn(
                f"The optimizer took {self._steps} steps, but {self._name} called the hooks of"
                f" {self._batches} only, so the others had no replay.",
                stacklevel=3,
            )

    def _left_out(self, hook: str) -> str:
        return (
            f"{self._name} takes a step without self._{hook}(), so replay is lost. Call all hooks"
            " in each step and in the order of Avalanche's SGDUpdate.training_epoch, or change the"
            " training by a plugin instead of an overridden loop."
        )


class BatchLossFactor:
    """The factor of a batch's criterion in a strategy's loss, which plugins may scale or replace.

    A zero that requires a gradient is added to the loss before the criterion; its gradient is the
    factor.

    Args:
        strategy: The strategy, after its forward pass.
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
    """Moments and labels of a strategy's batches, compared with what a memory has read.

    Normalisation in a strategy or plugin, or in one group of transforms only, does not reach the
    memory: it would replay images that are unlike those of the batches. Nor do changes of labels.

    Args:
        width: Number of the model's outputs.
    """

    def __init__(self, width: int) -> None:
        self._n = 0
        self._sums: tuple[Tensor, Tensor] | None = None
        self._has_label = torch.zeros(width, dtype=torch.bool)

    def add(self, images: Tensor, labels: Tensor) -> None:
        """Adds the images and labels of a batch."""
        self._has_label = self._has_label.to(labels.device)
        self._has_label[labels] = True
        images = images.detach().float()
        sums = images.sum(), images.square().sum()
        self._n += images.numel()
        old = self._sums
        self._sums = sums if old is None else (old[0] + sums[0], old[1] + sums[1])

    def warn_of_labels(self, read: Tensor, classes: Sequence[int]) -> None:
        """Warns if the batches had labels that the memory has not read.

        Args:
            read: Float tensor (n, *shape), the images that it has read.
            classes: Their classes.
        """
        if self._n > read.numel():
            return  # Another plugin has added samples to the batches.
        others = sorted(set(self._has_label.nonzero().flatten().tolist()) - set(classes))
        if others:
            warnings.warn(
                f"The batches have the labels {', '.join(map(str, others))}, which the memory has"
                " not read, so replay has other labels than the batches. Change labels in both"
                " groups of transforms of the data set.",
                stacklevel=3,
            )

    def warn(self, read: Tensor) -> None:
        """Warns if the batches were unlike the images that the memory has read.

        Args:
            read: Float tensor (n, *shape).
        """
        if self._sums is None:
            return
        mean, square = (float(value) / self._n for value in self._sums)
        deviation = max(square - mean**2, 0.0) ** 0.5
        expected, spread = float(read.mean()), float(read.std(correction=0))
        large, small = max(deviation, spread), min(deviation, spread)
        if large <= _UNLIKE * small and abs(mean - expected) <= large:
            return
        warnings.warn(
            f"The images in the batches have the mean {mean:.3g} and the standard deviation"
            f" {deviation:.3g}, those that the memory has read {expected:.3g} and {spread:.3g}, so"
            " replay does not resemble the batches. Put normalisation into both groups of"
            " transforms of the data set, or into the model.",
            stacklevel=3,
        )


def undo_interrupted(method: Method) -> bool:
    """Rolls back an experience whose training was interrupted.

    Avalanche has no hook for an error or Ctrl-C, and also evaluates during training. So an
    experience counts as interrupted if it has not ended and no call of ``train`` is running.

    Returns:
        Whether the experience was interrupted.
    """
    if not method.in_training:
        return False
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code is BaseTemplate.train.__code__:
            plugins = frame.f_locals["self"].plugins
            if any(getattr(plugin, "method", None) is method for plugin in plugins):
                return False
        frame = frame.f_back
    method.in_training = False
    method.undo()
    return True


def average_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Averages the gradients of the processes' replay shards."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    n = distributed.get_world_size()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if n > 1 and parameter.grad is not None:
                distributed.all_reduce(parameter.grad)
                parameter.grad /= n


def check_gradients(method: Method) -> None:
    """Checks that gradients are enabled, if the classifier is trained.

    Raises:
        ConfigError: They are disabled.
    """
    if method.needs.learner and not torch.is_grad_enabled():
        raise ConfigError(
            "Gradients are disabled. Do not train within torch.no_grad() or torch.inference_mode()."
        )


def check_model(method: Method, model: nn.Module, data: ExperienceData, experience: Any) -> None:
    """Checks that a method can train a model on an experience; changes nothing.

    Raises:
        UnsupportedModelError: The model cannot be trained on it.
        LabelError: The model lacks an output for one of the labels.
    """
    grows = any(isinstance(module, DynamicModule) for module in model.modules())
    check_learner(
        model,
        data,
        task_aware=isinstance(model, MultiTaskModule),
        trained=method.needs.learner,
        copies="" if method.experiences else method.needs.copies,
        adapt=(lambda copy: avalanche_model_adaptation(copy, with_class_labels(experience)))
        if grows
        else None,
    )


def check_forward(strategy: Any, data: ExperienceData) -> None:
    """Checks that a strategy's own ``forward()`` returns what its model does.

    The memory runs the model itself: for labels of replayed samples, copies and fine-tuning.

    Raises:
        ConfigError: It returns something else.
    """
    if type(strategy).forward is SupervisedTemplate.forward:
        return
    images = in_type_of(strategy.model, data.images[:2])
    kept = strategy.mbatch
    strategy.mbatch = [images, data.labels[:2], data.tasks[:2]]
    try:
        with seeded(0), torch.no_grad(), evaluating(strategy.model):
            found, expected = strategy.forward(), SupervisedTemplate.forward(strategy)
    finally:
        strategy.mbatch = kept
    # Not bit for bit: kernels of a GPU may differ between two calls.
    if not (isinstance(found, Tensor) and agree(found, expected)):
        raise ConfigError(
            f"{type(strategy).__name__}.forward() returns something else than its model, which the"
            " memory runs itself. Move what it does, such as a normalisation or autocast, into the"
            " model."
        )
