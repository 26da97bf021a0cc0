"""Writes docs/results.md from docs/results/*.json, and takes over newer numbers of runs.

``python tools/make_results.py [RUNS ...]``: each RUNS is a folder of runs (``runs`` by default).
What `avalanche-dgm paper` left there is copied to docs/results if it is newer, has no fewer seeds
and no fewer rows, and is no ``--fast`` run. Seeds that follow those of a file are added to it, and
newer numbers of some rows, with the same seeds, replace these rows. Then the page is written, and
the README's numbers that name a file: ``.947 ± .002<!-- FILE; ROW; COLUMN -->``; "memory" and
"training time" are columns, too.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from avalanche_dgm import papers
from avalanche_dgm.papers.exhibits import Exhibit
from avalanche_dgm.papers.merging import with_rows, with_seeds
from avalanche_dgm.papers.numbers import (
    COSTS,
    cell_text,
    costs_of,
    difference_text,
    paper_text,
    to_json,
)

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
PAGE = ROOT / "docs" / "results.md"
README = ROOT / "README.md"
_MARKED = re.compile(r"([^\s|(]+(?: ± \S+?| k?B| [MG]B| s)?)<!-- ([^;>]+); ([^;>]+); ([^;>]+?) -->")
_HEAD = """# Results

The figures and tables of the papers: what the paper says, and what
[`avalanche-dgm paper`](cli.md#figures-and-tables-of-the-papers) measured with the paper's settings
and, in some cases, with this package's defaults. Numbers are means over seeds ± half the width of
their 95 % t interval; differences are paired by seed. *Memory* is the size at the end, without the
classifier. *Training time* is wall time, on a machine with other work in some cases. The linked
files have the values of every seed, the curves of the figure, versions and machine. `make results`
writes this page.
"""

Numbers = Mapping[str, Any]


def take_over(runs: Path, results: Path = RESULTS) -> list[Path]:
    """Copies newer numbers of a folder of runs.

    Returns:
        What was written.
    """
    written = []
    for path in sorted(runs.glob("*/numbers.json")):
        new = json.loads(path.read_text(encoding="utf-8"))
        # Of Avalanche's loop, which the settings are for.
        elsewhere = "--backend" in new["command"]
        if new["fast"] or elsewhere or new["exhibit"] not in papers.EXHIBITS:
            continue
        target = results / f"{file_name(new)}.json"
        old = json.loads(target.read_text(encoding="utf-8")) if target.exists() else None
        if old is not None and new["seeds"][0] == old["seeds"][-1] + 1:
            new = with_seeds(papers.EXHIBITS[new["exhibit"]], old, new)
        elif old is not None and _is_part(new, old):
            new = with_rows(old, new)
        if old is None or _is_better(new, old):
            results.mkdir(exist_ok=True)
            target.write_text(to_json(new), encoding="utf-8")
            written.append(target)
    return written


def file_name(numbers: Numbers) -> str:
    """The name of a results file: the exhibit, and the settings that are not the paper's."""
    ours = papers.EXHIBITS[numbers["exhibit"]].ours
    defaults = "-defaults" if numbers["settings"] == "defaults" and not ours else ""
    scale = f"-scale{numbers['scale']:g}" if numbers["scale"] < 1 else ""
    return f"{numbers['exhibit']}{defaults}{scale}"


def _is_better(new: Numbers, old: Numbers) -> bool:
    fuller = len(new["seeds"]) >= len(old["seeds"]) and _measured(new) >= _measured(old)
    return fuller and new["made"] > old["made"]


def _is_part(new: Numbers, old: Numbers) -> bool:
    """Whether these are some rows of a file, measured again."""
    again = bool(new["only"]) and new["seeds"] == old["seeds"] and new["made"] > old["made"]
    return again and _measured(new) < _measured(old)


def _measured(numbers: Numbers) -> set[tuple[str, str]]:
    return {(cell["row"], cell["column"]) for cell in numbers["rows"] if cell["values"]}


def read(results: Path = RESULTS) -> dict[str, Numbers]:
    """Reads the results files by name."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(results.glob("*.json"))
        if json.loads(path.read_text(encoding="utf-8")).get("exhibit") in papers.EXHIBITS
    }


def page_of(files: Mapping[str, Numbers]) -> str:
    """The page, in Markdown."""
    parts = [_HEAD]
    for paper in papers.PAPERS.values():
        parts.append(f"## {paper.TITLE}\n")
        missing = []
        for exhibit in paper.EXHIBITS:
            mine = {name: n for name, n in files.items() if n["exhibit"] == exhibit.name}
            if mine:
                parts += _section(exhibit, mine)
            else:
                missing.append(exhibit)
        if missing:
            parts.append("Not measured yet, each one command:\n")
            parts.append("".join(f"- `avalanche-dgm paper {e.name}`: {e.title}\n" for e in missing))
    return "\n".join(parts)


def _section(exhibit: Exhibit, files: Mapping[str, Numbers]) -> list[str]:
    # The paper's settings first, and what is nearest to its size.
    order = sorted(
        files, key=lambda name: (files[name]["settings"] != "paper", -files[name]["scale"])
    )
    parts = [f"### {exhibit.title}\n", f"{exhibit.says}\n"]
    for name in order:
        numbers = files[name]
        parts += [f"{_said(numbers)}\n", _table(numbers)]
        parts += ["".join(f"- {difference_text(d)}\n" for d in numbers["differences"])]
        parts.append(
            f"`{numbers['command']}`, {_machine(numbers)}: [{name}.json](results/{name}.json)\n"
        )
    return [part for part in parts if part]


def _said(numbers: Numbers) -> str:
    settings = (
        "Defaults of this package"
        if numbers["settings"] == "defaults"
        else papers.EXHIBITS[numbers["exhibit"]].settings
    )
    scale = "all images" if numbers["scale"] == 1 else f"{numbers['scale']:.4g} of the images"
    seeds = numbers["seeds"]
    return f"**{settings}**, {scale}, {len(seeds)} seed{'s' if len(seeds) > 1 else ''}:"


def _machine(numbers: Numbers) -> str:
    said = {
        f"{m['gpu'] or m['cpu']}, {m['threads']} thread{'s' if m['threads'] != 1 else ''},"
        f" PyTorch {m['versions']['torch']}"
        for m in numbers["machines"]
    }
    return "; ".join(sorted(said))


def _table(numbers: Numbers) -> str:
    """Rows by columns; in a cell our mean, and the paper's value in brackets."""
    cells = {(cell["row"], cell["column"]): cell for cell in numbers["rows"]}
    rows, columns = (list(dict.fromkeys(place[i] for place in cells)) for i in (0, 1))
    costs = costs_of(numbers)
    more = [*COSTS] if costs else []
    lines = [["", *columns, *more], ["---"] * (1 + len(columns) + len(more))]
    for row in rows:
        found = [_both(cells.get((row, column))) for column in columns]
        lines.append([row, *found, *(costs.get(row, ["", ""]) if costs else [])])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _both(cell: Numbers | None) -> str:
    if cell is None:
        return ""
    ours = cell_text(cell)
    return f"{ours} (paper {paper_text(cell['paper'])})" if cell["paper"] is not None else ours


def filled(text: str, files: Mapping[str, Numbers]) -> str:
    """A text with the numbers that its markers name.

    Raises:
        KeyError: A marker names no file, row or column.
    """

    def value(found: re.Match[str]) -> str:
        _, name, row, column = found.groups()
        cells = {(cell["row"], cell["column"]): cell for cell in files[name]["rows"]}
        if column in COSTS:
            text = costs_of(files[name])[row][COSTS.index(column)]
        else:
            text = cell_text(cells[row, column])
        return f"{text}<!-- {name}; {row}; {column} -->"

    return _MARKED.sub(value, text)


def main(folders: Sequence[str]) -> None:
    """Takes over what is newer, and writes the page and the README's numbers."""
    for folder in folders or ["runs"]:
        for path in take_over(Path(folder)):
            print(f"newer: {path.relative_to(ROOT)}")
    files = read()
    PAGE.write_text(page_of(files), encoding="utf-8")
    README.write_text(filled(README.read_text(encoding="utf-8"), files), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {len(files)} files")


if __name__ == "__main__":
    main(sys.argv[1:])
