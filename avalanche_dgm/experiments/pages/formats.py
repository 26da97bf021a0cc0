"""Numbers as text."""

from __future__ import annotations

#: Text for a missing number.
NOTHING = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"


def share(value: float | None) -> str:
    """Formats an accuracy with three decimals."""
    return NOTHING if value is None else f"{value:.3f}".replace("-", _MINUS)


def seconds(value: float | None) -> str:
    """Formats a duration in seconds, minutes (from 10) or hours (from 2)."""
    if value is None:
        return NOTHING
    if value >= 7200:
        return f"{value / 3600:.1f} h"
    if value >= 600:
        return f"{value / 60:.1f} min"
    return f"{value:.1f} s" if value < 100 else f"{value:.0f} s"


def plural(n: int, what: str) -> str:
    """Formats a count with a noun."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
