"""The Avalanche strategies of the methods, created on first access."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from avalanche.core import SupervisedPlugin
from avalanche.training.plugins.evaluation import default_evaluator
from avalanche.training.templates import SupervisedTemplate
from torch import nn
from torch.optim import Optimizer

from avalanche_dgm.methods import Method
from avalanche_dgm.methods.adapters import by_name, make_adapter, once
from avalanche_dgm.plugins.base import MethodPlugin
from avalanche_dgm.plugins.made import ARGUMENTS, plugin_of
from avalanche_dgm.settings import entries


class PluginStrategy(SupervisedTemplate):
    """A supervised strategy around one plugin of this package.

    Like Avalanche's own strategies, it accepts positional arguments in this order, with a warning.

    Args:
        model: The classifier; maps images (n, *shape) to logits (n, classes).
        optimizer: The classifier's optimiser.
        criterion: The loss; cross-entropy by default.
        train_mb_size: Training batch size.
        train_epochs: Epochs per experience.
        eval_mb_size: Evaluation batch size; ``train_mb_size`` by default.
        device: Device for training and evaluation.
        plugins: Further plugins.
        evaluator: Avalanche's ``EvaluationPlugin``, or a function that returns one.
        eval_every: See Avalanche's ``SupervisedTemplate``.
        peval_mode: See Avalanche's ``SupervisedTemplate``.
        replay_plugin: The method's plugin; the strategies of methods create it.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: Optimizer,
        replay_plugin: MethodPlugin,
        criterion: Any = None,
        train_mb_size: int = 128,
        train_epochs: int = 1,
        eval_mb_size: int | None = None,
        device: Any = "cpu",
        plugins: Sequence[SupervisedPlugin] | None = None,
        evaluator: Any = default_evaluator,
        eval_every: int = -1,
        peval_mode: str = "epoch",
    ) -> None:
        """See the class for the arguments."""
        self.replay_plugin = replay_plugin
        super().__init__(
            model=model,
            optimizer=optimizer,
            criterion=nn.CrossEntropyLoss() if criterion is None else criterion,
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            eval_mb_size=eval_mb_size,
            device=device,
            plugins=[replay_plugin, *(plugins or ())],
            evaluator=evaluator,
            eval_every=eval_every,
            peval_mode=peval_mode,
        )


@once
def strategy_of(kind: type[Method]) -> type[PluginStrategy]:
    """The Avalanche strategy class of a method: naive training with the method's plugin.

    Returns:
        A class that takes the arguments of `PluginStrategy` and of the method's plugin. If the
        method has a ``model_of``, ``model`` is optional and by default made by it.
    """
    own = [
        parameter
        for parameter in inspect.signature(PluginStrategy, eval_str=True).parameters.values()
        if parameter.name != "replay_plugin"
    ]
    names = [parameter.name for parameter in own]
    model_of: Callable[..., nn.Module | None] | None = getattr(kind, "model_of", None)
    if model_of is not None:
        own = [p.replace(default=None) if p.name == "model" else p for p in own]

    def init(self: Any, **arguments: Any) -> None:
        hyper = {name: value for name, value in arguments.items() if name not in names}
        given = {name: value for name, value in arguments.items() if name in names}
        if model_of is not None and given.get("model") is None:
            given["model"] = model_of(**hyper)
        PluginStrategy.__init__(self, replay_plugin=plugin_of(kind)(**hyper), **given)

    more = inspect.signature(plugin_of(kind)).parameters.values()
    documented = inspect.getdoc(PluginStrategy) or ""
    return make_adapter(
        f"{kind.__name__}Strategy",
        PluginStrategy,
        kind,
        init=init,
        parameters=[*own, *more],
        arguments={**entries(documented, "Args"), **ARGUMENTS},
        maker=strategy_of,
    )


__getattr__ = by_name(__name__, "Strategy", strategy_of)
