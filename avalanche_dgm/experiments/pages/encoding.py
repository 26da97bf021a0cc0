"""One picture as text within a page, as small as its kind allows."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

#: Longest side in pixels, and quality from 0 to 100, from the best on.
LEVELS = ((900, 82), (640, 76), (480, 68), (340, 58))
_COLOURS = 64
_GREYS = 32


@dataclass(frozen=True)
class Encoded:
    """A picture as text.

    Attributes:
        source: A data URL.
        kind: "png", or what is smaller where there are many colours.
        width: In pixels.
        height: In pixels.
        smaller: Whether it has fewer pixels than the original.
    """

    source: str
    kind: str
    width: int
    height: int
    smaller: bool


def encode(path: Path, level: int, *, kind: str | None = None) -> Encoded | None:
    """Makes a picture ready for the page.

    Args:
        path: The file.
        level: Position in `LEVELS`.
        kind: How to write it; ``None`` for what takes least.

    Returns:
        ``None`` if the file is not a whole picture, as after an interruption.
    """
    from PIL import Image

    side, quality = LEVELS[level]
    try:
        # Other formats may start a program, whatever the file is called.
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # That it is so large that opening it may be an attack.
            with Image.open(path, formats=["PNG"]) as opened:
                image = opened.convert("RGB")
    except Exception:  # Of a file that is no whole picture, Pillow raises anything.
        return None
    smaller = max(image.size) > side
    if smaller:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    kinds = [kind] if kind else ["png", _lossy()]
    made = {each: _written(image, each, quality) for each in kinds}
    best = min(made, key=lambda each: len(made[each]))
    text = base64.b64encode(made[best]).decode("ascii")
    return Encoded(f"data:image/{best};base64,{text}", best, image.width, image.height, smaller)


def transparency(rows: Sequence[Sequence[float]], colour: tuple[int, int, int]) -> str:
    """Makes a picture of one colour, a pixel for each number: 0 is clear, 1 is not.

    Args:
        rows: Numbers from 0 to 1.
        colour: Red, green and blue, 0 to 255.

    Returns:
        A data URL.
    """
    from PIL import Image as Images

    size = len(rows[0]), len(rows)
    opacity = Images.frombytes("L", size, bytes(round(255 * v) for row in rows for v in row))
    image = Images.merge("RGBA", [*Images.new("RGB", size, colour).split(), opacity])
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _lossy() -> str:
    from PIL import features

    return "webp" if features.check("webp") else "jpeg"


def _written(image: Image, kind: str, quality: int) -> bytes:
    buffer = io.BytesIO()
    if kind == "png":
        _few_colours(image).save(buffer, format="PNG", compress_level=9)
    else:
        image.save(buffer, format=kind.upper(), quality=quality)
    return buffer.getvalue()


def _few_colours(image: Image) -> Image:
    """The picture in few greys, or in few colours of its own."""
    from PIL import Image as Images
    from PIL import ImageChops

    red, green, blue = image.split()
    if ImageChops.difference(red, green).getbbox() or ImageChops.difference(red, blue).getbbox():
        return image.quantize(_COLOURS, method=Images.Quantize.FASTOCTREE)
    step = 255 / (_GREYS - 1)
    return red.point([round(round(grey / step) * step) for grey in range(256)])
