"""The numbers of an exhibit: one value per seed, means with 95 % intervals, the paper's values.

``numbers.json`` has all of them, ``numbers.csv`` only the values, one per row.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from avalanche_dgm.experiments import provenance
from avalanche_dgm.experiments.results import RunResult
from avalanche_dgm.experiments.storage import json_safe
from avalanche_dgm.experiments.tables import align, size
from avalanche_dgm.metrics.functional import estimate
from avalanche_dgm.papers.exhibits import Exhibit, Request, Shown, Trained

PRINTED = Path(__file__).parent / "printed"
# The entries of a run's provenance that affect its time.
_MACHINE = ("versions", "platform", "cpu", "processors", "threads", "device", "gpu")

#: Columns of a table that come from the runs.
COSTS = ("memory", "training time")

Numbers = dict[str, Any]


@cache
def printed(paper: str) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    """The values that a paper prints: by exhibit, row and column.

    Args:
        paper: Its key, such as "kamra2017".

    Returns:
        Numbers, or text if the paper gives no number.
    """
    import jsonargparse

    path = PRINTED / f"{paper}.yaml"
    found = jsonargparse.get_loader("yaml")(path.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}


def command_of(exhibit: Exhibit, request: Request) -> str:
    """The command that makes an exhibit, without the folders of data and runs.

    Args:
        exhibit: The exhibit.
        request: Its settings.
    """
    words = ["avalanche-dgm", "paper", exhibit.name]
    words += ["--defaults"] if request.defaults else []
    words += ["--scale", f"{request.scale:g}"] if request.scale not in (None, 1.0) else []
    first, count = request.seeds[0], len(request.seeds)
    words += ["--seed", f"{first}"] if first else []
    words += ["--seeds", f"{count}"] if count > 1 else []
    backend = request.fields.get("backend")
    words += ["--backend", backend] if backend is not None else []
    words += ["--methods", *request.only] if request.only else []
    return shlex.join([*words, *(["--fast"] if request.fast else [])])


def numbers_of(exhibit: Exhibit, trained: Trained, shown: Shown) -> Numbers:
    """Collects the numbers of an exhibit, for JSON.

    Args:
        exhibit: The exhibit.
        trained: Its runs.
        shown: Its results.
    """
    request = trained.request
    machines, runs = _runs(trained)
    return {
        "exhibit": exhibit.name,
        "title": exhibit.title,
        "shows": exhibit.shows,
        "command": command_of(exhibit, request),
        "made": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "settings": "defaults" if request.defaults or exhibit.ours else "paper",
        "scale": request.share,
        "fast": request.fast,
        "only": list(request.only),
        "seeds": list(request.seeds),
        "rows": _rows(exhibit, shown),
        "differences": _differences(exhibit, shown),
        "curves": {
            name: {
                "x": _rounded(curves.x),
                "rows": {r: _rounded(v) for r, v in curves.rows.items()},
            }
            for name, curves in shown.curves.items()
        },
        "runs": runs,
        "machines": machines,
    }


def _rows(exhibit: Exhibit, shown: Shown) -> list[Numbers]:
    theirs = {} if exhibit.ours else printed(exhibit.paper).get(exhibit.short, {})
    places = [(row, column) for row, columns in shown.cells.items() for column in columns]
    # Values of the paper are also listed for rows that were not run.
    places += [
        place
        for place in ((row, column) for row, columns in theirs.items() for column in columns)
        if place not in places
    ]
    return [
        {
            "row": row,
            "column": column,
            **estimated(shown.cells.get(row, {}).get(column, ())),
            "paper": theirs.get(row, {}).get(column),
        }
        for row, column in places
    ]


def _differences(exhibit: Exhibit, shown: Shown) -> list[Numbers]:
    """Differences of rows, paired by seed."""
    entries = []
    for one, other, column in exhibit.differences:
        ours, theirs = (shown.cells.get(row, {}).get(column) for row in (one, other))
        if ours and theirs:
            entries.append(
                {"row": one, "less": other, "column": column, **difference(ours, theirs)}
            )
    return entries


def difference(ours: Sequence[float | None], theirs: Sequence[float | None]) -> Numbers:
    """The difference of two rows, paired by seed; see `estimated`."""
    pairs = zip(ours, theirs, strict=True)
    return estimated([None if a is None or b is None else a - b for a, b in pairs])


def estimated(values: Sequence[float | None]) -> Numbers:
    """Values, one for each seed, with their mean and half the width of its interval."""
    interval = estimate(values)
    half = interval.half if interval is not None else None
    return {
        "values": _rounded(values),
        "mean": _rounded(interval.mean) if interval is not None else None,
        # None for one seed.
        "half": _rounded(half),
    }


def _runs(trained: Trained) -> tuple[list[Numbers], list[Numbers]]:
    machines: list[Numbers] = [] if trained.runs else [_machine(provenance.collect("cpu"))]
    runs = []
    for row, seeds in trained.runs.items():
        for run in seeds:
            machine = _machine(run.result.provenance)
            if machine not in machines:
                machines.append(machine)
            runs.append(
                {
                    "row": row,
                    "seed": run.result.config.seed,
                    "folder": run.folder.name,
                    **_cost(run.result),
                    "machine": machines.index(machine),
                }
            )
    return machines, runs


def _machine(found: Mapping[str, Any]) -> Numbers:
    return {name: found.get(name) for name in _MACHINE}


def _cost(result: RunResult) -> Numbers:
    last = result.steps[-1]
    return {
        "seconds": round(result.seconds, 1),
        "bytes": last.memory_bytes,
        "peak_bytes": last.peak_bytes,
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6) if abs(value) < 100 else round(value, 2)
    if isinstance(value, (list, tuple, range)):
        return [_rounded(item) for item in value]
    return value


def to_json(numbers: Numbers) -> str:
    """Formats numbers as JSON, with lists of plain values on one line."""
    text = json.dumps(json_safe(numbers), indent=1, allow_nan=False)
    return re.sub(r"\[\s+([^\[\]{}]+?)\s+\]", _joined, text) + "\n"


def _joined(found: re.Match[str]) -> str:
    return "[" + re.sub(r",\s+", ", ", found[1]) + "]"


def to_csv(numbers: Numbers) -> str:
    """Formats cells of tables and lines of figures as CSV, one value per row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["quantity", "row", "x", "seed", "value"])
    seeds = numbers["seeds"]
    for cell in numbers["rows"]:
        # Rows that were not run only have the paper's value.
        for seed, value in zip(seeds, cell["values"], strict=False):
            writer.writerow([cell["column"], cell["row"], "", seed, _cell(value)])
        if cell["paper"] is not None:
            writer.writerow([cell["column"], cell["row"], "", "paper", cell["paper"]])
    for name, curves in numbers["curves"].items():
        for row, lines in curves["rows"].items():
            for seed, line in zip(seeds, lines, strict=True):
                for x, value in zip(curves["x"], line, strict=True):
                    writer.writerow([name, row, x, seed, _cell(value)])
    return text.getvalue()


