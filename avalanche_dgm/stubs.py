"""Packages whose public names are those of the stub beside them, loaded when they are asked for.

As ``lazy_loader.attach_stub`` does it: importing such a package costs nothing, and type checkers
see what there is.
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
    """Makes ``__getattr__``, ``__dir__`` and ``__all__`` of a package from its ``__init__.pyi``.

    Args:
        package: The package's ``__name__``.
        made: Endings of the names of classes that the stub declares, each with the module whose
            ``__getattr__`` makes them; others are for type checkers only.
    """
    text = Path(str(sys.modules[package].__file__)).with_name("__init__.pyi").read_text("utf-8")
    imported = re.findall(r"^from (\S+) import (?:\(\s*)?(\w+) as (_?)\2\b", text, re.M)
    # A class may be declared anew for type checkers, with all of its arguments.
    anew = re.findall(r"^class (\w+)\(_\1\):", text, re.M)
    where = {n: module for module, n, private in imported if not private or n in anew}
    for ending, module in (made or {}).items():
        where |= dict.fromkeys(re.findall(rf"^class (\w+{ending})\b", text, re.M), module)
    names = sorted(where)
    # Former names stand behind the present ones.
    former = dict(re.findall(r"^(\w+) = (\w+)$", text, re.M))

    def get(name: str) -> Any:
        asked, name = name, former.get(name, name)
        module = where.get(name)
        if module is None:
            raise AttributeError(f"module {package!r} has no attribute {asked!r}")
        if asked != name:
            message = f"{package}.{asked} is deprecated; use {package}.{name}."
            warnings.warn(message, FutureWarning, stacklevel=2)
        if module == package:
            return importlib.import_module(f"{package}.{name}")
        return getattr(importlib.import_module(module), name)

    return get, lambda: names, names
