"""Builds the Avalanche strategy of a run, with its metrics."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import GenerativeReplay, Naive
from avalanche.training.templates import SupervisedTemplate

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments import class_paths
from avalanche_dgm.experiments.building import build_model, optimizer_of
from avalanche_dgm.experiments.config import is_class_path
from avalanche_dgm.experiments.methods import (
    Reference,
    avalanche_plugin,
    hyper_parameters,
    is_stock,
    method_of,
    require_plugin,
)
from avalanche_dgm.experiments.results import Step
from avalanche_dgm.experiments.run_spec import RunSpec, measured, sizes_held
from avalanche_dgm.methods.registry import NamedMethod
from avalanche_dgm.plugins import plugin_of
from avalanche_dgm.plugins.accuracies import ExperienceAccuracies, TrainingAccuracy
from avalanche_dgm.plugins.annealing import CosineAnnealingPlugin
from avalanche_dgm.plugins.by_epoch import AccuracyByEpoch
from avalanche_dgm.plugins.metrics import MemoryMetrics, memory_metrics
from avalanche_dgm.plugins.target_accuracy import TargetAccuracyPlugin
from avalanche_dgm.randomness import global_state, set_global_state

# Mean and standard deviation of MNIST, which Avalanche's default generator assumes.
_MNIST_MEAN, _MNIST_STD = 0.1307, 0.3081


def build_strategy(
    spec: RunSpec, loggers: Sequence[Any], *, device: torch.device, progress: bool = False
) -> SupervisedTemplate:
    """Builds network, optimiser and strategy of a run.

    Raises:
        ConfigError: An option cannot work, or the method cannot learn such images.
    """
    config = spec.config
    model = build_model(config, spec.benchmark, spec.shape).to(device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        evaluator = EvaluationPlugin(
            *accuracy_metrics(experience=True, stream=True),
            ExperienceAccuracies(),
            TrainingAccuracy(),
            *memory_metrics(),
            loggers=list(loggers),
            collect_all=False,
        )
    arguments = {
        "model": model,
        "optimizer": optimizer_of(config).build(model, fused=False),
        "train_mb_size": config.batch_size,
        "train_epochs": config.epochs,
        "eval_mb_size": 512,
        "device": device,
        "evaluator": evaluator,
        "eval_every": 1 if config.every_epoch else -1,
    }
    beside: list[Any] = [TestsWithin()] if config.every_epoch else []
    if config.until is not None:
        beside.append(TargetAccuracyPlugin(config.until, settle=config.schedule == "cosine"))
    elif config.schedule == "cosine":
        beside.append(CosineAnnealingPlugin())
    if is_stock(method_of(config)):
        return _stock(spec, beside, arguments)
    return Naive(plugins=[*_plugins(spec, progress=progress), *beside], **arguments)


def _plugins(spec: RunSpec, *, progress: bool) -> list[Any]:
    method, options = method_of(spec.config), hyper_parameters(spec.config, spec.n_images)
    if isinstance(method, NamedMethod):
        plugin: Any = plugin_of(method.kind)
        return [plugin(progress=progress, **options)]
    if method.plugin is None:
        return []
    if is_class_path(method.plugin):
        made = class_paths.make(method.plugin, options, "method")
        require_plugin(method.plugin, type(made))
        return [made]
    return [avalanche_plugin(method.plugin)(**options)]


def _stock(spec: RunSpec, beside: list[Any], arguments: dict[str, Any]) -> SupervisedTemplate:
    """An Avalanche strategy with its own training loop."""
    method = method_of(spec.config)
    if isinstance(method, Reference) and method.plugin is not None:
        options = hyper_parameters(spec.config, spec.n_images)
        strategy: SupervisedTemplate = avalanche_plugin(method.plugin)(
            plugins=beside, **options, **arguments
        )
        return strategy
    return _generative_replay(spec.shape, beside, arguments)


def _generative_replay(
    shape: tuple[int, ...], beside: list[Any], arguments: dict[str, Any]
) -> SupervisedTemplate:
    """Avalanche's strategy with its default generator, without its prints."""
    if shape != (1, 28, 28):
        raise ConfigError(
            "generative-replay is Avalanche's strategy with its default generator, which only"
            f" generates 1x28x28 images, but this stream's are {'x'.join(map(str, shape))}. Use"
            " dgr, or a stream of MNIST images."
        )
    standardise = StandardisePlugin()
    strategy = GenerativeReplay(plugins=[standardise, *beside], **arguments)
    # The generator has its own strategy, which would see other images, and print in each epoch.
    strategy.generator_strategy.plugins.insert(0, standardise)
    strategy.generator_strategy.evaluator.loggers = []
    return strategy


def accuracies_by_epoch(strategy: Any, tested: Sequence[int]) -> list[list[float | None]]:
    """Accuracies before the last experience and after each of its epochs, if measured."""
    plugins = [plugin for plugin in strategy.plugins if isinstance(plugin, AccuracyByEpoch)]
    return [[row.get(j) for j in tested] for row in plugins[0].rows()] if plugins else []


def measured_step(
    strategy: Any, tested: Sequence[int], sizes: Sequence[int], kept: int | None = 0, **more: Any
) -> Step:
    """The step of the last experience, after its evaluation."""
    accuracies, held = ExperienceAccuracies.of(strategy), MemoryMetrics.of(strategy)
    return Step(
        **measured([accuracies.get(j) for j in tested], sizes),
        **sizes_held(held.get("MemoryBytes"), held.get("PeakMemoryBytes"), kept),
        **TrainingAccuracy.of(strategy),
        **more,
    )


class TestsWithin(AccuracyByEpoch):
    """Records evaluations within an experience, without an effect on training."""

    def before_eval(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Saves the random states, which reading test images changes."""
        super().before_eval(strategy, *args, **kwargs)
        self._random = global_state()

    def after_eval(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Restores the random states."""
        super().after_eval(strategy, *args, **kwargs)
        set_global_state(self._random)


class StandardisePlugin(SupervisedPlugin):
    """Standardises images in [0, 1] like Avalanche's MNIST benchmarks.

    The streams of this package have intensities in [0, 1], but the default generator of
    ``GenerativeReplay`` generates standardised images.
    """

    def before_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Standardises a training batch before replay joins it."""
        strategy.mbatch[0] = (strategy.mbatch[0] - _MNIST_MEAN) / _MNIST_STD

    def before_eval_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Standardises an evaluation batch."""
        strategy.mbatch[0] = (strategy.mbatch[0] - _MNIST_MEAN) / _MNIST_STD
