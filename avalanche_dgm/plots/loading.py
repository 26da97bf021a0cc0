"""Reads run folders for the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments.pages.groups import phrase, stream_of
from avalanche_dgm.experiments.pages.loading import Run, find_runs
from avalanche_dgm.experiments.results import RunResult

Runs = Mapping[str, Sequence[RunResult]]
"""The runs of each method, one per seed."""


def load(*folders: str | Path) -> dict[str, list[RunResult]]:
    """Reads the runs in folders and their subfolders, in the command line's format.

    Args:
        *folders: Run folders (with a results.json), or folders that contain some, such as
            ``runs/compare-digits``.

    Returns:
        The runs of each method by seed; methods in the order in which they were run.

    Raises:
        ConfigError: A folder is missing or has no run, a run cannot be read, two runs have the same
            method and seed, or runs of one method have different settings.
    """
    if not folders:
        raise ConfigError("No folder was given. Give the folder of a run, or one that contains it.")
    all_runs, unreadable = find_runs([Path(folder) for folder in folders])
    if unreadable:
        # A figure without some of the runs would be wrong.
        raise ConfigError(" ".join(unreadable))
    runs: dict[str, dict[int, Run]] = {}
    for run in all_runs:
        other = runs.setdefault(run.result.config.method, {}).setdefault(run.seed, run)
        if other is not run:
            raise ConfigError(
                f"{other.folder} and {run.folder} are both runs of {run.result.config.method} with"
                f" seed {run.seed}. Give folders of one comparison."
            )
    for method, seeds in runs.items():
        first, *others = (seeds[seed] for seed in sorted(seeds))
        for other in others:
            theirs = other.result.config
            # Seeds may differ, and so may measurements that do not affect training.
            same = first.result.config.replace(seed=theirs.seed, quality=theirs.quality)
            differences = theirs.differences(same)
            if differences:
                raise ConfigError(
                    f"{other.folder} differs from {first.folder}, both of {method}:"
                    f" {', '.join(differences)}. Give folders of one comparison."
                )
    return {name: [seeds[seed].result for seed in sorted(seeds)] for name, seeds in runs.items()}


def check(runs: Runs, *needed: str) -> RunResult:
    """Checks that runs can be drawn in one figure.

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
            f" {', '.join(runs) or 'none'}. Run them on the same stream, or give others."
        )
    empty = [name for name, results in runs.items() if not results]
    if empty or not runs:
        raise ConfigError(
            f"There is no run{' of ' + ', '.join(empty) if empty else ''}. Give at least one of"
            " each method, as returned by `avalanche_dgm.plots.load`."
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
            # Not the tasks' names, which depend on the seed if it shuffles classes.
            if (stream_of(result), result.order) != (stream_of(first), first.order):
                raise ConfigError(
                    f"{who} learned {_describe(result)}, but others learned {_describe(first)}, or"
                    " its experiences in another order. Draw those of one stream."
                )
    return first


def _describe(result: RunResult) -> str:
    stream, *parts = [(k, v) for k, v in stream_of(result).items() if v not in ((), None)]
    return f"{stream[1]} ({', '.join(phrase(key, value) for key, value in parts)})"
