"""Sections about time, the training of classifiers, and numbers that have no other place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

from avalanche_dgm.dashboards import keys
from avalanche_dgm.experiments.pages import formats
from avalanche_dgm.experiments.pages.aggregate import Group, Row
from avalanche_dgm.experiments.pages.bars import Bar, Part, legend, lying
from avalanche_dgm.experiments.pages.layout import Section, card, cards
from avalanche_dgm.experiments.pages.loading import Run
from avalanche_dgm.experiments.pages.markup import tag
from avalanche_dgm.experiments.pages.memory import of_steps
from avalanche_dgm.experiments.pages.scalars import experience_chart, recorded_chart
from avalanche_dgm.metrics.functional import SUMMARIES

#: Colours of parts that the style sheet has.
PART_COLOURS = 9
_REST = "other"
# What other sections show from the results, or the page does not repeat.
_SHOWN = (
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
)
# The same, of names that depend on the run.
_SHOWN_KINDS = re.compile(r"accuracy/experience_\d+|masks/.+/.+|time/phase/.+|train/.+")
# A heading, and what the axis is called.
_TITLES = {
    keys.TRAIN_LOSS: ("Training loss", "loss"),
    keys.TRAIN_ACCURACY: ("Training accuracy", "accuracy on batches"),
    keys.RECONSTRUCTION_ERROR: ("Reconstruction error", "mean squared difference"),
    keys.SLEEP_AFTER: ("Experiences learned at a sleep", "experiences"),
}


def time_section(group: Group) -> Section:
    """Seconds of each phase in all, and of learning and tests over experiences.

    Args:
        group: The runs.
    """
    names = dict.fromkeys(
        _phase(phase) for run in group.runs for step in run.result.steps for phase in step.phases
    )
    # Parts repeat their colours where there are very many; a place in the chart tells their names.
    own = [name for name in names if name != _REST]
    parts = [Part(name, f"p{i % PART_COLOURS}") for i, name in enumerate(own)]
    parts.append(Part(_REST, "p-rest"))
    bars = [Bar(row.label, _phases(row, list(names)), f"r{row.index}") for row in group.rows]
    several = any(len(row.counted) > 1 for row in group.rows)
    boxes = [
        card(
            "Learning in all, by phase",
            legend(parts) if names else None,
            lying(f"Seconds of learning by phase, {group.title}", parts, bars, formats.seconds),
            note="Mean over seeds, without tests." if several else "Without tests.",
        ),
        experience_chart(
            group, "Learning", of_steps(lambda s: s.seconds), label="seconds", text=formats.seconds
        ),
        experience_chart(
            group,
            "Tests",
            of_steps(lambda s: s.eval_seconds),
            label="seconds",
            text=formats.seconds,
        ),
        recorded_chart(
            group,
            keys.SAMPLES_PER_SECOND,
            "Speed",
            "samples a second",
            between=(0.0, None),
        ),
    ]
    return Section("time", "Time", cards(*boxes))


def _phase(name: str) -> str:
    """The phase without what it was about: "sleep" of "sleep: tasks 3, 4"."""
    return name.partition(":")[0].strip()


def _seconds(name: str, run: Run) -> float:
    phases = (item for step in run.result.steps for item in step.phases.items())
    return sum(seconds for phase, seconds in phases if _phase(phase) == name)


def _phases(row: Row, names: Sequence[str]) -> dict[str, float]:
    values = {}
    for name in names:
        found = row.total(partial(_seconds, name))
        values[name] = 0.0 if found is None else found.mean
    whole = row.total(lambda run: run.result.seconds)
    # Phases may overlap; what they leave is not negative.
    rest = max(0.0, (0.0 if whole is None else whole.mean) - sum(values.values()))
    values[_REST] = values.get(_REST, 0.0) + rest
    return values


def training_section(group: Group) -> Section | None:
    """What was recorded while classifiers learned.

    Args:
        group: The runs.
    """
    found = dict.fromkeys(
        key for run in group.runs for key in run.recorded.scalars if key.startswith("train/")
    )
    boxes = [
        recorded_chart(
            group,
            key,
            *_TITLES.get(key, (key, key)),
            between=(0.0, 1.0) if key == keys.TRAIN_ACCURACY else (None, None),
        )
        for key in found
    ]
    return Section("training", "Training", cards(*boxes)) if boxes else None


def more_section(group: Group) -> Section | None:
    """Recorded numbers that no other section shows.

    Args:
        group: The runs.
    """
    found = dict.fromkeys(
        key
        for run in group.runs
        for key in run.recorded.scalars
        if key not in _SHOWN and not _SHOWN_KINDS.fullmatch(key)
    )
    boxes = [recorded_chart(group, key, *_TITLES.get(key, (key, key))) for key in found]
    if not boxes:
        return None
    note = tag("p", "As they were recorded, under their names.", class_="note")
    return Section("more", "More numbers", tag("div", note, cards(*boxes)))
