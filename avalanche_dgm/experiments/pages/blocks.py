"""The cards of a page, with charts or pictures, and line charts with a curve for each row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from avalanche_dgm.dashboards import keys
from avalanche_dgm.experiments.pages import charts
from avalanche_dgm.experiments.pages.charts import Chart
from avalanche_dgm.experiments.pages.encodings import Colour
from avalanche_dgm.experiments.pages.groups import Curve, Group, Points, Row
from avalanche_dgm.experiments.pages.images import Frame
from avalanche_dgm.experiments.pages.loading import Run
from avalanche_dgm.experiments.pages.quantities import Quantity
from avalanche_dgm.experiments.results import Step
from avalanche_dgm.experiments.tables import size_unit

#: Maximum number of tasks or labels with legend entries; above, a colour scale is shown.
MOST_NAMED = 12
#: Maximum number of points of a line; above, they are averaged in bins.
MOST_POINTS = 150
# If all accuracies are above it, the axis does not begin at 0.
_LARGE = 0.6
# Labels of x axes.
_AXES = {
    keys.STEP: "updates of the classifier",
    keys.EXPERIENCE: "experiences learned",
    keys.SLEEP: "sleeps",
}


@dataclass(frozen=True)
class Card:
    """A card with a chart, or with pictures that are shown one at a time.

    Attributes:
        title: The heading.
        chart: The chart.
        frames: The pictures.
        note: A sentence below the heading.
        row: The row whose legend entry hides the card.
        wide: Whether it is two columns wide if there is room.
    """

    title: str
    chart: Chart | None = None
    frames: Sequence[Frame] = ()
    note: str | None = None
    row: Row | None = None
    wide: bool = False


@dataclass(frozen=True)
class Legend:
    """The legend of colours. Many names become a scale with the first and the last one."""

    title: str
    colours: Sequence[Colour]

    @property
    def many(self) -> bool:
        """Whether a scale is shown."""
        return len(self.colours) > MOST_NAMED + 1


@dataclass(frozen=True)
class Block:
    """Cards of one kind.

    Attributes:
        cards: The cards.
        title: A heading, if the section has several blocks.
        note: A sentence.
        legend: Colours shared by the charts.
        slider: Label and maximum of a slider over the matrices or pictures.
        more: Cards that are collapsed at first.
        columns: Number of columns of cards if there is room.
    """

    cards: Sequence[Card]
    title: str | None = None
    note: str | None = None
    legend: Legend | None = None
    slider: tuple[str, int] | None = None
    more: Sequence[Card] = ()
    columns: int = 3


@dataclass(frozen=True)
class Section:
    """A section of a group: identifier within the group, heading, blocks."""

    name: str
    title: str
    blocks: Sequence[Block]


def colour_of(row: Row) -> Colour:
    """The colour, dashes and marker of a row."""
    return Colour(row.label, f"r{row.index}", row.index)


def after_each(value: Callable[[Step], float | None]) -> Points:
    """The points of a value of each step, by number of experiences."""
    return lambda run: [(k, value(step)) for k, step in enumerate(run.steps, 1)]


def line_card(
    title: str,
    curves: Mapping[Colour, Curve],
    *,
    note: str | None = None,
    x: str = "experiences learned",
    **drawn: Any,
) -> list[Card]:
    """The card of a chart of the curves that have points; none if all are empty."""
    known = {colour: curve for colour, curve in curves.items() if curve}
    return [Card(title, charts.lines(title, known, x=x, **drawn), note=note)] if known else []


def lines(group: Group, quantities: Sequence[Quantity], *, only_used: bool = False) -> list[Card]:
    """The cards of line charts with a curve per row, without empty ones.

    Args:
        group: The group.
        quantities: What to draw.
        only_used: Whether to leave out rows in which a quantity is always 0.
    """
    return [card for quantity in quantities for card in _lines(group, quantity, only_used)]


def _lines(group: Group, quantity: Quantity, only_used: bool) -> list[Card]:
    key = quantity.key
    rows = [
        row
        for row in group.rows
        if (values := [v for run in row.runs for _, v in quantity.points(run)])
        and (any(values) or not only_used)
    ]
    runs = [run for row in rows for run in row.runs if key in run.scalars]
    if not runs:
        return []
    series = [run.scalars[key] for run in runs]
    axis = runs[0].axes[key]
    x = _AXES.get(axis, axis)
    width = 1 if axis in (keys.EXPERIENCE, keys.SLEEP) else _width(series)
    first = min(1, *map(min, series))
    text, label, unit, notes = quantity.text, quantity.label, 1, [quantity.note]
    if text == "bytes":
        unit, name = size_unit(max(max(values.values()) for values in series))
        text, label = "plain", f"{label}, {name}"
        unknown = [
            row.label
            for row in group.rows
            if any(len(quantity.points(run)) < len(run.steps) for run in row.runs)
        ]
        notes += [f"Unknown of {', '.join(unknown)}."] if unknown else []
    if width > 1:
        notes.append(f"A point is the mean over {width} {x}.")

    def points(run: Run) -> list[tuple[float, float]]:
        binned = _binned(run.scalars.get(key, {}), width, first)
        return [(at, value / unit) for at, value in binned]

    curves = {colour_of(row): row.curve(points) for row in rows}
    least = min(estimate.mean for curve in curves.values() for _, estimate in curve)
    magnified = quantity.within == (0.0, 1.0) and least > _LARGE
    return line_card(
        quantity.title,
        curves,
        x=x,
        y=label,
        text=text,
        zero=quantity.zero and not magnified,
        within=quantity.within,
        note=" ".join(filter(None, notes)) or None,
    )


def _width(runs: Sequence[Mapping[int, float]]) -> int:
    """Width of the bins in which the points of runs are averaged; 1 for no averaging."""
    points = sorted({at for values in runs for at in values})
    width = 1
    if len(points) > max(map(len, runs)):
        # Points differ between seeds: means over different seeds would zigzag.
        width = max(b - a for values in runs for a, b in pairwise([0, *sorted(values)]))
    return max(width, points[-1] // MOST_POINTS + 1 if len(points) > MOST_POINTS else 1)


def _binned(values: Mapping[int, float], width: int, first: int) -> list[tuple[float, float]]:
    if width == 1:
        return list(values.items())
    bins: dict[int, list[float]] = {}
    for at in sorted(values):
        # Points are at the ends of intervals (such as the last update of an epoch), from 1 on.
        bins.setdefault((at - first) // width, []).append(values[at])
    return [(first + (at + 0.5) * width, sum(mine) / len(mine)) for at, mine in bins.items()]
