"""Renders and writes the page."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from pathlib import Path

import jinja2

from avalanche_dgm.dashboards.drawing import PALETTE
from avalanche_dgm.experiments.pages import formats, overview, sections
from avalanche_dgm.experiments.pages.blocks import colour_of
from avalanche_dgm.experiments.pages.charts import Chart
from avalanche_dgm.experiments.pages.groups import Group, group_runs
from avalanche_dgm.experiments.pages.images import MOST_FRAMES, Album, embed
from avalanche_dgm.experiments.pages.loading import find_runs
from avalanche_dgm.experiments.pages.quantities import SCORES
from avalanche_dgm.experiments.provenance import package_version
from avalanche_dgm.files import write_text

_NAME = "report.html"
# Lighter colours for dark mode.
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
# Paul Tol's muted colours for parts, in light and dark mode; distinct from those of methods.
_PARTS = {
    "#CC6677": "#D9808F",
    "#332288": "#8A7FE0",
    "#DDCC77": "#DDCC77",
    "#117733": "#3DA864",
    "#88CCEE": "#88CCEE",
    "#882255": "#C05A8C",
    "#44AA99": "#5BC2B1",
    "#999933": "#B3B34D",
    "#AA4499": "#C46BB6",
}
# As in recorded pictures of masks.
_MASKS = {"reserved": 1, "reused": 2, "held": 5}
# The ranges of viridis that are visible in light and in dark mode.
_LIGHT_RANGE, _DARK_RANGE = (0.0, 0.88), (0.22, 1.0)


def default_page(folders: Sequence[Path]) -> Path:
    """The default file of a page: in the folder of the runs if there is one folder."""
    if len(folders) == 1 and folders[0].is_dir():
        return folders[0] / _NAME
    return Path(_NAME)


def write_page(folders: Sequence[Path], path: Path, *, title: str | None = None) -> int:
    """Writes the page about all runs in some folders, recursively.

    Args:
        folders: Run folders, or folders above them.
        path: The file to write.
        title: Heading of the page; by default methods and streams.

    Returns:
        The number of runs.

    Raises:
        ConfigError: A folder has no run.
        StorageError: The file cannot be written.
    """
    runs, notes = find_runs(folders)
    groups, left_out = group_runs(runs)
    album = embed([run for group in groups for run in group.runs])
    notes += left_out + _about_pictures(album)
    write_text(path, render(groups, album, notes, title or _title(groups)))
    return len(runs)


def render(groups: Sequence[Group], album: Album, notes: Sequence[str], title: str) -> str:
    """Renders the page as HTML."""
    drawn: list[Chart] = []

    def number(chart: Chart) -> int:
        drawn.append(chart)
        return len(drawn) - 1

    def numbers() -> str:
        data = [dataclasses.asdict(chart) for chart in drawn]
        text = json.dumps(data, separators=(",", ":"), allow_nan=False)
        return text.replace("<", "\\u003c")

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["plural"] = formats.plural
    scripts = [_library(), _asset("page.js")]
    text = environment.get_template("page.html").render(
        title=title,
        notes=notes,
        groups=[
            (group, overview.overview_of(group), sections.sections_of(group, album))
            for group in groups
        ],
        methods=len({row.label for group in groups for row in group.rows}),
        runs=sum(len(group.runs) for group in groups),
        scores=SCORES,
        run_columns=overview.RUN_COLUMNS,
        colour_of=colour_of,
        number=number,
        numbers=numbers,
        style=_asset("page.css") + _colours(groups),
        scripts=scripts,
        digests=[_digest(script) for script in scripts],
        made=_made(album),
    )
    # Names of folders may have lone surrogates, which cannot be encoded.
    return text.lstrip().encode(errors="replace").decode()


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def _library() -> str:
    """Vega-Lite and its dependencies as one script; bundling takes seconds."""
    import vl_convert

    bundle = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # It has a default.
    # A function, so that its top-level names are not global in the page.
    return f"(() => {{{bundle}}})();".replace("</script", "<\\/script")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _colours(groups: Sequence[Group]) -> str:
    """The colours of charts as CSS variables, for light and dark mode."""
    rows = {row.index for group in groups for row in group.rows}
    n = len(PALETTE)
    found = [(f"r{i}", PALETTE[i % n], _PALETTE_DARK[i % n]) for i in sorted(rows)]
    found += [(f"p{i}", *pair) for i, pair in enumerate(_PARTS.items())]
    found += [(f"mask-{name}", PALETTE[i], _PALETTE_DARK[i]) for name, i in _MASKS.items()]
    # One scale for all streams, since colours are relative.
    style = _block(":root", found)
    for group in groups:
        scales = [
            (f"{prefix}{i}", light, dark)
            for prefix, count in (("t", len(group.tasks)), ("l", len(group.labels)))
            for i, (light, dark) in enumerate(
                zip(_scale(count, *_LIGHT_RANGE), _scale(count, *_DARK_RANGE), strict=True)
            )
        ]
        style += _block(f"#{group.name}", scales)
    return style


def _block(selector: str, colours: Sequence[tuple[str, str, str]]) -> str:
    entries = (f"--{name}:light-dark({light},{dark});" for name, light, dark in colours)
    return f"{selector}{{{''.join(entries)}}}\n"


def _scale(n: int, low: float, high: float) -> Iterator[str]:
    import matplotlib

    viridis = matplotlib.colormaps["viridis"]
    for i in range(n):
        yield matplotlib.colors.to_hex(viridis(low + (high - low) * i / max(1, n - 1)))


def _title(groups: Sequence[Group]) -> str:
    methods = list(dict.fromkeys(row.label for group in groups for row in group.rows))
    shown = ", ".join(methods) if len(methods) <= 4 else f"{len(methods)} methods"
    streams = list(dict.fromkeys(group.stream for group in groups))
    return f"{shown} on {', '.join(streams) if len(streams) <= 2 else f'{len(streams)} streams'}"


def _about_pictures(album: Album) -> list[str]:
    notes = []
    shown = len(album.all())
    left_out = album.found - shown - album.broken
    if left_out:
        notes.append(
            f"{shown} of {formats.plural(album.found, 'picture')} are shown: at most"
            f" {MOST_FRAMES} of a panel of a run, evenly spaced, within the page's size limit. The"
            f" other {left_out} are in the run folders."
        )
    if album.broken:
        notes.append(f"{formats.plural(album.broken, 'picture')} could not be read.")
    return notes


def _made(album: Album) -> str:
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    made = f"Made {now} by avalanche-dgm {package_version('avalanche-dgm')} report."
    smaller = sum(frame.image.smaller for frame in album.all())
    if not smaller:
        return made
    pictures = formats.plural(smaller, "picture")
    return f"{made} With fewer pixels than in the run folders: {pictures}."
