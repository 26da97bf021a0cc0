"""Beside each generative method, a buffer of real images that is as large in bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from avalanche_dgm.experiments.config import ExperimentConfig
from avalanche_dgm.experiments.results import RunResult
from avalanche_dgm.experiments.storage import run_folder
from avalanche_dgm.experiments.sweep import Sweep

_BUFFER = "replay"


def buffer_of(result: RunResult) -> ExperimentConfig | None:
    """The config of a buffer of real images that is as large as what a run holds at its end.

    Args:
        result: A finished run.

    Returns:
        The same run with ``replay`` of as many bytes; ``None`` for one of a reference method, or if
        nothing is held or its size is not known.
    """
    # Here, as help on the command line does without PyTorch.
    from avalanche_dgm.experiments.methods import method_of
    from avalanche_dgm.methods.registry import NamedMethod

    # Of others, a process of a Trainer that is not the first may have no steps.
    if not isinstance(method_of(result.config), NamedMethod):
        return None
    held = result.steps[-1].memory_bytes
    if not held:
        return None
    return dataclasses.replace(
        result.config,
        method=_BUFFER,
        method_options={"memory_bytes": held},
        paper=False,
        quality=False,
    )


def add_buffers(
    sweep: Sweep, results: Mapping[str, Sequence[RunResult]]
) -> dict[str, Sequence[RunResult]]:
    """Runs a buffer of the same bytes for each method of a comparison.

    Args:
        sweep: What has run the comparison; each buffer gets a folder within its own.
        results: The comparison's rows.

    Returns:
        The rows, each one followed by that of its buffer.

    Raises:
        ConfigError: No image fits into what a method holds.
    """
    rows: dict[str, Sequence[RunResult]] = {}
    for name, row in results.items():
        rows[name] = row
        configs = [config for result in row if (config := buffer_of(result)) is not None]
        if len(configs) == len(row):
            folder: Path = run_folder(sweep.folder, f"{_BUFFER}-as-{name}")
            title = f"{_BUFFER} as {name}"
            rows |= dataclasses.replace(sweep, folder=folder).run({title: configs})
    return rows
