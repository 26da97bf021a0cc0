"""Recipes: configs of runs as YAML files of the package or the user.

A file has fields of `ExperimentConfig` and of ``ABOUT``. Other settings are inherited from its
``base``, another recipe: by default the one with the name of the stream, or else "defaults".
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments.config import (
    BY_CLASS_PATH,
    LATENT,
    MLP,
    NETWORKS,
    ExperimentConfig,
    TrainerSettings,
    current_method,
    is_class_path,
    paper_stream,
    require_known,
)
from avalanche_dgm.settings import describe_settings

FOLDER = Path(__file__).parent.parent / "recipes"
#: The file in a run's folder from which the run can be repeated.
FILE = "config.yaml"
#: Fields of a file besides a run's settings, with their types.
ABOUT: dict[str, Any] = {
    "description": str | None,  # One line for lists.
    "shows": str | None,  # The paper's claim about the figure.
    "base": str | None,  # The recipe or file to inherit from; null for none.
    "methods": list[str] | None,  # Names or class paths, in place of one method.
    "per_method": dict[str, dict[str, Any]] | None,  # Settings of single methods.
    "seeds": int | None,  # Number of seeds, from `seed` on.
}
_STREAM = "sklearn-digits"
#: Description of types, for messages; the example of a list has the given value.
_KINDS = {
    **{"int": "a whole number", "float": "a number", "str": "a name", "bool": "true or false"},
    **{"tuple": "a list, such as [{0}]", "list": "a list, such as [{0}]"},
    "dict": "settings by name",
}
_MAPPINGS = (*BY_CLASS_PATH.values(), "trainer")

Layer = Mapping[str, Any]
Configs = dict[str, list[ExperimentConfig]]


def names() -> list[str]:
    """The names of the package's recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name: str) -> Layer:
    """Reads a recipe or a file.

    Args:
        name: A recipe's name, or the path of a YAML file.

    Raises:
        ConfigError: There is no such file, it cannot be read, or a setting is unknown or has a
            wrong type.
    """
    if name in names():
        return _recipe(name)
    if not Path(name).is_file():
        require_known("file or recipe", name, names())
    return _read(Path(name))


@cache
def _recipe(name: str) -> Layer:
    return _read(FOLDER / f"{name}.yaml")


def _read(path: Path) -> Layer:
    import jsonargparse
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        values = jsonargparse.get_loader("yaml")(text)
        repeated = _repeated(yaml.compose(text, Loader=yaml.SafeLoader))
    except Exception as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} has no settings, such as 'method: dgdmn'.")
    if repeated:
        raise ConfigError(f"{path} has {repeated[0]!r} twice. Leave one out.")
    if values.get("method") and values.get("methods"):
        raise ConfigError(f"{path} has both 'method' and 'methods'. Leave one out.")
    return check(values, str(path))


def _repeated(node: Any) -> list[str]:
    """The keys that a mapping in a YAML document has twice, of which YAML takes the last."""
    if node is None or isinstance(node.value, str):
        return []
    if isinstance(node.value[0] if node.value else None, tuple):
        keys = [key.value for key, _ in node.value]
        found = [str(key) for i, key in enumerate(keys) if key in keys[:i]]
        return found + [key for _, value in node.value for key in _repeated(value)]
    return [key for value in node.value for key in _repeated(value)]


def check(values: Layer, where: str) -> Layer:
    """Checks names and types of settings.

    Args:
        values: Settings by name. Method, stream and model may be a mapping with ``class_path`` and
            ``init_args``.
        where: Their source, for the message.

    Returns:
        The settings, converted to the types of their fields.

    Raises:
        ConfigError: A setting is unknown or has a wrong type.
    """
    for name in values:
        require_known(f"setting in {where}", name, settings())
    try:
        parsed = _parser().parse_object(dict(values), defaults=False).as_dict()
    except argparse.ArgumentError as error:
        raise ConfigError(f"{where}: {_explain(error)}") from error
    # The parser drops empty parts.
    parsed |= {name: values[name] for name in values if name not in parsed}
    for method, own in (parsed.get("per_method") or {}).items():
        parsed["per_method"][method] = check(own, f"{where}, {method}")
    return _split_class_paths(parsed)


def _explain(error: argparse.ArgumentError) -> str:
    """A shorter message than jsonargparse's about a wrong setting."""
    text = str(error)
    key = re.match(r'Parser key "([\w.]+)"', text)
    value = re.search(r"(?:Given|Got) value: (.*)", text)
    kinds = [
        _KINDS[kind] for kind in re.findall(r"Expected a <class '(\w+)'>", text) if kind in _KINDS
    ]
    if choices := re.search(r"Expected a typing\.Literal\[(.*)\]", text):
        kinds = [f"one of {choices[1]}"]
    if not (key and value and kinds):
        return text
    name = key[1].rpartition(".")[2]
    needed = " or ".join(kinds).format(value[1])
    texts = {**describe_settings(ExperimentConfig), **describe_settings(TrainerSettings)}
    meaning = " ".join(texts.get(name, "").split())
    return f"{key[1]} is {value[1]}; it must be {needed}. {meaning}".rstrip()


