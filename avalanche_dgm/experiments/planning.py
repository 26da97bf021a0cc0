"""Plans runs: makes configs of the settings of recipes, files and the command line.

Settings are in layers of increasing priority. What the lowest layer leaves open is inherited from
its ``base``, another recipe: by default the one with the name of the stream, or else "defaults".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments.config import (
    BY_CLASS_PATH,
    LATENT,
    MLP,
    NETWORKS,
    ExperimentConfig,
    current_method,
    is_class_path,
    paper_stream,
    require_known,
)
from avalanche_dgm.experiments.recipes import ABOUT, MAPPINGS, Layer, load, names

_STREAM = "sklearn-digits"

Configs = dict[str, list[ExperimentConfig]]


def layers_of(*given: Layer) -> list[Layer]:
    """Prepends the settings of base recipes.

    Args:
        *given: Settings, in order of increasing priority.
    """
    layers, seen = list(given), set()
    while True:
        name = layers[0].get("base", None if "base" in layers[0] else _usual_base(layers))
        if name is None:
            return layers
        if name in seen:
            raise ConfigError(f"The file {name} is its own base.")
        seen.add(name)
        layers.insert(0, load(name))


def _usual_base(layers: Sequence[Layer]) -> str:
    stream = top(layers, "stream", _STREAM)
    return stream if stream in names() else "defaults"


def top(layers: Sequence[Layer], name: str, default: Any) -> Any:
    """The value of a setting in the layer of highest priority that has it."""
    values = [layer[name] for layer in layers if layer.get(name) is not None]
    return values[-1] if values else default


def plan(*given: Layer, methods: Sequence[str]) -> Configs:
    """Makes the configs for the settings of files and the command line.

    Options of methods, and ``quality``, are given to the methods that have them, at least one.

    Args:
        *given: Settings, in order of increasing priority.
        methods: The default methods.

    Returns:
        The configs of each method, one per seed.

    Raises:
        ConfigError: The settings cannot be run.
    """
    layers = layers_of(*given)
    chosen = _methods(layers) or list(methods)
    for name in (name for layer in layers for name in layer.get("per_method") or ()):
        _known(name)
    seeds = top(layers, "seeds", 1)
    if seeds < 1:
        raise ConfigError(f"--seeds is {seeds}; at least 1 is needed.")
    configs = {}
    for method, own in _layers_by_method(layers, chosen).items():
        config = _resolve(own, method)
        configs[method] = [config.replace(seed=config.seed + i) for i in range(seeds)]
    return configs


def _methods(layers: Sequence[Layer]) -> list[str]:
    """The methods of the layer of highest priority that has some."""
    for layer in reversed(layers):
        named = layer.get("methods") or ([layer["method"]] if layer.get("method") else [])
        if named:
            return [_known(method) for method in named]
    return []


def _known(method: str) -> str:
    from avalanche_dgm.experiments.methods import METHODS

    current = current_method(method)
    if not is_class_path(current):
        require_known("method", current, METHODS)
    return current


def _layers_by_method(
    layers: Sequence[Layer], methods: Sequence[str]
) -> dict[str, Sequence[Layer]]:
    """The layers of each method; several methods share the options that they have."""
    from avalanche_dgm.experiments.methods import find_method, has_gan, options_of

    if len(methods) == 1:
        return {methods[0]: layers}
    kinds = {method: find_method(method) for method in methods}
    known = {method: options_of(kind) for method, kind in kinds.items()}
    able = [method for method, kind in kinds.items() if has_gan(kind)] or methods
    for name in (name for layer in layers for name in layer.get("method_options") or ()):
        if not any(name in own for own in known.values()):
            raise ConfigError(f"None of {', '.join(methods)} has an option '{name}'.")
    return {
        method: [_accepted(layer, known[method], quality=method in able) for layer in layers]
        for method in methods
    }


def _accepted(layer: Layer, options: Sequence[str], *, quality: bool) -> Layer:
    """A layer without common settings that a method does not have."""
    given = layer.get("method_options") or {}
    accepted = {name: value for name, value in given.items() if name in options}
    # The layer's own method is not the only one that has them.
    kept = {**layer, "method": None, "method_options": accepted}
    return {**kept, "quality": quality} if layer.get("quality") else kept


def _resolve(layers: Sequence[Layer], method: str) -> ExperimentConfig:
    stream: str = top(layers, "stream", _STREAM)
    settings: dict[str, Any] = {}
    for layer in layers:
        own = _of_method(layer, method)
        if own.get("paper"):
            for below in layers_of(load(f"kamra2017-{paper_stream(stream)}")):
                settings = merge(settings, _of_method(below, method))
        if own.get("fast"):
            settings = _made_fast(settings, method)
        settings = merge(settings, own)
    settings = {name: value for name, value in settings.items() if value is not None}
    settings |= {"method": method, "stream": stream}
    labels = (settings.get("stream_options") or {}).get("task_labels")
    if settings.get("model") == LATENT and labels and method != "latent-replay":
        # With several heads it is not the paper's problem.
        settings = {**settings, "model": MLP, "model_options": {}}
    usual, fast = NETWORKS.get(settings.get("model", MLP), ((), ()))
    settings.setdefault("hidden", fast if settings.get("fast") else usual)
    settings.setdefault("device", "auto" if settings.get("backend") == "lightning" else "cpu")
    return ExperimentConfig(**settings)


def _of_method(layer: Layer, method: str) -> dict[str, Any]:
    """A layer's settings for a method."""
    general = {name: value for name, value in layer.items() if name not in ABOUT}
    if general.pop("method", None) not in (None, method):
        # Options of another method.
        general.pop("method_options", None)
    return merge(general, (layer.get("per_method") or {}).get(method, {}))


def merge(lower: Layer, upper: Layer) -> dict[str, Any]:
    """Merges settings; options of methods, streams and models are merged one by one.

    Args:
        lower: The settings.
        upper: Settings of higher priority. ``None`` resets a setting of ``lower``, except method,
            stream and options.
    """
    merged = dict(lower)
    kept = (*MAPPINGS, "method", "stream")
    for name, options in BY_CLASS_PATH.items():
        if None not in (upper.get(name), lower.get(name)) and upper[name] != lower[name]:
            # Options of the replaced method, stream or model.
            merged.pop(options, None)
    for name, value in upper.items():
        if name in MAPPINGS and isinstance(value, Mapping):
            value = {**(merged.get(name) or {}), **value}
        if value is not None or name not in kept:
            merged[name] = value
    if "model" in upper and upper["model"] is None:
        merged[BY_CLASS_PATH["model"]] = upper.get(BY_CLASS_PATH["model"]) or {}
    return merged


def _made_fast(settings: Layer, method: str) -> dict[str, Any]:
    """Settings of a smoke test."""
    from avalanche_dgm.experiments.methods import find_method
    from avalanche_dgm.methods.registry import NamedMethod

    named = find_method(method)
    quick: Mapping[str, Any] = {}
    if isinstance(named, NamedMethod):
        quick = named.fast_settings({**named.defaults, **named.fixed})
    options = settings.get("method_options") or {}
    kept = {name: value for name, value in settings.items() if name != "hidden"}
    own = {name: value for name, value in options.items() if name not in quick}
    return {**kept, "epochs": 1, "method_options": own}
