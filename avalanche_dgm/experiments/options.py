"""Lists the options of a method or a stream: name, type, default and description."""

from __future__ import annotations

import inspect
import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from avalanche_dgm.experiments.config import is_class_path, require_known
from avalanche_dgm.experiments.methods import METHODS, avalanche_plugin, find_method, options_of
from avalanche_dgm.methods.registry import NamedMethod
from avalanche_dgm.settings import describe_settings, entries
from avalanche_dgm.streams import STREAMS, split

_EMPTY = inspect.Parameter.empty


def describe_options(name: str) -> str:
    """Lists the options of a method or a stream, wrapped to the terminal's width.

    Raises:
        ConfigError: There is no method or stream of this name.
    """
    if name in STREAMS:
        return _of_stream(name)
    if not is_class_path(name):
        require_known("method or stream", name, [*METHODS, *STREAMS])
    method = find_method(name)
    about = f"{name}: {method.description}"
    if isinstance(method, NamedMethod):
        return _of_method(about, method)
    if not (known := options_of(method)) or method.plugin is None:
        return f"{about}\n\nIt has no options."
    plugin = avalanche_plugin(method.plugin)
    parameters = [p for p in _parameters(plugin) if p.name in known]
    return "\n".join(
        [about, "", *_options(parameters, _descriptions(plugin), given=method.defaults)]
    )


def _of_method(about: str, method: NamedMethod) -> str:
    kind = method.kind.settings_type
    hidden = {"settings", *method.fixed}
    parameters = [p for p in kind.parameters() if p.name not in hidden]
    lines = [about, "", *_options(parameters, describe_settings(kind), given=method.defaults)]
    if method.fixed:
        fixed = ", ".join(f"{name}={value!r}" for name, value in method.fixed.items())
        lines += ["", f"Fixed by its name: {fixed}"]
    if method.configurations:
        known = ", ".join(method.configurations)
        lines += ["", f"configuration: initial settings, one of {known}"]
    return "\n".join(lines)


def _of_stream(name: str) -> str:
    spec = STREAMS[name]
    # Options that a builder passes on are those of `split`.
    builders = (split, spec.builder)
    parameters = {p.name: p for builder in builders for p in _parameters(builder)}
    texts = {k: v for builder in builders for k, v in _descriptions(builder).items()}
    ordered = [parameters[option] for option in spec.options]
    return "\n".join(
        [f"{name}: {spec.description}", "", *_options(ordered, texts, given=spec.defaults)]
    )


def _parameters(call: Any) -> list[inspect.Parameter]:
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [p for p in inspect.signature(call).parameters.values() if p.kind not in kinds]


def _descriptions(call: Any) -> dict[str, str]:
    """Descriptions of arguments in Google's or Sphinx' docstring style."""
    text = "\n\n".join(filter(None, (inspect.getdoc(call), inspect.getdoc(call.__init__))))
    sphinx = re.findall(r":param (\w+):\s*(.*?)(?=\n\s*:|\n\s*\n|\Z)", text, re.DOTALL)
    return {**dict(sphinx), **entries(inspect.getdoc(call), "Args")}


def _options(
    parameters: Sequence[inspect.Parameter], texts: Mapping[str, str], *, given: Mapping[str, Any]
) -> list[str]:
    width = shutil.get_terminal_size((100, 24)).columns
    lines = []
    for parameter in parameters:
        default = given.get(parameter.name, parameter.default)
        text = parameter.name
        if parameter.annotation is not _EMPTY:
            text += f": {_type(parameter.annotation)}"
        text += f" = {default!r}" if default is not _EMPTY else " (must be given)"
        lines += textwrap.wrap(f"  {text}", width, subsequent_indent="    ")
        meaning = " ".join(texts.get(parameter.name, "").split())
        lines += textwrap.wrap(
            meaning, width - 1, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
    return lines


def _type(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    # Without the modules of types.
    return re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Z])", "", text)
