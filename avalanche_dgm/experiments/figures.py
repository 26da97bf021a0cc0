"""Figures of runs, and parts of the papers' figures in `avalanche_dgm.plots`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from avalanche_dgm.dashboards.drawing import (
    PALETTE,
    grid,
    new_figure,
    plain_axes,
    stacked_bars,
)
from avalanche_dgm.experiments.results import RunResult, deviation
from avalanche_dgm.metrics.functional import mean
from avalanche_dgm.metrics.log_files import in_order, read_log

LINES = ("-", (0, (5, 3)), (0, (1, 2)), (0, (5, 2, 1, 2)))
"""Line styles, which distinguish methods whose curves coincide."""
_MARKERS = "os^Dv<>P"
_MOST_LEGEND_ENTRIES = 12


def accuracy_curves(result: RunResult) -> Figure:
    """Draws the accuracy on each task since it was learned, and the average over those seen."""
    figure = new_figure(8.4, 4.8)
    axes = figure.add_subplot()
    draw_run(axes, result)
    axes.set_title(_title(result), fontsize=11)
    if len(result.tasks) <= _MOST_LEGEND_ENTRIES:
        legend(axes, title="test images of")
    else:
        _task_bar(figure, [axes], len(result.tasks))
        axes.legend(loc="lower left", frameon=False, fontsize=9)
    return figure


def panels(runs: Mapping[str, Sequence[RunResult]]) -> Figure:
    """Draws one panel per method with the curves of its first seed, on common axes."""
    columns = min(3, len(runs))
    rows = math.ceil(len(runs) / columns)
    figure = new_figure(3.6 * columns + 1.0, 2.7 * rows + 0.4)
    places = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for axes, (name, results) in zip(places, runs.items(), strict=False):
        draw_run(axes, results[0])
        axes.set_title(name, fontsize=10)
    for axes in places:
        axes.label_outer()
    for empty in range(len(runs), rows * columns):
        places[empty].set_visible(False)
        above = places[empty - columns]
        above.tick_params(labelbottom=True)
        above.set_xlabel("experiences learned")
    first = next(iter(runs.values()))[0]
    _task_bar(figure, places, len(first.tasks))
    return figure


def comparison(runs: Mapping[str, Sequence[RunResult]], *, reference: str | None = None) -> Figure:
    """Draws the average over seen experiences of each method, with a band of one sd over seeds.

    Args:
        runs: The runs of each method, one per seed.
        reference: A method whose line is grey and has no markers, or ``None``.
    """
    figure = new_figure(8.0, 4.6)
    axes = figure.add_subplot()
    averages = {name: [result.averages for result in results] for name, results in runs.items()}
    draw_curves(axes, averages, reference=reference)
    first = next(iter(runs.values()))[0]
    stream_axes(axes, len(first.order))
    axes.set_ylabel("average test accuracy on experiences seen")
    axes.set_title(f"{first.config.stream}, {seeds_of(runs)}", fontsize=11)
    legend(axes)
    return figure


def sample_grid(images: Mapping[int, Any], *, title: str = "") -> Figure:
    """Draws generated images, one labelled row per class.

    Args:
        images: Class -> array (n, C, H, W) with C 1 or 3 (otherwise the first channel is shown).
        title: Title of the figure.
    """
    rows = {str(label): np.asarray(images[label]) for label in sorted(images)}
    columns = max(len(row) for row in rows.values())
    height, width = next(iter(rows.values())).shape[-2:]
    figure = new_figure(0.5 * columns + 1.2, 0.5 * len(rows) * height / width + 0.7)
    axes = figure.add_subplot()
    draw_rows(axes, rows)
    axes.set_ylabel("class")
    axes.set_title(title, fontsize=10)
    return figure


def usage(source: Path, *, hint: str = "") -> Figure:
    """Draws the usage of each layer by every task (Ostapenko et al. 2019, Fig. 6).

    Args:
        source: The ``usage.csv`` of an `avalanche_dgm.metrics.GeneratorLog`.
        hint: When a log has this file, for the message if it is missing.

    Raises:
        DataError: The file cannot be read, or is not of this format.
    """
    rows = read_log(source, "layer", "width", "reserved", "reused", "free", hint=hint)
    layers = in_order(rows["layer"])
    figure, panels = row_of(layers, 3.0 * len(layers) + 1.8, 3.2)
    for axes, layer in zip(panels, layers, strict=True):
        selected = rows[rows["layer"] == layer]
        parts = {name: selected[name] for name in ("reserved", "reused", "free")}
        parts["held"] = selected["width"] - sum(parts.values())
        tasks = selected["experience"]
        stacked_bars(axes, tasks, parts)
        worst = selected["width"][0] * (tasks + 1)
        axes.plot(tasks, worst, color="black", linestyle="--", label="worst case")
        task_axes(axes, tasks)
    panels[0].set_ylabel("entries of the mask")
    legend(panels[-1], reverse=True)
    return figure


def draw_rows(
    axes: Axes, rows: Mapping[str, Any], *, low: float | None = None, high: float | None = None
) -> None:
    """Draws images, a row for each name.

    Args:
        axes: The axes.
        rows: Name -> array (n, C, H, W) with C 1 or 3; n may differ.
        low: Intensity of black; ``None`` for the smallest.
        high: Intensity of white; ``None`` for the largest.
    """
    pixels = grid([np.asarray(row) for row in rows.values()], low=low, high=high)
    show_rows(axes, pixels, list(rows))


def show_rows(axes: Axes, pixels: Any, names: Sequence[str]) -> None:
    """Draws a picture with labelled rows of equal height.

    Args:
        axes: The axes.
        pixels: Array (H, W) from 0 to 1, or uint8 array (H, W, 3).
        names: Labels of the rows, from the top.
    """
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_yticks([(r + 0.5) * len(pixels) / len(names) for r in range(len(names))], names)
    axes.set_xticks([])
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def draw_curves(
    axes: Axes,
    curves: Mapping[str, Sequence[Sequence[float]]],
    *,
    x: Sequence[float] | None = None,
    reference: str | None = None,
    first: int = 0,
) -> None:
    """Draws means over seeds, and a band of one sd.

    Args:
        axes: The axes.
        curves: For each method, a list of y values of each seed.
        x: The x values; ``None`` to count from 1.
        reference: A method whose line is grey and has no markers, or ``None``.
        first: Index of the first method, which determines its colour and markers.
    """
    for i, (name, seeds) in enumerate(curves.items(), first):
        columns = [list(column) for column in zip(*seeds, strict=True)]
        centre, spread = [mean(list(c)) for c in columns], [deviation(c) for c in columns]
        where = list(x) if x is not None else list(range(1, len(centre) + 1))
        common = name == reference
        colour = "0.45" if common else PALETTE[i % len(PALETTE)]
        axes.plot(
            where,
            centre,
            color=colour,
            linestyle=LINES[2] if common else LINES[i % len(LINES)],
            linewidth=2.2 if common else 1.5,
            marker="" if common else _MARKERS[i % len(_MARKERS)],
            markersize=5,
            markevery=max(1, len(where) // 12),
            label=name,
        )
        if any(spread):
            low, high = np.subtract(centre, spread), np.add(centre, spread)
            axes.fill_between(where, low, high, color=colour, alpha=0.18, linewidth=0)


def draw_run(axes: Axes, result: RunResult) -> None:
    """Draws the accuracy on each task since it was learned, and the average over those seen."""
    tasks = len(result.tasks)
    x = np.arange(1, len(result.steps) + 1)
    for j in result.seen(len(result.steps) - 1):
        start = next(i for i, s in enumerate(result.steps) if s.experience == j)
        values = [np.nan if v is None else v for v in (row[j] for row in result.matrix[start:])]
        axes.plot(
            x[start:],
            values,
            color=_task_colour(j, tasks),
            linewidth=1.3,
            marker="o",
            markersize=3,
            label=result.tasks[j] if tasks <= _MOST_LEGEND_ENTRIES else None,
        )
    axes.plot(x, result.averages, color="black", linewidth=2.6, label="average of seen")
    stream_axes(axes, len(result.order))
    axes.set_ylabel("test accuracy")


def row_of(
    titles: Sequence[str], width: float, height: float, **shared: Any
) -> tuple[Figure, list[Axes]]:
    """Makes a figure of panels side by side.

    Args:
        titles: Titles of the panels.
        width: Width of the figure, in inches.
        height: Height of the figure, in inches.
        **shared: Arguments of ``Figure.subplots``, such as ``sharey=True``.
    """
    figure = new_figure(width, height)
    panels = list(figure.subplots(1, len(titles), squeeze=False, **shared)[0])
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, fontsize=10)
    return figure, panels


def share_axes(axes: Axes, x: str) -> None:
    """Formats the axes for values from 0 to 1, such as accuracies."""
    axes.set_xlabel(x)
    axes.set_ylim(-0.02, 1.02)
    plain_axes(axes)


def stream_axes(axes: Axes, n: int) -> None:
    """Formats the axes for accuracies after each of n experiences."""
    share_axes(axes, "experiences learned")
    axes.set_xlim(0.7, n + 0.3)
    axes.set_xticks(range(1, n + 1, max(1, round(n / 10))))


def task_axes(axes: Axes, tasks: Any) -> None:
    """Formats the axes for tasks, counted from 0."""
    last = int(max(tasks))
    axes.set_xlabel("task")
    axes.set_xticks(range(0, last + 1, max(1, round((last + 1) / 10))))
    axes.set_xlim(-0.6, last + 0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def legend(axes: Axes, **settings: Any) -> None:
    """Puts a legend beside the axes."""
    common = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5), "frameon": False, "fontsize": 9}
    axes.legend(**{**common, **settings})


def seeds_of(runs: Mapping[str, Sequence[RunResult]]) -> str:
    """A label of the seeds, such as "mean and sd of 3 seeds"."""
    n = max(len(results) for results in runs.values())
    return "1 seed" if n == 1 else f"mean and sd of {n} seeds"


def _task_colour(task: int, n: int) -> Any:
    # Viridis without its brightest end, which is invisible on white.
    return matplotlib.colormaps["viridis"](0.88 * task / max(1, n - 1))


def _task_bar(figure: Figure, axes: list[Axes], n: int) -> None:
    colours = [_task_colour(j, n) for j in range(n)]
    mapping = matplotlib.cm.ScalarMappable(
        matplotlib.colors.BoundaryNorm(np.arange(0.5, n + 1), n),
        matplotlib.colors.ListedColormap(colours),
    )
    ticks = range(1, n + 1, max(1, round(n / 10)))
    figure.colorbar(mapping, ax=axes, label="task", ticks=ticks)


def _title(result: RunResult) -> str:
    config = result.config
    paper = ", paper's settings" if config.paper else ""
    return f"{config.method} on {config.stream}{paper}, seed {config.seed}"
