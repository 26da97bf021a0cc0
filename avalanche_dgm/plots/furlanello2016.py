"""The figures of the A-LTM paper: Furlanello et al. 2016, "Active Long Term Memory Networks"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from avalanche_dgm.dashboards.drawing import PALETTE, new_figure
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments import deep_linear, figures
from avalanche_dgm.experiments.deep_linear import DeepLinearResult
from avalanche_dgm.metrics.stream_accuracies import EpochAccuracy

__all__ = ["interference", "memory_by_epoch"]


def interference(result: DeepLinearResult | None = None) -> Figure:
    """Draws errors of deep linear networks that learn one task twice, in four panels (Fig. 1).

    Args:
        result: Result of `avalanche_dgm.experiments.deep_linear.run`; ``None`` to run it, which
            takes seconds.
    """
    result = deep_linear.run() if result is None else result
    figure = new_figure(9.0, 6.0)
    settings = result.settings
    for letter, axes in zip("abcd", figure.subplots(2, 2).flat, strict=True):
        panel = result.panels["c" if letter == "d" else letter]
        # Panel (d) begins where the errors are small enough to see the interference.
        first = 2 * settings.period if letter == "d" else 0
        every = settings.epochs if letter in "ab" else settings.period
        for switch in range(every, len(panel.trained), every):
            if switch >= first:
                axes.axvline(switch, color="0.85", linewidth=0.8)
        x = np.arange(first, len(panel.errors))
        for task, name in enumerate("AB"):
            errors = panel.errors[first:, task].numpy()
            axes.plot(
                x, errors, color=PALETTE[task], linestyle=figures.LINES[task], label=f"task {name}"
            )
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
        if letter in "ac":
            axes.set_ylabel("squared error / squared targets")
            axes.legend(frameon=False, fontsize=9)
    return figure


def memory_by_epoch(methods: Mapping[str, Sequence[EpochAccuracy]]) -> Figure:
    """Draws the accuracies on the old and on the new task while the new one is learned (Fig. 3).

    A dotted line in the method's colour is the old task's accuracy before. The paper's networks
    return to it after a drop if old inputs are replayed, otherwise not.

    Args:
        methods: By name: the `table` of `avalanche_dgm.AccuracyByEpoch`, from epoch 0 on.

    Raises:
        ConfigError: There is no method, or one has fewer than two epochs or lacks epoch 0.
    """
    short = [name for name, table in methods.items() if len(table) < 2 or table[0].epoch != 0]
    if short or not methods:
        raise ConfigError(
            f"There is nothing to draw{' of ' + ', '.join(short) if short else ''}: accuracies"
            " before the new task and after at least one epoch of it are needed. Give the strategy"
            " an AccuracyByEpoch and eval_every=1, and call `train` with one experience and"
            " eval_streams."
        )
    figure, (left, right) = figures.row_of(("old task", "new task"), 9.4, 3.8, sharey=True)
    for i, (name, table) in enumerate(methods.items()):
        x = [row.epoch for row in table]
        # One method at a time, as their epochs may differ.
        figures.draw_curves(left, {name: [[row.old for row in table]]}, x=x, first=i)
        figures.draw_curves(right, {name: [[row.new for row in table]]}, x=x, first=i)
        before = left.lines[-1]
        left.axhline(table[0].old, color=before.get_color(), linewidth=0.9, linestyle=":", zorder=0)
    for axes in (left, right):
        figures.share_axes(axes, "epochs of the new task")
    left.set_ylabel("test accuracy")
    figures.legend(right)
    return figure
