"""Merges numbers of an exhibit that were measured one part after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.papers.exhibits import Exhibit, Request
from avalanche_dgm.papers.numbers import Numbers, command_of, difference, estimated

_SETTINGS = ("exhibit", "settings", "scale", "fast")


def with_seeds(exhibit: Exhibit, one: Numbers, other: Numbers) -> Numbers:
    """Adds the numbers of further seeds, possibly of another machine.

    Args:
        exhibit: The exhibit of both.
        one: Numbers of the first seeds.
        other: Numbers of the following seeds.

    Returns:
        The numbers of a command with all seeds.

    Raises:
        ConfigError: The seeds are not consecutive, or the two have different settings.
    """
    seeds = [*one["seeds"], *other["seeds"]]
    consecutive = seeds == list(range(seeds[0], seeds[-1] + 1))
    if not consecutive or any(one[name] != other[name] for name in (*_SETTINGS, "only")):
        raise _unlike(one, other)
    request = Request(
        scale=None if one["fast"] else one["scale"],
        seeds=tuple(seeds),
        only=tuple(one["only"]),
        fast=one["fast"],
        defaults=one["settings"] == "defaults" and not exhibit.ours,
    )
    cells, further = (_by_place(found["rows"]) for found in (one, other))
    compared, again = (_by_place(found["differences"]) for found in (one, other))
    axes, others = ({n: c["x"] for n, c in found["curves"].items()} for found in (one, other))
    if cells.keys() != further.keys() or compared.keys() != again.keys() or axes != others:
        raise ConfigError(f"{one['command']} and {other['command']} measured different things.")
    return {
        **other,
        "command": command_of(exhibit, request),
        "seeds": seeds,
        "rows": [_with_more(cells[place], further[place]) for place in cells],
        "differences": [_with_more(compared[place], again[place]) for place in compared],
        "curves": {
            name: {
                "x": curves["x"],
                "rows": {
                    r: v + other["curves"][name]["rows"][r] for r, v in curves["rows"].items()
                },
            }
            for name, curves in one["curves"].items()
        },
        **_runs_of(one, other),
    }


def with_rows(one: Numbers, other: Numbers) -> Numbers:
    """Replaces rows by those that were measured again, with the same seeds.

    Args:
        one: Numbers of all rows.
        other: Later numbers of some of them.

    Returns:
        The numbers of the first command, with the rows of the second.

    Raises:
        ConfigError: The two have different settings or seeds, or a row is not in both.
    """
    cells = _by_place(one["rows"])
    again = {place: c for place, c in _by_place(other["rows"]).items() if c["values"]}
    axes, others = ({n: c["x"] for n, c in found["curves"].items()} for found in (one, other))
    if not again.keys() <= cells.keys() or axes != others:
        raise ConfigError(f"{one['command']} and {other['command']} measured different things.")
    if any(one[name] != other[name] for name in (*_SETTINGS, "seeds")):
        raise _unlike(one, other)
    cells |= again
    rows = {run["row"] for run in other["runs"]}
    kept = {**one, "runs": [run for run in one["runs"] if run["row"] not in rows]}
    return {
        **one,
        "made": other["made"],
        "rows": [*cells.values()],
        "differences": [_measured_again(entry, cells) for entry in one["differences"]],
        "curves": {
            name: {
                "x": curves["x"],
                "rows": {**curves["rows"], **other["curves"][name]["rows"]},
            }
            for name, curves in one["curves"].items()
        },
        **_runs_of(kept, other),
    }


def _unlike(one: Numbers, other: Numbers) -> ConfigError:
    return ConfigError(f"{one['command']} and {other['command']} cannot be joined.")


def _runs_of(one: Numbers, other: Numbers) -> Numbers:
    """The runs and machines of both."""
    machines = [*one["machines"], *(m for m in other["machines"] if m not in one["machines"])]
    moved = [machines.index(machine) for machine in other["machines"]]
    runs = one["runs"] + [{**run, "machine": moved[run["machine"]]} for run in other["runs"]]
    return {"runs": runs, "machines": machines}


def _by_place(cells: Sequence[Numbers]) -> dict[tuple[str, ...], Numbers]:
    return {(c["row"], c.get("less", ""), c["column"]): c for c in cells}


def _with_more(cell: Numbers, more: Numbers) -> Numbers:
    return {**cell, **estimated([*cell["values"], *more["values"]])}


def _measured_again(entry: Numbers, cells: Mapping[tuple[str, ...], Numbers]) -> Numbers:
    """A difference, from the values of its rows."""
    ours, theirs = (cells[row, "", entry["column"]] for row in (entry["row"], entry["less"]))
    return {**entry, **difference(ours["values"], theirs["values"])}
