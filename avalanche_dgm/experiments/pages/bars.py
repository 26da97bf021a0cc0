"""Bars that are made of parts: upright ones over an axis, and lying ones with a name each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from avalanche_dgm.experiments.pages.canvas import NARROW, Axis, Plot, drawing, tell
from avalanche_dgm.experiments.pages.formats import Format
from avalanche_dgm.experiments.pages.markup import Markup, tag

_MOST_TOLD = 14
# Of a lying bar: its name, itself, the space below it.
_NAME, _THICK, _SPACE = 18, 16, 12


@dataclass(frozen=True)
class Part:
    """What bars are made of.

    Attributes:
        label: Its name.
        name: Of its colour in the style sheet.
    """

    label: str
    name: str


@dataclass(frozen=True)
class Bar:
    """A lying bar.

    Attributes:
        label: Its name.
        values: By label of the part.
        toggle: Name of what switches it off, or ``None``.
    """

    label: str
    values: Mapping[str, float]
    toggle: str | None = None


def stacked(
    title: str,
    parts: Sequence[Part],
    values: Mapping[int, Mapping[str, float]],
    x: Axis,
    y: Axis,
    text: Format,
) -> Markup:
    """Draws upright bars.

    Args:
        title: What the chart shows.
        parts: From below.
        values: By label of the part, by number of the bar on the axis below.
        x: Axis below.
        y: Axis at the left, from 0.
        text: Writes a value.
    """
    plot = Plot(x, y)
    reach = (plot.at_x(1) - plot.at_x(0)) * 0.4
    shapes: dict[str, list[str]] = {part.name: [] for part in parts}
    hits = []
    for at, mine in values.items():
        bottom, left = 0.0, plot.at_x(at) - reach
        for part in parts:
            value = mine.get(part.label, 0.0)
            if value <= 0:
                continue
            above, below = plot.at_y(bottom + value), plot.at_y(bottom)
            bottom += value
            sides = f"h{2 * reach:.1f}v{above - below:.1f}h{-2 * reach:.1f}z"
            shapes[part.name].append(f"M{left:.1f} {below:.1f}{sides}")
        # The topmost part first, as it is seen.
        told, names = _told(list(reversed(parts)), mine, text)
        experiences = "experience" if at == 1 else "experiences"
        head = f"after {at} {experiences}: {text(sum(mine.values()))}"
        hits.append(plot.column(at, 0.5, tell(head, told), names))
    # One shape for all pieces of a part: many bars of many parts would make a page large.
    bars = [
        tag("path", class_="bar-part", d="".join(pieces), style=f"color:var(--{name})")
        for name, pieces in shapes.items()
        if pieces
    ]
    totals = [f"{at}: {text(sum(mine.values()))}" for at, mine in values.items()]
    return drawing(
        title,
        plot.frame(),
        plot.inside(bars),
        tag("g", hits, class_="hits"),
        width=plot.width,
        height=plot.height,
        described=f"In all, after experience {', '.join(totals)}" if len(totals) <= 20 else "",
    )


def lying(title: str, parts: Sequence[Part], bars: Sequence[Bar], text: Format) -> Markup:
    """Draws lying bars below one another, each below its name and before its sum.

    Args:
        title: What the chart shows.
        parts: From the left.
        bars: The bars.
        text: Writes a value.
    """
    longest = max((sum(bar.values.values()) for bar in bars), default=0.0) or 1.0
    room = NARROW - 4
    rows = []
    for i, bar in enumerate(bars):
        top, left = i * (_NAME + _THICK + _SPACE), 0.0
        total = text(sum(bar.values.values()))
        drawn = [
            tag("text", bar.label, class_="label", x=0, y=top + 13),
            tag("text", total, class_="label end strong", x=room, y=top + 13),
            tag("rect", class_="track", x=0, y=top + _NAME, width=room, height=_THICK, rx=3),
        ]
        for part in parts:
            length = bar.values.get(part.label, 0.0) / longest * room
            if length > 0:
                drawn.append(
                    tag(
                        "rect",
                        class_="bar-part",
                        x=f"{left:.1f}",
                        y=top + _NAME,
                        width=f"{length:.1f}",
                        height=_THICK,
                        style=f"color:var(--{part.name})",
                    )
                )
                left += length
        told, names = _told(parts, bar.values, text)
        hit = tag(
            "rect",
            tag("title", tell(f"{bar.label}: {total}", told)),
            class_="hit",
            data_keys=" ".join(names) or None,
            x=0,
            y=top,
            width=room,
            height=_NAME + _THICK + 4,
        )
        rows.append(tag("g", drawn, hit, data_row=bar.toggle))
    height = len(bars) * (_NAME + _THICK + _SPACE)
    sums = "; ".join(f"{bar.label} {text(sum(bar.values.values()))}" for bar in bars)
    return drawing(
        title, tag("g", rows, class_="hits"), width=NARROW, height=height, described=sums
    )


def _told(
    parts: Sequence[Part], values: Mapping[str, float], text: Format
) -> tuple[list[tuple[str, str]], list[str]]:
    there = [part for part in parts if values.get(part.label, 0.0) > 0]
    shown = there[:_MOST_TOLD]
    told = [(part.label, text(values[part.label])) for part in shown]
    if len(there) > len(shown):
        told.append((f"and {len(there) - len(shown)} more", ""))
    return told, [part.name for part in shown]


def legend(parts: Sequence[Part]) -> Markup:
    """Lists parts and their colours.

    Args:
        parts: The parts.
    """
    entries = [
        tag("li", tag("i", style=f"background:var(--{part.name})"), part.label) for part in parts
    ]
    return tag("ul", *entries, class_="legend")