@cache
def _parser() -> Any:
    import jsonargparse

    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    hints = get_type_hints(ExperimentConfig)
    for name in ExperimentConfig.names():
        if name == "trainer":
            parser.add_class_arguments(TrainerSettings, name)
        elif name in BY_CLASS_PATH:
            parser.add_argument(f"--{name}", type=str | dict[str, Any] | None)
        elif name in _MAPPINGS:
            parser.add_argument(f"--{name}", type=dict[str, Any] | None)
        else:
            parser.add_argument(f"--{name}", type=hints[name] | None)
    for name, kind in ABOUT.items():
        parser.add_argument(f"--{name}", type=kind)
    return parser


def settings() -> list[str]:
    """The names of all fields of a file."""
    return [*(field.name for field in dataclasses.fields(ExperimentConfig)), *ABOUT]


def _split_class_paths(values: Layer) -> dict[str, Any]:
    """Splits mappings with class paths into two fields: the path, and its arguments."""
    split = dict(values)
    for name, options in BY_CLASS_PATH.items():
        given = split.get(name)
        if isinstance(given, Mapping):
            if set(given) - {"class_path", "init_args"}:
                raise ConfigError(
                    f"{name} is {dict(given)!r}. Give a name, or a mapping with class_path and"
                    " optionally init_args."
                )
            # The arguments may be those of a class that is named elsewhere.
            del split[name]
            if given.get("class_path") is not None:
                split[name] = given["class_path"]
            split[options] = {**(given.get("init_args") or {}), **(split.get(options) or {})}
    return split


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
    if len(chosen) > 1:
        layers = _distribute_options(layers, chosen)
    seeds = top(layers, "seeds", 1)
    if seeds < 1:
        raise ConfigError(f"--seeds is {seeds}; at least 1 is needed.")
    configs = {}
    for method in chosen:
        config = _resolve(layers, method)
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


def _distribute_options(layers: Sequence[Layer], methods: Sequence[str]) -> list[Layer]:
    """Moves common options of methods to those that have them."""
    from avalanche_dgm.experiments.methods import find_method, has_gan, options_of

    kinds = {method: find_method(method) for method in methods}
    known = {method: options_of(kind) for method, kind in kinds.items()}
    able = [method for method, kind in kinds.items() if has_gan(kind)] or list(methods)
    distributed: list[Layer] = []
    for layer in layers:
        options = layer.get("method_options") or {}
        for name in options:
            if not any(name in own for own in known.values()):
                raise ConfigError(f"None of {', '.join(methods)} has an option '{name}'.")
        per_method = dict(layer.get("per_method") or {})
        for method in methods:
            accepted = {k: v for k, v in options.items() if k in known[method]}
            accepted |= per_method.get(method, {}).get("method_options") or {}
            measured = {"quality": method in able} if layer.get("quality") else {}
            if accepted or measured:
                own = per_method.get(method, {})
                per_method[method] = {**measured, **own, "method_options": accepted}
        rest = {k: v for k, v in layer.items() if k not in ("method_options", "quality")}
        distributed.append({**rest, "per_method": per_method})
    return distributed


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
    kept = (*_MAPPINGS, "method", "stream")
    for name, options in BY_CLASS_PATH.items():
        if None not in (upper.get(name), lower.get(name)) and upper[name] != lower[name]:
            # Options of the replaced method, stream or model.
            merged.pop(options, None)
    for name, value in upper.items():
        if name in _MAPPINGS and isinstance(value, Mapping):
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


def dump(configs: Mapping[str, Sequence[ExperimentConfig]]) -> str:
    """Writes configs as a file for `load`, without a base."""
    import yaml

    first = {method: seeds[0].to_json() for method, seeds in configs.items()}
    common = dict(next(iter(first.values())))
    if len(first) > 1:
        common = {
            name: value
            for name, value in common.items()
            if all(values[name] == value for values in first.values())
        }
    about: dict[str, Any] = {"base": None}
    if len(first) > 1:
        about["methods"] = list(first)
        about["per_method"] = {
            method: own
            for method, values in first.items()
            if (own := {k: v for k, v in values.items() if k not in common and k != "method"})
        }
    n_seeds = len(next(iter(configs.values())))
    about |= {"seeds": n_seeds} if n_seeds > 1 else {}
    text = yaml.safe_dump({**about, **_joined(common)}, sort_keys=False, default_flow_style=None)
    return f"# Repeats this run: avalanche-dgm run --config THIS_FILE\n{text}"


def _joined(values: Layer) -> dict[str, Any]:
    """The inverse of `_split_class_paths`."""
    joined = dict(values)
    for name, options in BY_CLASS_PATH.items():
        if is_class_path(str(joined.get(name, ""))):
            joined[name] = {"class_path": joined[name], "init_args": joined.pop(options, {})}
    return joined
