"""Recipes: configs of runs as YAML files of the package or the user.

A file has fields of `ExperimentConfig` and of ``ABOUT``; `planning` makes configs of it.
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
    ExperimentConfig,
    TrainerSettings,
    is_class_path,
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
#: Description of types, for messages; the example of a list has the given value.
_KINDS = {
    **{"int": "a whole number", "float": "a number", "str": "a name", "bool": "true or false"},
    **{"tuple": "a list, such as [{0}]", "list": "a list, such as [{0}]"},
    "dict": "settings by name",
}
#: Settings that are mappings.
MAPPINGS = (*BY_CLASS_PATH.values(), "trainer")

Layer = Mapping[str, Any]


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
    if isinstance(trainer := values.get("trainer"), Mapping):
        for name in trainer:
            require_known(f"trainer setting in {where}", name, TrainerSettings.names())
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
        elif name in MAPPINGS:
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
