"""Lazy loading of a package's public names, which its stub declares.

Like ``lazy_loader.attach_stub``: importing such a package is fast, and type checkers see its names.
"""

from __future__ import annotations

import importlib
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def attach_stub(
    package: str, *, made: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Creates ``__getattr__``, ``__dir__`` and ``__all__`` of a package from its ``__init__.pyi``.

    Args:
        package: The package's ``__name__``.
        made: Name endings of classes that the stub declares, each with the module whose
            ``__getattr__`` creates them; other declared classes are for type checkers only.
    """
    text = Path(str(sys.modules[package].__file__)).with_name("__init__.pyi").read_text("utf-8")
    imported = re.findall(r"^from (\S+) import (?:\(\s*)?(\w+) as (_?)\2\b", text, re.M)
    # Classes that are declared again for type checkers, with all of their arguments.
    redeclared = re.findall(r"^class (\w+)\(_\1\):", text, re.M)
    where = {n: module for module, n, private in imported if not private or n in redeclared}
    for ending, module in (made or {}).items():
        where |= dict.fromkeys(re.findall(rf"^class (\w+{ending})\b", text, re.M), module)
    names = sorted(where)
    # Deprecated names, with the current ones.
    former = dict(re.findall(r"^(\w+) = (\w+)$", text, re.M))

    def get(name: str) -> Any:
        given, name = name, former.get(name, name)
        module = where.get(name)
        if module is None:
            raise AttributeError(f"module {package!r} has no attribute {given!r}")
        if given != name:
            message = f"{package}.{given} is deprecated; use {package}.{name}."
            warnings.warn(message, FutureWarning, stacklevel=2)
        if module == package:
            return importlib.import_module(f"{package}.{name}")
        return getattr(importlib.import_module(module), name)

    return get, lambda: names, names
