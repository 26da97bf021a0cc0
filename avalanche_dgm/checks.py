"""Checks of arguments that anything may have; nothing but the errors is imported."""

from __future__ import annotations

from math import inf, isfinite
from numbers import Real
from typing import Any

from avalanche_dgm.errors import ConfigError


def one_of(name: str, value: str, *allowed: str) -> None:
    """Checks a choice.

    Args:
        name: What is chosen.
        value: What was chosen.
        *allowed: What there is.

    Raises:
        ConfigError: It is none of them.
    """
    if value not in allowed:
        raise ConfigError(f"{name}={value!r} is not known; use one of {', '.join(allowed)}.")


def whole(
    name: str, value: Any, *, least: int = 1, optional: bool = False, otherwise: str = ""
) -> None:
    """Checks a whole number.

    Args:
        name: What it counts.
        value: The number.
        least: The smallest that can work.
        optional: Whether it may be ``None``.
        otherwise: What else is allowed, for the message.

    Raises:
        ConfigError: It is not a whole number, or too small.
    """
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        otherwise = otherwise or (", or None" if optional else "")
        raise ConfigError(
            f"{name}={value!r} must be a whole number of at least {least}{otherwise}."
        )


def positive(name: str, value: Any, *, optional: bool = False) -> None:
    """Checks that a number is above 0 and finite.

    Args:
        name: What it is.
        value: The number.
        optional: Whether it may be ``None``.

    Raises:
        ConfigError: It is not.
    """
    if value is None and optional:
        return
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not (number and 0 < value < inf):
        otherwise = ", or None" if optional else ""
        raise ConfigError(f"{name}={value!r} must be a number above 0{otherwise}.")


def widths(name: str, value: Any) -> None:
    """Checks widths of layers.

    Args:
        name: What has these widths.
        value: A tuple or list of one or more whole numbers of at least 1, or ``None``.

    Raises:
        ConfigError: It is something else.
    """
    if value is None:
        return
    if not isinstance(value, (tuple, list)) or not value:
        raise ConfigError(
            f"{name}={value!r} must be a tuple of one or more layer widths, for example (64, 64)."
        )
    for width in value:
        whole(f"each of {name}", width)


def check_range(value_range: tuple[float, float] | None) -> None:
    """Checks the range of intensities that a user gave.

    Args:
        value_range: Smallest and largest possible intensity, or ``None``.

    Raises:
        ConfigError: It is not two finite numbers, the first below the second.
    """
    if value_range is None:
        return
    try:
        low, high = (float(value) for value in value_range)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"value_range={value_range!r} must be two numbers, the smallest and the largest"
            " possible intensity."
        ) from error
    if not (isfinite(low) and isfinite(high) and low < high):
        raise ConfigError(f"value_range={value_range} needs its first number below its second.")
