"""Runs several configs one after the other, each in its folder, and reports on all of them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from avalanche_dgm.experiments import report, storage, tables
from avalanche_dgm.experiments.config import ExperimentConfig
from avalanche_dgm.experiments.methods import METHODS, check_options
from avalanche_dgm.experiments.results import RunResult

Configs = Mapping[str, Sequence[ExperimentConfig]]


@dataclass(frozen=True)
class Session:
    """How runs are carried out.

    Attributes:
        folder: Where everything goes.
        resume: Continue unfinished runs and keep finished ones.
        overwrite: Replace what the folder holds.
        progress: Show progress on stderr.
        command: The command line, kept with the results.
    """

    folder: Path
    resume: bool = False
    overwrite: bool = False
    progress: bool = False
    command: str | None = None

    def run(self, configs: Configs) -> dict[str, list[RunResult]]:
        """Checks everything, then runs what is not finished yet.

        Args:
            configs: The configs of each row of the table, one a seed.

        Returns:
            The results in the same order.

        Raises:
            ConfigError: A config or a folder cannot be used; nothing was run then.
        """
        finished = {}
        for name, seeds in configs.items():
            for config in seeds:
                check_options(config)
                folder = self.folder_of(configs, name, config)
                finished[folder] = storage.check_folder(
                    folder, config, resume=self.resume, overwrite=self.overwrite
                )
        results: dict[str, list[RunResult]] = {name: [] for name in configs}
        for name, seeds in configs.items():
            for config in seeds:
                folder = self.folder_of(configs, name, config)
                results[name].append(finished[folder] or self._run_one(config, folder))
        return results

    def folder_of(self, configs: Configs, name: str, config: ExperimentConfig) -> Path:
        """Returns a run's folder: the session's own one if there is only this run.

        Args:
            configs: All configs of the session.
            name: Row of the table.
            config: One of its configs.
        """
        folder = self.folder / name if len(configs) > 1 else self.folder
        alone = all(len(seeds) == 1 for seeds in configs.values())
        return folder if alone else folder / f"seed{config.seed}"

    def _run_one(self, config: ExperimentConfig, folder: Path) -> RunResult:
        from avalanche_dgm.experiments.runner import run

        if self.progress:
            what = METHODS[config.method].description
            print(f"{config.method} ({what}), seed {config.seed}", file=sys.stderr)
        result = run(
            config,
            folder=folder,
            resume=self.resume,
            progress=self.progress,
            command=self.command,
        )
        report.write_run(folder, result)
        return result

    def conclude(self, results: Mapping[str, Sequence[RunResult]]) -> str:
        """Writes the summary of several runs and returns the text for the terminal.

        Args:
            results: What ``run`` returned.
        """
        row = next(iter(results.values()))
        parts = [headline(row)]
        if len(results) == 1 and len(row) == 1:
            parts.append("After each experience, in brackets what is not yet learned:")
            parts.append(tables.course_table(row[0]))
            parts.append("At the end:")
        else:
            report.write_comparison(self.folder, results)
        parts.append(tables.final_table(results))
        parts.append("\n".join(["Pictures:", *(f"  {path}" for path in self._pictures())]))
        parts.append(f"Numbers: CSV and JSON in {self.folder}/")
        return "\n\n".join(parts)

    def _pictures(self) -> list[Path]:
        own = sorted(self.folder.glob("*.png"))
        return [*own, *sorted(self.folder.rglob("*/samples.png"))]


def headline(row: Sequence[RunResult]) -> str:
    """Says what the tables below it show.

    Args:
        row: The results of one method, one a seed.
    """
    config, seeds = row[0].config, len(row)
    spread = f"mean ± sd over {seeds} seeds" if seeds > 1 else f"seed {config.seed}"
    settings = ", paper's settings" if config.paper else ""
    settings += ", --fast (shows that it works, not how well)" if config.fast else ""
    return (
        f"{config.stream}{settings}: test accuracy over {len(row[0].order)} experiences, {spread}"
    )
