"""Accuracy matrices as cells whose strength is the accuracy."""

from __future__ import annotations

from collections.abc import Sequence

from avalanche_dgm.experiments.pages.canvas import NARROW, drawing, tell
from avalanche_dgm.experiments.pages.encoding import transparency
from avalanche_dgm.experiments.pages.formats import share
from avalanche_dgm.experiments.pages.markup import Markup, tag

#: Up to so many columns a number has room in a cell.
MOST_NUMBERED = 13
#: Up to so many cells each tells its number; of more, they are a picture, and rows tell their mean.
MOST_CELLS = 900
_TOP, _LEFT, _BOTTOM = 22, 30, 36
# Between these, dark text can be read on a cell on either background; below and above, the text
# has the colour that the background asks for.
_LOW, _HIGH = 0.55, 0.75
# As the style sheet has it.
_PALE = 0.38
# Between the blues of cells on light and on dark ground.
_BLUE = (44, 127, 200)

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
    columns, many = len(names), len(names) * len(matrix) > MOST_CELLS
    width = (NARROW - _LEFT - 2) / columns
    height = min(width, 30.0)
    rows = []
    seen: set[int] = set()
    strengths = []
    for i, values in enumerate(matrix):
        seen.add(learned[i])
        y = _TOP + i * height
        where = f"after {i + 1} ({names[learned[i]]})"
        if many:
            drawn = _cover(where, averages[i], y, height)
            strengths.append(
                [(v or 0.0) * (1 if j in seen else _PALE) for j, v in enumerate(values)]
            )
        else:
            drawn = _cells(values, y, (width, height), where, names, seen)
        note = f"{where}: average of seen {share(averages[i])}"
        rows.append(tag("g", drawn, class_="matrix-row", data_after=i + 1, data_note=note))
    total = _TOP + len(matrix) * height + _BOTTOM
    return drawing(
        title,
        _names(len(matrix), names, width, height),
        _picture(strengths, height) if many else None,
        tag("g", *rows, class_="hits"),
        width=NARROW,
        height=round(total),
        described=f"Average of seen at the end: {share(averages[-1])}" if averages else "",
        kind="heat many" if many else "heat",
        columns=1 if many else columns,
    )


def _cells(
    values: Sequence[float | None],
    y: float,
    size: tuple[float, float],
    where: str,
    names: Sequence[str],
    seen: set[int],
) -> list[Markup]:
    few = len(names) <= MOST_NUMBERED
    gap = 1.0 if few else 0.0
    width, height = (side - gap for side in size)
    cells = []
    for j, value in enumerate(values):
        x = _LEFT + j * size[0]
        known = "seen" if j in seen else "unseen"
        cells.append(
            tag(
                "rect",
                tag("title", tell(where, [(f"test on {names[j]}", share(value))])),
                class_=f"cell hit {known}",
                x=f"{x:.1f}",
                y=f"{y:.1f}",
                width=f"{width:.1f}",
                height=f"{height:.1f}",
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
                    x=f"{x + width / 2:.1f}",
                    y=f"{y + height / 2:.1f}",
                    dy="0.35em",
                )
            )
    return cells


def _picture(strengths: Sequence[Sequence[float]], height: float) -> Markup:
    return tag(
        "image",
        href=transparency(strengths, _BLUE),
        x=_LEFT,
        y=_TOP,
        width=NARROW - _LEFT - 2,
        height=f"{len(strengths) * height:.1f}",
        preserveAspectRatio="none",
    )


def _cover(where: str, average: float | None, y: float, height: float) -> list[Markup]:
    """What covers a row of the picture, and what tells of it."""
    place = {"x": _LEFT, "y": f"{y:.1f}", "width": NARROW - _LEFT - 2, "height": f"{height:.1f}"}
    told = tag("title", tell(where, [("average of seen", share(average))]))
    return [tag("rect", class_="cover", **place), tag("rect", told, class_="hit", **place)]


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
