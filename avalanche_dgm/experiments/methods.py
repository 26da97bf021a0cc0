"""The methods that can be run by name, and how each becomes an Avalanche strategy."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments.config import ExperimentConfig, paper_stream, require_known
from avalanche_dgm.experiments.networks import check_network

if TYPE_CHECKING:
    import torch
    from avalanche.training.plugins import EvaluationPlugin
    from avalanche.training.templates import SupervisedTemplate

# Images of the paper's data sets (appendix A); its memories shrink with a part of them.
_PAPER_IMAGES = {"digits": 60_000, "permnist": 180_000, "tdigits": 240_000}
# Methods of other papers than the one whose settings `paper` has.
_OTHER_PAPERS = (
    *("altm", "altm-stored", "altm-generated", "latent-replay"),
    *("dynamic-memory", "dynamic-memory-discriminator", "dynamic-memory-paper"),
    "dynamic-memory-weights",
    *("mergan", "mergan-alignment", "ewc-generator", "gan-replay"),
)
#: Option of methods that begin with one of the authors' configurations.
_CONFIGURATION = "configuration"
# For runs that only show that everything works.
_FAST = {"generator_steps": 30, "learner_steps": 30}
_FAST_PAPER = {"generator_epochs": 1, "learner_epochs": 1}
_FAST_GAN = {
    "generator_steps": 5,
    "width": 4,
    "discriminator_width": 4,
    "batch_size": 16,
    "replay_per_class": 16,
    "discriminator_finetune_epochs": 1,
    "fisher_samples": 8,
}


@dataclass(frozen=True)
class Method:
    """A method that can be run by name.

    Attributes:
        description: One line for lists.
        plugin: Module and class of the plugin that makes the method, or ``None`` for none; its
            keyword arguments are the method's options.
        defaults: Options that differ from the plugin's own defaults.
        fixed: Options that make the method what it is; they cannot be set.
        stock: Avalanche's own generative replay strategy.
        joint: Trained anew on all experiences so far, as a reference.
        generator: Option and value with which it has a generator; ``None`` if it always has.
        paper: How the method is made of another one with the paper's settings.
        fast: Options for runs that only show that everything works.
        published: The authors' configuration of `DynamicMemoryPlugin.paper` that it begins with,
            unless the option ``configuration`` names another one.
    """

    description: str
    plugin: tuple[str, str] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    stock: bool = False
    joint: bool = False
    generator: tuple[str, str] | None = None
    paper: Method | None = None
    fast: Mapping[str, Any] = field(default_factory=lambda: _FAST)
    published: str | None = None

    @property
    def ours(self) -> bool:
        """Whether the plugin is this package's, with a seed and progress bars."""
        return self.plugin is not None and self.plugin[0].startswith("avalanche_dgm")

    @property
    def gan(self) -> bool:
        """Whether it remembers by a generator that a discriminator trained."""
        if self.plugin is None or not self.ours:
            return False
        from avalanche_dgm.plugins.adversarial import GANPlugin

        return issubclass(_load(self.plugin), GANPlugin)

    def options(self) -> list[str]:
        """Returns the names of the options that ``method_options`` may hold."""
        if self.plugin is None:
            return []
        hidden = {"progress", "oracle", *self.fixed}
        known = [
            name for name in inspect.signature(_load(self.plugin)).parameters if name not in hidden
        ]
        return known if self.published is None else [*known, _CONFIGURATION]


@dataclass(frozen=True)
class StrategyInputs:
    """What a strategy is built from.

    Attributes:
        config: The run's settings.
        model: The classifier.
        optimizer: Its optimiser.
        evaluator: Collects accuracies and memory metrics.
        device: Where to compute.
        shape: Shape of one image, (channels, height, width).
        n_images: Training images of the stream.
        progress: Whether the method may show progress bars.
    """

    config: ExperimentConfig
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    evaluator: EvaluationPlugin
    device: torch.device
    shape: tuple[int, ...]
    n_images: int
    progress: bool


def method_of(config: ExperimentConfig) -> Method:
    """Returns the method that a config names, in the form that its settings ask for."""
    method = METHODS[config.method]
    return method.paper if config.paper and method.paper is not None else method


