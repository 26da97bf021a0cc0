"""Charts as Vega-Lite specifications, with the table of numbers that each is drawn from.

Colours are names of variables of the style sheet, such as ``r0``: the page follows light and dark
ground without drawing anything again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from avalanche_dgm.experiments.pages import formats
from avalanche_dgm.experiments.pages.groups import Curve

#: Names of formats of values, as D3 writes them, and what stands after the number.
FORMATS = {"share": (".3f", ""), "plain": (".4~g", ""), "seconds": (".3~g", " s")}
_DASHES: Sequence[Sequence[int]] = ([1, 0], [7, 4], [2, 3], [8, 3, 2, 3], [4, 2])
_HEIGHT = 240
_SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-left")
#: Lines of more points have no markers.
_MOST_MARKED = 24
#: Up to so many columns a matrix has numbers and names.
MOST_NUMBERED = 13
# Cells above which a matrix is drawn as a bitmap.
_MOST_SHAPES = 2500
# What is not learned yet is paler.
_PALE = 0.38


@dataclass(frozen=True)
class Colour:
    """A name in a chart, and how it is drawn.

    Attributes:
        label: What it stands for: a method, a task, a part.
        name: Variable of the style sheet.
        style: Number of its dashes and marker.
        strong: Whether its line is thick.
    """

    label: str
    name: str
    style: int = 0
    strong: bool = False

    @property
    def value(self) -> str:
        """The colour, as a style sheet and SVG understand it."""
        return f"var(--{self.name})"


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        title: What it shows.
        columns: Names of the numbers that it is drawn from.
        rows: These numbers.
        spec: How it is drawn, without them.
        zoom: The column behind each axis that can be zoomed.
        bitmap: Whether it has so much to draw that one picture is lighter than shapes.
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
    """Draws means over seeds, with their intervals as bands.

    Args:
        title: What the chart shows.
        curves: The curves, none empty.
        x: What the axis below counts.
        y: Name of the axis at the left.
        text: Name of the format of values.
        zero: Whether the axis at the left begins at 0.
        within: What values can be at all: no band goes further.
    """
    rows = [
        [colour.label, _short(at), _short(v.mean), _short(v.half), v.n]
        for colour, curve in curves.items()
        for at, v in curve
    ]
    means = [v.mean for curve in curves.values() for _, v in curve]
    # An interval of few seeds may be many times as long as what there is to see.
    reach = 0.5 * (max(means) - min(means)) or 0.5 * abs(means[0]) or 1.0
    low, high = max(min(means) - reach, within[0]), min(max(means) + reach, within[1])
    if min(means) >= 0:
        low = max(low, 0.0)
    number, unit = FORMATS[text]
    said = f"format(datum.mean, '{number}') + '{unit}'"
    interval = f"datum.half == null ? '' : ' ± ' + format(datum.half, '{number}')"
    strong = json.dumps([colour.label for colour in curves if colour.strong])
    thick = {"test": f"indexof({strong}, datum.name) >= 0", "value": 3.2}
    marked = max(map(len, curves.values())) <= _MOST_MARKED
    spec = {
        "height": _HEIGHT,
        "params": [_OFF],
        "transform": [
            _SHOWN,
            {"calculate": f"{said} + ({interval})", "as": "said"},
            _bound("low", f"max({low!r}, datum.mean - datum.half)"),
            _bound("high", f"min({high!r}, datum.mean + datum.half)"),
        ],
        "encoding": {
            "x": _number("at", x, axis={"tickMinStep": 1}, zero=False, padding=8),
            "color": _by_name(list(curves)),
        },
        "layer": [
            {
                "mark": {"type": "area", "opacity": 0.17, "clip": True},
                "encoding": {
                    "y": _number("low", y, zero=zero, padding=6),
                    "y2": {"field": "high"},
                },
            },
            {
                "params": [_zoom("x", "y")],
                "mark": {"type": "line", "clip": True},
                "encoding": {
                    "y": _number("mean", y, zero=zero, padding=6),
                    "strokeDash": _by_style(list(curves), _DASHES),
                    "strokeWidth": {"condition": thick, "value": 1.9},
                },
            },
            {
                "mark": {"type": "point", "filled": True, "size": 34, "clip": True},
                "encoding": {
                    "y": _number("mean", y, zero=zero, padding=6),
                    "shape": _by_style(list(curves), _SHAPES),
                    "opacity": {"value": 1 if marked else 0},
                },
            },
            _told_at_once(),
        ],
    }
    columns = ("name", "at", "mean", "half", "seeds")
    return Chart(title, columns, rows, spec, zoom={"x": "at", "y": "mean"})


def _bound(name: str, value: str) -> dict[str, str]:
    """A side of a band. Where one seed is left there is none: it would say that it is certain."""
    return {"calculate": f"datum.half == null ? null : {value}", "as": name}


def stacked(
    title: str,
    parts: Sequence[Colour],
    values: Mapping[float, Mapping[str, float]],
    *,
    y: str,
    text: str = "plain",
) -> Chart:
    """Draws upright bars that are made of parts, one after each experience.

    Args:
        title: What the chart shows.
        parts: From below.
        values: By label of the part, by number of experiences.
        y: Name of the axis at the left.
        text: Name of the format of values.
    """
    rows = [
        [part.label, at, _short(mine[part.label])]
        for at, mine in values.items()
        for part in parts
        if mine.get(part.label, 0.0) > 0
    ]
    whole = {"tickMinStep": 1, "grid": False}
    spec = {
        "height": _HEIGHT,
        "params": [_zoom("x", "y")],
        "transform": [
            *_sides("at", "left", "right", 0.4),
            _order_of(parts, "name"),
            {
                "stack": "value",
                "groupby": ["at"],
                "sort": [{"field": "order"}],
                "as": ["bottom", "top"],
            },
        ],
        "mark": {"type": "bar", "clip": True},
        "encoding": {
            "x": _number("left", "experiences learned", axis=whole, zero=False, padding=4),
            "x2": {"field": "right"},
            "y": _number("bottom", y, nice=True),
            "y2": {"field": "top"},
            "color": _by_name(parts),
            "tooltip": [
                {"field": "at", "title": "experiences"},
                {"field": "name", "title": "part"},
                {"field": "value", "format": FORMATS[text][0]},
            ],
        },
    }
    return Chart(title, ("name", "at", "value"), rows, spec, zoom={"x": "left", "y": "bottom"})


def lying(
    title: str,
    parts: Sequence[Colour],
    values: Mapping[str, Mapping[str, float]],
    *,
    x: str,
    text: str = "plain",
) -> Chart:
    """Draws lying bars that are made of parts, one for each method.

    Args:
        title: What the chart shows.
        parts: From the left.
        values: By label of the part, by method.
        x: Name of the axis below.
        text: Name of the format of values.
    """
    rows = [
        [name, part.label, _short(mine[part.label])]
        for name, mine in values.items()
        for part in parts
        if mine.get(part.label, 0.0) > 0
    ]
    spec = {
        "height": 60 + 30 * len(values),
        "params": [_OFF, _zoom("x")],
        "transform": [_SHOWN, _order_of(parts, "part")],
        "mark": {"type": "bar", "clip": True},
        "encoding": {
            "y": {"field": "name", "type": "nominal", "title": None, "sort": list(values)},
            "x": {**_number("value", x, nice=True), "stack": True},
            "color": _by_name(parts, "part"),
            "order": {"field": "order"},
            "tooltip": [
                {"field": "name", "title": "method"},
                {"field": "part"},
                {"field": "value", "format": FORMATS[text][0]},
            ],
        },
    }
    return Chart(title, ("name", "part", "value"), rows, spec, zoom={"x": "value"})


def matrix(
    title: str,
    values: Sequence[Sequence[float | None]],
    *,
    learned: Sequence[int],
    names: Sequence[str],
    averages: Sequence[float | None],
) -> Chart:
    """Draws an accuracy matrix: a row after each experience, a column for each test.

    A parameter ``after`` of the chart says which row is looked at; later ones are covered.

    Args:
        title: What it shows.
        values: Accuracies from 0 to 1; ``None`` where nothing was measured.
        learned: The column of each row's experience.
        names: Of the columns.
        averages: For each row, the mean accuracy on what was seen.
    """
    rows = []
    seen: set[int] = set()
    for i, row in enumerate(values):
        seen.add(learned[i])
        rows += [
            [i + 1, names[j], j + 1, int(j in seen), _short(value)]
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
        "params": [_zoom("x", "y")],
        "encoding": {
            "x": _number("left", x, axis=across, zero=False),
            "x2": {"field": "right"},
            "y": _number("top", "after experience", axis=down, zero=False, reverse=True),
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
            *_sides("column", "left", "right", 0.5),
            *_sides("after", "top", "bottom", 0.5),
        ],
        "layer": [cells, numbers] if few else [cells],
    }
    columns = ("after", "test", "column", "seen", "accuracy")
    zoom = {"x": "left", "y": "top"}
    return Chart(title, columns, rows, spec, zoom, bitmap=len(rows) > _MOST_SHAPES)


# Of `matrix`; the field of the same name is that of a row.
_AFTER = "after"
# Which names are switched off: axes follow what is left.
_OFF = {"name": "off", "value": []}
_SHOWN = {"filter": "indexof(off, datum.name) < 0"}


def _zoom(*channels: str) -> dict[str, Any]:
    """Dragging moves, the wheel with Ctrl zooms, two clicks go back; a wheel alone scrolls."""
    wheel = "wheel![event.ctrlKey || event.metaKey]"
    select = {"type": "interval", "encodings": channels, "zoom": wheel}
    return {"name": "zoom", "select": select, "bind": "scales"}


def _told_at_once() -> dict[str, Any]:
    """A line at the nearest point of the axis, which tells of all curves there."""
    near = {"type": "point", "fields": ["at"], "nearest": True, "on": "pointerover"}
    return {
        "transform": [{"pivot": "name", "value": "said", "groupby": ["at"], "op": "max"}],
        "params": [{"name": "near", "select": {**near, "clear": "pointerout"}}],
        "mark": {"type": "rule", "tooltip": {"content": "data"}},
        "encoding": {
            "color": {"value": "var(--soft)"},
            "opacity": {"condition": {"param": "near", "empty": False, "value": 0.6}, "value": 0},
        },
    }


def _number(
    field: str, title: str, *, axis: Mapping[str, Any] | None = None, **scale: Any
) -> dict[str, Any]:
    """A channel of numbers; without words about the scale it begins at 0 and ends with the data."""
    scale = {"zero": True, "nice": False, **scale}
    channel = {"field": field, "type": "quantitative", "title": title, "scale": scale}
    return channel if axis is None else {**channel, "axis": axis}


def _sides(field: str, first: str, last: str, reach: float) -> list[dict[str, str]]:
    """Where a bar or a cell begins and ends."""
    return [
        {"calculate": f"datum.{field} - {reach}", "as": first},
        {"calculate": f"datum.{field} + {reach}", "as": last},
    ]


def _by_name(colours: Sequence[Colour], field: str = "name") -> dict[str, Any]:
    scale = {"domain": [c.label for c in colours], "range": [c.value for c in colours]}
    return {"field": field, "type": "nominal", "title": None, "scale": scale}


def _by_style(colours: Sequence[Colour], styles: Sequence[Any]) -> dict[str, Any]:
    chosen = [styles[c.style % len(styles)] for c in colours]
    return {**_by_name(colours), "scale": {"domain": [c.label for c in colours], "range": chosen}}


def _order_of(parts: Sequence[Colour], field: str) -> dict[str, str]:
    """Parts of bars lie in their own order, not in that of the alphabet."""
    labels = json.dumps([part.label for part in parts])
    return {"calculate": f"indexof({labels}, datum.{field})", "as": "order"}


def _short(value: float | None) -> float | None:
    """Six digits: more are not seen, and make the page larger."""
    return None if value is None else float(f"{value:.6g}")
