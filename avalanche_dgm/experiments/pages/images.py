"""The pictures of runs within a page: no more of them than there is room for."""

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

#: Characters that all pictures of a page may take.
BUDGET = 3_300_000
#: Pictures of one panel of one run that are shown at most.
MOST_FRAMES = 16
# Longest side in pixels, and quality from 0 to 100, from the best on.
_LEVELS = ((1200, 82), (900, 80), (640, 76), (480, 68), (340, 58))
# How many pictures of a panel, and their level, from what takes most on.
_STEPS = (
    *((MOST_FRAMES, level) for level in range(len(_LEVELS))),
    *((most, len(_LEVELS) - 1) for most in (8, 4, 2, 1, 0)),
)
# Of PNG files, beside which lossy ones may be smaller.
_COLOURS = 64
# The page draws this one itself, from the numbers.
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
    """A picture in the page, and where on its axis it belongs."""

    at: int
    caption: str
    image: Encoded
    axis: str


@dataclass
class Album:
    """The pictures of all runs.

    Attributes:
        frames: By folder of the run, by key of the panel.
        found: Pictures that the runs have.
        broken: How many could not be read.
    """

    frames: dict[Path, dict[str, list[Frame]]]
    found: int = 0
    broken: int = 0

    def all(self) -> list[Frame]:
        """All that are in the page."""
        return [f for panels in self.frames.values() for mine in panels.values() for f in mine]


#: `encode`, which remembers what it made.
_Encoder = Callable[[Path, int], "Encoded | None"]


def embed(runs: Sequence[Run], budget: int = BUDGET) -> Album:
    """Prepares the pictures of runs: all alike, as large and as many as there is room for.

    Args:
        runs: The runs.
        budget: Characters that all pictures may take.
    """
    encoder = cache(encode)
    # Without pictures there is always room.
    albums = (_album(runs, most, level, encoder, budget) for most, level in _STEPS)
    album = next(filter(None, albums), Album({}))
    album.found = sum(p.key not in _DRAWN for run in runs for p in run.pictures)
    return album


def _album(
    runs: Sequence[Run], most: int, level: int, encoder: _Encoder, budget: int
) -> Album | None:
    """So many pictures of each panel at most, of one size; ``None`` if there is no room."""
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
    """So many pictures at most, evenly spaced; the last is always among them."""
    n = min(len(pictures), most)
    return [pictures[-1 - round(i * (len(pictures) - 1) / max(1, n - 1))] for i in range(n)][::-1]


def encode(path: Path, level: int) -> Encoded | None:
    """Makes a picture ready for the page.

    Args:
        path: The file.
        level: How small it is to be, from 0 on.

    Returns:
        ``None`` if the file is not a whole picture, as after an interruption.
    """
    side, quality = _LEVELS[level]
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
    lossy = "webp" if features.check("webp") else "jpeg"
    made = {each: _written(image, each, quality) for each in ("png", lossy)}
    best = min(made, key=lambda each: len(made[each]))
    text = base64.b64encode(made[best]).decode("ascii")
    return Encoded(f"data:image/{best};base64,{text}", image.width, image.height, smaller)


def _written(image: Image.Image, kind: str, quality: int) -> bytes:
    buffer = io.BytesIO()
    if kind == "png":
        few = image.quantize(_COLOURS, method=Image.Quantize.FASTOCTREE)
        few.save(buffer, format="PNG", compress_level=9)
    else:
        image.save(buffer, format=kind.upper(), quality=quality)
    return buffer.getvalue()
