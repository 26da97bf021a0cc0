"""Accuracy matrices as cells whose strength is the accuracy."""

from __future__ import annotations

from collections.abc import Sequence

from avalanche_dgm.experiments.pages.canvas import NARROW, drawing, tell
from avalanche_dgm.experiments.pages.formats import NOTHING, share
from avalanche_dgm.experiments.pages.markup import Markup, tag

#: Up to so many columns a number has room in a cell.
MOST_NUMBERED = 13
#: Up to so many cells each tells its number; of more, each row tells its mean.
MOST_CELLS = 900
_TOP, _LEFT, _BOTTOM = 22, 30, 36
# Between these, dark text can be read on a cell on either background; below and above, the text
# has the colour that the background asks for.
_LOW, _HIGH = 0.55, 0.75

Matrix = Sequence[Sequence[float | None]]


def heat_map(
    title: str,
    matrix: Matrix,
    *,
    learned: Sequence[int],
    names: Sequence[str],
    averages: Sequence[float | None],
) -> Markup:
    """Draws an accuracy matrix: a row after each experience, a column for each test.

    Args:
        title: What it shows.
        matrix: Accuracies from 0 to 1; ``None`` where nothing was measured.
        learned: The column of each row's experience.
        names: Of the columns.
        averages: For each row, the mean accuracy on what was seen.
    """
    columns = len(names)
    width = (NARROW - _LEFT - 2) / columns
    height = min(width, 30.0) if columns > 3 else 30.0
    rows = []
    seen: set[int] = set()
    for i, values in enumerate(matrix):
        seen.add(learned[i])
        where = f"after {i + 1} ({names[learned[i]]})"
        cells = _cells(values, _TOP + i * height, width, height, where, names, seen)
        if columns * len(matrix) > MOST_CELLS:
            cells.append(_row_hit(where, averages[i], _TOP + i * height, height))
        mean = NOTHING if (average := averages[i]) is None else share(average)
        note = f"{where}: average of seen {mean}"
        rows.append(tag("g", *cells, class_="matrix-row", data_after=i + 1, data_note=note))
    total = _TOP + len(matrix) * height + _BOTTOM
    return drawing(
        title,
        _names(len(matrix), names, width, height),
        tag("g", *rows, class_="hits"),
        width=NARROW,
        height=round(total),
        described=f"Average of seen at the end: {share(averages[-1])}" if averages else "",
        kind="heat",
        columns=columns,
    )


def _cells(
    values: Sequence[float | None],
    y: float,
    width: float,
    height: float,
    where: str,
    names: Sequence[str],
    seen: set[int],
) -> list[Markup]:
    few = len(names) <= MOST_NUMBERED
    telling = len(names) ** 2 <= MOST_CELLS
    gap = 1.0 if few else 0.0
    cells = []
    for j, value in enumerate(values):
        x = _LEFT + j * width
        known = "seen" if j in seen else "unseen"
        told = tell(where, [(f"test on {names[j]}", share(value))]) if telling else None
        cells.append(
            tag(
                "rect",
                tag("title", told) if told else None,
                class_=f"cell {known}{' hit' if told else ''}",
                x=f"{x:.1f}",
                y=f"{y:.1f}",
                width=f"{width - gap:.1f}",
                height=f"{height - gap:.1f}",
                fill_opacity=f"{value or 0:.2f}",
            )
        )
        if few and value is not None:
            strength = "low" if value < _LOW else "high" if value > _HIGH else "middle"
            cells.append(
                tag(
                    "text",
                    f"{100 * value:.0f}",
                    class_=f"value {strength} {known}",
                    x=f"{x + (width - gap) / 2:.1f}",
                    y=f"{y + (height - gap) / 2:.1f}",
                    dy="0.35em",
                )
            )
    return cells


def _row_hit(where: str, average: float | None, y: float, height: float) -> Markup:
    return tag(
        "rect",
        tag("title", tell(where, [("average of seen", share(average))])),
        class_="hit",
        x=_LEFT,
        y=f"{y:.1f}",
        width=NARROW - _LEFT,
        height=f"{height:.1f}",
    )


def _names(rows: int, names: Sequence[str], width: float, height: float) -> Markup:
    columns = len(names)
    short = columns <= MOST_NUMBERED and all(len(name) <= 4 for name in names)
    labels = names if short else [str(j + 1) for j in range(columns)]
    parts = [tag("text", "after experience", class_="name", x=0, y=12)]
    # As many numbers as have room.
    every = max(1, -(-16 // int(max(1, height))))
    for i in range(0, rows, every):
        y = _TOP + (i + 0.5) * height
        parts.append(tag("text", i + 1, class_="tick end", x=_LEFT - 6, y=f"{y:.1f}", dy="0.34em"))
    bottom = _TOP + rows * height
    every = max(1, -(-24 // int(max(1, width))))
    for j in range(0, columns, every):
        x = _LEFT + (j + 0.5) * width
        parts.append(
            tag("text", labels[j], class_="tick mid", x=f"{x:.1f}", y=f"{bottom + 14:.1f}")
        )
    what = "test on the experience of" if short else "test on experience"
    middle = (_LEFT + NARROW) / 2
    parts.append(tag("text", what, class_="name mid", x=middle, y=f"{bottom + 31:.1f}"))
    return tag("g", *parts, aria_hidden="true")
