"""Numbers as text, and the names of the formats in which charts write them."""

from __future__ import annotations

import math

#: What stands for a number that there is not.
NOTHING = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def share(value: float | None) -> str:
    """Three decimals, as for accuracies."""
    return NOTHING if value is None else f"{value:.3f}".replace("-", _MINUS)


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
    """Bytes, KiB, MiB and so on; what is not known is said to be unknown."""
    if value is None:
        return "unknown"
    unit, name = size_unit(value)
    return f"{value / unit:.{0 if unit == 1 else 1}f} {name}"


def size_unit(largest: float) -> tuple[float, str]:
    """The unit that suits sizes up to some number of bytes: in bytes, and its name."""
    power = 0 if largest < 1024 else min(len(_UNITS) - 1, int(math.log2(largest) // 10))
    return float(1024**power), _UNITS[power]


def plural(n: int, what: str) -> str:
    """Writes a number of things."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
