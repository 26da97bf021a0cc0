"""The figures of the DGDMN paper: Kamra et al. 2017, "Deep Generative Dual Memory Network".

Figures 3 to 8 take the runs of each method on one stream, as `avalanche_dgm.plots.load` returns
them. Figures 9 to 11 take trained memories.
"""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from avalanche_dgm.dashboards.drawing import PALETTE, new_figure, plain_axes
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments import figures
from avalanche_dgm.experiments.results import deviation
from avalanche_dgm.metrics.functional import mean
from avalanche_dgm.plots.corruption import Robustness, add_noise, occlude, robustness
from avalanche_dgm.plots.loading import Runs, check
from avalanche_dgm.plots.memories import latents, resilience, samples

__all__ = [
    "Robustness",
    "accuracy_per_task",
    "add_noise",
    "average_accuracy",
    "latents",
    "long_stream",
    "occlude",
    "resilience",
    "revision",
    "robustness",
    "samples",
    "short_term_memory",
    "training_time",
]


def accuracy_per_task(runs: Runs) -> Figure:
    """Draws a panel for each method: accuracy on each task since it was learned (Fig. 3, 4).

    Only the first seed is drawn. The black line is the average over the tasks so far.

    Args:
        runs: Finished runs of each method on one stream.

    Raises:
        ConfigError: A run is not finished, or there are several streams, or none.
    """
    check(runs)
    return figures.panels(runs)


def average_accuracy(runs: Runs, *, reference: str | None = "joint") -> Figure:
    """Draws the average accuracy over the tasks so far, one line per method (Fig. 5).

    Means over seeds with a band of one standard deviation.

    Args:
        runs: Finished runs of each method on one stream.
        reference: The method that is trained jointly on all tasks so far, drawn in grey; ``None``
            for none.

    Raises:
        ConfigError: The reference is missing, a run is not finished, or there are several streams.
    """
    check(runs, *([] if reference is None else [reference]))
    return figures.comparison(runs, reference=reference)


def revision(runs: Runs) -> Figure:
    """Draws accuracy per task with repeated tasks (Fig. 6).

    Like `accuracy_per_task`, with a labelled dotted line where a task is repeated.

    Args:
        runs: Finished runs of each method on one stream, with ``revisit``.

    Raises:
        ConfigError: No task is repeated, a run is not finished, or there are several streams.
    """
    first = check(runs)
    back = [i for i, task in enumerate(first.order) if task in first.order[:i]]
    if not back:
        raise ConfigError(
            f"In these runs on {first.config.stream} no experience is repeated. Use those of"
            " `avalanche-dgm paper fig6`, or of a config with revisit=(0, 5)."
        )
    figure = figures.panels(runs)
    for axes, _ in zip(figure.axes, runs, strict=False):
        for i in back:
            axes.axvline(i + 1, color="0.4", linewidth=1, linestyle=":", zorder=0)
            # Numbered like on the colour bar beside the panels.
            axes.text(
                i + 1,
                0.5,
                f"task {first.order[i] + 1} again",
                rotation=90,
                ha="center",
                va="center",
                fontsize=7,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
            )
    return figure


def long_stream(runs: Runs, *, last: int = 10) -> Figure:
    """Draws the average accuracy on all tasks so far and on the last ones (Fig. 7).

    Args:
        runs: Finished runs of each method on one stream of more than ``last`` tasks.
        last: Number of the last tasks.

    Raises:
        ConfigError: The stream is too short, a run is not finished, or there are several streams.
    """
    first = check(runs)
    if not 1 <= last < len(first.order):
        raise ConfigError(
            f"The runs on {first.config.stream} learned {len(first.order)} experiences, but the"
            f" figure needs more than the last {last}. Use a longer stream, or another last (at"
            " least 1)."
        )
    titles = ("(a) tasks so far", f"(b) last {last} tasks")
    figure, (left, right) = figures.row_of(titles, 10.0, 4.0, sharey=True)
    figures.draw_curves(left, {name: [r.averages for r in rs] for name, rs in runs.items()})
    figures.draw_curves(right, {n: [r.recent_averages(last) for r in rs] for n, rs in runs.items()})
    for axes in (left, right):
        figures.stream_axes(axes, len(first.order))
    left.set_ylabel("average test accuracy")
    figures.legend(right, title=figures.seeds_of(runs))
    return figure


def training_time(runs: Runs) -> Figure:
    """Draws the training time of each method as bars (Fig. 8a).

    Without evaluation. Means over seeds, with whiskers of one standard deviation.

    Args:
        runs: Finished runs of each method on one stream, all of the same machine.

    Raises:
        ConfigError: A run is not finished, or there are several streams, or none.
    """
    first = check(runs)
    seconds = [[result.seconds for result in results] for results in runs.values()]
    unit, name = (60.0, "minutes") if max(map(max, seconds)) > 300 else (1.0, "seconds")
    centre = [mean(list(values)) / unit for values in seconds]
    spread = [deviation(values) / unit for values in seconds]
    figure = new_figure(6.4, 0.45 * len(runs) + 1.2)
    axes = figure.add_subplot()
    colours = [PALETTE[i % len(PALETTE)] for i in range(len(runs))]
    whiskers: dict[str, Any] = (
        {"xerr": spread, "ecolor": "0.3", "capsize": 3} if any(spread) else {}
    )
    bars = axes.barh(list(runs), centre, color=colours, height=0.7, **whiskers)
    axes.bar_label(bars, [f"{value:.3g}" for value in centre], fontsize=9, padding=3)
    axes.margins(x=0.12)
    axes.invert_yaxis()
    axes.set_xlabel(f"{name} of training, {len(first.order)} experiences")
    title = f"{first.config.stream}, {figures.seeds_of(runs)}"
    axes.set_title(title, fontsize=10)
    plain_axes(axes)
    axes.grid(axis="y", visible=False)
    return figure


def short_term_memory(
    runs: Runs, *, with_memory: str = "dgdmn", without: str = "dgdmn-no-stm"
) -> Figure:
    """Draws the dual memory with and without short-term generative memories (Fig. 8b).

    Two panels like those of `accuracy_per_task`, and one with the average over the tasks so far.
    Without short-term memories, real images are stored until sleep, and tasks are not learned
    before.

    Args:
        runs: Finished runs of both methods on one stream; others are not drawn.
        with_memory: The method with short-term memories.
        without: The method without short-term memories.

    Raises:
        ConfigError: A method is missing, a run is not finished, or there are several streams.
    """
    both = {name: runs[name] for name in (with_memory, without) if name in runs}
    first = check(both, with_memory, without)
    titles = (
        "short-term generative memories",
        "real images kept until sleep",
        f"average of seen, {figures.seeds_of(both)}",
    )
    figure, places = figures.row_of(titles, 11.0, 3.4, sharey=True)
    for axes, results in zip(places, both.values(), strict=False):
        figures.draw_run(axes, results[0])
        axes.set_ylabel("")
    figures.draw_curves(
        places[2], {name: [r.averages for r in results] for name, results in both.items()}
    )
    figures.stream_axes(places[2], len(first.order))
    places[0].set_ylabel("test accuracy")
    both_names = places[2].legend(loc="lower left", frameon=False, fontsize=9)
    if len(first.tasks) <= 12:
        figures.legend(places[2], handles=list(places[0].lines), title="test images of", fontsize=8)
        # Added again, as a second legend replaces the first one.
        places[2].add_artist(both_names)
    return figure
