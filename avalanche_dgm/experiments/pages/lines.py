"""Line charts with bands of confidence, and the numbers that they are drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from avalanche_dgm.experiments.pages.aggregate import Curve, Row
from avalanche_dgm.experiments.pages.canvas import NARROW, WIDE, Axis, Plot, drawing, tell
from avalanche_dgm.experiments.pages.formats import NOTHING, Format, plain
from avalanche_dgm.experiments.pages.intervals import Estimate
from avalanche_dgm.experiments.pages.markup import Markup, tag

DASHES = (None, "7 4", "2 3", "8 3 2 3")
# Outlines around a point: circle, square, triangle, diamond and so on.
_MARKERS = (
    "m-3.2 0a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0 -6.4 0",
    "m-2.9 -2.9h5.8v5.8h-5.8z",
    "m0 -3.8l3.6 6.4h-7.2z",
    "m0 -4.2l3.6 4.2l-3.6 4.2l-3.6 -4.2z",
    "m0 3.8l3.6 -6.4h-7.2z",
    "m-3.8 0l6.4 -3.6v7.2z",
    "m3.8 0l-6.4 -3.6v7.2z",
    "m-1.3 -4h2.6v2.7h2.7v2.6h-2.7v2.7h-2.6v-2.7h-2.7v-2.6h2.7z",
)
_MOST_MARKERS = 24
_MOST_TOLD = 14


@dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
        label: Its name.
        name: Of its colour in the style sheet.
        curve: Its points.
        style: Number of its dashes and marker; ``None`` for neither.
        toggle: Name of what switches it off, or ``None``.
    """

    label: str
    name: str
    curve: Curve
    style: int | None = None
    toggle: str | None = None

    @classmethod
    def of(cls, row: Row, curve: Curve) -> Line:
        """The line of a row, in the row's colour and style."""
        name = f"r{row.index}"
        return cls(row.label, name, curve, style_of(row.index), name)


def style_of(index: int) -> int:
    """Number of dashes and marker of a row; rows of the same colour differ in both."""
    return index + index // len(_MARKERS)


def line_chart(
    title: str,
    lines: Sequence[Line],
    x: Axis,
    y: Axis,
    text: Format,
    *,
    wide: bool = False,
    head: str = "after {} experiences",
) -> Markup:
    """Draws lines and their bands.

    Args:
        title: What the chart shows.
        lines: The lines, not all empty.
        x: Axis below.
        y: Axis at the left.
        text: Writes a value.
        wide: Add a wide drawing, which takes the narrow one's place where there is room.
        head: What a point is called, with "{}" for its number.
    """
    sizes = [(NARROW, 268), (WIDE, 296)] if wide else [(NARROW, 268)]
    kinds = ["if-narrow", "if-wide"] if wide else [""]
    ends = (f"{line.label} {amount(line.curve[-1][1], text)}" for line in lines if line.curve)
    described = "; ".join(["At the end: " + next(ends, "nothing"), *ends])
    return tag(
        "div",
        *(
            _draw(title, described, lines, Plot(x, y, *size), text, head, kind)
            for size, kind in zip(sizes, kinds, strict=True)
        ),
    )


def _draw(
    title: str,
    described: str,
    lines: Sequence[Line],
    plot: Plot,
    text: Format,
    head: str,
    kind: str,
) -> Markup:
    drawn = [_line(line, plot) for line in lines if line.curve]
    bands = [_band(line, plot) for line in lines]
    return drawing(
        title,
        plot.frame(),
        plot.inside(bands),
        plot.inside(drawn, margin=5),
        tag("g", _columns(lines, plot, text, head), class_="hits"),
        width=plot.width,
        height=plot.height,
        described=described,
        kind=kind,
    )


