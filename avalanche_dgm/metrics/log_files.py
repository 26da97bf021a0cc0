"""Reads the files of a `GeneratorLog`; PyTorch is not needed."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from avalanche_dgm.errors import DataError

_TEXTS = ("task", "class", "layer", "sha256")


def read_log(source: Path, *columns: str, hint: str = "") -> NDArray[np.void]:
    """Reads columns of a CSV file of a `GeneratorLog`.

    Args:
        source: The file.
        *columns: Names of the columns, besides ``experience``.
        hint: When a log has this file, for the message if it is missing.

    Returns:
        The rows (n,), n at least 1, as a structured array with a field for each column: text for
        ``task``, ``class``, ``layer`` and ``sha256``, float64 for the others.

    Raises:
        DataError: The file is missing or cannot be read, or lacks a column, or a value is not a
            number.
    """
    if not source.is_file():
        raise DataError(
            f"There is no {source.name} in {source.parent}: it is not a folder of a GeneratorLog,"
            f" or the log did not write this file. {hint}".rstrip()
        )
    names = ("experience", *columns)
    kinds = [(name, np.object_ if name in _TEXTS else np.float64) for name in names]
    try:
        with source.open(newline="", encoding="utf-8") as file:
            rows = [tuple(row[name] for name in names) for row in csv.DictReader(file)]
        if not rows or any(None in row for row in rows):
            raise ValueError("there are no rows, or a row is not complete")
        return np.array(rows, dtype=kinds)
    except (OSError, KeyError, ValueError, csv.Error) as error:
        raise DataError(
            f"{source} is no file of a GeneratorLog with the columns {', '.join(names)}: {error}."
        ) from error


def in_order(values: NDArray[np.object_]) -> Sequence[str]:
    """The different texts of a column, in the order of their first rows."""
    return list(dict.fromkeys(values.tolist()))
