"""Charts of numbers that runs recorded under a key, or that follow from their results."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from avalanche_dgm.dashboards import keys
from avalanche_dgm.experiments.pages import formats
from avalanche_dgm.experiments.pages.aggregate import Curve, Group
from avalanche_dgm.experiments.pages.canvas import Axis, axis, counting_axis
from avalanche_dgm.experiments.pages.layout import card
from avalanche_dgm.experiments.pages.lines import Line, line_chart, numbers
from avalanche_dgm.experiments.pages.loading import Run
from avalanche_dgm.experiments.pages.markup import Markup

#: Points of a line at most; of more, so many means of neighbours are shown.
MOST_POINTS = 150
_MOST_LISTED = 40
# Accuracies above this one are told apart on an axis that does not begin at 0.
_LARGE = 0.6
_LABELS = {
    keys.STEP: ("updates of the classifier", "after {} updates"),
    keys.EXPERIENCE: ("experiences learned", "after {} experiences"),
    keys.SLEEP: ("sleeps", "sleep {}"),
}

Values = Callable[[Run], Sequence[tuple[float, float | None]]]


def curves(group: Group, values: Values) -> list[Line]:
    """The lines of the rows of a group that have points.

    Args:
        group: The group.
        values: Gives the points of a run.
    """
    lines = [Line.of(row, row.curve(values)) for row in group.rows]
    return [line for line in lines if line.curve]


def experience_chart(
    group: Group,
    title: str,
    values: Values,
    *,
    label: str,
    text: formats.Format = formats.plain,
    note: str | None = None,
    between: tuple[float | None, float | None] = (0.0, None),
    magnify: bool = False,
    wide: bool = False,
) -> Markup | None:
    """Makes the box of a chart over experiences, a line a row.

    Args:
        group: The group.
        title: Heading of the box.
        values: Gives the points of a run.
        label: Of the axis at the left.
        text: Writes a value.
        note: A sentence below the heading.
        between: Where that axis begins and ends; ``None`` for where the values do.
        magnify: Begin it higher if all values are large.
        wide: Use two columns where there is room.
    """
    x = counting_axis("experiences learned", group.length, ticks=10)
    lines = curves(group, values)
    least = min((value.mean for line in lines for _, value in line.curve), default=0.0)
    if magnify and least > _LARGE:
        between = (math.floor(10 * least - 0.5) / 10, between[1])
        label = f"{label}, from {between[0]:g} on"
    return _boxed(title, lines, x, (label, text), between, note, wide=wide, group=group)


def recorded_chart(
    group: Group,
    key: str,
    title: str,
    label: str,
    *,
    between: tuple[float | None, float | None] = (None, None),
    text: formats.Format = formats.plain,
    only_used: bool = False,
) -> Markup | None:
    """Makes the box of a chart of what runs recorded under a key; ``None`` if none did.

    Args:
        group: The group.
        key: Name of the panel.
        title: Heading of the box.
        label: Of the axis at the left.
        between: Where that axis begins and ends; ``None`` for where the values do.
        text: Writes a value.
        only_used: Make none either if it is 0 everywhere.
    """
    recorded = [run.recorded for run in group.runs]
    kind = next((r.axes[key] for r in recorded if key in r.axes), None)
    if kind is None:
        return None
    points = sorted({at for r in recorded for at in r.scalars.get(key, {})})
    if only_used and not any(value for r in recorded for value in r.scalars.get(key, {}).values()):
        return None
    name, head = _LABELS.get(kind, (kind, f"{formats.literal(kind)} {{}}"))
    counted = kind in (keys.EXPERIENCE, keys.SLEEP)
    width = _width([] if counted else [sorted(r.scalars.get(key, {})) for r in recorded], points)
    first = min(1, points[0])
    lines = curves(group, lambda run: _binned(run.recorded.scalars.get(key, {}), width, first))
    if counted:
        x = counting_axis(name, max(max(points), group.length if kind == keys.EXPERIENCE else 1))
    else:
        x = axis(name, points, low=min(0, min(points)), high=max(points) or 1)
    note = f"A point is the mean over {width} {name}." if width > 1 else None
    return _boxed(title, lines, x, (label, text), between, note, head=head, group=group)


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


def _boxed(
    title: str,
    lines: Sequence[Line],
    x: Axis,
    left: tuple[str, formats.Format],
    between: tuple[float | None, float | None],
    note: str | None,
    *,
    group: Group,
    wide: bool = False,
    head: str = "after {} experiences",
) -> Markup | None:
    if not lines:
        return None
    label, text = left
    y = value_axis(label, [line.curve for line in lines], between)
    shown = f"{title}, {group.title}"
    chart = line_chart(shown, lines, x, y, text, wide=wide, head=head)
    points = {x for line in lines for x, _ in line.curve}
    table = numbers(lines, x.label, text) if len(points) <= _MOST_LISTED else None
    return card(title, chart, table, note=note, size="wide" if wide else None)


def value_axis(
    label: str, found: Sequence[Curve], between: tuple[float | None, float | None]
) -> Axis:
    """Makes the axis at the left: all means are on it, and bands as far as they are not wide.

    Args:
        label: Its name.
        found: The curves.
        between: Where it begins and ends; ``None`` for where the values do.
    """
    means = [float(value.mean) for curve in found for _, value in curve]
    reach = 0.5 * (max(means) - min(means))
    low = max(min(means) - reach, min(v.low for curve in found for _, v in curve))
    # What is never negative needs no room below 0.
    low = max(low, 0.0) if min(means) >= 0 else low
    high = min(max(means) + reach, max(v.high for curve in found for _, v in curve))
    least, most = between
    # What is counted has no numbers between.
    counted = most is None and all(mean.is_integer() for mean in means)
    return axis(
        label,
        [min(low, *means), max(high, *means)],
        low=least,
        high=most,
        least_step=1.0 if counted else 0.0,
    )
