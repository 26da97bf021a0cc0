"""The sections of a group, with charts, pictures and tables of its runs."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from avalanche_dgm.dashboards import keys
from avalanche_dgm.experiments.pages import charts
from avalanche_dgm.experiments.pages.blocks import (
    Block,
    Card,
    Legend,
    Section,
    after_each,
    line_card,
    lines,
)
from avalanche_dgm.experiments.pages.encodings import Colour
from avalanche_dgm.experiments.pages.groups import Curve, Group, Points, Row
from avalanche_dgm.experiments.pages.images import Album
from avalanche_dgm.experiments.pages.loading import Run
from avalanche_dgm.experiments.pages.quantities import AVERAGE, QUANTITIES
from avalanche_dgm.experiments.pages.resources import (
    masks_block,
    more_block,
    time_block,
    training_block,
)
from avalanche_dgm.experiments.results import Step
from avalanche_dgm.metrics.functional import Estimate

# Pictures of a larger aspect ratio (charts) are two columns wide.
_BROAD = 1.7


def sections_of(group: Group, album: Album) -> list[Section]:
    """All sections with measurements."""
    found = {
        "Accuracy": [_accuracy(group)],
        "Tasks": [_tasks(group)],
        "Matrices": [_matrices(group)],
        "Pictures": _pictures(group, album),
        "Replay": [_replay(group)],
        "Memory": [Block(lines(group, QUANTITIES["Memory"], only_used=True))],
        "Masks": [masks_block(group)],
        "Time": [time_block(group)],
        "Training": [training_block(group)],
        "More numbers": [more_block(group)],
    }
    kept = {title: [b for b in blocks if b.cards] for title, blocks in found.items()}
    return [
        Section(title.split()[0].lower(), title, blocks) for title, blocks in kept.items() if blocks
    ]


# Accuracy.


def _accuracy(group: Group) -> Block:
    several = any(len(row.runs) > 1 for row in group.rows)
    band = (
        "Shaded: 95 % t confidence interval of the mean over seeds, clipped to possible values"
        " or the chart ends; a line without a band is one seed."
    )
    alone = "One seed each: no confidence intervals."
    note = band if several else alone
    return Block(
        [
            replace(card, wide=True, note=note) if card.title == AVERAGE.title else card
            for card in lines(group, QUANTITIES["Accuracy"])
        ]
    )


def _tasks(group: Group) -> Block:
    colours = [Colour(name, f"t{j}") for j, name in enumerate(group.tasks)]
    average = Colour("average of seen", "ink", strong=True)
    cards = []
    for row in group.rows:
        found = {c: _means(row, partial(_of_task, j)) for j, c in enumerate(colours)}
        found[average] = _means(row, AVERAGE.points)
        title = f"Accuracy on each task, {row.label}"
        for card in line_card(title, found, y="test accuracy", text="share"):
            cards.append(replace(card, title=row.label, row=row))
    return Block(cards, legend=Legend("test on", [*colours, average]))


def _of_task(j: int, run: Run) -> list[tuple[float, float | None]]:
    first = next((i for i, step in enumerate(run.steps) if step.experience == j), len(run.steps))
    return [(i + 1, run.steps[i].accuracy[j]) for i in range(first, len(run.steps))]


def _means(row: Row, points: Points) -> Curve:
    """Means without intervals, since bands of many lines would overlap."""
    return [(x, Estimate(value.mean, value.n)) for x, value in row.curve(points)]


def _matrices(group: Group) -> Block:
    cards = []
    for row in group.rows:
        longest = max(row.runs, key=lambda run: len(run.steps)).steps
        averages = _by_step(row, AVERAGE.points)
        columns = [
            _by_step(row, after_each(partial(_accuracy_on, j))) for j in range(len(group.tasks))
        ]
        steps = range(1, len(longest) + 1)
        if longest:
            chart = charts.matrix(
                f"Accuracy matrix, {row.label}",
                [[column.get(k) for column in columns] for k in steps],
                learned=[step.experience for step in longest],
                names=group.tasks,
                averages=[averages.get(k) for k in steps],
            )
            cards.append(Card(row.label, chart, row=row))
    return Block(
        cards,
        note="Accuracy in percent, mean over seeds: a row after each experience, a column for each"
        " test. Pale: not learned yet.",
        slider=("After experience", group.length) if group.length > 1 else None,
    )


def _by_step(row: Row, points: Points) -> dict[float, float]:
    """Means over seeds, by number of experiences learned."""
    return {k: value.mean for k, value in row.curve(points)}


def _accuracy_on(j: int, step: Step) -> float | None:
    return step.accuracy[j]


# Pictures.

_PANELS = {
    keys.SAMPLES: (
        "Samples",
        "Samples of each class after each experience, from the same noise each time.",
    ),
    keys.RECONSTRUCTIONS: (
        "Reconstructions",
        "Test images of learned classes, and their reconstructions.",
    ),
    keys.LATENTS: ("Latents", "Latents of test images in two dimensions, a colour for each class."),
    keys.MASKS: (
        "Use of masks",
        "Fractions of each mask that are reserved, reused and free.",
    ),
}
# Labels of sliders, by axis.
_WHEN = {
    keys.EXPERIENCE: "After experience",
    keys.STEP: "After updates",
    keys.SLEEP: "After sleep",
}


def _pictures(group: Group, album: Album) -> list[Block]:
    found = dict.fromkeys(key for run in group.runs for key in album.frames.get(run.folder, {}))
    known = [key for key in _PANELS if key in found]
    return [_panel(group, album, key) for key in (*known, *(k for k in found if k not in _PANELS))]


def _panel(group: Group, album: Album, key: str) -> Block:
    title, note = _PANELS.get(key, (key, None))
    first: list[Card] = []
    others: list[Card] = []
    for row in group.rows:
        runs = [run for run in row.runs if key in album.frames.get(run.folder, {})]
        for i, run in enumerate(runs):
            name = f"{row.label}, seed {run.seed}"
            card = Card(name, frames=album.frames[run.folder][key], row=row)
            (others if i else first).append(card)
    frames = [frame for card in (*first, *others) for frame in card.frames]
    last = max(frames, key=lambda frame: frame.at)
    several = any(len(card.frames) > 1 for card in (*first, *others))
    # Earlier pictures have fewer rows.
    broad = last.image.width > _BROAD * last.image.height
    return Block(
        first,
        title=title,
        note=note,
        slider=(_WHEN.get(last.axis, last.axis), last.at) if several else None,
        more=others,
        columns=2 if broad else 3,
    )


# Replay.


def _replay(group: Group) -> Block:
    parts = [Colour(f"label {label}", f"l{i}") for i, label in enumerate(group.labels)]
    cards = []
    for row in group.rows:
        values: dict[float, dict[str, float]] = {}
        for part, label in zip(parts, group.labels, strict=True):
            for k, count in _by_step(row, after_each(partial(_replayed, label))).items():
                values.setdefault(k, {})[part.label] = count
        if any(step.histogram for run in row.runs for step in run.steps):
            title = f"Labels replayed, {row.label}"
            chart = charts.stacked(title, parts, values, y="samples replayed")
            cards.append(Card(row.label, chart, row=row))
    return Block(cards, legend=Legend("replayed", parts))


def _replayed(label: int, step: Step) -> float:
    return float(step.histogram.get(label, 0))
