"""The pictures of runs in a page, reduced to a maximum size."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, features

from avalanche_dgm.dashboards import keys
from avalanche_dgm.experiments.pages.loading import Picture, Run

#: Maximum number of characters of all pictures of a page.
BUDGET = 3_300_000
#: Maximum number of pictures of one panel of one run.
MOST_FRAMES = 16
# Longest side in pixels, and quality from 0 to 100, best first.
_LEVELS = ((1200, 82), (900, 80), (640, 76), (480, 68), (340, 58))
# Number of pictures of a panel, and their level, largest first.
_STEPS = (
    *((MOST_FRAMES, level) for level in range(len(_LEVELS))),
    *((most, len(_LEVELS) - 1) for most in (8, 4, 2, 1, 0)),
)
# Colours of PNG files; a lossy file is used if it is smaller.
_COLOURS = 64
# Drawn by the page from the numbers.
_DRAWN = (keys.MATRIX,)


@dataclass(frozen=True)
class Encoded:
    """A picture as text.

    Attributes:
        source: A data URL.
        width: In pixels.
        height: In pixels.
        smaller: Whether it has fewer pixels than the original.
    """

    source: str
    width: int
    height: int
    smaller: bool


@dataclass(frozen=True)
class Frame:
    """A picture in the page, and its point on the axis."""

    at: int
    caption: str
    image: Encoded
    axis: str


@dataclass
class Album:
    """The pictures of all runs.

    Attributes:
        frames: By folder of the run, by key of the panel.
        found: Number of pictures of the runs.
        broken: Number of pictures that could not be read.
    """

    frames: dict[Path, dict[str, list[Frame]]]
    found: int = 0
    broken: int = 0

    def all(self) -> list[Frame]:
        """All pictures in the page."""
        return [f for panels in self.frames.values() for frames in panels.values() for f in frames]


#: `encode` with a cache.
_Encoder = Callable[[Path, int], "Encoded | None"]


def embed(runs: Sequence[Run], budget: int = BUDGET) -> Album:
    """Encodes the pictures of runs, of equal size, as large and as many as the budget permits.

    Args:
        runs: The runs.
        budget: Maximum number of characters of all pictures.
    """
    encoder = cache(encode)
    # The last step, without pictures, always fits.
    albums = (_album(runs, most, level, encoder, budget) for most, level in _STEPS)
    album = next(filter(None, albums), Album({}))
    album.found = sum(p.key not in _DRAWN for run in runs for p in run.pictures)
    return album


def _album(
    runs: Sequence[Run], most: int, level: int, encoder: _Encoder, budget: int
) -> Album | None:
    """Encodes at most ``most`` pictures of each panel; ``None`` if they exceed the budget."""
    album = Album({})
    for run in runs:
        series: dict[str, list[Picture]] = {}
        for picture in run.pictures:
            if picture.key not in _DRAWN:
                series.setdefault(picture.key, []).append(picture)
        for key, pictures in series.items():
            for picture in _thin(pictures, most):
                image = encoder(picture.path, level)
                if image is None:
                    album.broken += 1
                else:
                    budget -= len(image.source)
                    if budget < 0:
                        # At once: the rest need not be made ready in this size.
                        return None
                    frame = Frame(picture.at, picture.caption, image, picture.axis)
                    album.frames.setdefault(run.folder, {}).setdefault(key, []).append(frame)
    return album


def _thin(pictures: Sequence[Picture], most: int) -> list[Picture]:
    """Selects at most ``most`` pictures, evenly spaced and including the last."""
    n = min(len(pictures), most)
    return [pictures[-1 - round(i * (len(pictures) - 1) / max(1, n - 1))] for i in range(n)][::-1]


def encode(path: Path, level: int) -> Encoded | None:
    """Encodes a picture for the page.

    Args:
        path: The file.
        level: Index of size and quality, from 0, the largest.

    Returns:
        ``None`` if the file is incomplete, for example after an interruption.
    """
    side, quality = _LEVELS[level]
    try:
        # Reading other formats may start a program, whatever the file name.
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Too large: possibly a decompression bomb.
            with Image.open(path, formats=["PNG"]) as opened:
                image = opened.convert("RGB")
    except Exception:  # Pillow raises anything for broken files.
        return None
    smaller = max(image.size) > side
    if smaller:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    lossy = "webp" if features.check("webp") else "jpeg"
    made = {each: _save(image, each, quality) for each in ("png", lossy)}
    best = min(made, key=lambda each: len(made[each]))
    text = base64.b64encode(made[best]).decode("ascii")
    return Encoded(f"data:image/{best};base64,{text}", image.width, image.height, smaller)


def _save(image: Image.Image, kind: str, quality: int) -> bytes:
    buffer = io.BytesIO()
    if kind == "png":
        few = image.quantize(_COLOURS, method=Image.Quantize.FASTOCTREE)
        few.save(buffer, format="PNG", compress_level=9)
    else:
        image.save(buffer, format=kind.upper(), quality=quality)
    return buffer.getvalue()
