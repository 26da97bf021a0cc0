"""Imports classes and functions by class path, from the working folder or installed packages."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments.config import require_known


def import_module(name: str, what: str) -> ModuleType:
    """Imports a module from the working folder or an installed package.

    Raises:
        ConfigError: It cannot be imported.
    """
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"{what}: it cannot be imported: {error}.") from error


def locate(path: str, what: str) -> Any:
    """Imports a class or function by its class path.

    Raises:
        ConfigError: There is no such class or function.
    """
    module, _, name = path.rpartition(".")
    place = import_module(module, f"{what} {path}")
    known = [n for n, value in vars(place).items() if callable(value) and not n.startswith("_")]
    if not callable(getattr(place, name, None)):
        require_known(f"class or function in {module}", name, known)
    return getattr(place, name)


def make(path: str, arguments: Mapping[str, Any], what: str) -> Any:
    """Calls a class or function by its class path.

    Args:
        path: Such as "my_module.MyNet".
        arguments: Keyword arguments. A mapping with ``class_path`` and optionally ``init_args`` is
            converted in the same way.
        what: Its purpose for messages, such as "model".

    Raises:
        ConfigError: There is no such class, or it does not take such arguments.
    """
    target = locate(path, what)
    converted = {
        name: make(value["class_path"], value.get("init_args") or {}, name)
        if isinstance(value, Mapping) and "class_path" in value
        else value
        for name, value in arguments.items()
    }
    try:
        inspect.signature(target).bind(**converted)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{what} {path}: {error}. It takes {inspect.signature(target)}."
        ) from error
    return target(**converted)
