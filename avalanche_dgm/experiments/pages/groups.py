"""Runs in groups by stream, and in rows by method and settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from avalanche_dgm.experiments.config import IN_RESULT, PLACE, ExperimentConfig
from avalanche_dgm.experiments.pages.loading import Run
from avalanche_dgm.experiments.results import RunResult
from avalanche_dgm.metrics.functional import Estimate, estimate

# Settings that are equal in a group or do not affect results; rows differ in the others.
_SHARED = ("seed", "stream", "stream_options", "n_experiences", "revisit", "quality", *PLACE)


#: Points of a curve, each with an estimate over the seeds that have it.
Curve = list[tuple[float, Estimate]]
#: Returns the points of a run, with ``None`` for missing values.
Points = Callable[[Run], Sequence[tuple[float, "float | None"]]]


@dataclass(frozen=True)
class Row:
    """The runs of one method with the same settings, one a seed.

    Attributes:
        label: The method, with the settings that differ from other rows of the method.
        index: Index of its colour, the same in all groups.
        runs: By seed.
    """

    label: str
    index: int
    runs: Sequence[Run]

    @property
    def counted(self) -> list[Run]:
        """The runs for totals: the finished ones, or all if none is finished."""
        return [run for run in self.runs if run.result.complete] or list(self.runs)

    @property
    def complete(self) -> bool:
        """Whether a run is finished."""
        return any(run.result.complete for run in self.runs)

    def total(self, value: Callable[[Run], float | None]) -> Estimate | None:
        """Estimates a value per run, over runs with at least one learned experience."""
        return estimate([value(run) for run in self.counted if run.steps])

    def curve(self, points: Points) -> Curve:
        """Estimates a curve, at each point over the runs with that point."""
        values: dict[float, list[float | None]] = {}
        for run in self.runs:
            for x, value in points(run):
                values.setdefault(x, []).append(value)
        estimates = ((x, estimate(values[x])) for x in sorted(values))
        return [(x, known) for x, known in estimates if known is not None]


@dataclass(frozen=True)
class Group:
    """The runs on one stream.

    Attributes:
        name: Identifier in the page.
        stream: The stream's name.
        title: The stream, with the options that differ from other groups of the stream.
        rows: Its rows.
    """

    name: str
    stream: str
    title: str
    rows: Sequence[Row]

    @property
    def runs(self) -> list[Run]:
        """The runs of all rows."""
        return [run for row in self.rows for run in row.runs]

    @property
    def tasks(self) -> list[str]:
        """Names of the test experiences; numbers if names depend on the seed."""
        names = [run.result.tasks for run in self.runs]
        if all(other == names[0] for other in names):
            return names[0]
        return [f"task {j + 1}" for j in range(len(names[0]))]

    @property
    def length(self) -> int:
        """Number of experiences of the stream."""
        return len(self.runs[0].result.order)

    @property
    def labels(self) -> list[int]:
        """The labels that were replayed."""
        return sorted({label for r in self.runs for s in r.steps for label in s.histogram})


def group_runs(runs: Sequence[Run]) -> tuple[list[Group], list[str]]:
    """Puts runs into groups and rows.

    Returns:
        The groups in order of their first runs, and a sentence for each run that is left out
        because it was repeated.
    """
    notes: list[str] = []
    groups: list[Group] = []
    indices: dict[str, int] = {}
    streams = _grouped(
        runs, lambda run: run.result.config.stream, lambda run: stream_of(run.result)
    )
    for title, members in streams:
        rows = [
            Row(label, indices.setdefault(label, len(indices)), _one_per_seed(same, notes))
            for label, same in _grouped(
                members,
                lambda run: run.result.config.method,
                lambda run: settings_of(run.result.config),
            )
        ]
        stream = members[0].result.config.stream
        groups.append(Group(f"g{len(groups)}", stream, title, rows))
    return groups, notes


def _grouped(
    runs: Sequence[Run], name: Callable[[Run], str], settings: Callable[[Run], dict[str, Any]]
) -> list[tuple[str, list[Run]]]:
    """Groups runs by name and settings; labels of the same name have the settings that differ."""
    same: dict[str, list[Run]] = {}
    for run in runs:
        key = json.dumps([name(run), settings(run)], sort_keys=True)
        same.setdefault(key, []).append(run)
    groups = [(name(members[0]), settings(members[0]), members) for members in same.values()]
    labelled = []
    for title, values, members in groups:
        others = [options for other, options, _ in groups if other == title]
        # Options of others that have default values here are not in the label.
        differ = [key for key in values if any(o.get(key) != values[key] for o in others)]
        differences = ", ".join(phrase(key, values[key]) for key in differ)
        labelled.append((f"{title} ({differences})" if differences else title, members))
    return labelled


def phrase(key: str, value: Any) -> str:
    """Formats an option of a stream, or a setting."""
    if key in ("experiences", "tests"):
        return f"{value} {key if value != 1 else key[:-1]}"
    return f"{key} {value if isinstance(value, str) else json.dumps(value)}"


def _one_per_seed(runs: Sequence[Run], notes: list[str]) -> list[Run]:
    """The run of each seed with the most experiences; among equal ones the latest."""
    best: dict[int, Run] = {}
    for run in sorted(runs, key=lambda r: (len(r.steps), r.started)):
        dropped = best.get(run.seed)
        if dropped is not None:
            notes.append(
                f"{dropped.name} is left out: {run.name} has the same settings and the same seed."
            )
        best[run.seed] = run
    return [best[seed] for seed in sorted(best)]


def stream_of(result: RunResult) -> dict[str, Any]:
    """The identity of a stream: name, options, number of experiences."""
    config = result.config
    return {
        "stream": config.stream,
        **config.stream_options,
        "revisit": config.revisit,
        "experiences": len(result.order),
        # Fewer if experiences share a test or are revisited.
        **({"tests": len(result.tasks)} if len(result.tasks) != len(result.order) else {}),
    }


def settings_of(config: ExperimentConfig) -> dict[str, Any]:
    """The settings in which rows can differ, including options of the method."""
    values = config.to_json()
    options, trainer = values.pop("method_options"), values.pop("trainer")
    kept = {k: v for k, v in values.items() if k not in (*_SHARED, "method")}
    kept |= {name: trainer[name] for name in IN_RESULT if name in trainer}
    # A method's own batch size is not that of the classifier.
    named = {(f"method's {k}" if k in kept else k): v for k, v in options.items()}
    return kept | {name: value for name, value in named.items() if value is not None}
