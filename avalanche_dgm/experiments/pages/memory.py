"""Sections about what is replayed, what is remembered, and how masks are used."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from avalanche_dgm.dashboards import keys
from avalanche_dgm.experiments.pages import formats
from avalanche_dgm.experiments.pages.accuracy import legend_of_tasks
from avalanche_dgm.experiments.pages.aggregate import Group, Row
from avalanche_dgm.experiments.pages.bars import Part, legend, stacked
from avalanche_dgm.experiments.pages.canvas import axis, counting_axis
from avalanche_dgm.experiments.pages.intervals import estimate
from avalanche_dgm.experiments.pages.layout import Section, card, cards, plural
from avalanche_dgm.experiments.pages.loading import Run
from avalanche_dgm.experiments.pages.markup import Markup, tag
from avalanche_dgm.experiments.pages.scalars import experience_chart, recorded_chart
from avalanche_dgm.experiments.results import Step

_MOST_LAYERS = 12
_RECORDED = (
    (keys.MEMORY_PARAMETERS, "Parameters", "parameters"),
    (keys.MEMORY_STORED, "Stored samples", "samples"),
)
_MASK_PARTS = (
    Part("reserved", "mask-reserved"),
    Part("reused", "mask-reused"),
    Part("held", "mask-held"),
    Part("free", "mask-free"),
)


def of_steps(value: Callable[[Step], float]) -> Callable[[Run], list[tuple[float, float | None]]]:
    """Points of a run: a number after each experience.

    Args:
        value: Gives the number.
    """
    return lambda run: [(i + 1, value(step)) for i, step in enumerate(run.result.steps)]


def labels_of(group: Group) -> list[int]:
    """The labels that were replayed.

    Args:
        group: The runs.
    """
    steps = (step for run in group.runs for step in run.result.steps)
    return sorted({label for step in steps for label in step.histogram})


def replay_section(group: Group) -> Section | None:
    """How often each label was replayed.

    Args:
        group: The runs.
    """
    labels = labels_of(group)
    if not labels:
        return None
    parts = [Part(f"label {label}", f"l{i}") for i, label in enumerate(labels)]
    boxes = []
    for row in group.rows:
        if not any(step.histogram for run in row.runs for step in run.result.steps):
            continue
        values = {
            i + 1: {f"label {label}": _replayed(row, i, label) for label in labels}
            for i in range(max(len(run.result.steps) for run in row.runs))
        }
        x = counting_axis("experiences learned", group.length)
        y = axis("samples replayed", [sum(v.values()) for v in values.values()], low=0)
        title = f"Labels replayed, {row.label}, {group.title}"
        boxes.append(card(row.label, stacked(title, parts, values, x, y, formats.plain), row=row))
    scale = legend_of_tasks([str(label) for label in labels], "l", "label")
    return Section("replay", "Replay", tag("div", scale, cards(*boxes)))


def _replayed(row: Row, step: int, label: int) -> float:
    there = [run.result.steps[step] for run in row.runs if step < len(run.result.steps)]
    found = estimate([float(s.histogram.get(label, 0)) for s in there])
    return 0.0 if found is None else found.mean


def memory_section(group: Group) -> Section | None:
    """Sizes of what is remembered, and the short-term memories and sleeps of dual memories.

    Args:
        group: The runs.
    """
    largest = max((s.memory_bytes for run in group.runs for s in run.result.steps), default=0)
    unit, name = formats.size_unit(largest)
    boxes = [
        _used(
            group,
            "Memory",
            lambda step: step.memory_bytes / unit,
            f"memory, {name}",
            "What is remembered beside the classifier.",
        ),
        _used(
            group,
            "Short-term memories in use",
            lambda step: step.stm_occupancy,
            "short-term memories",
            "Tasks that wait for the next sleep.",
        ),
        _used(group, "Sleeps", lambda step: step.sleeps, "sleeps so far", None),
        _used(group, "Time asleep", lambda step: step.sleep_seconds, "seconds so far", None),
        _used(group, "Samples replayed", lambda step: step.replayed, "samples", None),
        *(
            recorded_chart(group, key, title, label, between=(0.0, None), only_used=True)
            for key, title, label in _RECORDED
        ),
    ]
    return Section("memory", "Memory", cards(*boxes)) if any(boxes) else None


def _used(
    group: Group, title: str, value: Callable[[Step], float], label: str, note: str | None
) -> Markup | None:
    """A chart of a number that is 0 for methods that have no such thing; ``None`` if all have not.

    These methods have no line in it.
    """
    users = [
        row for row in group.rows if any(value(s) for run in row.runs for s in run.result.steps)
    ]
    if not users:
        return None
    mine = Group(group.name, group.stream, group.title, users)
    return experience_chart(mine, title, of_steps(value), label=label, note=note)


def masks_section(group: Group) -> Section | None:
    """How layers' masks are used, a chart a layer, and how much wider generators became.

    Args:
        group: The runs.
    """
    capacity = recorded_chart(
        group,
        keys.CAPACITY,
        "Capacity",
        "width, times that at the start",
        between=(0.0, None),
    )
    boxes, left_out = [], 0
    for row in group.rows:
        layers = _layers(row)
        left_out += max(0, len(layers) - _MOST_LAYERS)
        boxes += [_layer(group, row, layer) for layer in layers[:_MOST_LAYERS]]
    if not boxes and capacity is None:
        return None
    note = f"{plural(left_out, 'more layer')} not shown." if left_out else None
    parts = legend(_MASK_PARTS) if boxes else None
    body = [parts, tag("p", note, class_="note") if note else None, cards(capacity, *boxes)]
    return Section("masks", "Masks", tag("div", *body))


def _layers(row: Row) -> list[str]:
    found: dict[str, None] = {}
    for run in row.runs:
        for key in run.recorded.scalars:
            begin, _, rest = key.partition("/")
            layer, _, part = rest.rpartition("/")
            if begin == "masks" and layer and any(part == known.label for known in _MASK_PARTS):
                found[layer] = None
    return list(found)


def _layer(group: Group, row: Row, layer: str) -> Markup:
    values: dict[int, dict[str, float]] = {}
    for part in _MASK_PARTS:
        key = keys.MASK.format(layer=layer, part=part.label)
        for at, value in row.curve(partial(_of, key)):
            values.setdefault(int(at), {})[part.label] = value.mean
    for mine in values.values():
        # What earlier experiences reserved and this one does not use.
        mine.setdefault("held", max(0.0, 1 - sum(mine.values())))
    x = counting_axis("experiences learned", group.length)
    y = axis("share of the mask's entries", [], low=0, high=1)
    title = f"Use of the mask of {layer}, {row.label}, {group.title}"
    chart = stacked(title, _MASK_PARTS, values, x, y, formats.share)
    return card(f"{row.label}, layer {layer}", chart, row=row)


def _of(key: str, run: Run) -> list[tuple[float, float | None]]:
    return list(run.recorded.scalars.get(key, {}).items())
