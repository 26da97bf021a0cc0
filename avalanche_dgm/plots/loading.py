"""Reads run folders into what the figures are drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments.pages.groups import phrase, stream_of
from avalanche_dgm.experiments.pages.loading import Run, find_runs
from avalanche_dgm.experiments.results import RunResult

Runs = Mapping[str, Sequence[RunResult]]
"""The runs of each method, one a seed."""


def load(*folders: str | Path) -> dict[str, list[RunResult]]:
    """Reads the runs in some folders and below them, as the command line writes them.

    Args:
        *folders: Run folders (with a results.json), or folders above them, such as
            ``runs/compare-digits``.

    Returns:
        The runs of each method by seed; methods in the order in which they were run.

    Raises:
        ConfigError: A folder is not there or holds no run, a run cannot be read, two runs have
            the same method and seed, or runs of one method have different settings.
    """
    if not folders:
        raise ConfigError("No folder was given. Name the folder of a run, or one above it.")
    found, unreadable = find_runs([Path(folder) for folder in folders])
    if unreadable:
        # A figure that lacks a run would be wrong.
        raise ConfigError(" ".join(unreadable))
    runs: dict[str, dict[int, Run]] = {}
    for run in found:
        other = runs.setdefault(run.result.config.method, {}).setdefault(run.seed, run)
        if other is not run:
            raise ConfigError(
                f"{other.folder} and {run.folder} are both runs of {run.result.config.method} with"
                f" seed {run.seed}. Name folders that hold one comparison."
            )
    for method, seeds in runs.items():
        first, *others = (seeds[seed] for seed in sorted(seeds))
        for other in others:
            theirs = other.result.config
            # What is only measured changes nothing.
            like_it = first.result.config.replace(seed=theirs.seed, quality=theirs.quality)
            differences = theirs.differences(like_it)
            if differences:
                # Their mean over seeds would be one over settings.
                raise ConfigError(
                    f"{other.folder} differs from {first.folder}, both of {method}:"
                    f" {', '.join(differences)}. Name folders that hold one comparison."
                )
    return {name: [seeds[seed].result for seed in sorted(seeds)] for name, seeds in runs.items()}


def check(runs: Runs, *needed: str) -> RunResult:
    """Refuses runs that cannot be drawn in one figure.

    Args:
        runs: The runs.
        *needed: Methods that must be among them.

    Returns:
        The first of them.

    Raises:
        ConfigError: A method is missing or has no run, a run is not finished, or the runs learned
            different streams.
    """
    missing = [name for name in needed if name not in runs]
    if missing:
        raise ConfigError(
            f"The figure needs runs of {', '.join(missing)}; there are"
            f" {', '.join(runs) or 'none'}. Run them on the same stream, or name others."
        )
    empty = [name for name, results in runs.items() if not results]
    if empty or not runs:
        raise ConfigError(
            f"There is no run{' of ' + ', '.join(empty) if empty else ''}. Give each method at"
            " least one, as `avalanche_dgm.plots.load` reads them."
        )
    first = next(iter(runs.values()))[0]
    for name, results in runs.items():
        for result in results:
            who = f"The run of {name} with seed {result.config.seed}"
            if not result.complete or not result.steps:
                raise ConfigError(
                    f"{who} is not finished ({result.progress}). Continue it with --resume, or"
                    " leave it out."
                )
            # Names of tasks may depend on the seed, where it shuffles classes.
            if (stream_of(result), result.order) != (stream_of(first), first.order):
                raise ConfigError(
                    f"{who} learned {_said(result)}, and others learned {_said(first)}, or its"
                    " experiences in another order. Draw those of one stream."
                )
    return first


def _said(result: RunResult) -> str:
    stream, *parts = [(k, v) for k, v in stream_of(result).items() if v not in ((), None)]
    return f"{stream[1]} ({', '.join(phrase(key, value) for key, value in parts)})"
