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
from avalanche_dgm.experiments.results import Step

#: Maximum number of tasks or labels with legend entries; above, a colour scale is shown.
MOST_NAMED = 12
#: Maximum number of points of a line; above, they are averaged in bins.
MOST_POINTS = 150
# If all accuracies are above it, the axis does not begin at 0.
_LARGE = 0.6


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


def over_experiences(
    group: Group,
    title: str,
    points: Points,
    *,
    y: str,
    text: str = "plain",
    note: str | None = None,
    within: tuple[float, float] = (0.0, 1e300),
) -> list[Card]:
    """The card of a line chart over experiences with a curve per row; none if all are empty."""
    curves = {colour_of(row): row.curve(points) for row in group.rows}
    least = min((v.mean for curve in curves.values() for _, v in curve), default=0.0)
    magnified = within == (0.0, 1.0) and least > _LARGE
    return line_card(title, curves, y=y, text=text, zero=not magnified, within=within, note=note)


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


def recorded(
    group: Group,
    key: str,
    title: str,
    label: str,
    *,
    zero: bool = True,
    only_used: bool = False,
) -> list[Card]:
    """The card of a chart of a recorded scalar; none if no run recorded it.

    Args:
        group: The group.
        key: Name of the scalar.
        title: Heading of the card.
        label: Label of the y axis.
        zero: Whether the y axis begins at 0.
        only_used: Whether to make no card if the scalar is always 0.
    """
    series = [run.scalars[key] for run in group.runs if key in run.scalars]
    if not series or (only_used and not any(any(values.values()) for values in series)):
        return []
    axis = next(run.axes[key] for run in group.runs if key in run.axes)
    names = {keys.STEP: "updates of the classifier", keys.EXPERIENCE: "experiences learned"}
    name = {**names, keys.SLEEP: "sleeps"}.get(axis, axis)
    counted = axis in (keys.EXPERIENCE, keys.SLEEP)
    points = sorted({at for values in series for at in values})
    width = _width([] if counted else [sorted(values) for values in series], points)
    first = min(1, points[0])
    curves = {
        colour_of(row): row.curve(lambda run: _binned(run.scalars.get(key, {}), width, first))
        for row in group.rows
    }
    note = f"A point is the mean over {width} {name}." if width > 1 else None
    return line_card(title, curves, x=name, y=label, zero=zero, note=note)


def _width(runs: Sequence[Sequence[int]], points: Sequence[int]) -> int:
    """Width of the bins in which points are averaged; 1 for no averaging.

    Args:
        runs: The points of each run, ascending; empty if they are the same in all runs.
        points: The points of all runs.
    """
    width = 1
    if runs and len(points) > max(map(len, runs)):
        # Points differ between seeds: means over different seeds would zigzag.
        width = max(b - a for run in runs for a, b in pairwise([0, *run]))
    return max(width, points[-1] // MOST_POINTS + 1 if len(points) > MOST_POINTS else 1)


def _binned(values: dict[int, float], width: int, first: int) -> list[tuple[float, float | None]]:
    if width == 1:
        return list(values.items())
    bins: dict[int, list[float]] = {}
    for at in sorted(values):
        # Points are at the ends of intervals (such as the last update of an epoch), from 1 on.
        bins.setdefault((at - first) // width, []).append(values[at])
    return [(first + (at + 0.5) * width, sum(mine) / len(mine)) for at, mine in bins.items()]
