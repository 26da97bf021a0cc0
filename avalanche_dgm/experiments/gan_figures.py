"""Pictures of what a generator becomes, from the files of `avalanche_dgm.metrics.GeneratorLog`."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from avalanche_dgm.errors import DataError
from avalanche_dgm.experiments.figures import PALETTE, new_figure, save

# From the bottom of a bar: new, shared, held by earlier tasks alone, free.
_PARTS = {
    "reserved": PALETTE[1],
    "reused": PALETTE[2],
    "reserved before, not used": PALETTE[5],
    "free": "0.88",
}

# Black is for all classes together.
_COLOURS = [colour for colour in PALETTE if colour != "#000000"]

Row = Mapping[str, str]


def usage(source: Path, path: Path) -> None:
    """Draws which part of each layer every task uses (Ostapenko et al. 2019, Fig. 6).

    Args:
        source: The log's ``usage.csv``.
        path: The PNG file to write.

    Raises:
        DataError: The file cannot be read as one.
    """
    rows = _read(source, ("experience", "layer", "width", "reserved", "reused", "free"))
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    figure = new_figure(3.0 * len(layers) + 1.8, 3.2)
    grid = figure.subplots(1, len(layers), squeeze=False)[0]
    for axes, layer in zip(grid, layers, strict=True):
        mine = [row for row in rows if row["layer"] == layer]
        x = np.array([int(row["experience"]) for row in mine])
        parts = {name: _numbers(mine, name) for name in ("reserved", "reused", "free")}
        held = _numbers(mine, "width") - sum(parts.values())
        parts["reserved before, not used"] = held
        bottom = np.zeros(len(mine))
        for name, colour in _PARTS.items():
            axes.bar(x, parts[name], bottom=bottom, color=colour, width=0.85, label=name)
            bottom += parts[name]
        axes.set_title(layer, fontsize=10)
        _plain(axes, x)
    grid[0].set_ylabel("entries of the mask")
    grid[-1].legend(
        loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9, reverse=True
    )
    save(figure, path)


def distances(source: Path, path: Path) -> None:
    """Draws the Frechet distance of each class and of all over the tasks.

    Args:
        source: The log's ``quality.csv``.
        path: The PNG file to write.

    Raises:
        DataError: The file cannot be read as one.
    """
    rows = _read(source, ("experience", "class", "fid", "generated_accuracy"))
    names = [name for name in dict.fromkeys(row["class"] for row in rows) if name != "all"]
    figure = new_figure(7.6, 4.2)
    axes = figure.add_subplot()
    for i, name in enumerate([*names, "all"]):
        mine = [row for row in rows if row["class"] == name]
        together = name == "all"
        axes.plot(
            [int(row["experience"]) for row in mine],
            _numbers(mine, "fid"),
            color="black" if together else _COLOURS[i % len(_COLOURS)],
            # Lines of the same colour differ.
            linestyle="--" if i // len(_COLOURS) % 2 and not together else "-",
            linewidth=2.4 if together else 1.2,
            marker="o",
            markersize=3,
            label="all classes" if together else f"class {name}",
        )
    _plain(axes, np.array([int(row["experience"]) for row in rows]))
    axes.set_ylim(bottom=0)
    axes.set_ylabel("Frechet distance")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    save(figure, path)


def masks(source: Path, path: Path) -> None:
    """Draws how the masks settle while tasks are learned (Ostapenko et al. 2019, Fig. 7).

    Args:
        source: The log's ``masks.csv``.
        path: The PNG file to write.

    Raises:
        DataError: The file cannot be read as one.
    """
    columns = ("experience", "layer", "step", "scale", "width", "active", "soft_mean")
    rows = _read(source, columns)
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    figure = new_figure(8.0, 5.0)
    above, below = figure.subplots(2, 1, sharex=True)
    # A task takes one unit of the axis, whatever its number of steps.
    longest = {
        task: max(int(row["step"]) for row in rows if row["experience"] == task) or 1
        for task in dict.fromkeys(row["experience"] for row in rows)
    }
    for i, layer in enumerate(layers):
        mine = [row for row in rows if row["layer"] == layer]
        colour = _COLOURS[i % len(_COLOURS)]
        for task, length in longest.items():
            part = [row for row in mine if row["experience"] == task]
            x = int(task) + _numbers(part, "step") / length - 0.5
            shares = _numbers(part, "active") / _numbers(part, "width")
            label = layer if task == next(iter(longest)) else None
            above.plot(x, shares, color=colour, linewidth=1.3, label=label)
            below.plot(x, _numbers(part, "soft_mean"), color=colour, linewidth=1.3)
    above.set_ylabel("share with e ≥ 0")
    below.set_ylabel("mean of the soft mask")
    for axes in (above, below):
        _plain(axes, np.array([int(task) for task in longest]))
        axes.set_ylim(-0.03, 1.03)
    above.set_xlabel("")
    above.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    save(figure, path)


def _plain(axes: Axes, tasks: np.ndarray) -> None:
    axes.set_xlabel("task")
    last = int(tasks.max())
    axes.set_xticks(range(0, last + 1, max(1, round((last + 1) / 10))))
    axes.set_xlim(-0.6, last + 0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _numbers(rows: Sequence[Row], column: str) -> np.ndarray:
    return np.array([float(row[column]) for row in rows])


def _read(source: Path, columns: Sequence[str]) -> list[Row]:
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
