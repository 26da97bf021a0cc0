"""The methods by name or class path, and their options."""

from __future__ import annotations

import importlib
import inspect
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments import class_paths
from avalanche_dgm.experiments.building import check_network
from avalanche_dgm.experiments.config import (
    ExperimentConfig,
    is_class_path,
    paper_stream,
    require_known,
)
from avalanche_dgm.methods import Method, registry
from avalanche_dgm.methods.registry import NamedMethod
from avalanche_dgm.settings import make_settings

# Images of the paper's data sets (appendix A); its memories are scaled with the fraction in use.
_PAPER_IMAGES = {"digits": 60_000, "permnist": 180_000, "tdigits": 240_000}
#: Option of methods with several configurations.
_CONFIGURATION = "configuration"
# For smoke tests with the paper's settings.
_FAST_PAPER = {"generator_epochs": 1, "learner_epochs": 1}


@dataclass(frozen=True)
class Reference:
    """A reference method: one of Avalanche, or a plain network.

    Attributes:
        description: One line for lists.
        plugin: Name of a class in ``avalanche.training.plugins``, or class path of another, whose
            keyword arguments are the options; ``None`` for the plain network.
        defaults: Options that differ from the plugin's defaults.
        stock: Whether ``plugin`` is an Avalanche strategy with its own training loop; without
            ``plugin`` it is Avalanche's generative replay.
        joint: Whether it is retrained on all experiences so far.
    """

    description: str
    plugin: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    stock: bool = False
    joint: bool = False


REFERENCES: dict[str, Reference] = {
    "naive": Reference("plain network without a memory"),
    "dropout": Reference("plain network with dropout"),
    "generative-replay": Reference(
        "Avalanche's GenerativeReplay with its defaults (only 28x28 images)", stock=True
    ),
    "replay": Reference(
        "stores real images, by mem_size or memory_budget (Avalanche's ReplayPlugin): reference",
        "avalanche_dgm.plugins.byte_replay.ByteReplayPlugin",
    ),
    "der++": Reference(
        "stores real images and their logits, by mem_size or memory_budget (Avalanche's DER):"
        " reference",
        "avalanche_dgm.plugins.byte_replay.ByteDER",
        stock=True,
    ),
    "icarl": Reference(
        "stores real images, chosen by herding, and predicts the nearest mean of features"
        " (Avalanche's ICaRL): reference",
        "avalanche_dgm.plugins.icarl.SplitICaRL",
        stock=True,
    ),
    "si": Reference(
        "synaptic intelligence (Avalanche's SynapticIntelligencePlugin)",
        "SynapticIntelligencePlugin",
        defaults={"si_lambda": 0.1},  # Zenke et al. 2017, permuted MNIST
    ),
    "rwalk": Reference("Riemannian walk, without images (Avalanche's RWalkPlugin)", "RWalkPlugin"),
    "cumulative": Reference(
        "one network that continues on all experiences so far (Avalanche's Cumulative): reference",
        "avalanche_dgm.plugins.cumulative.CumulativeStrategy",
        stock=True,
    ),
    "joint": Reference("retrained on all experiences so far: reference", joint=True),
}

registry.load_methods()
#: All methods by name; includes methods that are registered later.
METHODS: Mapping[str, NamedMethod | Reference] = ChainMap(registry.METHODS, REFERENCES)  # type: ignore[arg-type]


def find_method(name: str) -> NamedMethod | Reference:
    """Finds a method by its name or class path.

    Args:
        name: A name in ``METHODS``; or the class path of a `Method`, of its plugin, or of any other
            Avalanche plugin.

    Raises:
        ConfigError: There is no such method.
    """
    if not is_class_path(name):
        require_known("method", name, METHODS)
        return METHODS[name]
    target = class_paths.locate(name, "method")
    # Not that of a base class.
    description = inspect.cleandoc(target.__doc__ or "").partition("\n")[0]
    kind = getattr(target, "kind", target)
    if inspect.isclass(kind) and issubclass(kind, Method):
        return NamedMethod(name, kind, description)
    if inspect.isclass(target):
        require_plugin(name, target)
    return Reference(description, plugin=name)


def require_plugin(name: str, kind: type) -> None:
    """Checks that what a class path names is a plugin, which a strategy would ignore otherwise.

    Raises:
        ConfigError: It is none.
    """
    from avalanche.core import BasePlugin

    if not issubclass(kind, BasePlugin):
        raise ConfigError(
            f"method {name}: {kind.__name__} is no Avalanche plugin. Give a subclass of"
            " avalanche.core.SupervisedPlugin, or a Method of this package or its plugin."
        )


