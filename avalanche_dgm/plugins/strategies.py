"""The ready strategy of each method: a naive one with the method's plugin inside."""

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
from avalanche_dgm.methods.adapters import make_adapter, once
from avalanche_dgm.methods.registry import find_kind
from avalanche_dgm.plugins.base import MethodPlugin
from avalanche_dgm.plugins.made import ARGUMENTS, plugin_of
from avalanche_dgm.settings import entries


class PluginStrategy(SupervisedTemplate):
    """A supervised strategy around one plugin of this package.

    As Avalanche's own do, it takes arguments by position with a warning, in this order.

    Args:
        model: The classifier; maps images (n, *shape) to logits (n, classes).
        optimizer: Its optimiser.
        criterion: The loss; cross-entropy by default.
        train_mb_size: Samples per batch.
        train_epochs: Passes over each experience.
        eval_mb_size: Samples per batch in evaluation; ``train_mb_size`` by default.
        device: Where to compute.
        plugins: Further plugins.
        evaluator: Avalanche's ``EvaluationPlugin``, or a function that makes one.
        eval_every: See Avalanche's ``SupervisedTemplate``.
        peval_mode: See Avalanche's ``SupervisedTemplate``.
        replay_plugin: What remembers; the strategies of methods make their own.
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
    """The ready Avalanche strategy of a method: a naive one with its plugin inside.

    Returns:
        A class that takes the arguments of `PluginStrategy` and those of the method's plugin. A
        method with a ``model_of`` makes the model of its hyper-parameters where none is given.
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


def __getattr__(name: str) -> Any:
    kind = find_kind(name.removesuffix("Strategy"))
    if kind is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return strategy_of(kind)
