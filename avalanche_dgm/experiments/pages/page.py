"""Puts the page together and writes it."""

from __future__ import annotations

import base64
import datetime
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from avalanche_dgm.experiments.pages import colours
from avalanche_dgm.experiments.pages.accuracy import curves_section, tasks_section
from avalanche_dgm.experiments.pages.aggregate import Group, group_runs
from avalanche_dgm.experiments.pages.cost import more_section, time_section, training_section
from avalanche_dgm.experiments.pages.gallery import pictures_section
from avalanche_dgm.experiments.pages.images import MOST_FRAMES, Album, embed
from avalanche_dgm.experiments.pages.layout import Section, plural
from avalanche_dgm.experiments.pages.lines import Line, sample
from avalanche_dgm.experiments.pages.loading import find_runs
from avalanche_dgm.experiments.pages.markup import Markup, join, tag
from avalanche_dgm.experiments.pages.matrices import matrices_section
from avalanche_dgm.experiments.pages.memory import masks_section, memory_section, replay_section
from avalanche_dgm.experiments.pages.overview import result_section, runs_section
from avalanche_dgm.experiments.provenance import package_version
from avalanche_dgm.files import write_text

_NAME = "report.html"
# Nothing is loaded, even if something in the page asked for it, and no script runs but the page's
# own. A hash cannot allow the style of single elements, their colours.
_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{}';"
    " base-uri 'none'; form-action 'none'"
)


def default_page(folders: Sequence[Path]) -> Path:
    """Where a page is written that was given no place: with the runs if they have one folder.

    Args:
        folders: Run folders, or folders above them.
    """
    if len(folders) == 1 and folders[0].is_dir():
        return folders[0] / _NAME
    return Path(_NAME)


def write_page(folders: Sequence[Path], path: Path, *, title: str | None = None) -> int:
    """Writes the page about all runs in some folders and below them.

    Args:
        folders: Run folders, or folders above them.
        path: The file to write.
        title: Heading of the page; by default methods and streams.

    Returns:
        The number of runs.

    Raises:
        ConfigError: A folder holds no run.
        StorageError: The file cannot be written.
    """
    runs, notes = find_runs(folders)
    groups, left_out = group_runs(runs)
    album = embed([run for group in groups for run in group.runs])
    notes += left_out + _about_pictures(album)
    page = render(groups, album, notes, title or _title(groups))
    # Names may hold halves of characters, which no file can.
    write_text(path, page.encode(errors="replace").decode())
    return len(runs)


def render(groups: Sequence[Group], album: Album, notes: Sequence[str], title: str) -> str:
    """Makes the page.

    Args:
        groups: What it is about.
        album: Pictures of the runs.
        notes: What readers have to know.
        title: Its heading.
    """
    script = _asset("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY.format(digest)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("link", rel="icon", href="data:,"),
        tag("style", Markup(_asset("style.css")), Markup(colours.style(groups))),
        tag("script", Markup(script)),
    )
    body = tag(
        "body",
        _banner(groups, notes, title),
        tag("main", (_group(group, album) for group in groups)),
        tag("footer", tag("p", _made(album))),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _banner(groups: Sequence[Group], notes: Sequence[str], title: str) -> Markup:
    methods = len({row.label for group in groups for row in group.rows})
    counts = (
        plural(methods, "method"),
        plural(sum(len(group.runs) for group in groups), "run"),
        plural(len(groups), "stream"),
    )
    several = len(groups) > 1
    links = (tag("a", group.title, href=f"#{group.name}") for group in groups)
    return tag(
        "header",
        tag("h1", title),
        tag("p", join(counts, " · "), class_="lead") if several else None,
        tag("ul", (tag("li", note) for note in notes), class_="notes") if notes else None,
        tag("nav", links, class_="streams", aria_label="Streams") if several else None,
        class_="banner",
    )


def _group(group: Group, album: Album) -> Markup:
    found = [
        result_section(group),
        curves_section(group),
        tasks_section(group),
        matrices_section(group),
        pictures_section(group, album),
        replay_section(group),
        memory_section(group),
        masks_section(group),
        time_section(group),
        training_section(group),
        more_section(group),
        runs_section(group),
    ]
    sections = [section for section in found if section is not None]
    seeds = sorted({run.seed for run in group.runs})
    facts = (
        plural(group.length, "experience"),
        plural(len(group.rows), "method"),
        plural(len(seeds), "seed"),
        plural(len(group.runs), "run"),
    )
    return tag(
        "section",
        tag("h2", group.title),
        tag("p", join(facts, " · "), class_="lead"),
        tag("div", _rows(group), _links(group, sections), class_="bar"),
        (_section(group, section) for section in sections),
        class_="group",
        id=group.name,
    )


def _rows(group: Group) -> Markup:
    """The legend of all charts; with the script its entries switch methods off and on."""
    chips = (
        tag(
            "button",
            sample(Line.of(row, [])),
            row.label,
            type="button",
            aria_pressed="true",
            data_toggle=f"r{row.index}",
        )
        for row in group.rows
    )
    return tag("div", chips, class_="chips", role="group", aria_label="Methods")


def _links(group: Group, sections: Sequence[Section]) -> Markup:
    links = (tag("a", s.title, href=f"#{group.name}-{s.name}") for s in sections)
    return tag("nav", links, aria_label=f"Sections, {group.title}")


def _section(group: Group, section: Section) -> Markup:
    name = f"{group.name}-{section.name}"
    heading = tag("h3", section.title, id=f"{name}-title")
    return tag("section", heading, section.content, id=name, aria_labelledby=f"{name}-title")


def _title(groups: Sequence[Group]) -> str:
    methods = list(dict.fromkeys(row.label for group in groups for row in group.rows))
    shown = ", ".join(methods) if len(methods) <= 4 else f"{len(methods)} methods"
    streams = list(dict.fromkeys(group.stream for group in groups))
    return f"{shown} on {', '.join(streams) if len(streams) <= 2 else f'{len(streams)} streams'}"


def _about_pictures(album: Album) -> list[str]:
    notes = []
    left_out = album.found - album.shown - album.broken
    if left_out:
        notes.append(
            f"{album.shown} of {plural(album.found, 'picture')} are shown: at most {MOST_FRAMES} of"
            " a panel of a run, evenly spaced, and no more than keep the page small. The other"
            f" {left_out} are in the run folders."
        )
    if album.broken:
        notes.append(f"{plural(album.broken, 'picture')} could not be read.")
    return notes


def _made(album: Album) -> str:
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    made = f"Made {now} by avalanche-dgm {package_version('avalanche-dgm')} report."
    if not album.shrunk:
        return made
    smaller = plural(album.shrunk, "picture")
    return f"{made} In the page with fewer pixels than in the run folders: {smaller}."
