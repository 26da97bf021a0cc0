"""The picture of deep linear networks learning one task twice (Furlanello et al. 2016, Fig. 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from avalanche_dgm.dashboards.drawing import PALETTE, new_figure
from avalanche_dgm.experiments.figures import LINES

if TYPE_CHECKING:
    from avalanche_dgm.experiments.deep_linear import DeepLinearResult


def draw(result: DeepLinearResult) -> Figure:
    """Draws the four panels of deep linear networks that learn one task twice.

    Args:
        result: The curves.
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
            axes.plot(x, errors, color=PALETTE[task], linestyle=LINES[task], label=f"task {name}")
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
    return figure
