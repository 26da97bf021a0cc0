"""Charts as Vega-Lite specifications, each with its table of numbers.

Colours are names of CSS variables, such as ``r0``, so that light and dark mode need no redrawing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from avalanche_dgm.experiments.pages import formats
from avalanche_dgm.experiments.pages.encodings import (
    FORMATS,
    OFF,
    SHOWN,
    Colour,
    by_name,
    by_style,
    number,
    order_of,
    shared_tooltip,
    short,
    sides,
    zoom_of,
)
from avalanche_dgm.experiments.pages.groups import Curve

_DASHES: Sequence[Sequence[int]] = ([1, 0], [7, 4], [2, 3], [8, 3, 2, 3], [4, 2])
_HEIGHT = 240
_SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-left")
#: Lines with more points have no markers.
_MOST_MARKED = 24
#: Matrices with more columns have no numbers and names.
MOST_NUMBERED = 13
# Cells above which a matrix is drawn as a bitmap.
_MOST_SHAPES = 2500
# Opacity of experiences that are not learned yet.
_PALE = 0.38
# Parameter of `matrix`, and field of its rows.
_AFTER = "after"


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        title: The title.
        columns: Names of the columns of its table.
        rows: Rows of the table.
        spec: The specification without the table.
        zoom: The column of each axis that can be zoomed.
        bitmap: Whether it is drawn as a bitmap, since it has too many shapes for SVG.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    spec: Mapping[str, Any]
    zoom: Mapping[str, str]
    bitmap: bool = False


def lines(
    title: str,
    curves: Mapping[Colour, Curve],
    *,
    x: str,
    y: str,
    text: str = "plain",
    zero: bool = True,
    within: tuple[float, float] = (-1e300, 1e300),
) -> Chart:
    """Draws means over seeds, with their confidence intervals as bands.

    Args:
        title: The title.
        curves: The curves, none empty.
        x: Label of the x axis.
        y: Label of the y axis.
        text: Name of the format of values.
        zero: Whether the y axis begins at 0.
        within: Range of possible values, to which bands are clipped.
    """
    rows = [
        [colour.label, short(at), short(v.mean), short(v.half), v.n]
        for colour, curve in curves.items()
        for at, v in curve
    ]
    means = [v.mean for curve in curves.values() for _, v in curve]
    # Confidence intervals of few seeds may be much longer than the range of the means.
    reach = 0.5 * (max(means) - min(means)) or 0.5 * abs(means[0]) or 1.0
    low, high = max(min(means) - reach, within[0]), min(max(means) + reach, within[1])
    if min(means) >= 0:
        low = max(low, 0.0)
    digits, unit = FORMATS[text]
    said = f"format(datum.mean, '{digits}') + '{unit}'"
    interval = f"datum.half == null ? '' : ' ± ' + format(datum.half, '{digits}')"
    strong = json.dumps([colour.label for colour in curves if colour.strong])
    thick = {"test": f"indexof({strong}, datum.name) >= 0", "value": 3.2}
    marked = max(map(len, curves.values())) <= _MOST_MARKED
    spec = {
        "height": _HEIGHT,
        "params": [OFF],
        "transform": [
            SHOWN,
            {"calculate": f"{said} + ({interval})", "as": "said"},
            _bound("low", f"max({low!r}, datum.mean - datum.half)"),
            _bound("high", f"min({high!r}, datum.mean + datum.half)"),
        ],
        "encoding": {
            "x": number("at", x, axis={"tickMinStep": 1}, zero=False, padding=8),
            "color": by_name(list(curves)),
        },
        "layer": [
            {
                "mark": {"type": "area", "opacity": 0.17, "clip": True},
                "encoding": {
                    "y": number("low", y, zero=zero, padding=6),
                    "y2": {"field": "high"},
                },
            },
            {
                "params": [zoom_of("x", "y")],
                "mark": {"type": "line", "clip": True},
                "encoding": {
                    "y": number("mean", y, zero=zero, padding=6),
                    "strokeDash": by_style(list(curves), _DASHES),
                    "strokeWidth": {"condition": thick, "value": 1.9},
                },
            },
            {
                "mark": {"type": "point", "filled": True, "size": 34, "clip": True},
                "encoding": {
                    "y": number("mean", y, zero=zero, padding=6),
                    "shape": by_style(list(curves), _SHAPES),
                    "opacity": {"value": 1 if marked else 0},
                },
            },
            shared_tooltip(),
        ],
    }
    columns = ("name", "at", "mean", "half", "seeds")
    return Chart(title, columns, rows, spec, zoom={"x": "at", "y": "mean"})


def _bound(name: str, value: str) -> dict[str, str]:
    """A bound of a band; null for one seed, where a band of width 0 would suggest certainty."""
    return {"calculate": f"datum.half == null ? null : {value}", "as": name}


def stacked(
    title: str,
    parts: Sequence[Colour],
    values: Mapping[float, Mapping[str, float]],
    *,
    y: str,
    text: str = "plain",
) -> Chart:
    """Draws stacked vertical bars, one after each experience.

    Args:
        title: The title.
        parts: From below.
        values: By label of the part, by number of experiences.
        y: Label of the y axis.
        text: Name of the format of values.
    """
    whole = {"tickMinStep": 1, "grid": False}
    spec = {
        "height": _HEIGHT,
        "params": [zoom_of("x", "y")],
        "transform": [
            *sides("at", "left", "right", 0.4),
            order_of(parts, "name"),
            {
                "stack": "value",
                "groupby": ["at"],
                "sort": [{"field": "order"}],
                "as": ["bottom", "top"],
            },
        ],
        "mark": {"type": "bar", "clip": True},
        "encoding": {
            "x": number("left", "experiences learned", axis=whole, zero=False, padding=4),
            "x2": {"field": "right"},
            "y": number("bottom", y, nice=True),
            "y2": {"field": "top"},
            "color": by_name(parts),
            "tooltip": [
                {"field": "at", "title": "experiences"},
                {"field": "name", "title": "part"},
                {"field": "value", "format": FORMATS[text][0]},
            ],
        },
    }
    columns, zoom = ("at", "name", "value"), {"x": "left", "y": "bottom"}
    return Chart(title, columns, _bars(parts, values), spec, zoom)


def horizontal(
    title: str,
    parts: Sequence[Colour],
    values: Mapping[str, Mapping[str, float]],
    *,
    x: str,
    text: str = "plain",
) -> Chart:
    """Draws stacked horizontal bars, one for each method.

    Args:
        title: The title.
        parts: From the left.
        values: By label of the part, by method.
        x: Label of the x axis.
        text: Name of the format of values.
    """
    spec = {
        "height": 60 + 30 * len(values),
        "params": [OFF, zoom_of("x")],
        "transform": [SHOWN, order_of(parts, "part")],
        "mark": {"type": "bar", "clip": True},
        "encoding": {
            "y": {"field": "name", "type": "nominal", "title": None, "sort": list(values)},
            "x": {**number("value", x, nice=True), "stack": True},
            "color": by_name(parts, "part"),
            "order": {"field": "order"},
            "tooltip": [
                {"field": "name", "title": "method"},
                {"field": "part"},
                {"field": "value", "format": FORMATS[text][0]},
            ],
        },
    }
    columns = ("name", "part", "value")
    return Chart(title, columns, _bars(parts, values), spec, zoom={"x": "value"})


def _bars(parts: Sequence[Colour], values: Mapping[Any, Mapping[str, float]]) -> list[list[Any]]:
    """Rows of bar, part and length, for the parts with values."""
    return [
        [bar, part.label, short(lengths[part.label])]
        for bar, lengths in values.items()
        for part in parts
        if lengths.get(part.label, 0.0) > 0
    ]


def matrix(
    title: str,
    values: Sequence[Sequence[float | None]],
    *,
    learned: Sequence[int],
    names: Sequence[str],
    averages: Sequence[float | None],
) -> Chart:
    """Draws an accuracy matrix: a row after each experience, a column for each test.

    The chart's parameter ``after`` is the current row; later rows are hidden.

    Args:
        title: The title.
        values: Accuracies from 0 to 1; ``None`` if not measured.
        learned: The column of each row's experience.
        names: Names of the columns.
        averages: For each row, the mean accuracy on experiences seen so far.
    """
    rows = []
    seen: set[int] = set()
    for i, row in enumerate(values):
        seen.add(learned[i])
        rows += [
            [i + 1, names[j], j + 1, int(j in seen), short(value)]
            for j, value in enumerate(row)
            if value is not None
        ]
    few = len(names) <= MOST_NUMBERED
    named = few and all(len(name) <= 4 for name in names)
    said = [
        f"after {i + 1} ({names[learned[i]]}): average of seen {formats.share(a)}"
        for i, a in enumerate(averages)
    ]
    covered = {"test": f"datum.after > {_AFTER}", "value": 0.08}
    across: dict[str, Any] = {"tickMinStep": 1, "grid": False}
    down = {**across, "values": list(range(1, len(values) + 1))} if few else across
    if named:
        across = {**across, "labelExpr": f"{json.dumps(list(names))}[datum.value - 1]"}
    x = f"test on {'' if named else 'experience'}".strip()
    cells = {
        "mark": {"type": "rect", "clip": True},
        "params": [zoom_of("x", "y")],
        "encoding": {
            "x": number("left", x, axis=across, zero=False),
            "x2": {"field": "right"},
            "y": number("top", "after experience", axis=down, zero=False, reverse=True),
            "y2": {"field": "bottom"},
            "color": {"value": "var(--heat)"},
            "fillOpacity": {
                "field": "strength",
                "type": "quantitative",
                "scale": {"domain": [0, 1], "range": [0.02, 1]},
                "legend": None,
            },
            "opacity": {"condition": covered, "value": 1},
            "tooltip": [
                {"field": "after"},
                {"field": "test", "title": "test on"},
                {"field": "accuracy", "format": ".3f"},
            ],
        },
    }
    on_dark = {"test": "datum.strength > 0.55", "value": "var(--on-heat)"}
    numbers = {
        "mark": {"type": "text", "clip": True, "fontSize": 12},
        "encoding": {
            "x": {"field": "column", "type": "quantitative", "title": x},
            "y": {"field": "after", "type": "quantitative", "title": "after experience"},
            "text": {"field": "percent", "format": ".0f"},
            "color": {"condition": on_dark, "value": "var(--ink)"},
            "opacity": {"condition": covered, "value": 1},
        },
    }
    spec = {
        "height": min(460, 80 + 26 * len(values)),
        "title": {
            "text": {"expr": f"said[min({_AFTER}, {len(said)}) - 1]"},
            "limit": {"expr": "width"},
        },
        "params": [{"name": _AFTER, "value": len(values)}, {"name": "said", "value": said}],
        "transform": [
            {"calculate": f"datum.accuracy * (datum.seen ? 1 : {_PALE})", "as": "strength"},
            {"calculate": "100 * datum.accuracy", "as": "percent"},
            *sides("column", "left", "right", 0.5),
            *sides("after", "top", "bottom", 0.5),
        ],
        "layer": [cells, numbers] if few else [cells],
    }
    columns = ("after", "test", "column", "seen", "accuracy")
    zoom = {"x": "left", "y": "top"}
    return Chart(title, columns, rows, spec, zoom, bitmap=len(rows) > _MOST_SHAPES)
