"""Parts that sections are made of."""

from __future__ import annotations

from dataclasses import dataclass

from avalanche_dgm.experiments.pages.aggregate import Row
from avalanche_dgm.experiments.pages.lines import Line, sample
from avalanche_dgm.experiments.pages.markup import Markup, tag


@dataclass(frozen=True)
class Section:
    """A section of a group.

    Attributes:
        name: Identifier within the group.
        title: Its heading.
        content: What it shows.
    """

    name: str
    title: str
    content: Markup


def card(
    title: object,
    *content: object,
    note: str | None = None,
    size: str | None = None,
    row: Row | None = None,
) -> Markup:
    """Makes a box with a heading.

    Args:
        title: The heading.
        *content: What is in the box.
        note: A sentence below the heading.
        size: "wide" for two columns, "full" for all; ``None`` for one.
        row: The row that the box is about: it is switched off with it.
    """
    mark = sample(Line.of(row, [])) if row is not None else None
    return tag(
        "article",
        tag("h4", mark, title),
        tag("p", note, class_="note") if note else None,
        *content,
        class_=f"card {size or ''}".strip(),
        data_row=None if row is None else f"r{row.index}",
    )


def cards(*content: object) -> Markup:
    """Puts boxes side by side where there is room.

    Args:
        *content: The boxes.
    """
    return tag("div", *content, class_="cards")


def slider(name: str, last: int, label: str, *, controls: str) -> Markup:
    """Makes a slider over experiences; the script shows it, since it does nothing without it.

    Args:
        name: Identifier in the page.
        last: The largest number; the smallest is 1, and the slider stands at the largest.
        label: What it sets.
        controls: Identifier of what it changes.
    """
    return tag(
        "div",
        tag("label", label, for_=name),
        tag("input", type="range", id=name, min=1, max=last, value=last, data_controls=controls),
        tag("output", last, for_=name),
        class_="slider needs-script",
    )


def plural(n: int, what: str) -> str:
    """Writes a number of things.

    Args:
        n: The number.
        what: One of them.
    """
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