def _cell(value: Any) -> Any:
    return "" if value is None else value


def number_text(value: float) -> str:
    """Formats a number with three decimals; integers from 2 and numbers from 10 without."""
    count = abs(value) >= 10 or (abs(value) >= 2 and value == int(value))
    text = f"{value:,.0f}" if count else f"{value:.3f}"
    return re.sub(r"^(-?)0\.", r"\1.", text)


def cell_text(cell: Mapping[str, Any]) -> str:
    """The mean of a cell or difference, ± half its 95 % interval; "-" for none.

    Args:
        cell: An entry of ``rows`` or ``differences``.
    """
    if cell["mean"] is None:
        return "-"
    half = cell["half"]
    return number_text(cell["mean"]) + (f" ± {number_text(half)}" if half is not None else "")


def paper_text(value: Any) -> str:
    """A value of the paper in a table; empty for none."""
    if value is None:
        return ""
    return value if isinstance(value, str) else number_text(float(value))


def grid(numbers: Numbers) -> list[list[str]]:
    """The table of an exhibit: a heading, then the rows, with the paper's values beside ours."""
    cells = {(cell["row"], cell["column"]): cell for cell in numbers["rows"]}
    rows, columns = (list(dict.fromkeys(place[i] for place in cells)) for i in (0, 1))
    in_paper = {column for (_, column), cell in cells.items() if cell["paper"] is not None}
    costs = costs_of(numbers)
    heading = [""]
    for column in columns:
        heading += [column, *(["paper"] if column in in_paper else [])]
    table = [heading + ([*COSTS] if costs else [])]
    for row in rows:
        line = [row]
        for column in columns:
            cell = cells.get((row, column))
            line.append("" if cell is None else cell_text(cell))
            line += [paper_text(cell and cell["paper"])] if column in in_paper else []
        table.append(line + (costs.get(row, ["", ""]) if costs else []))
    return table


def costs_of(numbers: Numbers) -> dict[str, list[str]]:
    """Memory and training time of rows with runs, as text."""
    by_row: dict[str, list[Numbers]] = {}
    for run in numbers["runs"]:
        by_row.setdefault(run["row"], []).append(run)
    return {
        row: [size(runs[0]["bytes"]), f"{sum(r['seconds'] for r in runs) / len(runs):,.0f} s"]
        for row, runs in by_row.items()
    }


def table_text(numbers: Numbers) -> str:
    """The table and the paired differences, for the terminal."""
    lines = [align(grid(numbers))] if numbers["rows"] else []
    lines += [difference_text(entry) for entry in numbers["differences"]]
    return "\n".join(lines)


def difference_text(entry: Mapping[str, Any]) -> str:
    """A paired difference in words."""
    return f"{entry['row']} less {entry['less']}, {entry['column']}: {cell_text(entry)}"
