"""Numbers as text, and the names of the formats in which charts write them."""

from __future__ import annotations

#: What stands for a number that there is not.
NOTHING = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"


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


def plural(n: int, what: str) -> str:
    """Writes a number of things."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
