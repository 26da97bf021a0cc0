"""Which runs belong together: groups of one stream, rows of one method and its settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from avalanche_dgm.experiments.config import PLACE, ExperimentConfig
from avalanche_dgm.experiments.pages.intervals import Estimate, estimate
from avalanche_dgm.experiments.pages.loading import Run
from avalanche_dgm.experiments.results import RunResult
from avalanche_dgm.experiments.trainer import IN_RESULT

# What a group has in common, or what changes no number; the rest tells rows apart.
# What is only measured changes nothing, either.
_SHARED = ("seed", "stream", "stream_options", "n_experiences", "revisit", "quality")
#: Points of a curve, each with an estimate over the seeds that have it.
Curve = list[tuple[float, Estimate]]


@dataclass(frozen=True)
class Row:
    """The runs of one method with the same settings, one a seed.

    Attributes:
        label: The method, and what tells it from other rows of the same method.
        index: Number of its colour, the same in all groups.
        runs: By seed.
    """

    label: str
    index: int
    runs: Sequence[Run]

    @property
    def counted(self) -> list[Run]:
        """The runs that totals are taken over: the finished ones, or all if none is finished."""
        return [run for run in self.runs if run.result.complete] or list(self.runs)

    @property
    def complete(self) -> bool:
        """Whether a run is finished."""
        return any(run.result.complete for run in self.runs)

    def total(self, value: Callable[[Run], float | None]) -> Estimate | None:
        """Estimates a number of which each run has one.

        Args:
            value: Gives it; ``None`` for none.
        """
        return estimate([value(run) for run in self.counted if run.result.steps])

    def curve(self, values: Callable[[Run], Sequence[tuple[float, float | None]]]) -> Curve:
        """Estimates a curve: at each point over the runs that have it.

        Args:
            values: Gives the points of a run and the values there; ``None`` for none.
        """
        found: dict[float, list[float | None]] = {}
        for run in self.runs:
            for x, value in values(run):
                found.setdefault(x, []).append(value)
        estimates = ((x, estimate(found[x])) for x in sorted(found))
        return [(x, known) for x, known in estimates if known is not None]


@dataclass(frozen=True)
class Group:
    """The runs on one stream.

    Attributes:
        name: Identifier in the page.
        stream: The stream's name.
        title: The stream, and what tells it from other groups of the same stream.
        rows: Its rows.
    """

    name: str
    stream: str
    title: str
    rows: Sequence[Row]

    @property
    def runs(self) -> list[Run]:
        """All its runs."""
        return [run for row in self.rows for run in row.runs]

    @property
    def tasks(self) -> list[str]:
        """Names of the test experiences; numbered where they depend on the seed."""
        names = [run.result.tasks for run in self.runs]
        if all(other == names[0] for other in names):
            return names[0]
        return [f"task {j + 1}" for j in range(len(names[0]))]

    @property
    def length(self) -> int:
        """Experiences of the stream."""
        return len(self.runs[0].result.order)


def group_runs(runs: Sequence[Run]) -> tuple[list[Group], list[str]]:
    """Puts runs into groups and rows.

    Args:
        runs: All runs.

    Returns:
        The groups in the order in which they were found, and a sentence for each run that was left
        out because it was done again.
    """
    streams: dict[str, list[Run]] = {}
    for run in runs:
        streams.setdefault(json.dumps(stream_of(run.result), sort_keys=True), []).append(run)
    titles = _distinct(
        [members[0].result.config.stream for members in streams.values()],
        [stream_of(members[0].result) for members in streams.values()],
    )
    notes: list[str] = []
    groups = []
    indices: dict[str, int] = {}
    for i, (members, title) in enumerate(zip(streams.values(), titles, strict=True)):
        rows = [
            Row(label, indices.setdefault(label, len(indices)), _once(same, notes))
            for label, same in _rows(members)
        ]
        groups.append(Group(f"g{i}", members[0].result.config.stream, title, rows))
    return groups, notes


def _rows(runs: Sequence[Run]) -> list[tuple[str, list[Run]]]:
    same: dict[str, list[Run]] = {}
    for run in runs:
        settings = {"method": run.result.config.method, **settings_of(run.result.config)}
        same.setdefault(json.dumps(settings, sort_keys=True), []).append(run)
    labels = _distinct(
        [members[0].result.config.method for members in same.values()],
        [settings_of(members[0].result.config) for members in same.values()],
    )
    return list(zip(labels, same.values(), strict=True))


def _once(runs: Sequence[Run], notes: list[str]) -> list[Run]:
    """Of runs of one seed, which would count twice, the one that came furthest, then the latest."""
    best: dict[int, Run] = {}
    for run in runs:
        other = best.get(run.seed)
        kept, dropped = (run, other) if other is None or _rank(run) > _rank(other) else (other, run)
        best[run.seed] = kept
        if dropped is not None:
            notes.append(
                f"{dropped.name} is left out: {kept.name} has the same settings and the same seed."
            )
    return [best[seed] for seed in sorted(best)]


def _rank(run: Run) -> tuple[int, str]:
    return len(run.result.steps), str(run.result.provenance.get("started", ""))


def stream_of(result: RunResult) -> dict[str, Any]:
    """What tells streams apart: the name, its options, and how many experiences it has.

    Args:
        result: Of a run on it.
    """
    config = result.config
    return {
        "stream": config.stream,
        **dict(config.stream_options),
        "revisit": list(config.revisit),
        "experiences": len(result.order),
        # Those that share a test, or come again.
        **({"tests": len(result.tasks)} if len(result.tasks) != len(result.order) else {}),
    }


def settings_of(config: ExperimentConfig) -> dict[str, Any]:
    """The settings that tell rows apart, options of the method among them.

    Args:
        config: Of a run.
    """
    values = config.to_json()
    options, trainer = values.pop("method_options"), values.pop("trainer")
    kept = {k: v for k, v in values.items() if k not in (*_SHARED, *PLACE, "method")}
    kept |= {name: trainer[name] for name in IN_RESULT}
    # A method's own batch size is not that of the classifier.
    named = {(f"method's {k}" if k in kept else k): v for k, v in options.items()}
    return kept | {name: value for name, value in named.items() if value is not None}


def _distinct(names: Sequence[str], settings: Sequence[dict[str, Any]]) -> list[str]:
    """Adds to names that come several times the settings in which they differ."""
    labels = []
    for i, name in enumerate(names):
        mine = [settings[j] for j in range(len(names)) if names[j] == name]
        keys = [
            key
            for key in dict.fromkeys(key for values in mine for key in values)
            if any(values.get(key) != mine[0].get(key) for values in mine)
        ]
        parts = [_phrase(key, settings[i][key]) for key in keys if key in settings[i]]
        # Options that others have and this one leaves at its default need no words.
        labels.append(f"{name} ({', '.join(parts)})" if parts else name)
    return labels


def _phrase(key: str, value: Any) -> str:
    if key in ("experiences", "tests"):
        return f"{value} {key if value != 1 else key[:-1]}"
    return f"{key} {value if isinstance(value, str) else json.dumps(value)}"
