"""The head of a group: the final numbers, what was run, and every run in a line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from avalanche_dgm.experiments.pages import formats
from avalanche_dgm.experiments.pages.groups import Group, Row, settings_of
from avalanche_dgm.experiments.pages.loading import Run
from avalanche_dgm.experiments.pages.measures import MEASURES

#: Up to so many tests each is named.
_MOST_NAMED = 12
_PACKAGES = ("avalanche_dgm", "avalanche", "torch", "pytorch_lightning", "python")


@dataclass(frozen=True)
class Score:
    """A number to compare methods by.

    Attributes:
        label: Its name.
        explained: What it is, in a sentence.
        value: Gives it; ``None`` where it is not known. At least one experience was learned.
        more_is_better: Whether larger is better, else smaller.
        text: Writes it.
        spread: Whether the deviation over seeds is shown.
    """

    label: str
    explained: str
    value: Callable[[Run], float | None]
    more_is_better: bool = True
    text: Callable[[float | None], str] = formats.share
    spread: bool = True


SCORES = (
    *(Score(m.label, m.explained, m.last, m.more_is_better) for m in MEASURES if m.final),
    Score(
        "training time",
        "Learning, without tests.",
        lambda run: run.seconds,
        more_is_better=False,
        text=formats.seconds,
        spread=False,
    ),
    Score(
        "memory",
        "All that is held beside the classifier at the end.",
        lambda run: run.steps[-1].held_bytes,
        more_is_better=False,
        text=formats.size,
        spread=False,
    ),
    Score(
        "peak memory",
        "The most that is held while an experience is learned.",
        lambda run: max((p for s in run.steps if (p := s.peak_bytes) is not None), default=None),
        more_is_better=False,
        text=formats.size,
        spread=False,
    ),
)


@dataclass(frozen=True)
class Cell:
    """A number in the final table, and whether it is the best of its column."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Overview:
    """What stands at the head of a group.

    Attributes:
        note: How the table is to be read.
        lines: Row, its cells, the number of its seeds.
        unfinished: Sentences about runs that are not finished.
        facts: What was run: name and text.
        commands: The command lines.
        settings: The settings of each row: its label and text.
        runs: Every run: the cells of a line.
    """

    note: str
    lines: Sequence[tuple[Row, Sequence[Cell], int]]
    unfinished: Sequence[str]
    facts: Sequence[tuple[str, str]]
    commands: Sequence[str]
    settings: Sequence[tuple[str, str]]
    runs: Sequence[Sequence[str]]


#: Heads of the columns of `Overview.runs`.
RUN_COLUMNS = (
    "run",
    "method",
    "seed",
    "learned",
    "average accuracy",
    "training time",
    "memory",
    "started",
)


def overview_of(group: Group) -> Overview:
    """Collects what stands at the head of a group."""
    several = any(len(row.counted) > 1 for row in group.rows)
    note = ["Mean over seeds ± standard deviation."] if several else []
    if len(group.rows) > 1:
        note.append("↑ more is better, ↓ less is better; the best of finished runs is bold.")
    columns = [_column(group, score) for score in SCORES]
    return Overview(
        " ".join(note),
        [
            (row, [column[i] for column in columns], len(row.runs))
            for i, row in enumerate(group.rows)
        ],
        [said for row in group.rows if (said := _unfinished(row))],
        [(name, text) for name, text in _facts(group) if text],
        list(dict.fromkeys(c for run in group.runs if (c := run.result.provenance.command))),
        [(row.label, _settings(row)) for row in group.rows],
        [_line(row, run) for row in group.rows for run in row.runs],
    )


def _column(group: Group, score: Score) -> list[Cell]:
    found = [row.total(score.value) for row in group.rows]
    finished = [
        value.mean
        for row, value in zip(group.rows, found, strict=True)
        if row.complete and value is not None
    ]
    best = None
    if len(finished) > 1:
        # Equal to the digits shown is equally good.
        best = score.text(max(finished) if score.more_is_better else min(finished))
    cells = []
    for row, value in zip(group.rows, found, strict=True):
        learned = any(run.steps for run in row.counted)
        text = score.text(value.mean) if value else score.text(None) if learned else formats.NOTHING
        spread = value is not None and score.spread and value.sd > 0
        shown = f"{text} ± {score.text(value.sd)}" if value and spread else text
        cells.append(Cell(shown, value is not None and row.complete and text == best))
    return cells


def _unfinished(row: Row) -> str | None:
    parts = [f"seed {run.seed}: {run.progress}" for run in row.runs if not run.complete]
    if not parts:
        return None
    left_out = "left out of the numbers" if row.complete else "its numbers are as of then"
    return f"{row.label} is not finished, {'; '.join(parts)} ({left_out})."


def _facts(group: Group) -> list[tuple[str, str]]:
    days = sorted(s[:10] for run in group.runs if (s := run.result.provenance.started))
    dates = " to ".join(dict.fromkeys((days[0], days[-1]))) if days else "not known"
    tasks = group.tasks
    named = ", ".join(tasks)
    if len(tasks) > _MOST_NAMED:
        named = f"{tasks[0]}, {tasks[1]} and so on to {tasks[-1]} ({len(tasks)})"
    seeds = "; ".join(f"{r.label} ({formats.plural(len(r.runs), 'seed')})" for r in group.rows)
    return [
        ("Stream", f"{group.title}: {formats.plural(group.length, 'experience')}"),
        ("Tests", named),
        ("Methods", seeds),
        ("Date", dates),
        ("Versions", _versions(group)),
        ("Machine", _all(group, "platform")),
        ("Device", _all(group, "device", "gpu")),
    ]


def _all(group: Group, *names: str) -> str:
    found = (getattr(run.result.provenance, name) for run in group.runs for name in names)
    return ", ".join(dict.fromkeys(value for value in found if value))


def _versions(group: Group) -> str:
    found: dict[str, dict[str, None]] = {}
    for run in group.runs:
        versions = run.result.provenance.versions
        for name in _PACKAGES:
            if name in versions:
                found.setdefault(name, {})[versions[name]] = None
    return ", ".join(f"{name} {' and '.join(numbers)}" for name, numbers in found.items())


def _settings(row: Row) -> str:
    settings: dict[str, Any] = settings_of(row.runs[0].result.config)
    return ", ".join(f"{key} {value}" for key, value in settings.items() if value is not None)


def _line(row: Row, run: Run) -> list[str]:
    average = SCORES[0].value
    return [
        run.name,
        row.label,
        str(run.seed),
        run.progress,
        formats.share(average(run)) if run.steps else formats.NOTHING,
        formats.seconds(run.seconds),
        formats.size(run.steps[-1].held_bytes) if run.steps else formats.NOTHING,
        (run.result.provenance.started or formats.NOTHING)[:19].replace("T", " "),
    ]
