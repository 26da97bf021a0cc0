"""Former names of public classes and functions, kept for one release."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def former_names(package: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Makes a package's ``__getattr__``, which returns former names with a `FutureWarning`.

    Assign it under ``if not TYPE_CHECKING``, so that type checkers still find misspelt names.

    Args:
        package: The package's ``__name__``.
        names: Each former name with its present one, both in the package.
    """

    def present(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        warnings.warn(
            f"{package}.{name} is deprecated; use {package}.{names[name]}.",
            FutureWarning,
            stacklevel=2,
        )
        return getattr(sys.modules[package], names[name])

    return present
