"""Numbers as text."""

from __future__ import annotations

import math
from collections.abc import Callable

#: What stands for a number that is not known.
NOTHING = "\N{EN DASH}"
#: Of negative numbers: as wide as a plus sign, other than a hyphen.
MINUS = "\N{MINUS SIGN}"
#: A number as text.
Format = Callable[[float], str]

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def share(value: float | None) -> str:
    """Three decimals, as for accuracies."""
    return NOTHING if value is None else f"{value:.3f}".replace("-", MINUS)


def seconds(value: float | None) -> str:
    """Seconds, or minutes or hours where these are many."""
    if value is None:
        return NOTHING
    if value >= 7200:
        return f"{value / 3600:.1f} h"
    if value >= 600:
        return f"{value / 60:.1f} min"
    return f"{value:.1f} s" if value < 100 else f"{value:.0f} s"


def size(value: float | None) -> str:
    """Bytes, KiB, MiB and so on."""
    if value is None:
        return NOTHING
    power = _power(value)
    digits = 0 if power == 0 else 1
    return f"{value / 1024**power:.{digits}f} {_UNITS[power]}"


def size_unit(largest: float) -> tuple[float, str]:
    """The unit that suits sizes up to some number of bytes, in bytes, and its name.

    Args:
        largest: The largest of the sizes.
    """
    power = _power(largest)
    return float(1024**power), _UNITS[power]


def _power(value: float) -> int:
    if value < 1024:
        return 0
    return min(len(_UNITS) - 1, int(math.log2(value) // 10))


def plain(value: float | None) -> str:
    """Any number: whole ones as they are, others with four significant digits."""
    if value is None:
        return NOTHING
    if float(value).is_integer() and abs(value) < 1e7:
        return f"{int(value):,}".replace(",", "\u202f").replace("-", MINUS)
    return f"{value:.4g}".replace("-", MINUS)


def literal(text: str) -> str:
    """A text as a part of a template: braces stay as they are.

    Args:
        text: The text.
    """
    return text.replace("{", "{{").replace("}", "}}")


def short(value: float, step: float) -> str:
    """A label of an axis, as short as the distance of the labels allows.

    Args:
        value: The number.
        step: The distance.
    """
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor and step >= factor:
            return f"{value / factor:g}{letter}".replace("-", MINUS)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    if digits > 4:
        if not value:
            return "0"
        # As many digits as it takes to tell it from its neighbours.
        significant = max(0, math.floor(math.log10(abs(value)) + 1e-9) + digits)
        return f"{value:.{significant}e}".replace("-", MINUS)
    return f"{value:.{digits}f}".replace("-", MINUS)
