"""Ready strategies: `Naive` with one of the plugins inside."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from avalanche.core import SupervisedPlugin
from avalanche.training.plugins.evaluation import default_evaluator
from avalanche.training.templates import SupervisedTemplate
from torch import nn
from torch.optim import Optimizer

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.plugins.adversarial import (
    DynamicMemoryPlugin,
    EWCGeneratorPlugin,
    GANReplayPlugin,
    MeRGANPlugin,
)
from avalanche_dgm.plugins.altm import ALTMPlugin
from avalanche_dgm.plugins.base import MethodPlugin
from avalanche_dgm.plugins.dgdmn import DGDMNPlugin
from avalanche_dgm.plugins.latent import LatentReplayPlugin
from avalanche_dgm.plugins.replay import DGRPlugin, PseudoRehearsalPlugin
from avalanche_dgm.signatures import takes_arguments_of


class PluginStrategy(SupervisedTemplate):
    """A supervised strategy around one plugin of this package.

    As Avalanche's own do, it takes arguments by position with a warning, in this order.

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
        replay_plugin: What remembers; the strategies below make their own.
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


def _with_plugin(kind: Callable[..., MethodPlugin], arguments: dict[str, Any]) -> dict[str, Any]:
    """Splits arguments into the strategy's and the plugin's, and makes the plugin of its own."""
    own = inspect.signature(PluginStrategy.__init__).parameters
    hyper = {name: value for name, value in arguments.items() if name not in own}
    rest = {name: value for name, value in arguments.items() if name in own}
    return {"replay_plugin": kind(**hyper), **rest}


@takes_arguments_of(DGDMNPlugin)
@takes_arguments_of(PluginStrategy, leave_out=("replay_plugin",))
class DGDMN(PluginStrategy):
    """Deep generative dual memory.

    Takes the arguments of `PluginStrategy` and of `DGDMNPlugin`.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**_with_plugin(DGDMNPlugin, arguments))


@takes_arguments_of(DGRPlugin)
@takes_arguments_of(PluginStrategy, leave_out=("replay_plugin",))
class DGR(PluginStrategy):
    """Deep generative replay.

    Takes the arguments of `PluginStrategy` and of `DGRPlugin`.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**_with_plugin(DGRPlugin, arguments))


@takes_arguments_of(PseudoRehearsalPlugin)
@takes_arguments_of(PluginStrategy, leave_out=("replay_plugin",))
class PseudoRehearsal(PluginStrategy):
    """Pseudopattern rehearsal.

    Takes the arguments of `PluginStrategy` and of `PseudoRehearsalPlugin`.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**_with_plugin(PseudoRehearsalPlugin, arguments))


@takes_arguments_of(ALTMPlugin)
@takes_arguments_of(PluginStrategy, leave_out=("replay_plugin",))
class ALTM(PluginStrategy):
    """Active long-term memory.

    Takes the arguments of `PluginStrategy` and of `ALTMPlugin`.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**_with_plugin(ALTMPlugin, arguments))


@takes_arguments_of(LatentReplayPlugin)
@takes_arguments_of(PluginStrategy, leave_out=("replay_plugin",))
class LatentReplay(PluginStrategy):
    """Latent replay.

    Takes the arguments of `PluginStrategy` and of `LatentReplayPlugin`. With ``compressor`` and
    ``classifier`` the model may be left out: it is one after the other.
    """

    def __init__(self, *, model: nn.Module | None = None, **arguments: Any) -> None:
        parts = {name: arguments.get(name) for name in ("compressor", "classifier")}
        modules = {k: part for k, part in parts.items() if isinstance(part, nn.Module)}
        if model is None and len(modules) == 2:
            model = nn.Sequential(OrderedDict(modules))
        if model is None:
            raise ConfigError("There is no model. Give model, or both compressor and classifier.")
        super().__init__(model=model, **_with_plugin(LatentReplayPlugin, arguments))


@takes_arguments_of(DynamicMemoryPlugin)
@takes_arguments_of(PluginStrategy, leave_out=("replay_plugin",))
class DynamicMemory(PluginStrategy):
    """Dynamic generative memory.

    Takes the arguments of `PluginStrategy` and of `DynamicMemoryPlugin`.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**_with_plugin(DynamicMemoryPlugin, arguments))


@takes_arguments_of(MeRGANPlugin)
@takes_arguments_of(PluginStrategy, leave_out=("replay_plugin",))
class MeRGAN(PluginStrategy):
    """Memory replay GANs.

    Takes the arguments of `PluginStrategy` and of `MeRGANPlugin`.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**_with_plugin(MeRGANPlugin, arguments))


@takes_arguments_of(EWCGeneratorPlugin)
@takes_arguments_of(PluginStrategy, leave_out=("replay_plugin",))
class EWCGenerator(PluginStrategy):
    """Elastic weight consolidation on a generator.

    Takes the arguments of `PluginStrategy` and of `EWCGeneratorPlugin`.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**_with_plugin(EWCGeneratorPlugin, arguments))


@takes_arguments_of(GANReplayPlugin)
@takes_arguments_of(PluginStrategy, leave_out=("replay_plugin",))
class GANReplay(PluginStrategy):
    """Deep generative replay with a GAN.

    Takes the arguments of `PluginStrategy` and of `GANReplayPlugin`.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**_with_plugin(GANReplayPlugin, arguments))