def is_joint(method: NamedMethod | Reference) -> bool:
    """Whether it is retrained on all experiences so far."""
    return isinstance(method, Reference) and method.joint


def is_stock(method: NamedMethod | Reference) -> bool:
    """Whether it is an Avalanche strategy with its own training loop."""
    return isinstance(method, Reference) and method.stock


def has_gan(method: NamedMethod | Reference) -> bool:
    """Whether its memory is a GAN."""
    from avalanche_dgm.methods.adversarial import GANMethod

    return isinstance(method, NamedMethod) and issubclass(method.kind, GANMethod)


def options_of(method: NamedMethod | Reference) -> list[str]:
    """The names of the method's options."""
    if isinstance(method, NamedMethod):
        hidden = {"settings", *method.fixed}
        known = [p.name for p in method.kind.settings_type.parameters() if p.name not in hidden]
        return [*known, _CONFIGURATION] if method.configurations else known
    if method.plugin is None:
        return []
    parameters = inspect.signature(avalanche_plugin(method.plugin)).parameters.values()
    return [p.name for p in parameters if p.kind is not p.VAR_KEYWORD and p.name != "model"]


def method_of(config: ExperimentConfig) -> NamedMethod | Reference:
    """Returns a config's method; with ``paper``, the one that the paper calls by this name."""
    method = find_method(config.method)
    if config.paper and isinstance(method, NamedMethod) and isinstance(method.paper, str):
        return METHODS[method.paper]
    return method


def check_options(config: ExperimentConfig) -> None:
    """Checks the method's options and the network before data are loaded.

    Raises:
        ConfigError: The method has no such option, or a value cannot work; ``quality`` with a
            method without a GAN; or the network does not have the given options.
    """
    from avalanche_dgm.streams import STREAMS

    if not is_class_path(config.stream):
        require_known("stream", config.stream, STREAMS)
        for name in config.stream_options:
            require_known(f"option of {config.stream}", name, STREAMS[config.stream].options)
    check_network(config)
    method = method_of(config)
    if config.quality and not has_gan(method):
        able = ", ".join(name for name, other in METHODS.items() if has_gan(other))
        raise ConfigError(
            f"--quality measures the generators of GANs, but {config.method} has none. Methods"
            f" with a GAN: {able}."
        )
    if config.paper and isinstance(method, NamedMethod) and method.paper is None:
        raise ConfigError(
            f"--paper has the settings of the DGDMN paper, which lacks {config.method}."
            " Leave it out, and give single settings."
        )
    known = options_of(method)
    if config.method_options and not known:
        raise ConfigError(f"The method {config.method} takes no options.")
    for name in config.method_options:
        require_known(f"option of {config.method}", name, known)
    if not isinstance(method, NamedMethod):
        return
    if _CONFIGURATION in config.method_options:
        wanted = str(config.method_options[_CONFIGURATION])
        require_known(_CONFIGURATION, wanted, method.configurations)
    # The number of images only affects the size of the paper's memories.
    make_settings(method.kind.settings_type, hyper_parameters(config, max(_PAPER_IMAGES.values())))


def hyper_parameters(config: ExperimentConfig, n_images: int) -> dict[str, Any]:
    """Returns the hyper-parameters of a run's method, for its plugin or its LightningModule.

    Args:
        config: The run's settings.
        n_images: Training images of the stream, with which the paper's memories are scaled.
    """
    method = method_of(config)
    if isinstance(method, Reference):
        return {**method.defaults, **config.method_options}
    options = {**method.defaults, **config.method_options, **method.fixed}
    if config.fast:
        known = options_of(method)
        quick = _FAST_PAPER if config.paper else method.fast_settings(options)
        options = {name: value for name, value in quick.items() if name in known} | options
    options = {"seed": config.seed} | options
    if method.configurations:
        named = options.pop(_CONFIGURATION, None)
        options = dict(method.with_configuration(named, options))
    if not config.paper or not callable(method.paper):
        return options
    stream = paper_stream(config.stream)
    scale = min(1.0, n_images / _PAPER_IMAGES[stream])
    return {**method.paper(stream, scale=scale), **options}


def avalanche_plugin(name: str) -> Any:
    """The class of an Avalanche plugin or strategy."""
    if is_class_path(name):
        return class_paths.locate(name, "method")
    return getattr(importlib.import_module("avalanche.training.plugins"), name)
