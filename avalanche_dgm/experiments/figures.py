"""Pictures of results, drawn on Matplotlib's Agg canvas without its global state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from avalanche_dgm.experiments.results import RunResult, deviation, mean

if TYPE_CHECKING:
    from avalanche_dgm.experiments.deep_linear import DeepLinearResult

# Okabe and Ito's colours: distinguishable with every common colour vision.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8A6D00")
_MARKERS = "os^Dv<>P"
_LINES = ("-", (0, (5, 3)), (0, (1, 2)), (0, (5, 2, 1, 2)))
_MOST_LEGEND_ENTRIES = 12
_DPI = 120


def accuracy_curves(result: RunResult, path: Path) -> None:
    """Draws the accuracy on each task from when it was learned, and the average over those seen.

    Args:
        result: One run.
        path: The PNG file to write.
    """
    figure = new_figure(8.4, 4.8)
    axes = figure.add_subplot()
    _draw_run(axes, result)
    axes.set_title(_title(result), fontsize=11)
    if len(result.tasks) <= _MOST_LEGEND_ENTRIES:
        axes.legend(
            title="test images of",
            loc="center left",
            bbox_to_anchor=(1.01, 0.5),
            frameon=False,
            fontsize=9,
        )
    else:
        _task_bar(figure, [axes], len(result.tasks))
        axes.legend(loc="lower left", frameon=False, fontsize=9)
    save(figure, path)


def panels(runs: Mapping[str, Sequence[RunResult]], path: Path) -> None:
    """Draws one panel a method with the curves of its first seed, on common axes.

    Args:
        runs: The runs of each method.
        path: The PNG file to write.
    """
    columns = min(3, len(runs))
    rows = math.ceil(len(runs) / columns)
    figure = new_figure(3.6 * columns + 1.0, 2.7 * rows + 0.4)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, (name, results) in zip(grid.flat, runs.items(), strict=False):
        _draw_run(axes, results[0])
        axes.set_title(name, fontsize=10)
    for axes in grid.flat:
        axes.label_outer()
    for empty in range(len(runs), rows * columns):
        grid.flat[empty].set_visible(False)
        above = grid.flat[empty - columns]
        above.tick_params(labelbottom=True)
        above.set_xlabel("experiences learned")
    first = next(iter(runs.values()))[0]
    _task_bar(figure, list(grid.flat), len(first.tasks))
    save(figure, path)


def comparison(runs: Mapping[str, Sequence[RunResult]], path: Path) -> None:
    """Draws the average over the experiences seen, a line a method, a band of one sd over seeds.

    Args:
        runs: The runs of each method, one a seed.
        path: The PNG file to write.
    """
    figure = new_figure(8.0, 4.6)
    axes = figure.add_subplot()
    for i, (name, results) in enumerate(runs.items()):
        curves = np.array([r.averages for r in results])
        centre = [mean(list(column)) for column in curves.T]
        spread = [deviation(list(column)) for column in curves.T]
        x = np.arange(1, len(centre) + 1)
        colour = PALETTE[i % len(PALETTE)]
        # Line styles differ too: methods that forget all alike lie on top of one another.
        axes.plot(
            x,
            centre,
            color=colour,
            linestyle=_LINES[i % len(_LINES)],
            marker=_MARKERS[i % len(_MARKERS)],
            markersize=5,
            label=name,
        )
        if any(spread):
            low, high = np.subtract(centre, spread), np.add(centre, spread)
            axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    first = next(iter(runs.values()))[0]
    _axes(axes, first)
    axes.set_ylabel("average test accuracy on experiences seen")
    n = max(len(results) for results in runs.values())
    seeds = "1 seed" if n == 1 else f"mean and sd of {n} seeds"
    axes.set_title(f"{first.config.stream}, {seeds}", fontsize=11)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    save(figure, path)


def sample_grid(images: Mapping[int, Any], path: Path, *, title: str = "") -> None:
    """Draws generated images, one labelled row a class.

    Args:
        images: Class -> array (n, C, H, W) with C 1 or 3 (other images show their first channel).
        path: The PNG file to write.
        title: Put above the grid.
    """
    rows = sorted(images)
    columns = max(len(images[label]) for label in rows)
    stacked = np.concatenate([np.asarray(images[label]) for label in rows])
    low, high = float(stacked.min()), float(stacked.max())
    scale = (high - low) or 1.0
    height, width = stacked.shape[-2:]
    gap = max(1, width // 14)
    colour = stacked.shape[1] == 3
    shape = (len(rows) * (height + gap) - gap, columns * (width + gap) - gap)
    canvas = np.ones((*shape, 3) if colour else shape)
    for r, label in enumerate(rows):
        for c, image in enumerate(np.asarray(images[label])):
            pixels = (image.transpose(1, 2, 0) if colour else image[0]) - low
            y, x = r * (height + gap), c * (width + gap)
            canvas[y : y + height, x : x + width] = pixels / scale
    figure = new_figure(0.5 * columns + 1.2, 0.5 * len(rows) * height / width + 0.7)
    axes = figure.add_subplot()
    axes.imshow(canvas, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_yticks([r * (height + gap) + height / 2 for r in range(len(rows))])
    axes.set_yticklabels([str(label) for label in rows])
    axes.set_ylabel("class")
    axes.set_xticks([])
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_title(title, fontsize=10)
    save(figure, path)


def deep_linear(result: DeepLinearResult, path: Path) -> None:
    """Draws the four panels of deep linear networks that learn one task twice.

    Args:
        result: The curves.
        path: The PNG file to write.
    """
    figure = new_figure(9.0, 6.0)
    grid = figure.subplots(2, 2)
    settings = result.settings
    # Where what interferes no longer drowns in what is not learned yet.
    start = 2 * settings.period
    for letter, axes in zip("abcd", grid.flat, strict=True):
        panel = result.panels["c" if letter == "d" else letter]
        first = start if letter == "d" else 0
        switches = (
            [settings.epochs]
            if letter in "ab"
            else range(settings.period, len(panel.trained), settings.period)
        )
        for switch in switches:
            if switch >= first:
                axes.axvline(switch, color="0.85", linewidth=0.8)
        for task, name in enumerate("AB"):
            errors = panel.errors[first:, task].numpy()
            x = np.arange(first, first + len(errors))
            axes.plot(x, errors, color=PALETTE[task], linestyle=_LINES[task], label=f"task {name}")
        if letter in "cd":
            both = result.panels["both"].errors.mean(dim=1)[first:].numpy()
            x = np.arange(first, first + len(both))
            axes.plot(x, both, color="0.4", linewidth=1, linestyle=":", label="both at once")
        title = "part of (c)" if letter == "d" else panel.title
        axes.set_title(f"({letter}) {title}", fontsize=10)
        axes.set_xlabel("epochs")
        axes.set_ylim(bottom=0)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    for row in grid:
        row[0].set_ylabel("squared error / squared targets")
    grid[0, 0].legend(frameon=False, fontsize=9)
    grid[1, 0].legend(frameon=False, fontsize=9)
    save(figure, path)


def _draw_run(axes: Axes, result: RunResult) -> None:
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
    _axes(axes, result)
    axes.set_ylabel("test accuracy")


def _axes(axes: Axes, result: RunResult) -> None:
    steps = len(result.order)
    axes.set_xlabel("experiences learned")
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlim(0.7, steps + 0.3)
    every = max(1, round(steps / 10))
    axes.set_xticks(range(1, steps + 1, every))
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _task_colour(task: int, n: int) -> Any:
    # Viridis without its brightest end, which vanishes on white.
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


def new_figure(width: float, height: float) -> Figure:
    """Makes an empty figure, in inches."""
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as a PNG file; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
