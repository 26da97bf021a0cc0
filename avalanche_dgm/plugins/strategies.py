"""Ready strategies: `Naive` with one of the plugins inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from avalanche.core import SupervisedPlugin
from avalanche.training.plugins.evaluation import default_evaluator
from avalanche.training.templates import SupervisedTemplate
from torch import nn
from torch.optim import Optimizer

from avalanche_dgm.plugins.base import MethodPlugin
from avalanche_dgm.plugins.dgdmn import DGDMNPlugin
from avalanche_dgm.plugins.replay import DGRPlugin, PseudoRehearsalPlugin


class PluginStrategy(SupervisedTemplate):
    """A supervised strategy around one plugin of this package.

    Args:
        model: The classifier; maps images (n, *shape) to logits (n, classes).
        optimizer: Its optimiser.
        criterion: Its loss; cross-entropy by default.
        train_mb_size: Samples a batch.
        train_epochs: Passes over each experience.
        eval_mb_size: Samples a batch in evaluation; ``train_mb_size`` by default.
        device: Where to compute.
        plugins: Further plugins.
        evaluator: Avalanche's ``EvaluationPlugin``, or a function that makes one.
        eval_every: See Avalanche's ``SupervisedTemplate``.
        peval_mode: See Avalanche's ``SupervisedTemplate``.
        **hyper: Arguments of the plugin.

    Attributes:
        replay_plugin: The plugin.

    """

    plugin_class: Callable[..., MethodPlugin]

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: Optimizer,
        criterion: Any = None,
        train_mb_size: int = 128,
        train_epochs: int = 1,
        eval_mb_size: int | None = None,
        device: Any = "cpu",
        plugins: Sequence[SupervisedPlugin] | None = None,
        evaluator: Any = default_evaluator,
        eval_every: int = -1,
        peval_mode: str = "epoch",
        **hyper: Any,
    ) -> None:
        self.replay_plugin = type(self).plugin_class(**hyper)
        super().__init__(
            model=model,
            optimizer=optimizer,
            criterion=nn.CrossEntropyLoss() if criterion is None else criterion,
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            eval_mb_size=eval_mb_size,
            device=device,
            plugins=[self.replay_plugin, *(plugins or ())],
            evaluator=evaluator,
            eval_every=eval_every,
            peval_mode=peval_mode,
        )


class DGDMN(PluginStrategy):
    """Deep generative dual memory.

    Takes the arguments of `PluginStrategy` and of `DGDMNPlugin`.
    """

    plugin_class = DGDMNPlugin


class DGR(PluginStrategy):
    """Deep generative replay.

    Takes the arguments of `PluginStrategy` and of `DGRPlugin`.
    """

    plugin_class = DGRPlugin


class PseudoRehearsal(PluginStrategy):
    """Pseudopattern rehearsal.

    Takes the arguments of `PluginStrategy` and of `PseudoRehearsalPlugin`.
    """

    plugin_class = PseudoRehearsalPlugin
