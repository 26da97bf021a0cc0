"""Checks of arguments: choices, numbers, bytes, widths of layers, ranges of intensities."""

from __future__ import annotations

import re
from math import isfinite
from numbers import Real
from typing import Any

from avalanche_dgm.errors import ConfigError

_UNITS = {"": 1, "B": 1, "kB": 1000, "KB": 1000, "MB": 1000**2, "GB": 1000**3}


def one_of(name: str, value: str, *allowed: str) -> None:
    """Raises a `ConfigError` unless the value is one of the allowed ones."""
    if value not in allowed:
        raise ConfigError(f"{name}={value!r} is not known; use one of {', '.join(allowed)}.")


def whole(
    name: str,
    value: Any,
    *,
    least: int = 1,
    most: int | None = None,
    optional: bool = False,
    otherwise: str = "",
) -> None:
    """Raises a `ConfigError` unless the value is an integer from ``least`` to ``most``.

    ``optional`` also allows ``None``; ``otherwise`` names other allowed values in the message.
    """
    if value is None and optional:
        return
    fits = isinstance(value, int) and value >= least and (most is None or value <= most)
    if isinstance(value, bool) or not fits:
        limit = f" and at most {most}" if most is not None else ""
        otherwise = otherwise or (", or None" if optional else "")
        raise ConfigError(
            f"{name}={value!r} must be a whole number of at least {least}{limit}{otherwise}."
        )


def number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
    optional: bool = False,
) -> None:
    """Raises a `ConfigError` unless the value is a finite number within the bounds.

    ``above`` and ``below`` are exclusive; ``optional`` also allows ``None``.
    """
    if value is None and optional:
        return
    bounds = {"above": above, "of at least": least, "below": below, "at most": most}
    real = isinstance(value, Real) and not isinstance(value, bool)
    if not (
        real
        and isfinite(value)
        and (above is None or value > above)
        and (least is None or value >= least)
        and (below is None or value < below)
        and (most is None or value <= most)
    ):
        limits = " and ".join(f"{word} {end:g}" for word, end in bounds.items() if end is not None)
        raise ConfigError(
            f"{name}={value!r} must be a number {limits}{', or None' if optional else ''}."
        )


def positive(name: str, value: Any, *, optional: bool = False) -> None:
    """Checks that a number is above 0 and finite, see `number`."""
    number(name, value, above=0, optional=optional)


def read_bytes(name: str, value: int | str | None) -> int | None:
    """A number of bytes, given as such or as text such as ``"500 kB"``, in powers of 1000.

    Raises a `ConfigError` if it is neither, or less than one byte; returns ``None`` for ``None``.
    """
    if value is None:
        return None
    match = (
        re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([kKMG]?B?)\s*", value)
        if isinstance(value, str)
        else None
    )
    if match is not None and match.group(2) in _UNITS:
        value = int(float(match.group(1)) * _UNITS[match.group(2)])
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(
            f"{name}={value!r} must be a number of bytes, or text such as '500kB' or '1.5MB'."
        )
    return value


def check_widths(name: str, value: Any, *, fewest: int = 1, least: int = 1) -> None:
    """Raises a `ConfigError` unless the value is a tuple or list of integers, such as widths.

    It must have at least ``fewest`` integers, each at least ``least``.
    """
    if not isinstance(value, (tuple, list)) or len(value) < fewest:
        raise ConfigError(
            f"{name}={value!r} must be a tuple of {'one or more ' if fewest else ''}integers, for"
            " example (64, 64)."
        )
    for width in value:
        whole(f"each of {name}", width, least=least)


def check_range(value: tuple[float, float], *, name: str = "value_range") -> None:
    """Raises a `ConfigError` unless the value is two finite numbers, the first below the second."""
    try:
        low, high = (float(end) for end in value)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{name}={value!r} must be two numbers, the smallest and the largest possible"
            " intensity."
        ) from error
    if not (isfinite(low) and isfinite(high) and low < high):
        raise ConfigError(f"{name}={value} needs its first number below its second.")