def check_options(config: ExperimentConfig) -> None:
    """Checks the method's options and the network before data are loaded.

    Args:
        config: The run's settings.

    Raises:
        ConfigError: The method has no such option, or no generator that could be measured, or the
            network cannot be made as asked for.
    """
    check_network(config)
    if config.quality and not method_of(config).gan:
        able = ", ".join(name for name, method in METHODS.items() if method.gan)
        raise ConfigError(
            f"--quality measures the generators of adversarial networks, and {config.method} has"
            f" none. These have one: {able}."
        )
    if config.paper and config.method in _OTHER_PAPERS:
        raise ConfigError(
            f"--paper has the settings of the DGDMN paper, and {config.method} is not of it. Leave"
            " it out, and set what you want by itself."
        )
    if not config.method_options:
        return
    known = method_of(config).options()
    if not known:
        raise ConfigError(f"The method {config.method} takes no options.")
    for name in config.method_options:
        require_known(f"option of {config.method}", name, known)
    if _CONFIGURATION in config.method_options:
        from avalanche_dgm.methods.dynamic_memory import PAPER

        require_known(_CONFIGURATION, str(config.method_options[_CONFIGURATION]), PAPER)


def build_strategy(inputs: StrategyInputs) -> SupervisedTemplate:
    """Makes the strategy of a method.

    Args:
        inputs: Settings, network and data.

    Raises:
        ConfigError: An option cannot work, or the method cannot learn such images.
    """
    config, method = inputs.config, method_of(inputs.config)
    arguments = {
        "model": inputs.model,
        "optimizer": inputs.optimizer,
        "train_mb_size": config.batch_size,
        "train_epochs": config.epochs,
        "eval_mb_size": 512,
        "device": inputs.device,
        "evaluator": inputs.evaluator,
    }
    annealing = []
    if config.schedule == "cosine":
        from avalanche_dgm.plugins.annealing import CosineAnnealingPlugin

        annealing.append(CosineAnnealingPlugin())
    if method.stock:
        return _stock(inputs.shape, annealing, arguments)
    from avalanche.training.supervised import Naive

    return Naive(plugins=[*_plugins(inputs, method), *annealing], **arguments)


def _plugins(inputs: StrategyInputs, method: Method) -> list[Any]:
    if method.plugin is None:
        return []
    kind = _load(method.plugin)
    options = hyper_parameters(inputs.config, inputs.n_images)
    return [kind(**({"progress": inputs.progress} if method.ours else {}), **options)]


def hyper_parameters(config: ExperimentConfig, n_images: int) -> dict[str, Any]:
    """Returns the hyper-parameters of a run's method, for its plugin or its LightningModule.

    Args:
        config: The run's settings.
        n_images: Training images of the stream; the paper's memories shrink with their number.
    """
    method = method_of(config)
    options = {**method.defaults, **config.method_options, **method.fixed}
    if not method.ours:
        return options
    generates = method.generator is None or method.generator in options.items()
    if config.fast and generates:
        fast, known = (_FAST_PAPER if config.paper else method.fast), method.options()
        options = {name: value for name, value in fast.items() if name in known} | options
    if config.fast and method.plugin == _ALTM:
        options = _fast_source(options) | options
    options = {"seed": config.seed} | options
    if method.published is not None:
        from avalanche_dgm.methods.dynamic_memory import paper_hyper

        options = paper_hyper(options.pop(_CONFIGURATION, method.published)) | options
    if not config.paper:
        return options
    from avalanche_dgm.methods.paper_settings import PAPER, dgdmn_hyper

    stream = paper_stream(config.stream)
    scale = min(1.0, n_images / _PAPER_IMAGES[stream])
    if method.plugin == _DUAL:
        return dgdmn_hyper(stream, scale=scale) | options
    return {"memory_size": round(PAPER[stream].rehearsal_size * scale)} | options


