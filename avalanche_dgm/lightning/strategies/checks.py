"""Checks of strategies that run on a Trainer, and of their plugins on several devices.

On several devices each process sees a shard of every batch. The state of a plugin that computes
anything but a mean over the batch, or draws samples within a step, silently differs between
processes. So only plugins that are known to be safe are accepted.
"""

from __future__ import annotations

from collections.abc import Collection
from types import FunctionType
from typing import Any

from avalanche.training import plugins as theirs
from avalanche.training.plugins.clock import Clock
from avalanche.training.templates import SupervisedTemplate
from avalanche.training.templates.base_sgd import PeriodicEval

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.lightning import internals
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.plugins.annealing import CosineAnnealingPlugin
from avalanche_dgm.plugins.base import MethodPlugin
from avalanche_dgm.plugins.byte_replay import ByteReplayPlugin
from avalanche_dgm.plugins.target_accuracy import TargetAccuracyPlugin

#: Plugins that add means over samples or penalties on weights to the loss, or work between
#: experiences, when all processes have the same random states.
DISTRIBUTED_SAFE: tuple[type, ...] = (
    # Reads its memory in order, so that all processes use the same samples.
    theirs.AGEMPlugin,
    Clock,
    CosineAnnealingPlugin,
    theirs.CWRStarPlugin,
    theirs.EarlyStoppingPlugin,
    theirs.EvaluationPlugin,
    theirs.EWCPlugin,
    theirs.FromScratchTrainingPlugin,
    theirs.GDumbPlugin,
    theirs.GEMPlugin,
    theirs.LFLPlugin,
    theirs.LRSchedulerPlugin,
    theirs.LwFPlugin,
    theirs.MASPlugin,
    PeriodicEval,
    theirs.ReplayPlugin,
    theirs.SynapticIntelligencePlugin,
    ByteReplayPlugin,
    TargetAccuracyPlugin,
)
#: Plugins that run a backward pass of their own before each batch's, and clear the gradients.
CLEARS_GRADIENTS: tuple[type, ...] = (
    theirs.AGEMPlugin,
    theirs.GEMPlugin,
    theirs.GSS_greedyPlugin,
    theirs.RARPlugin,
    theirs.RWalkPlugin,
)
#: Methods of Avalanche's loop that a Trainer replaces.
_LOOP = (
    "train",
    "eval",
    "_train_exp",
    "_eval_exp",
    "training_epoch",
    "eval_epoch",
    "backward",
    "optimizer_step",
)
#: Methods that a strategy may override on several devices.
_ALLOWED_OVERRIDES = ("train_dataset_adaptation",)


def check_strategy(strategy: Any, trainer: pl.Trainer, *, allow: Collection[type] = ()) -> None:
    """Checks that a Trainer can run a strategy as Avalanche's loop does.

    Classes in ``allow`` are those that the user knows to work on several devices.

    Raises:
        ConfigError: The strategy or a plugin is not supported.
    """
    if not isinstance(strategy, SupervisedTemplate):
        raise ConfigError(
            f"A {type(strategy).__name__} is not an"
            " avalanche.training.templates.SupervisedTemplate. Only strategies with its loop over"
            " epochs and batches run on a Trainer; train this one with its own train()."
        )
    changed = [n for n in _LOOP if _changes(strategy, n)]
    if changed:
        raise ConfigError(
            f"{type(strategy).__name__} overrides Avalanche's loop ({', '.join(changed)}), which a"
            " Trainer replaces. Train it with its own train(), or write its changes as a plugin."
        )
    plugins = [plugin for plugin in strategy.plugins if not isinstance(plugin, tuple(allow))]
    if trainer.accumulate_grad_batches != 1:
        for plugin in plugins:
            if isinstance(plugin, CLEARS_GRADIENTS):
                raise ConfigError(
                    f"{type(plugin).__name__} clears the gradients in each batch, so that"
                    f" accumulate_grad_batches={trainer.accumulate_grad_batches} would learn from"
                    " the last batch of each step only. Use accumulate_grad_batches=1 and a larger"
                    " train_mb_size."
                )
    if trainer.num_devices * trainer.num_nodes > 1:
        _check_several(strategy, plugins, allow)


def _changes(strategy: Any, name: str) -> bool:
    return getattr(type(strategy), name) is not getattr(SupervisedTemplate, name)


def _check_several(strategy: Any, plugins: list[Any], allow: Collection[type]) -> None:
    for plugin in plugins:
        name = type(plugin).__name__
        if not isinstance(plugin, MethodPlugin) and type(plugin) not in DISTRIBUTED_SAFE:
            raise ConfigError(
                f"{name} is not known to be correct on several devices: it would see a shard of"
                " every batch in each process, and its state could silently differ between"
                f" processes. Use one device, or take the responsibility: allow=[{name}]."
            )
        if isinstance(plugin, theirs.LRSchedulerPlugin) and plugin.metric == "train_loss":
            raise ConfigError(
                "LRSchedulerPlugin(metric='train_loss') would follow a different loss in each"
                " process. Use metric='val_loss' with eval_every=1, or one device."
            )
    if not isinstance(strategy, tuple(allow)):
        for kind in type(strategy).__mro__[: type(strategy).__mro__.index(SupervisedTemplate)]:
            changed = [
                name
                for name, value in vars(kind).items()
                if isinstance(value, (FunctionType, property))
                and hasattr(SupervisedTemplate, name)
                and name not in _ALLOWED_OVERRIDES
                and not name.startswith("__")
            ]
            if changed:
                raise ConfigError(
                    f"{kind.__name__} overrides {', '.join(changed)} of Avalanche's loop, which is"
                    " not known to be correct on several devices, where each process has a shard"
                    " of every batch. Use one device, or take the responsibility:"
                    f" allow=[{kind.__name__}]."
                )
    reduction = getattr(internals.criterion_of(strategy), "reduction", "mean")
    if reduction != "mean":
        raise ConfigError(
            f"The criterion has reduction={reduction!r}. On several devices losses are averaged, so"
            " it must be a mean over samples: reduction='mean'."
        )
