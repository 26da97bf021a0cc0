"""What all charts share: axes, the frame around the data, and places that tell their numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from avalanche_dgm.experiments.pages import formats
from avalanche_dgm.experiments.pages.markup import Markup, tag

#: Width of a chart; as wide as a phone shows it, so that its text is as large as other text.
NARROW = 340
#: Width of a chart that has two columns.
WIDE = 760
_CHARACTER = 6.8
_TOP, _BOTTOM, _RIGHT = 28, 38, 10


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        label: What it shows, with the unit.
        low: Its least number.
        high: Its largest number.
        ticks: The numbers that are written.
        text: Writes one.
    """

    label: str
    low: float
    high: float
    ticks: Sequence[float]
    text: Callable[[float], str]


def axis(
    label: str,
    values: Sequence[float],
    *,
    low: float | None = None,
    high: float | None = None,
    ticks: int = 5,
    least_step: float = 0.0,
) -> Axis:
    """Makes an axis with round numbers.

    Args:
        label: What it shows, with the unit.
        values: What must lie on it.
        low: Where it begins; by default where a round number is.
        high: Where it ends; likewise.
        ticks: About how many numbers to write.
        least_step: Between two of them; 1 for what is counted.
    """
    least = min(values, default=0.0) if low is None else low
    most = max(values, default=1.0) if high is None else high
    if most - least < 1e-12:
        # All numbers are the same.
        most = least + (abs(least) or 1.0)
    step = max(_round_step((most - least) / ticks), least_step)
    first = math.floor(least / step + 1e-9) if low is None else math.ceil(least / step - 1e-9)
    last = math.ceil(most / step - 1e-9) if high is None else math.floor(most / step + 1e-9)
    # Adding 0 makes a negative zero positive.
    numbers = [i * step + 0.0 for i in range(first, last + 1)]
    return Axis(
        label,
        numbers[0] if low is None else low,
        numbers[-1] if high is None else high,
        numbers,
        lambda value: formats.short(value, step),
    )


def counting_axis(label: str, last: int, *, ticks: int = 10) -> Axis:
    """Makes an axis from 1 to a whole number, with some room on both sides.

    Args:
        label: What it counts.
        last: The largest number.
        ticks: About how many numbers to write.
    """
    step = max(1, math.ceil(last / ticks))
    numbers = [1, *range(step, last + 1, step)] if step > 1 else list(range(1, last + 1))
    return Axis(label, 0.6, last + 0.4, numbers, lambda value: f"{value:.0f}")


def _round_step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least))
    return next(f * power for f in (1, 2, 5, 10) if f * power >= least * (1 - 1e-9))


@dataclass(frozen=True)
class Plot:
    """The area of a chart and its axes, in units of the drawing.

    Attributes:
        x: The axis below.
        y: The axis at the left.
        width: Of the whole drawing.
        height: Of the whole drawing.
    """

    x: Axis
    y: Axis
    width: float = NARROW
    height: float = 268

    @cached_property
    def left(self) -> float:
        """Where the data begin."""
        return 10 + _CHARACTER * max(len(self.y.text(tick)) for tick in self.y.ticks)

    @property
    def right(self) -> float:
        """Where the data end."""
        return self.width - _RIGHT

    @property
    def top(self) -> float:
        """Where the data end above."""
        return _TOP

    @property
    def bottom(self) -> float:
        """Where the data begin below."""
        return self.height - _BOTTOM

    def at_x(self, value: float) -> float:
        """Where a number of the axis below lies."""
        part = (value - self.x.low) / (self.x.high - self.x.low)
        return self.left + part * (self.right - self.left)

    def at_y(self, value: float) -> float:
        """Where a number of the axis at the left lies."""
        part = (value - self.y.low) / (self.y.high - self.y.low)
        return self.bottom - part * (self.bottom - self.top)

    def frame(self) -> Markup:
        """Draws grid, numbers and names of the axes."""
        parts = [tag("text", self.y.label, class_="name", x=0, y=12)]
        for tick in self.y.ticks:
            y = f"{self.at_y(tick):.1f}"
            kind = "zero" if tick == 0 else "grid"
            parts.append(
                tag("line", class_=kind, x1=f"{self.left:.1f}", x2=f"{self.right:.1f}", y1=y, y2=y)
            )
            text = self.y.text(tick)
            parts.append(
                tag("text", text, class_="tick end", x=f"{self.left - 6:.1f}", y=y, dy="0.34em")
            )
        for tick in self.x.ticks:
            x, text = f"{self.at_x(tick):.1f}", self.x.text(tick)
            parts.append(tag("text", text, class_="tick mid", x=x, y=f"{self.bottom + 15:.1f}"))
        middle = (self.left + self.right) / 2
        label = tag("text", self.x.label, class_="name mid", x=f"{middle:.1f}", y=self.height - 5)
        return tag("g", *parts, label, aria_hidden="true")

    def inside(self, *content: object, margin: float = 0) -> Markup:
        """Shows content where the data are, and cuts off what is outside.

        Args:
            *content: What to show.
            margin: How far outside it may be.
        """
        x, y = self.left - margin, self.top - margin
        width, height = self.right - x + margin, self.bottom - y + margin
        box = f"{x:.1f} {y:.1f} {width:.1f} {height:.1f}"
        x0, y0, w, h = box.split()
        return tag("svg", *content, x=x0, y=y0, width=w, height=h, viewBox=box, overflow="hidden")

    def column(self, x: float, reach: float, text: str, names: Sequence[str]) -> Markup:
        """Makes an invisible column that tells numbers; see `tell`.

        Args:
            x: Middle of the column, on the axis below.
            reach: How far it reaches to each side, on that axis.
            text: What it tells.
            names: Of the colours of the lines after the first.
        """
        low, high = (
            max(self.left, self.at_x(x - reach)),
            min(self.right, self.at_x(x + reach)),
        )
        return tag(
            "rect",
            tag("title", text),
            class_="hit",
            data_keys=" ".join(names) or None,
            x=f"{low:.1f}",
            y=f"{self.top:.1f}",
            width=f"{max(high - low, 1):.1f}",
            height=f"{self.bottom - self.top:.1f}",
        )


def tell(head: str, entries: Sequence[tuple[str, str]]) -> str:
    """Writes what a place in a chart tells: a line of its own for each entry.

    Args:
        head: Where it is.
        entries: Names and numbers.
    """
    return "\n".join([head, *(f"{name}\t{number}" for name, number in entries)])


def drawing(
    title: str,
    *content: object,
    width: float,
    height: float,
    described: str = "",
    kind: str = "",
    columns: int | None = None,
) -> Markup:
    """Puts a chart together.

    Args:
        title: What it shows, for those who cannot see it.
        *content: What is drawn.
        width: In units of the drawing.
        height: In units of the drawing.
        described: The gist of it.
        kind: Further classes for the style sheet.
        columns: For a chart of rows and columns of cells, the number of columns.
    """
    return tag(
        "svg",
        tag("title", title),
        tag("desc", described) if described else None,
        *content,
        class_=f"chart {kind}".strip(),
        role="img",
        viewBox=f"0 0 {width:g} {height:g}",
        data_columns=columns,
    )
