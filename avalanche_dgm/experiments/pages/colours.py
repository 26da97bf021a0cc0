"""The colours of a page, as variables of its style sheet, on light and on dark ground."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import matplotlib

from avalanche_dgm.dashboards.drawing import PALETTE
from avalanche_dgm.experiments.pages.aggregate import Group
from avalanche_dgm.experiments.pages.memory import labels_of

# The palette's colours, lighter: black and the deep ones vanish on dark ground.
_PALETTE_DARK = (
    "#4AA3DF",
    "#F28A45",
    "#2FC79A",
    "#E3A3C8",
    "#F5BE4D",
    "#9AD8F7",
    "#E9EDF1",
    "#C2A54A",
)
# Paul Tol's muted colours, for parts of a whole: none is the colour of a method.
_PARTS = (
    "#CC6677",
    "#332288",
    "#DDCC77",
    "#117733",
    "#88CCEE",
    "#882255",
    "#44AA99",
    "#999933",
    "#AA4499",
)
_PARTS_DARK = (
    "#D9808F",
    "#8A7FE0",
    "#DDCC77",
    "#3DA864",
    "#88CCEE",
    "#C05A8C",
    "#5BC2B1",
    "#B3B34D",
    "#C46BB6",
)
# As in the pictures of masks that runs write.
_MASKS = {"reserved": 1, "reused": 2, "held": 5}
# The parts of viridis that can be seen on light, and on dark ground.
_LIGHT_RANGE, _DARK_RANGE = (0.0, 0.88), (0.22, 1.0)


def style(groups: Sequence[Group]) -> str:
    """Writes the variables that charts name.

    Args:
        groups: What the page is about.
    """
    indices = sorted({row.index for group in groups for row in group.rows})
    light = _block(":root", _fixed(indices, PALETTE, _PARTS))
    dark = _block(":root", _fixed(indices, _PALETTE_DARK, _PARTS_DARK))
    for group in groups:
        counts = {"t": len(group.tasks), "l": len(labels_of(group))}
        light += _block(f"#{group.name}", _scales(counts, *_LIGHT_RANGE))
        dark += _block(f"#{group.name}", _scales(counts, *_DARK_RANGE))
    return f"{light}@media screen and (prefers-color-scheme:dark){{{dark}}}"


def _block(selector: str, colours: Iterator[tuple[str, str]]) -> str:
    return f"{selector}{{{''.join(f'--{name}:{colour};' for name, colour in colours)}}}\n"


def _fixed(
    indices: Sequence[int], palette: Sequence[str], parts: Sequence[str]
) -> Iterator[tuple[str, str]]:
    for index in indices:
        yield f"r{index}", palette[index % len(palette)]
    for i, colour in enumerate(parts):
        yield f"p{i}", colour
    for name, index in _MASKS.items():
        yield f"mask-{name}", palette[index]


def _scales(counts: dict[str, int], low: float, high: float) -> Iterator[tuple[str, str]]:
    viridis = matplotlib.colormaps["viridis"]
    for prefix, n in counts.items():
        for i in range(n):
            where = low + (high - low) * i / max(1, n - 1)
            yield f"{prefix}{i}", matplotlib.colors.to_hex(viridis(where))