def _line(line: Line, plot: Plot) -> Markup:
    points = [(plot.at_x(x), plot.at_y(value.mean)) for x, value in line.curve]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    style = line.style
    dash = None if style is None else DASHES[style % len(DASHES)]
    colour = f"color:var(--{line.name})"
    parts = [tag("path", class_="line", d=path, stroke_dasharray=dash)]
    if (style is not None and len(points) <= _MOST_MARKERS) or len(points) == 1:
        shape = _MARKERS[(style or 0) % len(_MARKERS)]
        marks = "".join(f"M{x:.1f} {y:.1f}{shape}" for x, y in points)
        parts.append(tag("path", class_="mark", d=marks))
    kind = "mean" if line.name == "ink" else None
    return tag("g", *parts, class_=kind, style=colour, data_row=line.toggle)


def _band(line: Line, plot: Plot) -> Markup | None:
    parts = []
    # Where one seed is left there is no band: one that narrows would say that it is certain.
    for known, points in groupby(line.curve, key=lambda point: point[1].half is not None):
        if known:
            mine = list(points)
            above = [(plot.at_x(x), plot.at_y(value.high)) for x, value in mine]
            below = [(plot.at_x(x), plot.at_y(value.low)) for x, value in reversed(mine)]
            parts.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in [*above, *below]) + "z")
    if not parts:
        return None
    path, colour = "".join(parts), f"color:var(--{line.name})"
    return tag("path", class_="band", d=path, style=colour, data_row=line.toggle)


def _columns(lines: Sequence[Line], plot: Plot, text: Format, head: str) -> list[Markup]:
    points = sorted({x for line in lines for x, _ in line.curve})
    gap = min((b - a for a, b in pairwise(points)), default=1.0)
    columns = []
    for x in points:
        here = [(line, dict(line.curve)[x]) for line in lines if x in dict(line.curve)]
        shown = here[:_MOST_TOLD]
        entries = [(line.label, amount(value, text)) for line, value in shown]
        if len(here) > len(shown):
            entries.append((f"and {len(here) - len(shown)} more", ""))
        names = [line.name for line, _ in shown]
        where = head.format(plain(x)).replace(" 1 experiences", " 1 experience")
        columns.append(plot.column(x, gap / 2, tell(where, entries), names))
    return columns


def amount(value: Estimate, text: Format) -> str:
    """Writes a mean, and its interval if there is one.

    Args:
        value: The estimate.
        text: Writes a number.
    """
    if value.half is None:
        return text(value.mean)
    return f"{text(value.mean)} ± {text(value.half)}"


def sample(line: Line) -> Markup:
    """Draws a short piece of a line, for a legend.

    Args:
        line: The line.
    """
    style = line.style or 0
    dash = DASHES[style % len(DASHES)]
    mark = tag("path", class_="mark", d=f"M15 7{_MARKERS[style % len(_MARKERS)]}")
    stroke = tag("path", class_="line", d="M1 7H29", stroke_dasharray=dash)
    return tag(
        "svg",
        stroke,
        mark,
        class_="key",
        viewBox="0 0 30 14",
        aria_hidden="true",
        style=f"color:var(--{line.name})",
    )


def numbers(lines: Sequence[Line], x_label: str, text: Format) -> Markup:
    """Makes a table of a chart's numbers, folded away.

    Args:
        lines: The chart's lines.
        x_label: What its axis counts.
        text: Writes a value.
    """
    points = sorted({x for line in lines for x, _ in line.curve})
    heading = tag("tr", tag("th", x_label, scope="col"), *(_heading(line) for line in lines))
    rows = []
    for x in points:
        cells = [dict(line.curve).get(x) for line in lines]
        written = [tag("td", NOTHING if v is None else amount(v, text)) for v in cells]
        rows.append(tag("tr", tag("th", plain(x), scope="row"), *written))
    table = tag("table", tag("thead", heading), tag("tbody", *rows))
    return tag(
        "details", tag("summary", "Numbers"), tag("div", table, class_="scroll"), class_="numbers"
    )


def _heading(line: Line) -> Markup:
    return tag("th", line.label, scope="col")
