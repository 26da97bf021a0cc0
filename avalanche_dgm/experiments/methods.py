"""The methods that can be run by name: how each becomes an Avalanche strategy."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments.config import ExperimentConfig, paper_stream, require_known

if TYPE_CHECKING:
    import torch
    from avalanche.training.plugins import EvaluationPlugin
    from avalanche.training.templates import SupervisedTemplate

_EWC_LAMBDA = 100.0  # Kamra et al. 2017, appendix B
# For runs that only show that everything works.
_FAST = {"generator_steps": 30, "learner_steps": 30}


@dataclass(frozen=True)
class Setup:
    """What a builder needs to make a strategy.

    Attributes:
        config: The run's settings.
        model: The classifier.
        optimizer: Its optimiser.
        evaluator: Collects accuracies and memory metrics.
        device: Where to compute.
        shape: Shape of one image, (channels, height, width).
        progress: Whether the method may show progress bars.
    """

    config: ExperimentConfig
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    evaluator: EvaluationPlugin
    device: torch.device
    shape: tuple[int, ...]
    progress: bool

    def naive(self, *plugins: Any) -> SupervisedTemplate:
        """Returns Avalanche's plain training loop with the given plugins."""
        from avalanche.training.supervised import Naive

        return Naive(plugins=list(plugins), **self.arguments())

    def arguments(self) -> dict[str, Any]:
        """Returns the arguments that every strategy takes."""
        return {
            "model": self.model,
            "optimizer": self.optimizer,
            "train_mb_size": self.config.batch_size,
            "train_epochs": self.config.epochs,
            "eval_mb_size": 512,
            "device": self.device,
            "evaluator": self.evaluator,
        }


@dataclass(frozen=True)
class Method:
    """A method that can be run by name.

    Attributes:
        description: One line for lists.
        build: Makes the strategy.
        plugin: Returns the class whose keyword arguments are the method's options, if it has any.
        settings: Returns the dataclass whose fields are options as well.
        fixed: Options that make the method what it is; they cannot be set.
        joint: Trained anew on all experiences so far, as a reference.
    """

    description: str
    build: Callable[[Setup], SupervisedTemplate]
    plugin: Callable[[], type] | None = None
    settings: Callable[[], type] | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)
    joint: bool = False

    def options(self) -> list[str]:
        """Returns the names of the options that ``method_options`` may hold."""
        if self.plugin is None:
            return []
        names = [*inspect.signature(self.plugin()).parameters]
        if self.settings is not None:
            names += [f.name for f in dataclasses.fields(self.settings())]
        hidden = {"hyper", "progress", "oracle", *self.fixed}
        return [name for name in names if name not in hidden]


def check_options(config: ExperimentConfig) -> None:
    """Checks the names of the method's options before data are loaded.

    Args:
        config: The run's settings.

    Raises:
        ConfigError: The method has no such option.
    """
    if not config.method_options:
        return
    known = METHODS[config.method].options()
    if not known:
        raise ConfigError(f"The method {config.method} takes no options.")
    for name in config.method_options:
        require_known(f"option of {config.method}", name, known)


def _of_plugin(name: str, description: str, *, settings: str | None = None, **fixed: Any) -> Method:
    """Makes a method of one of this package's plugins, given by name to import it late."""

    def plugin() -> type:
        import avalanche_dgm

        return getattr(avalanche_dgm, name)

    def settings_class() -> type:
        from avalanche_dgm.memories import settings as module

        return getattr(module, settings or "")

    def build(setup: Setup) -> SupervisedTemplate:
        config, kind = setup.config, plugin()
        options = {"seed": config.seed, **config.method_options, **fixed}
        if config.fast:
            known = METHODS[config.method].options()
            options = {k: v for k, v in _FAST.items() if k in known} | options
        make: Callable[..., Any] = kind
        if config.paper and hasattr(kind, "paper"):
            make = partial(kind.paper, paper_stream(config.stream))
        return setup.naive(make(progress=setup.progress, **options))

    return Method(description, build, plugin, settings_class if settings else None, fixed)


def _build_ewc(setup: Setup) -> SupervisedTemplate:
    from avalanche.training.plugins import EWCPlugin

    return setup.naive(EWCPlugin(**{"ewc_lambda": _EWC_LAMBDA, **setup.config.method_options}))


def _ewc() -> type:
    from avalanche.training.plugins import EWCPlugin

    return EWCPlugin


def _build_replay(setup: Setup) -> SupervisedTemplate:
    return setup.naive(_replay()(**setup.config.method_options))


def _replay() -> type:
    from avalanche.training.plugins import ReplayPlugin

    return ReplayPlugin


def _build_stock(setup: Setup) -> SupervisedTemplate:
    if setup.shape != (1, 28, 28):
        raise ConfigError(
            f"generative-replay is Avalanche's own strategy with its default generator, which"
            f" makes 1x28x28 images only, and this stream's are"
            f" {'x'.join(map(str, setup.shape))}. Take dgr, or a stream of MNIST images."
        )
    from avalanche.training.supervised import GenerativeReplay

    from avalanche_dgm.experiments.standardise import StandardisePlugin

    standardise = StandardisePlugin()
    strategy = GenerativeReplay(
        plugins=[standardise], **setup.arguments(), **setup.config.method_options
    )
    # Its generator is a strategy of its own, which would print every epoch.
    strategy.generator_strategy.plugins.insert(0, standardise)
    strategy.generator_strategy.evaluator.loggers = []
    return strategy


METHODS: dict[str, Method] = {
    "naive": Method("plain network, nothing against forgetting", lambda setup: setup.naive()),
    "dropout": Method("plain network with dropout", lambda setup: setup.naive()),
    "ewc": Method("elastic weight consolidation (Avalanche's EWCPlugin)", _build_ewc, _ewc),
    "ppr": _of_plugin(
        "PseudoRehearsalPlugin", "random inputs, labelled by the network before each experience"
    ),
    "dgr": _of_plugin(
        "DGRPlugin",
        "deep generative replay: every experience straight into one memory",
        settings="MemorySettings",
    ),
    "dgdmn": _of_plugin(
        "DGDMNPlugin",
        "dual memory: short-term generative memories, sleep, a long-term one",
        settings="DualMemorySettings",
    ),
    "dgdmn-no-stm": _of_plugin(
        "DGDMNPlugin",
        "dual memory that keeps the data of n_STM tasks until it sleeps",
        settings="DualMemorySettings",
        short_term=False,
    ),
    "generative-replay": Method(
        "Avalanche's GenerativeReplay as it comes (28x28 images only)", _build_stock
    ),
    "replay": Method(
        "stores real images (Avalanche's ReplayPlugin): reference", _build_replay, _replay
    ),
    "joint": Method(
        "trained anew on all experiences so far: reference",
        lambda setup: setup.naive(),
        joint=True,
    ),
}
METHODS["pseudo-rehearsal"] = dataclasses.replace(METHODS["ppr"], description="the same as ppr")
