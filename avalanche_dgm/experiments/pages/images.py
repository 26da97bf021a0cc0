"""The pictures of runs within a page: no more of them than there is room for."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
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
# Of PNG files, beside which lossy ones may be smaller.
_COLOURS = 64
# The page draws this one itself, from the numbers.
_DRAWN = (keys.MATRIX,)


@dataclass(frozen=True)
class Encoded:
    """A picture as text.

    Attributes:
        source: A data URL.
        kind: How it is encoded.
        width: In pixels.
        height: In pixels.
        smaller: Whether it has fewer pixels than the original.
    """

    source: str
    kind: str
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
        shown: How many of them are in the page.
        shrunk: How many of these are smaller than the original.
        broken: How many could not be read.
    """

    frames: dict[Path, dict[str, list[Frame]]]
    found: int = 0
    shown: int = 0
    shrunk: int = 0
    broken: int = 0


#: The pictures of one run, by key of the panel.
_Series = dict[str, list[Picture]]
#: `encode`, which may remember what it made.
_Encoder = Callable[..., "Encoded | None"]


def embed(runs: Sequence[Run], budget: int = BUDGET) -> Album:
    """Prepares the pictures of runs; each run gets an equal part of the budget, or what it needs.

    Args:
        runs: The runs.
        budget: Characters that all pictures may take.
    """
    album = Album({})
    # Some are asked for again: to see how large they are, and then to have them.
    encoder = cache(encode)
    chosen: dict[Path, _Series] = {}
    for run in runs:
        series: _Series = {}
        for picture in run.pictures:
            if picture.key not in _DRAWN:
                series.setdefault(picture.key, []).append(picture)
                album.found += 1
        if series:
            chosen[run.folder] = {key: _thin(mine) for key, mine in series.items()}
    needs = {folder: _estimate(series, 0, encoder) for folder, series in chosen.items()}
    left = budget
    # Those that need least first: what they leave is there for the others.
    for i, folder in enumerate(sorted(needs, key=lambda folder: needs[folder])):
        frames = _fit(chosen[folder], left // (len(needs) - i), album, encoder)
        left -= _size(frames)
        album.frames[folder] = frames
    shown = [f for mine in album.frames.values() for frames in mine.values() for f in frames]
    album.shown = len(shown)
    album.shrunk = sum(frame.image.smaller for frame in shown)
    return album


def encode(path: Path, level: int, kind: str | None = None) -> Encoded | None:
    """Makes a picture ready for the page.

    Args:
        path: The file.
        level: How small it is to be, from 0 on.
        kind: How to encode it; ``None`` for what takes least.

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
    made = {each: _written(image, each, quality) for each in ([kind] if kind else ["png", lossy])}
    best = min(made, key=lambda each: len(made[each]))
    text = base64.b64encode(made[best]).decode("ascii")
    return Encoded(f"data:image/{best};base64,{text}", best, image.width, image.height, smaller)


def _written(image: Image.Image, kind: str, quality: int) -> bytes:
    buffer = io.BytesIO()
    if kind == "png":
        few = image.quantize(_COLOURS, method=Image.Quantize.FASTOCTREE)
        few.save(buffer, format="PNG", compress_level=9)
    else:
        image.save(buffer, format=kind.upper(), quality=quality)
    return buffer.getvalue()


def _thin(pictures: Sequence[Picture]) -> list[Picture]:
    """So many pictures at most, evenly spaced; the first and the last are among them."""
    n = len(pictures)
    if n <= MOST_FRAMES:
        return list(pictures)
    return [pictures[round(i * (n - 1) / (MOST_FRAMES - 1))] for i in range(MOST_FRAMES)]


def _estimate(series: _Series, level: int, encoder: _Encoder) -> int:
    """About how many characters pictures take: the last of each panel, times their number."""
    total = 0
    for pictures in series.values():
        last = encoder(pictures[-1].path, level)
        total += len(pictures) * len(last.source) if last else 0
    return total


def _fit(series: _Series, budget: int, album: Album, encoder: _Encoder) -> dict[str, list[Frame]]:
    """Encodes the pictures of a run, within a budget."""
    levels = range(len(_LEVELS))
    level = next((i for i in levels if _estimate(series, i, encoder) <= budget), levels[-1])
    frames: dict[str, list[Frame]] = {}
    for key, pictures in series.items():
        # What suits the last picture of a panel suits those before it.
        last = encoder(pictures[-1].path, level)
        for picture in pictures:
            image = encoder(picture.path, level, last.kind if last else None)
            if image is None:
                album.broken += 1
            else:
                frame = Frame(picture.at, picture.caption, image, picture.axis)
                frames.setdefault(key, []).append(frame)
    while _size(frames) > budget:
        _drop(frames)
    return frames


def _size(frames: Mapping[str, Sequence[Frame]]) -> int:
    return sum(len(frame.image.source) for mine in frames.values() for frame in mine)


def _drop(frames: dict[str, list[Frame]]) -> None:
    """Leaves out every second picture of the largest series, or the largest of single pictures."""
    several = {key: mine for key, mine in frames.items() if len(mine) > 1}
    largest = max(several or frames, key=lambda key: _size({key: frames[key]}))
    if several:
        # From the end, so that the last one stays.
        frames[largest] = frames[largest][::-2][::-1]
    else:
        del frames[largest]
