"""The figures of the A-LTM paper: Furlanello et al. 2016, "Active Long Term Memory Networks"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments import deep_linear, figures
from avalanche_dgm.experiments.deep_linear import DeepLinearResult
from avalanche_dgm.metrics.stream_accuracies import EpochAccuracy

__all__ = ["interference", "memory_by_epoch"]


def interference(result: DeepLinearResult | None = None) -> Figure:
    """Draws errors of deep linear networks that learn one task twice, in four panels (Fig. 1).

    Args:
        result: What `avalanche_dgm.experiments.deep_linear.run` measured; ``None`` to run it, which
            takes seconds.
    """
    return figures.deep_linear(deep_linear.run() if result is None else result)


def memory_by_epoch(methods: Mapping[str, Sequence[EpochAccuracy]]) -> Figure:
    """Draws what is left of the old task while a new one is learned (Fig. 3), and the new one.

    A dotted line of the method's colour is the old task's accuracy before: with replay of old
    inputs the paper's networks come back to it after a drop, without they do not.

    Args:
        methods: By name: what `avalanche_dgm.AccuracyByEpoch` recorded, its
            `table`, from epoch 0 on.

    Raises:
        ConfigError: There is no method, or one has fewer than two epochs or not the one before.
    """
    short = [name for name, table in methods.items() if len(table) < 2 or table[0].epoch != 0]
    if short or not methods:
        raise ConfigError(
            f"There is nothing to draw{' of ' + ', '.join(short) if short else ''}: accuracies"
            " before the new task and after one epoch of it or more are needed. Give the strategy"
            " an AccuracyByEpoch and eval_every=1, and each call of `train` one experience and"
            " eval_streams."
        )
    figure, (left, right) = figures.row_of(("old task", "new task"), 9.4, 3.8, sharey=True)
    for i, (name, table) in enumerate(methods.items()):
        x = [row.epoch for row in table]
        # One method at a time: each may have epochs of its own.
        figures.draw_curves(left, {name: [[row.old for row in table]]}, x=x, first=i)
        figures.draw_curves(right, {name: [[row.new for row in table]]}, x=x, first=i)
        before = left.lines[-1]
        left.axhline(table[0].old, color=before.get_color(), linewidth=0.9, linestyle=":", zorder=0)
    for axes in (left, right):
        figures.share_axes(axes, "epochs of the new task")
    left.set_ylabel("test accuracy")
    figures.legend(right)
    return figure
