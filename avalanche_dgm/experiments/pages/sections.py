"""The sections of a group: which charts, pictures and tables there are of its runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

from avalanche_dgm.dashboards import keys
from avalanche_dgm.experiments.pages import charts
from avalanche_dgm.experiments.pages.charts import Chart, Colour
from avalanche_dgm.experiments.pages.formats import plural, size_unit
from avalanche_dgm.experiments.pages.groups import (
    Curve,
    Estimate,
    Group,
    Points,
    Row,
    estimate,
)
from avalanche_dgm.experiments.pages.images import Album, Frame
from avalanche_dgm.experiments.pages.loading import MASK_PARTS, Run, Step
from avalanche_dgm.experiments.pages.measures import AVERAGE, MEASURES
from avalanche_dgm.metrics.functional import SUMMARIES

#: Colours of parts that the style sheet has.
PART_COLOURS = 9
#: Up to so many tasks or labels each is named in a legend; of more, a scale is shown.
MOST_NAMED = 12
#: Points of a line at most; of more, so many means of neighbours are shown.
MOST_POINTS = 150
_MOST_LAYERS = 12
# As many times as wide as high: a picture of a chart, which needs room.
_BROAD = 1.7
# Accuracies above this one are told apart on an axis that does not begin at 0.
_LARGE = 0.6
_REST = "other"


@dataclass(frozen=True)
class Card:
    """A box with a chart, or with pictures of which one is seen at a time.

    Attributes:
        title: Its heading.
        chart: The chart.
        frames: The pictures.
        note: A sentence below the heading.
        row: What the box is about: it is switched off with it.
        wide: Whether it takes two columns where there is room.
    """

    title: str
    chart: Chart | None = None
    frames: Sequence[Frame] = ()
    note: str | None = None
    row: Row | None = None
    wide: bool = False


@dataclass(frozen=True)
class Legend:
    """Which colour is what. Of many names the first and the last, with a scale between."""

    title: str
    colours: Sequence[Colour]

    @property
    def many(self) -> bool:
        """Whether a scale is shown."""
        return len(self.colours) > MOST_NAMED + 1


@dataclass(frozen=True)
class Block:
    """Boxes of one kind.

    Attributes:
        cards: The boxes.
        title: A heading of its own, if the section has several.
        note: A sentence.
        legend: Colours that its charts share.
        slider: What a slider over its matrices or pictures sets, and the largest number.
        more: Boxes that are folded away.
        columns: How many boxes stand side by side where there is room.
    """

    cards: Sequence[Card]
    title: str | None = None
    note: str | None = None
    legend: Legend | None = None
    slider: tuple[str, int] | None = None
    more: Sequence[Card] = ()
    columns: int = 3


@dataclass(frozen=True)
class Section:
    """A section of a group: identifier within the group, heading, boxes."""

    name: str
    title: str
    blocks: Sequence[Block]


def sections_of(group: Group, album: Album) -> list[Section]:
    """All sections for which something was measured.

    Args:
        group: The runs.
        album: Their pictures.
    """
    found = {
        "Accuracy": [_accuracy(group)],
        "Tasks": [_tasks(group)],
        "Matrices": [_matrices(group)],
        "Pictures": _pictures(group, album),
        "Replay": [_replay(group)],
        "Memory": [_memory(group)],
        "Masks": [_masks(group)],
        "Time": [_time(group)],
        "Training": [_training(group)],
        "More numbers": [_more(group)],
    }
    kept = {title: [b for b in blocks if b.cards] for title, blocks in found.items()}
    return [
        Section(title.split()[0].lower(), title, blocks) for title, blocks in kept.items() if blocks
    ]


def colour_of(row: Row) -> Colour:
    """The colour, dashes and marker of a row."""
    return Colour(row.label, f"r{row.index}", row.index)


# Accuracy.


def _accuracy(group: Group) -> Block:
    several = any(len(row.runs) > 1 for row in group.rows)
    band = (
        "Shaded: 95 % t confidence interval of the mean over seeds, cut off where values cannot be"
        " or the chart ends; a line without a band is one seed."
    )
    alone = "One seed each: no band of confidence."
    cards = []
    for measure in MEASURES:
        first = measure is AVERAGE
        found = _over_experiences(
            group,
            "Average accuracy on experiences seen" if first else measure.label.capitalize(),
            measure.course,
            y=measure.axis,
            text="share",
            within=measure.within,
            note=(band if several else alone) if first else measure.explained,
        )
        cards += [replace(card, wide=first) for card in found]
    return Block(cards)


def _tasks(group: Group) -> Block:
    colours = [Colour(name, f"t{j}") for j, name in enumerate(group.tasks)]
    average = Colour("average of seen", "ink", strong=True)
    cards = []
    for row in group.rows:
        found = {c: _means(row, partial(_of_task, j)) for j, c in enumerate(colours)}
        found[average] = _means(row, AVERAGE.course)
        title = f"Accuracy on each task, {row.label}"
        for card in _card(title, found, y="test accuracy", text="share"):
            cards.append(replace(card, title=row.label, row=row))
    return Block(cards, legend=Legend("test on", [*colours, average]))


def _of_task(j: int, run: Run) -> list[tuple[float, float | None]]:
    first = next((i for i, step in enumerate(run.steps) if step.experience == j), len(run.steps))
    return [(i + 1, run.steps[i].accuracy[j]) for i in range(first, len(run.steps))]


def _means(row: Row, points: Points) -> Curve:
    """Means alone: bands of many lines would cover one another."""
    return [(x, Estimate(value.mean, value.n)) for x, value in row.curve(points)]


def _matrices(group: Group) -> Block:
    cards = []
    for row in group.rows:
        longest = max(row.runs, key=lambda run: len(run.steps)).steps
        averages = dict(row.curve(AVERAGE.course))
        if longest:
            chart = charts.matrix(
                f"Accuracy matrix, {row.label}",
                [
                    [_mean(row, i, partial(_accuracy_on, j)) for j in range(len(group.tasks))]
                    for i in range(len(longest))
                ],
                learned=[step.experience for step in longest],
                names=group.tasks,
                averages=[
                    averages[k].mean if k in averages else None for k in range(1, len(longest) + 1)
                ],
            )
            cards.append(Card(row.label, chart, row=row))
    return Block(
        cards,
        note="Accuracy in percent, mean over seeds: a row after each experience, a column for each"
        " test. Pale: not learned yet.",
        slider=("After experience", group.length) if group.length > 1 else None,
    )


def _accuracy_on(j: int, step: Step) -> float | None:
    return step.accuracy[j]


def _mean(row: Row, i: int, value: Callable[[Step], float | None]) -> float | None:
    """The mean of a number over the seeds that have learned so many experiences."""
    found = estimate([value(run.steps[i]) for run in row.runs if i < len(run.steps)])
    return None if found is None else found.mean


# Pictures.

_PANELS = {
    keys.SAMPLES: (
        "Samples",
        "Samples of each class after each experience, from the same noise each time.",
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
# What a slider sets.
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


# Replay, memory, masks.


def _replay(group: Group) -> Block:
    parts = [Colour(f"label {label}", f"l{i}") for i, label in enumerate(group.labels)]
    cards = []
    for row in group.rows:
        steps = max(len(run.steps) for run in row.runs)
        if any(step.histogram for run in row.runs for step in run.steps):
            values: dict[float, dict[str, float]] = {
                i + 1: {
                    part.label: _mean(row, i, partial(_replayed, label)) or 0.0
                    for part, label in zip(parts, group.labels, strict=True)
                }
                for i in range(steps)
            }
            title = f"Labels replayed, {row.label}"
            chart = charts.stacked(title, parts, values, y="samples replayed")
            cards.append(Card(row.label, chart, row=row))
    return Block(cards, legend=Legend("replayed", parts))


def _replayed(label: int, step: Step) -> float:
    return float(step.histogram.get(label, 0))


def _memory(group: Group) -> Block:
    held = [b for r in group.rows for s in _steps(r) for b in (s.held_bytes, s.peak_bytes) if b]
    unit, name = size_unit(max(held, default=0))
    unknown = [r.label for r in group.rows if any(s.held_bytes is None for s in _steps(r))]
    note = "All that is held beside the classifier."
    if unknown:
        note += f" Unknown of {', '.join(unknown)}."
    cards = [
        *_used(group, "Memory", lambda s: _units(s.held_bytes, unit), f"memory, {name}", note),
        *_used(
            group,
            "Peak memory",
            lambda step: _units(step.peak_bytes, unit),
            f"memory, {name}",
            "The most that is held while an experience is learned.",
        ),
        *_used(
            group,
            "Short-term memories in use",
            lambda step: step.stm_occupancy,
            "short-term memories",
            "Tasks that wait for the next sleep.",
        ),
        *_used(group, "Sleeps", lambda step: step.sleeps, "sleeps so far"),
        *_used(group, "Time asleep", lambda step: step.sleep_seconds, "seconds so far"),
        *_used(group, "Samples replayed", lambda step: step.replayed, "samples"),
        *_recorded(group, keys.MEMORY_PARAMETERS, "Parameters", "parameters", only_used=True),
        *_recorded(group, keys.MEMORY_STORED, "Stored samples", "samples", only_used=True),
    ]
    return Block(cards)


def _steps(row: Row) -> list[Step]:
    return [step for run in row.runs for step in run.steps]


def _units(n_bytes: int | None, unit: float) -> float | None:
    return None if n_bytes is None else n_bytes / unit


def _used(
    group: Group,
    title: str,
    value: Callable[[Step], float | None],
    label: str,
    note: str | None = None,
) -> list[Card]:
    """A chart of a number that is 0 for methods that have no such thing: they have no line."""
    rows = [row for row in group.rows if any(value(step) for step in _steps(row))]
    mine = replace(group, rows=rows)
    return _over_experiences(mine, title, partial(_after_each, value), y=label, note=note)


def _after_each(
    value: Callable[[Step], float | None], run: Run
) -> list[tuple[float, float | None]]:
    return [(k, value(step)) for k, step in enumerate(run.steps, 1)]


def _masks(group: Group) -> Block:
    parts = [Colour(name, f"mask-{name}") for name in ("reserved", "reused", "held", "free")]
    cards = _recorded(group, keys.CAPACITY, "Capacity", "width, times that at the start")
    left_out = 0
    for row in group.rows:
        layers = _layers(row)
        left_out += max(0, len(layers) - _MOST_LAYERS)
        for layer in layers[:_MOST_LAYERS]:
            values: dict[float, dict[str, float]] = {}
            for part in MASK_PARTS:
                key = keys.MASK.format(layer=layer, part=part)
                for at, value in row.curve(partial(_scalar, key)):
                    values.setdefault(at, {})[part] = value.mean
            for mine in values.values():
                # What earlier experiences reserved and this one does not use.
                mine["held"] = max(0.0, 1 - sum(mine.values()))
            name = f"{row.label}, layer {layer}"
            chart = charts.stacked(
                f"Use of the mask, {name}", parts, values, y="share of the mask", text="share"
            )
            cards.append(Card(name, chart, row=row))
    note = f"{plural(left_out, 'more layer')} not shown." if left_out else None
    legend = Legend("entries", parts) if any(card.row for card in cards) else None
    return Block(cards, note=note, legend=legend)


def _layers(row: Row) -> list[str]:
    found: dict[str, None] = {}
    for run in row.runs:
        for key in run.scalars:
            begin, _, rest = key.partition("/")
            layer, _, part = rest.rpartition("/")
            if begin == "masks" and layer and part in MASK_PARTS:
                found[layer] = None
    return list(found)


def _scalar(key: str, run: Run) -> list[tuple[float, float | None]]:
    return list(run.scalars.get(key, {}).items())


# Time, training, other numbers.

# A heading, and what the axis is called.
_TITLES = {
    keys.TRAIN_LOSS: ("Training loss", "loss"),
    keys.TRAIN_ACCURACY: ("Training accuracy", "accuracy on batches"),
    keys.RECONSTRUCTION_ERROR: ("Reconstruction error", "mean squared difference"),
    keys.SLEEP_AFTER: ("Experiences learned at a sleep", "experiences"),
}
# What other sections show from the results, or the page does not repeat.
_ELSEWHERE = {
    keys.REPLAYED,
    keys.MEMORY_BYTES,
    keys.MEMORY_PARAMETERS,
    keys.MEMORY_STORED,
    keys.STM_OCCUPANCY,
    keys.CAPACITY,
    keys.TIME_LEARN,
    keys.TIME_TEST,
    keys.SLEEP_SECONDS,
    keys.SAMPLES_PER_SECOND,
    *(f"{keys.STREAM}{name}" for name in SUMMARIES),
}
# The same, of names that depend on the run.
_ELSEWHERE_KINDS = re.compile(r"accuracy/experience_\d+|masks/.+/.+|time/phase/.+|train/.+")


def _time(group: Group) -> Block:
    names = dict.fromkeys(_phase(p) for run in group.runs for s in run.steps for p in s.phases)
    # Parts repeat their colours where there are very many; tooltips tell their names.
    own = [name for name in names if name != _REST]
    parts = [Colour(name, f"p{i % PART_COLOURS}") for i, name in enumerate(own)]
    parts.append(Colour(_REST, "p-rest"))
    values = {row.label: _phases(row, own) for row in group.rows}
    bars = charts.lying("Seconds of learning by phase", parts, values, x="seconds", text="seconds")
    several = any(len(row.counted) > 1 for row in group.rows)
    note = "Mean over seeds, without tests." if several else "Without tests."
    cards = [
        *([Card("Learning in all, by phase", bars, note=note)] if bars.rows else []),
        *_over_experiences(
            group,
            "Learning",
            partial(_after_each, lambda step: step.seconds),
            y="seconds",
            text="seconds",
        ),
        *_over_experiences(
            group,
            "Tests",
            partial(_after_each, lambda step: step.eval_seconds),
            y="seconds",
            text="seconds",
        ),
        *_recorded(group, keys.SAMPLES_PER_SECOND, "Speed", "samples a second"),
    ]
    return Block(cards, legend=Legend("phase", parts) if own else None)


def _phase(name: str) -> str:
    """The phase without what it was about: "sleep" of "sleep: tasks 3, 4"."""
    return name.partition(":")[0].strip()


def _phases(row: Row, names: Sequence[str]) -> dict[str, float]:
    def seconds(name: str, run: Run) -> float:
        phases = (item for step in run.steps for item in step.phases.items())
        return sum(spent for phase, spent in phases if _phase(phase) == name)

    found = {name: row.total(partial(seconds, name)) for name in names}
    values = {name: value.mean for name, value in found.items() if value is not None}
    whole = row.total(lambda run: run.seconds)
    # Phases may overlap; what they leave is not negative.
    rest = max(0.0, (whole.mean if whole else 0.0) - sum(values.values()))
    return {**values, _REST: rest}


def _training(group: Group) -> Block:
    found = dict.fromkeys(k for run in group.runs for k in run.scalars if k.startswith("train/"))
    cards = []
    for key in found:
        accuracy = key == keys.TRAIN_ACCURACY
        cards += _recorded(group, key, *_TITLES.get(key, (key, key)), zero=accuracy)
    return Block(cards)


def _more(group: Group) -> Block:
    found = dict.fromkeys(
        key
        for run in group.runs
        for key in run.scalars
        if key not in _ELSEWHERE and not _ELSEWHERE_KINDS.fullmatch(key)
    )
    cards = []
    for key in found:
        cards += _recorded(group, key, *_TITLES.get(key, (key, key)), zero=False)
    return Block(cards, note="As they were recorded, under their names.")


# Charts of a line for each row.


def _over_experiences(
    group: Group,
    title: str,
    points: Points,
    *,
    y: str,
    text: str = "plain",
    note: str | None = None,
    within: tuple[float, float] = (0.0, 1e300),
) -> list[Card]:
    """The box of a chart over experiences, a line a row; none if there is nothing to draw."""
    curves = {colour_of(row): row.curve(points) for row in group.rows}
    least = min((v.mean for curve in curves.values() for _, v in curve), default=0.0)
    magnified = within == (0.0, 1.0) and least > _LARGE
    return _card(title, curves, y=y, text=text, zero=not magnified, within=within, note=note)


def _card(
    title: str,
    curves: Mapping[Colour, Curve],
    *,
    note: str | None = None,
    x: str = "experiences learned",
    **drawn: Any,
) -> list[Card]:
    """The box of a chart of the curves that have points; none if no curve has."""
    known = {colour: curve for colour, curve in curves.items() if curve}
    return [Card(title, charts.lines(title, known, x=x, **drawn), note=note)] if known else []


def _recorded(
    group: Group,
    key: str,
    title: str,
    label: str,
    *,
    zero: bool = True,
    only_used: bool = False,
) -> list[Card]:
    """The box of a chart of what runs recorded under a key; none if none did.

    Args:
        group: The group.
        key: Name of the panel.
        title: Heading of the box.
        label: Of the axis at the left.
        zero: Whether that axis begins at 0.
        only_used: Make none either if the number is 0 everywhere.
    """
    recorded = [run.scalars[key] for run in group.runs if key in run.scalars]
    if not recorded or (only_used and not any(any(mine.values()) for mine in recorded)):
        return []
    axis = next(run.axes[key] for run in group.runs if key in run.axes)
    names = {keys.STEP: "updates of the classifier", keys.EXPERIENCE: "experiences learned"}
    name = {**names, keys.SLEEP: "sleeps"}.get(axis, axis)
    counted = axis in (keys.EXPERIENCE, keys.SLEEP)
    points = sorted({at for mine in recorded for at in mine})
    width = _width([] if counted else [sorted(mine) for mine in recorded], points)
    first = min(1, points[0])
    curves = {
        colour_of(row): row.curve(lambda run: _binned(run.scalars.get(key, {}), width, first))
        for row in group.rows
    }
    note = f"A point is the mean over {width} {name}." if width > 1 else None
    return _card(title, curves, x=name, y=label, zero=zero, note=note)


def _width(runs: Sequence[Sequence[int]], points: Sequence[int]) -> int:
    """How many numbers of an axis make one point; 1 where each is one.

    Args:
        runs: The points of each run, ascending; none where all runs count alike.
        points: Those of all.
    """
    width = 1
    if runs and len(points) > max(map(len, runs)):
        # Seeds have points of their own: a mean of one here and of the other there would zigzag.
        width = max(b - a for run in runs for a, b in pairwise([0, *run]))
    return max(width, points[-1] // MOST_POINTS + 1 if len(points) > MOST_POINTS else 1)


def _binned(values: dict[int, float], width: int, first: int) -> list[tuple[float, float | None]]:
    if width == 1:
        return list(values.items())
    bins: dict[int, list[float]] = {}
    for at in sorted(values):
        # Epochs end with their last update: what ends an interval belongs to it, from 1 on.
        bins.setdefault((at - first) // width, []).append(values[at])
    return [(first + (at + 0.5) * width, sum(mine) / len(mine)) for at, mine in bins.items()]
