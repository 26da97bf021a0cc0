"""The head of a group: the final numbers, what was run, and what to know about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from avalanche_dgm.experiments.pages import formats, scores
from avalanche_dgm.experiments.pages.accuracy import MOST_NAMED
from avalanche_dgm.experiments.pages.aggregate import Group, Row, settings_of
from avalanche_dgm.experiments.pages.intervals import Estimate
from avalanche_dgm.experiments.pages.layout import Section, card, cards, plural
from avalanche_dgm.experiments.pages.lines import Line, sample
from avalanche_dgm.experiments.pages.loading import Run
from avalanche_dgm.experiments.pages.markup import Markup, tag
from avalanche_dgm.experiments.pages.scores import FINAL, Score

_PACKAGES = ("avalanche_dgm", "avalanche", "torch", "pytorch_lightning", "python")


def result_section(group: Group) -> Section:
    """The final table.

    Args:
        group: The runs.
    """
    best = {score.label: _best(group, score) for score in FINAL}
    heads = [
        tag(
            "th",
            score.label,
            tag("span", " ↑" if score.more_is_better else " ↓", class_="arrow", aria_hidden="true"),
            scope="col",
            title=score.explained,
        )
        for score in FINAL
    ]
    head = tag("tr", tag("th", "method", scope="col"), *heads, tag("th", "seeds", scope="col"))
    body = [_row(row, best) for row in group.rows]
    table = tag("table", tag("thead", head), tag("tbody", body), class_="final")
    notes = [note for row in group.rows if (note := _unfinished(row))]
    return Section(
        "result",
        "Result",
        cards(
            card(
                f"After {plural(group.length, 'experience')}",
                tag("div", table, class_="scroll", tabindex=0, role="group", aria_label="Result"),
                tag("ul", (tag("li", note) for note in notes), class_="notes") if notes else None,
                note=_explained(group),
                size="full",
            ),
            facts_card(group),
        ),
    )


def _explained(group: Group) -> str:
    several = any(len(row.counted) > 1 for row in group.rows)
    parts = ["Mean over seeds ± standard deviation."] if several else []
    if len(group.rows) > 1:
        parts.append("↑ more is better, ↓ less is better; the best of finished runs is bold.")
    return " ".join(parts)


def _row(row: Row, best: dict[str, str | None]) -> Markup:
    cells = []
    for score in FINAL:
        written = _written(row, score)
        # Equal to the digits shown is equally good.
        is_best = row.complete and written is not None and _shown(row, score) == best[score.label]
        mark = tag("span", " (best)", class_="hidden-text") if is_best else None
        cells.append(
            tag("td", written or formats.NOTHING, mark, class_="best" if is_best else None)
        )
    title = tag("th", sample(Line.of(row, [])), row.label, scope="row")
    return tag("tr", title, *cells, tag("td", _seeds(row.runs)))


def _best(group: Group, score: Score) -> str | None:
    """The best mean as it is shown; ``None`` if there is nothing to compare."""
    finished = [row for row in group.rows if row.complete]
    known = [(e.mean, row) for row in finished if (e := _estimate(row, score)) is not None]
    if len(group.rows) < 2 or len(known) < 2:
        return None
    pick = max if score.more_is_better else min
    return _shown(pick(known, key=lambda entry: entry[0])[1], score)


def _estimate(row: Row, score: Score) -> Estimate | None:
    return row.total(lambda run: score.value(run.result))


def _shown(row: Row, score: Score) -> str | None:
    found = _estimate(row, score)
    return None if found is None else score.text(found.mean)


def _written(row: Row, score: Score) -> str | None:
    found = _estimate(row, score)
    if found is None:
        return None
    accuracy = score.text is formats.share
    spread = f" ± {score.text(found.sd)}" if accuracy and found.n > 1 and found.sd > 0 else ""
    return f"{score.text(found.mean)}{spread}"


def _seeds(runs: Sequence[Run]) -> str:
    seeds = [run.seed for run in runs]
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def _with_seeds(runs: Sequence[Run]) -> str:
    return f"{'seed' if len(runs) == 1 else 'seeds'} {_seeds(runs)}"


def _unfinished(row: Row) -> str | None:
    parts = [f"seed {run.seed}: {run.progress}" for run in row.runs if not run.result.complete]
    if not parts:
        return None
    left_out = "left out of the numbers" if row.complete else "its numbers are as of then"
    return f"{row.label} is not finished, {'; '.join(parts)} ({left_out})."


def facts_card(group: Group) -> Markup:
    """What was run: stream, methods, seeds, versions, commands, settings.

    Args:
        group: The runs.
    """
    facts = tag("dl", (part for name, text in _facts(group) for part in _fact(name, text)))
    commands = dict.fromkeys(
        command for run in group.runs if (command := run.result.provenance.get("command"))
    )
    lines = tag("pre", "\n".join(commands), class_="scroll", tabindex=0) if commands else None
    return card("What was run", facts, lines, _settings(group), size="full")


def runs_section(group: Group) -> Section:
    """Every run in a line.

    Args:
        group: The runs.
    """
    return Section("runs", "Runs", cards(card("Every run", _table(group), size="full")))


def _fact(name: str, text: str) -> list[Markup]:
    return [tag("dt", name), tag("dd", text)]


def _facts(group: Group) -> list[tuple[str, str]]:
    started = sorted(str(s)[:10] for run in group.runs if (s := _from(run, "started")))
    days = f"{started[0]} to {started[-1]}" if started else "not known"
    facts = [
        ("Stream", f"{group.title}: {plural(group.length, 'experience')}"),
        ("Tests", _listed(group.tasks)),
        ("Methods", "; ".join(f"{row.label} ({_with_seeds(row.runs)})" for row in group.rows)),
        ("Date", started[0] if started and started[0] == started[-1] else days),
        ("Versions", _versions(group)),
        ("Machine", _all(group, "platform")),
        ("Device", _all(group, "device", "gpu")),
    ]
    return [(name, text) for name, text in facts if text]


def _listed(names: Sequence[str]) -> str:
    if len(names) <= MOST_NAMED:
        return ", ".join(names)
    return f"{names[0]}, {names[1]} and so on to {names[-1]} ({len(names)})"


def _from(run: Run, name: str) -> Any:
    return run.result.provenance.get(name)


def _all(group: Group, *names: str) -> str:
    found = (str(value) for run in group.runs for name in names if (value := _from(run, name)))
    return ", ".join(dict.fromkeys(found))


def _versions(group: Group) -> str:
    found: dict[str, dict[str, None]] = {}
    for run in group.runs:
        versions = _from(run, "versions") or {}
        for name in _PACKAGES:
            if name in versions:
                found.setdefault(name, {})[str(versions[name])] = None
    return ", ".join(f"{name} {' and '.join(numbers)}" for name, numbers in found.items())


def _settings(group: Group) -> Markup:
    entries = []
    for row in group.rows:
        settings = settings_of(row.runs[0].result.config)
        text = ", ".join(f"{key} {value}" for key, value in settings.items() if value is not None)
        entries += _fact(row.label, text)
    return tag("details", tag("summary", "Settings"), tag("dl", entries, class_="plain"))


def _table(group: Group) -> Markup:
    names = ("run", "method", "seed", "learned", "average accuracy", "training time", "started")
    head = tag("tr", (tag("th", name, scope="col") for name in names))
    rows = []
    for row in group.rows:
        for run in row.runs:
            learned = bool(run.result.steps)
            cells = (
                row.label,
                run.seed,
                run.progress,
                formats.share(scores.AVERAGE.value(run.result) if learned else None),
                formats.seconds(run.result.seconds),
                str(_from(run, "started") or formats.NOTHING)[:19].replace("T", " "),
            )
            rows.append(tag("tr", tag("th", run.name, scope="row"), (tag("td", c) for c in cells)))
    table = tag("table", tag("thead", head), tag("tbody", rows))
    return tag("div", table, class_="scroll", tabindex=0, role="group", aria_label="Every run")
