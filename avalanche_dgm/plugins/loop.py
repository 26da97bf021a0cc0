"""Helpers for a strategy's training loop: data loader, criterion, interruptions, model checks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
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
