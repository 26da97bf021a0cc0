"""Images of panels, drawn without Matplotlib's global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from avalanche_dgm.dashboards.sinks import Pixels
from avalanche_dgm.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours: distinguishable with every common colour vision.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8A6D00")
#: Colours of the parts of a mask, from the bottom: new, shared, used by earlier tasks only, free.
MASK_COLOURS = {
    "reserved": PALETTE[1],
    "reused": PALETTE[2],
    "held": PALETTE[5],
    "free": "0.88",
}
_DPI = 120
#: Approximate longest side of a sample in an image; smaller samples are enlarged by an integer.
_SIDE = 32
_GAP = 2
_GREY = 128


def new_figure(width: float, height: float) -> Figure:
    """Makes an empty figure of a size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: str | Path) -> None:
    """Writes a figure as a PNG file; creates the folder if missing."""
    canvas: Any = figure.canvas
    with replacing(path, sync=False) as file:
        # `savefig` draws twice, to lay out parts that have been laid out here.
        canvas.print_png(file)


def pixels_of(figure: Figure) -> Pixels:
    """Renders a figure to a uint8 array (H, W, 3)."""
    canvas: Any = figure.canvas
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def plain_axes(axes: Axes) -> None:
    """Removes the top and right spines, and draws a light grid."""
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def grid(
    rows: Sequence[NDArray[Any]], *, low: float | None = None, high: float | None = None
) -> Pixels:
    """Makes a grid of samples, with one row per array.

    Args:
        rows: Arrays (n, C, H, W) with any n; unless C is 3, only the first channel is used.
        low: Intensity of black; ``None`` for the minimum.
        high: Intensity of white; ``None`` for the maximum.

    Returns:
        uint8 array (h, w, 3), with samples enlarged to about 32 pixels if they are smaller.
    """
    low = min(float(row.min()) for row in rows) if low is None else low
    high = max(float(row.max()) for row in rows) if high is None else high
    height, width = rows[0].shape[-2:]
    factor = max(1, round(_SIDE / max(height, width)))
    height, width = height * factor, width * factor
    columns = max(len(row) for row in rows)
    shape = (len(rows) * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3)
    canvas = np.full(shape, _GREY, dtype=np.uint8)
    for r, row in enumerate(rows):
        images = row if row.shape[1] == 3 else row[:, :1]
        unit = np.clip((images - low) / ((high - low) or 1.0), 0, 1)
        values = (unit * 255 + 0.5).astype(np.uint8).transpose(0, 2, 3, 1)
        values = values.repeat(factor, axis=1).repeat(factor, axis=2)
        for c, image in enumerate(values):
            y, x = r * (height + _GAP), c * (width + _GAP)
            canvas[y : y + height, x : x + width] = image
    return canvas


