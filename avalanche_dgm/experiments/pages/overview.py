"""The overview of a group: final numbers, settings, and a table of all runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from avalanche_dgm.experiments.pages import formats
from avalanche_dgm.experiments.pages.groups import Group, Row, settings_of
from avalanche_dgm.experiments.pages.loading import Run
from avalanche_dgm.experiments.pages.quantities import AVERAGE, SCORES, Quantity
from avalanche_dgm.experiments.tables import size

# Maximum number of tests that are listed by name.
_MOST_NAMED = 12
# Texts of values in the final table.
_TEXTS: Mapping[str, Callable[[float | None], str]] = {
    "share": formats.share,
    "seconds": formats.seconds,
    "bytes": size,
}
_PACKAGES = ("avalanche_dgm", "avalanche", "torch", "pytorch_lightning", "python")


#: Column headings of the table of all runs.
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


def overview_of(group: Group) -> dict[str, Any]:
    """Collects the overview of a group.

    Returns:
        By name: ``note``, an explanation of the table; ``lines``, for each row its cells (text, and
        whether it is the best) and its number of seeds; ``unfinished``, sentences about unfinished
        runs; ``facts`` about the stream and ``settings`` of each row, by name and text;
        ``commands``, the command lines; ``runs``, the table cells of every run.
    """
    several = any(len(row.counted) > 1 for row in group.rows)
    note = ["Mean over seeds ± standard deviation."] if several else []
    if len(group.rows) > 1:
        note.append("↑ more is better, ↓ less is better; the best of finished runs is bold.")
    columns = [_column(group, score) for score in SCORES]
    commands = (run.result.provenance.get("command") for run in group.runs)
    return {
        "note": " ".join(note),
        "lines": [
            (row, [column[i] for column in columns], len(row.runs))
            for i, row in enumerate(group.rows)
        ],
        "unfinished": [sentence for row in group.rows if (sentence := _unfinished(row))],
        "facts": [(name, text) for name, text in _facts(group) if text],
        "commands": list(dict.fromkeys(command for command in commands if command)),
        "settings": [(row.label, _settings(row)) for row in group.rows],
        "runs": [_line(row, run) for row in group.rows for run in row.runs],
    }


def _column(group: Group, score: Quantity) -> list[tuple[str, bool]]:
    as_text = _TEXTS[score.text]
    found = [row.total(score.last) for row in group.rows]
    finished = [
        value.mean
        for row, value in zip(group.rows, found, strict=True)
        if row.complete and value is not None
    ]
    best = None
    if len(finished) > 1:
        # Values that are equal after rounding are equally good.
        best = as_text(max(finished) if score.more_is_better else min(finished))
    cells = []
    for row, value in zip(group.rows, found, strict=True):
        if value is None:
            learned = any(run.steps for run in row.counted)
            cells.append((as_text(None) if learned else formats.NOTHING, False))
            continue
        text = as_text(value.mean)
        # Costs differ between seeds with the load of the machine.
        spread = f" ± {as_text(value.sd)}" if score.text == "share" and value.sd > 0 else ""
        cells.append((f"{text}{spread}", row.complete and text == best))
    return cells


def _unfinished(row: Row) -> str | None:
    parts = [
        f"seed {run.seed}: {run.result.progress}" for run in row.runs if not run.result.complete
    ]
    if not parts:
        return None
    left_out = "left out of the numbers" if row.complete else "its numbers are intermediate"
    return f"{row.label} is not finished, {'; '.join(parts)} ({left_out})."


def _facts(group: Group) -> list[tuple[str, str]]:
    days = sorted(run.started[:10] for run in group.runs if run.started)
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
    found = (run.result.provenance.get(name) for run in group.runs for name in names)
    return ", ".join(dict.fromkeys(value for value in found if value))


def _versions(group: Group) -> str:
    found: dict[str, dict[str, None]] = {}
    for run in group.runs:
        versions = run.result.provenance.get("versions", {})
        for name in _PACKAGES:
            if name in versions:
                found.setdefault(name, {})[versions[name]] = None
    return ", ".join(f"{name} {' and '.join(numbers)}" for name, numbers in found.items())


def _settings(row: Row) -> str:
    settings: dict[str, Any] = settings_of(row.runs[0].result.config)
    return ", ".join(f"{key} {value}" for key, value in settings.items() if value is not None)


def _line(row: Row, run: Run) -> list[str]:
    return [
        run.name,
        row.label,
        str(run.seed),
        run.result.progress,
        formats.share(AVERAGE.last(run)) if run.steps else formats.NOTHING,
        formats.seconds(run.result.seconds),
        size(run.steps[-1].memory_bytes) if run.steps else formats.NOTHING,
        (run.started or formats.NOTHING)[:19].replace("T", " "),
    ]
