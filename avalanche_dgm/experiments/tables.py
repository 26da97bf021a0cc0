"""Plain-text tables for the terminal."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable, Mapping, Sequence

from avalanche_dgm.experiments.results import RunResult, deviation
from avalanche_dgm.metrics.functional import mean

_MOST_COLUMNS = 12
_WIDEST = 8


def align(rows: Sequence[Sequence[str]]) -> str:
    """Aligns rows of cells: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def terminal_width() -> int:
    """Characters in a line of the terminal; many if the output is not a terminal."""
    return shutil.get_terminal_size((10_000, 24)).columns


def described(lines: Mapping[str, str]) -> str:
    """Names and descriptions, in two columns that fit the terminal."""
    indent = max(map(len, lines)) + 4
    return "\n".join(
        textwrap.fill(
            text,
            max(terminal_width(), indent + 20),
            initial_indent=f"  {name}".ljust(indent),
            subsequent_indent=" " * indent,
        )
        for name, text in lines.items()
    )


def _fitted(tasks: Sequence[str], draw: Callable[[list[tuple[str, list[int]]]], str]) -> str:
    """A table with as many columns of tasks as fit the terminal."""
    for most in range(_MOST_COLUMNS, 0, -1):
        table = draw(task_groups(tasks, most))
        if width_of(table) <= terminal_width():
            break
    return table


def width_of(table: str) -> int:
    """Characters in the longest line."""
    return max(map(len, table.splitlines()))


def final_table(runs: Mapping[str, Sequence[RunResult]]) -> str:
    """Formats final test accuracies: methods as rows, tasks and summaries as columns.

    If the terminal is too narrow, the summaries are a second table. Accuracies are means over
    seeds; average, forgetting and (with several experiences) retention also have the standard
    deviation. The memory is its size after the last experience, without the classifier.

    Args:
        runs: The runs of each method, one per seed.
    """
    first = next(iter(runs.values()))[0]
    several = len(set(first.order)) > 1

    def accuracies(groups: list[tuple[str, list[int]]]) -> list[list[str]]:
        rows = [[name for name, _ in groups]]
        for results in runs.values():
            finals = [result.steps[-1].accuracy for result in results]
            rows.append(
                [
                    number(mean([mean([final[j] for j in members]) for final in finals]))
                    for _, members in groups
                ]
            )
        return rows

    names = [["method"], *([name] for name in runs)]
    known = ["forgetting", *(["retention"] if several else [])]
    derived = [["average", *known, "memory", "training"]]
    derived += [
        [
            spread([result.average() for result in results]),
            *(
                spread([v for r in results if (v := r.summaries.get(key)) is not None])
                for key in known
            ),
            size(results[0].steps[-1].memory_bytes),
            f"{mean([result.seconds for result in results]):.1f} s",
        ]
        for results in runs.values()
    ]
    whole = align(_beside(names, accuracies(task_groups(first.tasks)), derived))
    if width_of(whole) <= terminal_width():
        return whole
    above = _fitted(first.tasks, lambda groups: align(_beside(names, accuracies(groups))))
    return f"{above}\n\n{align(_beside(names, derived))}"


def _beside(*tables: list[list[str]]) -> list[list[str]]:
    return [[cell for row in rows for cell in row] for rows in zip(*tables, strict=True)]


def course_table(result: RunResult) -> str:
    """Formats the accuracy matrix of a run: a row after each experience.

    Accuracies on experiences that are learned later are in brackets.
    """

    def draw(groups: list[tuple[str, list[int]]]) -> str:
        rows = [["after", *(name for name, _ in groups), "average"]]
        for i, step in enumerate(result.steps):
            later = set(result.order) - set(result.seen(i))
            cells = []
            for _, members in groups:
                value = number(mean([step.accuracy[j] for j in members]))
                cells.append(f"{value} " if set(members) - later else f"({value})")
            rows.append([result.tasks[step.experience], *cells, number(result.average(i))])
        return align(rows)

    return _fitted(result.tasks, draw)


def task_groups(tasks: Sequence[str], most: int = _MOST_COLUMNS) -> list[tuple[str, list[int]]]:
    """Groups tasks into columns: one for each, or with many tasks ranges and the last ten.

    Args:
        tasks: Names of the tasks.
        most: Maximum number of columns.

    Returns:
        Name and members (indices in ``tasks``) of each column.
    """
    if len(tasks) <= most:
        short = all(len(name) <= _WIDEST for name in tasks)
        return [(name if short else f"task {j + 1}", [j]) for j, name in enumerate(tasks)]
    size = -(-len(tasks) // max(1, min(8, most - 1)))
    columns = []
    for start in range(0, len(tasks), size):
        end = min(start + size, len(tasks))
        columns.append((f"{start + 1}-{end}", list(range(start, end))))
    if len(tasks) > 10:
        columns.append(("last 10", list(range(len(tasks) - 10, len(tasks)))))
    return columns


def number(value: float) -> str:
    """Formats an accuracy (0 to 1) with three decimals, "-" for NaN."""
    return "-" if value != value else f"{value:.3f}"


def size(n_bytes: float | None) -> str:
    """Formats bytes with their unit, "unknown" for ``None``."""
    if n_bytes is None:
        return "unknown"
    unit, name = size_unit(n_bytes)
    return f"{n_bytes / unit:.{0 if unit == 1 else 1}f} {name}"


def size_unit(largest: float) -> tuple[int, str]:
    """The unit for sizes up to ``largest`` bytes: its size in bytes, and its name."""
    power = min(len(str(int(largest))) - 1, 9) // 3
    return 1000**power, ("B", "kB", "MB", "GB")[power]


def spread(values: Sequence[float]) -> str:
    """Formats a mean, with the standard deviation if there are several values."""
    centre = number(mean(list(values)))
    return centre if len(values) < 2 else f"{centre} ± {deviation(list(values)):.3f}"