def _fast_source(options: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a memory small that A-LTM replays from, unless its arguments are given."""
    from avalanche_dgm.methods.altm_sources import METHODS as SOURCES

    replay = options.get("replay")
    if replay not in SOURCES:
        return {}
    known = inspect.signature(SOURCES[replay][0]).parameters
    return {"source": {name: value for name, value in _FAST_GAN.items() if name in known}}


def _stock(
    shape: tuple[int, ...], annealing: list[Any], arguments: dict[str, Any]
) -> SupervisedTemplate:
    """Avalanche's strategy with the generator that it comes with, made quiet."""
    if shape != (1, 28, 28):
        raise ConfigError(
            "generative-replay is Avalanche's own strategy with its default generator, which makes"
            f" 1x28x28 images only, and this stream's are {'x'.join(map(str, shape))}. Take dgr, or"
            " a stream of MNIST images."
        )
    from avalanche.training.supervised import GenerativeReplay

    from avalanche_dgm.experiments.standardise import StandardisePlugin

    standardise = StandardisePlugin()
    strategy = GenerativeReplay(plugins=[standardise, *annealing], **arguments)
    # The generator is a strategy of its own: without the same images, and with prints every epoch.
    strategy.generator_strategy.plugins.insert(0, standardise)
    strategy.generator_strategy.evaluator.loggers = []
    return strategy


def _load(place: tuple[str, str]) -> Any:
    return getattr(importlib.import_module(place[0]), place[1])


_DUAL = ("avalanche_dgm", "DGDMNPlugin")
_ALTM = ("avalanche_dgm", "ALTMPlugin")

# Those with a discriminator are compared under one measure: what the discriminator that they end
# with answers.
_DISCRIMINATOR = {"classifier": "discriminator"}
_DYNAMIC = ("avalanche_dgm", "DynamicMemoryPlugin")
_MERGAN = ("avalanche_dgm", "MeRGANPlugin")

_PPR = Method(
    "random inputs, labelled by the network before each experience",
    ("avalanche_dgm", "PseudoRehearsalPlugin"),
)

METHODS: dict[str, Method] = {
    "naive": Method("plain network, nothing against forgetting"),
    "dropout": Method("plain network with dropout"),
    "ewc": Method(
        "elastic weight consolidation (Avalanche's EWCPlugin)",
        ("avalanche.training.plugins", "EWCPlugin"),
        defaults={"ewc_lambda": 100.0},  # Kamra et al. 2017, appendix B
    ),
    "ppr": _PPR,
    "dgr": Method(
        "deep generative replay: every experience straight into one memory",
        ("avalanche_dgm", "DGRPlugin"),
        # Kamra et al. train the learner, too, in the memory and after the generator (Sec. 4.1).
        paper=Method("", _DUAL, fixed={"short_term": False, "stm_size": 1}),
    ),
    "latent-replay": Method(
        "a frozen compressor, and stored latents of a few samples",
        ("avalanche_dgm", "LatentReplayPlugin"),
        generator=("memory", "vae"),
    ),
    "altm": Method(
        "distillation from a frozen copy of the network; --set replay=stored, or a memory",
        _ALTM,
        generator=("replay", "generated"),
    ),
    "altm-stored": Method(
        "the same, held on a stored share of the old images",
        _ALTM,
        fixed={"replay": "stored"},
        generator=("replay", "generated"),
    ),
    "altm-generated": Method(
        "the same, held on images that a generator makes",
        _ALTM,
        fixed={"replay": "generated"},
    ),
    "dynamic-memory": Method(
        "a GAN that grows and freezes by masks, replayed to the network",
        _DYNAMIC,
        fast=_FAST_GAN,
    ),
    "dynamic-memory-discriminator": Method(
        "the same as in its paper, where the GAN's discriminator answers",
        _DYNAMIC,
        fixed=_DISCRIMINATOR,
        fast=_FAST_GAN,
    ),
    "dynamic-memory-paper": Method(
        "the same with the authors' settings (101 epochs a class), --set configuration=...",
        _DYNAMIC,
        fixed=_DISCRIMINATOR,
        fast={**_FAST_GAN, "generator_epochs": None, "discriminator_finetune_epochs": 0},
        published="mnist",
    ),
    "dynamic-memory-weights": Method(
        "the same with masks over weights in place of units",
        _DYNAMIC,
        defaults={**_DISCRIMINATOR, "smax": 1e4, "width": 6, "sparsity": 0.08},
        fixed={"masking": "weights"},
        fast=_FAST_GAN,
    ),
    "mergan": Method(
        "a conditional GAN that replays its own former samples to itself",
        _MERGAN,
        defaults=_DISCRIMINATOR,
        fixed={"replay": "joint"},
        fast=_FAST_GAN,
    ),
    "mergan-alignment": Method(
        "the same, held to what its former self makes of the same noise",
        _MERGAN,
        defaults=_DISCRIMINATOR,
        fixed={"replay": "alignment"},
        fast=_FAST_GAN,
    ),
    "ewc-generator": Method(
        "a conditional GAN whose generator is held by elastic weight consolidation",
        ("avalanche_dgm", "EWCGeneratorPlugin"),
        defaults=_DISCRIMINATOR,
        fast=_FAST_GAN,
    ),
    "gan-replay": Method(
        "deep generative replay with a conditional GAN, made anew each time",
        ("avalanche_dgm", "GANReplayPlugin"),
        defaults=_DISCRIMINATOR,
        fast=_FAST_GAN,
    ),
    "dgdmn": Method(
        "dual memory: short-term generative memories, sleep, a long-term one",
        _DUAL,
    ),
    "dgdmn-no-stm": Method(
        "dual memory that keeps the data of n_STM tasks until it sleeps",
        _DUAL,
        fixed={"short_term": False},
    ),
    "generative-replay": Method(
        "Avalanche's GenerativeReplay as it comes (28x28 images only)", stock=True
    ),
    "replay": Method(
        "stores real images (Avalanche's ReplayPlugin): reference",
        ("avalanche.training.plugins", "ReplayPlugin"),
    ),
    "joint": Method("trained anew on all experiences so far: reference", joint=True),
    "pseudo-rehearsal": dataclasses.replace(_PPR, description="the same as ppr"),
}
