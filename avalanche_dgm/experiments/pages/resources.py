"""Blocks of the resources of methods (memory, masks, time) and of recorded scalars."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from avalanche_dgm.dashboards import keys
from avalanche_dgm.experiments.pages import charts
from avalanche_dgm.experiments.pages.blocks import (
    Block,
    Card,
    Legend,
    after_each,
    over_experiences,
    recorded,
)
from avalanche_dgm.experiments.pages.encodings import Colour
from avalanche_dgm.experiments.pages.formats import plural
from avalanche_dgm.experiments.pages.groups import Group, Row
from avalanche_dgm.experiments.pages.loading import MASK_PARTS, Run
from avalanche_dgm.experiments.results import Step
from avalanche_dgm.experiments.tables import size_unit
from avalanche_dgm.metrics.functional import SUMMARIES

#: Number of colours of parts in the style sheet.
PART_COLOURS = 9
_MOST_LAYERS = 12
_REST = "other"


def memory_block(group: Group) -> Block:
    """Bytes, short-term memories, sleeps and replay."""
    held = [b for r in group.rows for s in _steps(r) for b in (s.memory_bytes, s.peak_bytes) if b]
    unit, name = size_unit(max(held, default=0))
    unknown = [r.label for r in group.rows if any(s.memory_bytes is None for s in _steps(r))]
    note = "Memory besides the classifier."
    if unknown:
        note += f" Unknown of {', '.join(unknown)}."
    cards = [
        *_used(group, "Memory", lambda s: _units(s.memory_bytes, unit), f"memory, {name}", note),
        *_used(
            group,
            "Peak memory",
            lambda step: _units(step.peak_bytes, unit),
            f"memory, {name}",
            "Largest memory while an experience is learned.",
        ),
        *_used(
            group,
            "Short-term memories in use",
            lambda step: step.stm_occupancy,
            "short-term memories",
            "Tasks to be consolidated at the next sleep.",
        ),
        *_used(group, "Sleeps", lambda step: step.sleeps, "sleeps so far"),
        *_used(group, "Time asleep", lambda step: step.sleep_seconds, "seconds so far"),
        *_used(group, "Samples replayed", lambda step: step.replayed, "samples"),
        *recorded(group, keys.MEMORY_PARAMETERS, "Parameters", "parameters", only_used=True),
        *recorded(group, keys.MEMORY_STORED, "Stored samples", "samples", only_used=True),
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
    """A chart of a number without the methods for which it is always 0."""
    rows = [row for row in group.rows if any(value(step) for step in _steps(row))]
    subgroup = replace(group, rows=rows)
    return over_experiences(subgroup, title, after_each(value), y=label, note=note)


def masks_block(group: Group) -> Block:
    """Used fraction of each mask, and growth of the network."""
    parts = [Colour(name, f"mask-{name}") for name in ("reserved", "reused", "held", "free")]
    cards = recorded(group, keys.CAPACITY, "Capacity", "width, times that at the start")
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
            for fractions in values.values():
                # Reserved by earlier experiences and not reused by this one.
                fractions["held"] = max(0.0, 1 - sum(fractions.values()))
            name = f"{row.label}, layer {layer}"
            chart = charts.stacked(
                f"Use of the mask, {name}", parts, values, y="fraction of the mask", text="share"
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

# Heading and axis label.
_TITLES = {
    keys.TRAIN_LOSS: ("Training loss", "loss"),
    keys.TRAIN_ACCURACY: ("Training accuracy", "accuracy on batches"),
    keys.RECONSTRUCTION_ERROR: ("Reconstruction error", "mean squared difference"),
    keys.SLEEP_AFTER: ("Experiences learned before a sleep", "experiences"),
}
# Keys shown in other sections, or left out.
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
# The same for names that depend on the run.
_ELSEWHERE_KINDS = re.compile(r"accuracy/experience_\d+|masks/.+/.+|time/phase/.+|train/.+")


def time_block(group: Group) -> Block:
    """Seconds of training and evaluation."""
    names = dict.fromkeys(_phase(p) for run in group.runs for s in run.steps for p in s.phases)
    # Colours repeat for very many parts; tooltips have their names.
    own = [name for name in names if name != _REST]
    parts = [Colour(name, f"p{i % PART_COLOURS}") for i, name in enumerate(own)]
    parts.append(Colour(_REST, "p-rest"))
    values = {row.label: _phases(row, own) for row in group.rows}
    bars = charts.horizontal(
        "Seconds of learning by phase", parts, values, x="seconds", text="seconds"
    )
    several = any(len(row.counted) > 1 for row in group.rows)
    note = "Mean over seeds, without tests." if several else "Without tests."
    cards = [
        *([Card("Total training time by phase", bars, note=note)] if bars.rows else []),
        *over_experiences(
            group, "Learning", after_each(lambda step: step.seconds), y="seconds", text="seconds"
        ),
        *over_experiences(
            group, "Tests", after_each(lambda step: step.eval_seconds), y="seconds", text="seconds"
        ),
        *recorded(group, keys.SAMPLES_PER_SECOND, "Speed", "samples a second"),
    ]
    return Block(cards, legend=Legend("phase", parts) if own else None)


def _phase(name: str) -> str:
    """The phase without details: "sleep" for "sleep: tasks 3, 4"."""
    return name.partition(":")[0].strip()


def _phases(row: Row, names: Sequence[str]) -> dict[str, float]:
    def seconds(name: str, run: Run) -> float:
        phases = (item for step in run.steps for item in step.phases.items())
        return sum(spent for phase, spent in phases if _phase(phase) == name)

    found = {name: row.total(partial(seconds, name)) for name in names}
    values = {name: value.mean for name, value in found.items() if value is not None}
    whole = row.total(lambda run: run.result.seconds)
    # Phases may overlap; the rest is at least 0.
    rest = max(0.0, (whole.mean if whole else 0.0) - sum(values.values()))
    return {**values, _REST: rest}


def training_block(group: Group) -> Block:
    """Recorded scalars of the classifier's training."""
    found = dict.fromkeys(k for run in group.runs for k in run.scalars if k.startswith("train/"))
    return Block(_numbers(group, found))


def more_block(group: Group) -> Block:
    """Recorded scalars that no other section shows."""
    found = dict.fromkeys(
        key
        for run in group.runs
        for key in run.scalars
        if key not in _ELSEWHERE and not _ELSEWHERE_KINDS.fullmatch(key)
    )
    return Block(_numbers(group, found), note="Recorded scalars by name.")


def _numbers(group: Group, found: Iterable[str]) -> list[Card]:
    """A chart of each key."""
    return [
        card
        for key in found
        for card in recorded(
            group, key, *_TITLES.get(key, (key, key)), zero=key == keys.TRAIN_ACCURACY
        )
    ]
