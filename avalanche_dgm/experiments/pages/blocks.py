"""The boxes of a page: charts and pictures with headings; charts with a line for each row."""

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

#: Up to so many tasks or labels each is named in a legend; of more, a scale is shown.
MOST_NAMED = 12
#: Points of a line at most; of more, so many means of neighbours are shown.
MOST_POINTS = 150
# Accuracies above this one are told apart on an axis that does not begin at 0.
_LARGE = 0.6


@dataclass(frozen=True)
class Card:
    """A box with a chart, or with pictures of which one is seen at a time.

    Attributes:
        title: Its heading.
        chart: The chart.
        frames: The pictures.
        note: A sentence below the heading.
        row: What the box is about: it is switched off with it.
        wide: Whether it takes two columns where there is room.
    """

    title: str
    chart: Chart | None = None
    frames: Sequence[Frame] = ()
    note: str | None = None
    row: Row | None = None
    wide: bool = False


@dataclass(frozen=True)
class Legend:
    """Which colour is what. Of many names the first and the last, with a scale between."""

    title: str
    colours: Sequence[Colour]

    @property
    def many(self) -> bool:
        """Whether a scale is shown."""
        return len(self.colours) > MOST_NAMED + 1


@dataclass(frozen=True)
class Block:
    """Boxes of one kind.

    Attributes:
        cards: The boxes.
        title: A heading of its own, if the section has several.
        note: A sentence.
        legend: Colours that its charts share.
        slider: What a slider over its matrices or pictures sets, and the largest number.
        more: Boxes that are folded away.
        columns: How many boxes stand side by side where there is room.
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
    """A section of a group: identifier within the group, heading, boxes."""

    name: str
    title: str
    blocks: Sequence[Block]


def colour_of(row: Row) -> Colour:
    """The colour, dashes and marker of a row."""
    return Colour(row.label, f"r{row.index}", row.index)


def after_each(value: Callable[[Step], float | None]) -> Points:
    """The points of a number that each experience has."""
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
    """The box of a chart over experiences, a line a row; none if there is nothing to draw."""
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
    """The box of a chart of the curves that have points; none if no curve has."""
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
    """The box of a chart of what runs recorded under a key; none if none did.

    Args:
        group: The group.
        key: Name of the panel.
        title: Heading of the box.
        label: Of the axis at the left.
        zero: Whether that axis begins at 0.
        only_used: Make none either if the number is 0 everywhere.
    """
    found = [run.scalars[key] for run in group.runs if key in run.scalars]
    if not found or (only_used and not any(any(mine.values()) for mine in found)):
        return []
    axis = next(run.axes[key] for run in group.runs if key in run.axes)
    names = {keys.STEP: "updates of the classifier", keys.EXPERIENCE: "experiences learned"}
    name = {**names, keys.SLEEP: "sleeps"}.get(axis, axis)
    counted = axis in (keys.EXPERIENCE, keys.SLEEP)
    points = sorted({at for mine in found for at in mine})
    width = _width([] if counted else [sorted(mine) for mine in found], points)
    first = min(1, points[0])
    curves = {
        colour_of(row): row.curve(lambda run: _binned(run.scalars.get(key, {}), width, first))
        for row in group.rows
    }
    note = f"A point is the mean over {width} {name}." if width > 1 else None
    return line_card(title, curves, x=name, y=label, zero=zero, note=note)


def _width(runs: Sequence[Sequence[int]], points: Sequence[int]) -> int:
    """How many numbers of an axis make one point; 1 where each is one.

    Args:
        runs: The points of each run, ascending; none where all runs count alike.
        points: Those of all.
    """
    width = 1
    if runs and len(points) > max(map(len, runs)):
        # Seeds have points of their own: a mean of one here and of the other there would zigzag.
        width = max(b - a for run in runs for a, b in pairwise([0, *run]))
    return max(width, points[-1] // MOST_POINTS + 1 if len(points) > MOST_POINTS else 1)


def _binned(values: dict[int, float], width: int, first: int) -> list[tuple[float, float | None]]:
    if width == 1:
        return list(values.items())
    bins: dict[int, list[float]] = {}
    for at in sorted(values):
        # Epochs end with their last update: what ends an interval belongs to it, from 1 on.
        bins.setdefault((at - first) // width, []).append(values[at])
    return [(first + (at + 0.5) * width, sum(mine) / len(mine)) for at, mine in bins.items()]
