"""The figures of Ostapenko et al. 2019, "Learning to Remember", from a generator's log.

Each function takes a folder of `avalanche_dgm.metrics.GeneratorLog`, as written by
`avalanche_dgm.GeneratorObserver` and by the command line's runs of GAN memories.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from avalanche_dgm.dashboards.drawing import PALETTE, new_figure
from avalanche_dgm.errors import DataError
from avalanche_dgm.experiments import figures
from avalanche_dgm.experiments.figures import legend, show_rows, task_axes
from avalanche_dgm.metrics.log_files import in_order, read_log

__all__ = ["distances", "masks", "samples", "usage"]

# Black is for all classes together.
_COLOURS = [colour for colour in PALETTE if colour != "#000000"]
_PANELS_A_ROW = 5  # at most


def samples(folder: str | Path) -> Figure:
    """Draws samples of every class after every task, one panel per task (Fig. 2).

    The noise is the same in every panel, so that a retained class looks the same in all of them.
    The paper shows only the last panel.

    Args:
        folder: The log's folder, with its samples.csv and samples-000.png and so on.

    Raises:
        DataError: The files are missing, or not of a log.
    """
    rows = read_log(Path(folder) / "samples.csv", "task", "class")
    after = np.unique(rows["experience"]).astype(int).tolist()
    pictures = {number: _picture(Path(folder) / f"samples-{number:03d}.png") for number in after}
    several = len(set(rows["task"])) > 1
    lines = -(-len(after) // _PANELS_A_ROW)
    columns = -(-len(after) // lines)
    height, width = (max(p.shape[side] for p in pictures.values()) for side in (0, 1))
    panel = min(3.2, 14.0 / columns)
    figure = new_figure(panel * columns, lines * (panel * height / width + 0.45))
    places = figure.subplots(lines, columns, squeeze=False).flat
    for i, axes in enumerate(list(places)):
        if i >= len(after):
            axes.set_visible(False)
            continue
        selected = rows[rows["experience"] == after[i]]
        names = [f"{r['task']}: {r['class']}" if several else r["class"] for r in selected]
        show_rows(axes, pictures[after[i]], names)
        # The same scale for all panels.
        axes.set_ylim(height, 0)
        axes.tick_params(labelsize=7)
        axes.set_title(f"after task {after[i]}", fontsize=9)
    return figure


def distances(folder: str | Path) -> Figure:
    """Draws the Frechet distance of each class and of all classes over the tasks (Fig. 4).

    Lower is better. Distances of other features than the paper's are not comparable with it, see
    `avalanche_dgm.metrics.GeneratorQuality`.

    Args:
        folder: The log's folder, with its quality.csv.

    Raises:
        DataError: The file is missing, or not of a log.
    """
    hint = "Give it quality=GeneratorQuality(images, labels)."
    rows = read_log(Path(folder) / "quality.csv", "class", "fid", hint=hint)
    names = [name for name in in_order(rows["class"]) if name != "all"]
    figure = new_figure(7.6, 4.2)
    axes = figure.add_subplot()
    for i, name in enumerate([*names, "all"]):
        selected = rows[rows["class"] == name]
        together = name == "all"
        axes.plot(
            selected["experience"],
            selected["fid"],
            color="black" if together else _COLOURS[i % len(_COLOURS)],
            # Lines of the same colour differ.
            linestyle="--" if i // len(_COLOURS) % 2 and not together else "-",
            linewidth=2.4 if together else 1.2,
            marker="o",
            markersize=3,
            label="all classes" if together else f"class {name}",
        )
    task_axes(axes, rows["experience"])
    axes.set_ylim(bottom=0)
    axes.set_ylabel("Frechet distance")
    legend(axes)
    return figure


def usage(folder: str | Path) -> Figure:
    """Draws the reserved, reused and free units of each layer in every task (Fig. 6).

    The line is the worst case: a network that grows by its initial size with every task. The
    paper's figure is of the whole network and relative to its size.

    Args:
        folder: The log's folder, with its usage.csv, which dynamic memories have.

    Raises:
        DataError: The file is missing, or not of a log.
    """
    hint = "Only memories with masks have it, such as DynamicMemory."
    return figures.usage(Path(folder) / "usage.csv", hint=hint)


def masks(folder: str | Path) -> Figure:
    """Draws the convergence of masks during tasks (Fig. 7).

    Top: the fraction of a layer's entries with an embedding e of at least 0, which a task would use
    if it ended then. Bottom: mean and standard deviation of the soft mask, which starts at 0.5.

    Args:
        folder: The log's folder, with its masks.csv.

    Raises:
        DataError: The file is missing, or not of a log.
    """
    hint = "It needs a memory with masks, and GeneratorObserver or log.watch()."
    columns = ("layer", "step", "width", "active", "soft_mean", "soft_std")
    rows = read_log(Path(folder) / "masks.csv", *columns, hint=hint)
    figure = new_figure(8.0, 5.0)
    above, below = figure.subplots(2, 1, sharex=True)
    # Each task has the same width on the x axis.
    longest = {
        task: rows["step"][rows["experience"] == task].max() or 1
        for task in np.unique(rows["experience"])
    }
    for i, layer in enumerate(in_order(rows["layer"])):
        selected = rows[rows["layer"] == layer]
        colour = _COLOURS[i % len(_COLOURS)]
        for task, length in longest.items():
            part = selected[selected["experience"] == task]
            x = task + part["step"] / length - 0.5
            shares = part["active"] / part["width"]
            label = layer if task == next(iter(longest)) else None
            above.plot(x, shares, color=colour, linewidth=1.3, label=label)
            mean, spread = part["soft_mean"], part["soft_std"]
            below.plot(x, mean, color=colour, linewidth=1.3)
            low, high = np.clip([mean - spread, mean + spread], 0, 1)
            below.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    above.set_ylabel("share with e ≥ 0")
    below.set_ylabel("mean of the soft mask")
    for axes in (above, below):
        task_axes(axes, list(longest))
        axes.set_ylim(-0.03, 1.03)
    above.set_xlabel("")
    legend(above)
    return figure


def _picture(path: Path) -> np.ndarray:
    """Reads a picture of a log: uint8 array (H, W, 3)."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise DataError(
            f"{path}, which samples.csv refers to, cannot be read: {error}. Logs of images have one"
            " for each experience."
        ) from error
