"""The section of pictures: what is imagined after each experience, and other panels."""

from __future__ import annotations

from collections.abc import Sequence

from avalanche_dgm.dashboards import keys
from avalanche_dgm.experiments.pages import formats
from avalanche_dgm.experiments.pages.aggregate import Group, Row
from avalanche_dgm.experiments.pages.images import Album, Frame
from avalanche_dgm.experiments.pages.layout import Section, card, cards, slider
from avalanche_dgm.experiments.pages.loading import Run
from avalanche_dgm.experiments.pages.markup import Markup, tag

# Below so many pixels a picture is enlarged pixel by pixel.
_SMALL = 400
# As many times as wide as high: a chart, which needs room.
_BROAD = 1.7
# What a slider sets, and when a picture was made.
_WHEN = {
    keys.EXPERIENCE: ("After experience", "after experience {}"),
    keys.STEP: ("After updates", "after {} updates"),
    keys.SLEEP: ("After sleep", "after sleep {}"),
}
_TITLES = {
    keys.SAMPLES: (
        "Samples",
        "What is imagined of every class after each experience, of the same noise each time.",
    ),
    keys.RECONSTRUCTIONS: (
        "Reconstructions",
        "Test images of learned classes, and what the generator makes of them.",
    ),
    keys.LATENTS: ("Latents", "Latents of test images in two dimensions, a colour for each class."),
    keys.MASKS: (
        "Use of masks",
        "Shares of each mask that experiences reserved, reuse, leave free.",
    ),
}


def pictures_section(group: Group, album: Album) -> Section | None:
    """The pictures of a group, one panel below the other.

    Args:
        group: The runs.
        album: Their pictures.
    """
    found = dict.fromkeys(key for run in group.runs for key in album.frames.get(run.folder, {}))
    known = [key for key in _TITLES if key in found]
    ordered = [*known, *(key for key in found if key not in _TITLES)]
    panels = [_panel(group, album, key, i) for i, key in enumerate(ordered)]
    return Section("pictures", "Pictures", tag("div", panels)) if panels else None


def _panel(group: Group, album: Album, key: str, number: int) -> Markup:
    title, note = _TITLES.get(key, (key, None))
    first: list[Markup] = []
    others: list[Markup] = []
    for row in group.rows:
        runs = [run for run in row.runs if key in album.frames.get(run.folder, {})]
        for i, run in enumerate(runs):
            made = _run(row, run, album.frames[run.folder][key], title)
            (others if i else first).append(made)
    name = f"{group.name}-pictures-{number}"
    series = [album.frames.get(run.folder, {}).get(key, []) for run in group.runs]
    frames = [frame for mine in series for frame in mine]
    control = None
    if any(len(mine) > 1 for mine in series):
        last = max(frame.at for frame in frames)
        label, _ = _when(frames[0].axis)
        control = slider(f"{name}-after", last, label, controls=name)
    # Earlier pictures have fewer rows.
    image = max(frames, key=lambda frame: frame.at).image
    broad = image.width > _BROAD * image.height
    more = (
        tag("details", tag("summary", f"Further seeds ({len(others)})"), cards(*others))
        if others
        else None
    )
    return tag(
        "div",
        tag("h4", title, class_="panel"),
        tag("p", note, class_="note") if note else None,
        control,
        tag("div", cards(*first), more, id=name, class_="broad-cards" if broad else "small-cards"),
    )


def _run(row: Row, run: Run, frames: Sequence[Frame], title: str) -> Markup:
    name = f"{row.label}, seed {run.seed}"
    shown = []
    for i, frame in enumerate(frames):
        when = _when(frame.axis)[1].format(formats.plain(frame.at))
        caption = f"{when}: {frame.caption}" if frame.caption else when
        picture = tag(
            "img",
            src=frame.image.source,
            alt=f"{title}, {name}, {caption}",
            width=frame.image.width,
            height=frame.image.height,
            class_="small" if max(frame.image.width, frame.image.height) < _SMALL else None,
        )
        last = i == len(frames) - 1
        shown.append(
            tag(
                "figure",
                picture,
                tag("figcaption", caption),
                data_at=frame.at,
                class_="now" if last else None,
            )
        )
    return card(name, tag("div", shown, class_="frames", tabindex=0), row=row)


def _when(axis: str) -> tuple[str, str]:
    return _WHEN.get(axis, (axis, f"at {formats.literal(axis)} {{}}"))