def heat_map(matrix: NDArray[Any], names: Sequence[str], after: Sequence[str]) -> Pixels:
    """Draws an accuracy matrix with PIL, a hundred times as fast as with Matplotlib.

    Args:
        matrix: Float array (T, S), 0 to 1; NaN where not measured. Rows are learned experiences,
            columns test experiences.
        names: Names of the S test experiences.
        after: Names of the T learned experiences.

    Returns:
        uint8 array (H, W, 3).
    """
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    steps, tests = matrix.shape
    cell = 34 if max(steps, tests) <= 24 else max(6, 800 // max(steps, tests))
    font: Any = ImageFont.load_default()
    left = 70 + max(int(font.getlength(name)) for name in after)
    # Long names are rotated.
    widest = max(int(font.getlength(name)) for name in names)
    upright = widest > cell - 4
    top = 24 + (widest if upright else 14)
    picture = Image.new("RGB", (left + tests * cell + 8, top + steps * cell + 8), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((left, 4), "accuracy on the test images of", fill="black", font=font)
    draw.text((4, top + 2), "after", fill="black", font=font)
    interval = max(1, -(-14 // cell))
    for j in range(0, tests, interval):
        x = left + j * cell
        if upright:
            label = Image.new("RGB", (widest + 2, 14), "white")
            ImageDraw.Draw(label).text((0, 0), names[j], fill="black", font=font)
            picture.paste(label.rotate(90, expand=True), (x + cell // 2 - 7, top - widest - 4))
        else:
            draw.text((x + cell // 2, top - 8), names[j], fill="black", font=font, anchor="mm")
    for i in range(0, steps, interval):
        y = top + i * cell + cell // 2
        draw.text((left - 6, y), after[i], fill="black", font=font, anchor="rm")
    colours = matplotlib.colormaps["viridis"](np.nan_to_num(matrix), bytes=True)
    for (i, j), value in np.ndenumerate(matrix):
        if not np.isfinite(value):
            continue
        x, y = left + j * cell, top + i * cell
        fill = tuple(int(c) for c in colours[i, j, :3])
        draw.rectangle((x, y, x + cell - 2, y + cell - 2), fill=fill)
        if cell >= 26:
            middle, text = (x + cell // 2 - 1, y + cell // 2 - 1), f"{value:.2f}"
            ink = "black" if value > 0.6 else "white"
            draw.text(middle, text.removeprefix("0"), fill=ink, font=font, anchor="mm")
    return np.asarray(picture)


def scatter(points: NDArray[Any], labels: NDArray[Any]) -> Pixels:
    """Draws points in two dimensions, coloured by label.

    Args:
        points: Float array (n, 2).
        labels: int array (n,).
    """
    figure = new_figure(5.2, 4.4)
    axes = figure.add_subplot()
    draw_points(axes, points, labels)
    return pixels_of(figure)


def draw_points(axes: Axes, points: NDArray[Any], labels: NDArray[Any]) -> None:
    """Draws points in two dimensions, coloured by label, with the label at the points' median.

    Args:
        axes: The axes to draw on.
        points: Float array (n, 2).
        labels: int array (n,).
    """
    import matplotlib

    distinct = sorted(set(labels.tolist()))
    for i, label in enumerate(distinct):
        group = points[labels == label]
        colour = matplotlib.colormaps["tab10" if len(distinct) <= 10 else "tab20"](i % 20)
        axes.scatter(group[:, 0], group[:, 1], s=9, color=colour, label=str(label), linewidths=0)
        x, y = np.median(group, axis=0)
        axes.text(x, y, str(label), fontsize=10, ha="center", va="center", weight="bold")
    axes.set_xticks([])
    axes.set_yticks([])


def usage_bars(shares: Mapping[str, Sequence[Mapping[str, float]]]) -> Pixels:
    """Draws the fractions of each mask that were reserved, reused and free after each experience.

    Args:
        shares: By layer, for each experience a mapping from part to fraction.
    """
    figure = new_figure(2.6 * len(shares) + 1.6, 3.0)
    panels = figure.subplots(1, len(shares), squeeze=False)[0]
    for axes, (layer, entries) in zip(panels, shares.items(), strict=True):
        x = np.arange(1, len(entries) + 1)
        parts = {name: [e.get(name, 0.0) for e in entries] for name in MASK_COLOURS}
        stacked_bars(axes, x, parts)
        axes.set_title(layer, fontsize=9)
        axes.set_xlabel("experiences learned")
        axes.set_ylim(0, 1.02)
    panels[0].set_ylabel("share of the mask's entries")
    panels[-1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    return pixels_of(figure)


def stacked_bars(axes: Axes, x: NDArray[Any], parts: Mapping[str, ArrayLike]) -> None:
    """Draws stacked vertical bars of the parts of a mask.

    Args:
        axes: The axes to draw on.
        x: Positions of the bars (n,).
        parts: Heights (n,) by part, a key of `MASK_COLOURS`.
    """
    bottom = np.zeros(len(x))
    for part, colour in MASK_COLOURS.items():
        label = "reserved before, not used" if part == "held" else part
        heights = np.asarray(parts[part], dtype=float)
        axes.bar(x, heights, bottom=bottom, color=colour, width=0.85, label=label)
        bottom += heights
