"""Pictures of what a generator becomes, from the files of `avalanche_dgm.metrics.GeneratorLog`.

The others that there are of them are in `avalanche_dgm.plots.ostapenko2019`.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from avalanche_dgm.dashboards.drawing import PALETTE, new_figure
from avalanche_dgm.errors import DataError
from avalanche_dgm.experiments.figures import legend

# From the bottom of a bar: new, shared, held by earlier tasks alone, free.
_PARTS = {
    "reserved": PALETTE[1],
    "reused": PALETTE[2],
    "reserved before, not used": PALETTE[5],
    "free": "0.88",
}

Row = Mapping[str, str]


def usage(source: Path) -> Figure:
    """Draws which part of each layer every task uses (Ostapenko et al. 2019, Fig. 6).

    Args:
        source: The log's ``usage.csv``.

    Raises:
        DataError: The file cannot be read as one.
    """
    rows = read_rows(source, ("experience", "layer", "width", "reserved", "reused", "free"))
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    figure = new_figure(3.0 * len(layers) + 1.8, 3.2)
    grid = figure.subplots(1, len(layers), squeeze=False)[0]
    for axes, layer in zip(grid, layers, strict=True):
        mine = [row for row in rows if row["layer"] == layer]
        x = np.array([int(row["experience"]) for row in mine])
        parts = {name: numbers(mine, name) for name in ("reserved", "reused", "free")}
        held = numbers(mine, "width") - sum(parts.values())
        parts["reserved before, not used"] = held
        bottom = np.zeros(len(mine))
        for name, colour in _PARTS.items():
            axes.bar(x, parts[name], bottom=bottom, color=colour, width=0.85, label=name)
            bottom += parts[name]
        axes.set_title(layer, fontsize=10)
        task_axes(axes, x)
    grid[0].set_ylabel("entries of the mask")
    legend(grid[-1], reverse=True)
    return figure


def task_axes(axes: Axes, tasks: np.ndarray) -> None:
    """Lays the axes out for tasks, counted from 0."""
    axes.set_xlabel("task")
    last = int(tasks.max())
    axes.set_xticks(range(0, last + 1, max(1, round((last + 1) / 10))))
    axes.set_xlim(-0.6, last + 0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def numbers(rows: Sequence[Row], column: str) -> np.ndarray:
    """A column of some rows; float array (n,).

    Raises:
        DataError: Something in it is no number.
    """
    try:
        return np.array([float(row[column]) for row in rows])
    except ValueError as error:
        raise DataError(f"The column {column} of a GeneratorLog's file: {error}.") from error


def read_rows(source: Path, columns: Sequence[str]) -> list[Row]:
    """Reads a CSV file of a log.

    Args:
        source: The file.
        columns: What it must have.

    Raises:
        DataError: The file cannot be read as one.
    """
    try:
        with source.open(newline="", encoding="utf-8") as file:
            rows: list[Row] = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{source} cannot be read: {error}.") from error
    if not rows or any(row.get(column) is None for row in rows for column in columns):
        raise DataError(
            f"{source} is no file of a GeneratorLog with the columns {', '.join(columns)}."
        )
    return rows
