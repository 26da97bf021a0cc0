"""Sweeps: several configs, run one after the other and reported together."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from avalanche_dgm import files
from avalanche_dgm.experiments import recipes, report, runner, storage, tables
from avalanche_dgm.experiments.config import ExperimentConfig
from avalanche_dgm.experiments.methods import check_options, find_method, has_gan, method_of
from avalanche_dgm.experiments.results import RunResult
from avalanche_dgm.experiments.runner import RunOptions
from avalanche_dgm.methods.registry import NamedMethod
from avalanche_dgm.metrics.functional import mean

Configs = Mapping[str, Sequence[ExperimentConfig]]


#: Name for the user, config and folder of a run.
Planned = tuple[str, ExperimentConfig, Path]


def run_all(
    planned: Sequence[Planned], options: RunOptions, *, comparison: Path | None = None
) -> dict[Path, RunResult]:
    """Checks all configs and folders, then runs those that are not finished.

    Args:
        planned: The runs; those with the same folder are run once.
        options: How to run them.
        comparison: A folder that has those of all runs, which is locked, too.

    Returns:
        The results by folder.

    Raises:
        ConfigError: A config or a folder cannot be used; nothing was run.
        StorageError: A file cannot be written; the run can be resumed.
    """
    for _, config, _ in planned:
        check_options(config)
    folders = [folder for _, _, folder in planned]
    with ExitStack() as stack:
        if options.is_global_zero:
            if comparison is not None:
                storage.check_comparison(comparison, folders)
                stack.enter_context(files.lock(comparison))
            for folder in folders:
                files.check_unlocked(folder)
        kept = {folder: storage.check_folder(folder, c, options) for _, c, folder in planned}
        results = {folder: result for folder, result in kept.items() if result is not None}
        for name, config, folder in planned:
            if folder in results:
                continue
            if options.progress and options.is_global_zero:
                description = find_method(config.method).description
                about = f" ({description})" if description else ""
                print(f"{name}{about}, seed {config.seed}", file=sys.stderr)
            try:
                results[folder] = runner.run(config, folder, options)
            except Exception:
                if options.is_global_zero and results:
                    print(
                        f"{name}, seed {config.seed}, failed. The finished runs, {len(results)} of"
                        f" {len(set(folders))}, are saved; --resume keeps them.",
                        file=sys.stderr,
                    )
                raise
    return results


@dataclass(frozen=True)
class Sweep:
    """Runs several configs, each in a subfolder of the sweep's folder.

    Attributes:
        folder: The folder.
        options: How to run them.
        folders: Those of the runs so far.
    """

    folder: Path
    options: RunOptions = field(default_factory=RunOptions)
    folders: list[Path] = field(default_factory=list)

    def run(self, configs: Configs) -> dict[str, list[RunResult]]:
        """Runs the configs; see `run_all`.

        Returns:
            The results in the same order.
        """
        planned = {
            name: [(c.method, c, self.folder_of(configs, name, c)) for c in seeds]
            for name, seeds in configs.items()
        }
        everything = list(chain.from_iterable(planned.values()))
        alone = self.folder in (folder for _, _, folder in everything)
        results = run_all(everything, self.options, comparison=None if alone else self.folder)
        self.folders.extend(results)
        return {name: [results[folder] for _, _, folder in row] for name, row in planned.items()}

    def folder_of(self, configs: Configs, name: str, config: ExperimentConfig) -> Path:
        """Returns a run's folder: that of the sweep if there is only this run."""
        folder = storage.run_folder(self.folder, name) if len(configs) > 1 else self.folder
        alone = all(len(seeds) == 1 for seeds in configs.values())
        return folder if alone else folder / f"seed{config.seed}"

    def add_buffers(
        self, results: Mapping[str, Sequence[RunResult]], buffers: Sequence[str] = ("replay",)
    ) -> dict[str, Sequence[RunResult]]:
        """Runs buffers of real images with as many bytes as each generative method.

        Each buffer has a subfolder of the sweep's folder.

        Args:
            results: The results of ``run``.
            buffers: Reference methods with the option ``memory_budget``.

        Returns:
            The rows, each followed by those of its buffers.

        Raises:
            ConfigError: A method's bytes are too few for an image.
        """
        rows: dict[str, Sequence[RunResult]] = {}
        for name, row in results.items():
            rows[name] = row
            for buffer in buffers:
                candidates = [buffer_of(result, buffer) for result in row]
                configs = [config for config in candidates if config is not None]
                if len(configs) == len(row):
                    folder = storage.run_folder(self.folder, f"{buffer}-as-{name}")
                    rows |= replace(self, folder=folder).run({f"{buffer} as {name}": configs})
        return rows

    def summarise(self, results: Mapping[str, Sequence[RunResult]]) -> str:
        """Writes the summary of several runs and returns the text for the terminal."""
        row = next(iter(results.values()))
        parts = [headline(row)]
        if len(results) == 1 and len(row) == 1:
            parts.append("After each experience, in brackets what is not yet learned:")
            parts.append(tables.course_table(row[0]))
            parts.append("At the end:")
        else:
            report.write_comparison(self.folder, results)
            configs = {name: [run.config for run in row] for name, row in results.items()}
            files.write_text(self.folder / recipes.FILE, recipes.dump(configs))
        parts.append(tables.final_table(results))
        parts.append("\n".join(["Pictures:", *(f"  {path}" for path in self._pictures())]))
        parts.append(f"Numbers: CSV and JSON in {self.folder}/")
        # Last, as in the tables of papers.
        parts += [new_and_original(row) for row in results.values() if _of_two_halves(row)]
        rows = results.values()
        lines = [line for row in rows for line in (after_classes(row), generated(row)) if line]
        parts += ["\n".join(lines)] if lines else []
        return "\n\n".join(parts)

    def _pictures(self) -> list[Path]:
        series = "samples-*.png"
        own = sorted(set(self.folder.glob("*.png")) - set(self.folder.glob(series)))
        # One line for all samples after experiences.
        own += [self.folder / series] if any(self.folder.glob(series)) else []
        # Not those of other runs in the folder, such as of a comparison of more methods before.
        below = [folder / "samples.png" for folder in self.folders if folder != self.folder]
        return [*own, *sorted(path for path in below if path.exists())]


def check_buffers(configs: Configs, buffers: Sequence[str]) -> None:
    """Checks, before training, that buffers can be run with the same settings.

    Raises:
        ConfigError: A buffer has its own training loop, which a Trainer cannot run.
    """
    beside = {
        buffer: [_with_buffer(config, buffer) for seeds in configs.values() for config in seeds]
        for buffer in buffers
    }
    is_global_zero(beside)


def buffer_of(result: RunResult, buffer: str = "replay") -> ExperimentConfig | None:
    """The config of a buffer of real images with as many bytes as a run's final memory.

    Args:
        result: A finished run.
        buffer: A reference method with the option ``memory_budget``.

    Returns:
        The run's config with the buffer; ``None`` for a reference method, or if there is no memory
        or its size is not known.
    """
    # Runs of reference methods may have no steps in processes other than the first.
    if not isinstance(method_of(result.config), NamedMethod):
        return None
    held = result.steps[-1].memory_bytes
    if not held:
        return None
    return _with_buffer(result.config, buffer, memory_budget=held)


def _with_buffer(config: ExperimentConfig, buffer: str, **options: int) -> ExperimentConfig:
    return config.replace(method=buffer, method_options=options, paper=False, quality=False)


def new_and_original(row: Sequence[RunResult]) -> str:
    """Formats the accuracies on the second and the first experience, after the second."""
    last = [result.steps[-1].accuracy for result in row]
    new, original = (mean([accuracy[j] for accuracy in last]) for j in (1, 0))
    method = row[0].config.method
    return f"{method}: accuracy on new classes {new:.4f}, on original classes {original:.4f}"


def after_classes(row: Sequence[RunResult]) -> str | None:
    """Formats accuracies after 5 and 10 classes, as in papers on GAN memories.

    Returns:
        A line such as ``gan-replay: A5 .968  A10 .941 (...)``; ``None`` for methods without a GAN,
        and if experiences have several classes.
    """
    if not has_gan(method_of(row[0].config)):
        return None
    parts = []
    for n in (5, 10):
        values = [result.after_classes(n) for result in row]
        if None not in values:
            parts.append(f"A{n} {mean(values):.3f}".replace(" 0.", " ."))
    if not parts:
        return None
    text = "test accuracy after so many classes, mean over classes"
    return f"{row[0].config.method}: {'  '.join(parts)} ({text})"


def generated(row: Sequence[RunResult]) -> str | None:
    """Formats the accuracy on generated samples, distinct from A5 and A10 (Wu et al. 2018).

    Returns:
        A line such as ``gan-replay: generated samples that a classifier of real ones takes for
        their class: after 5 classes .970 ± .004, after 10 .941 ± .010``; if experiences have
        several classes, only the final value. ``None`` if it was not measured.
    """
    parts: list[str] = []
    for n in (5, 10):
        steps = [result.step_of_classes(n) for result in row]
        value = _measured(row, steps)
        parts += [f"after {n}{'' if parts else ' classes'} {value}"] if value else []
    if not parts and (value := _measured(row, [-1] * len(row))):
        parts.append(f"after the last experience {value}")
    if not parts:
        return None
    text = "generated samples that a classifier of real ones takes for their class"
    return f"{row[0].config.method}: {text}: {', '.join(parts)}"


def _measured(row: Sequence[RunResult], steps: Sequence[int | None]) -> str:
    """Mean and deviation over the seeds at these steps; empty if one was not measured."""
    values = [
        result.steps[step].generated_accuracy
        for result, step in zip(row, steps, strict=True)
        if step is not None
    ]
    known = [value for value in values if value is not None]
    if len(known) < len(row):
        return ""
    return re.sub(r"\b0\.", ".", tables.spread(known))


def _of_two_halves(row: Sequence[RunResult]) -> bool:
    return row[0].config.stream == "latent-split" and row[0].order == [0, 1]


def is_global_zero(configs: Configs) -> bool:
    """Whether this is the first of the processes that will run the configs.

    Raises:
        ConfigError: A config cannot be run on its backend.
    """
    first = True
    for config in (config for seeds in configs.values() for config in seeds):
        if config.backend == "lightning":
            first = runner.make_engine(config).is_global_zero
    return first


def headline(row: Sequence[RunResult]) -> str:
    """The heading of the tables."""
    config, seeds = row[0].config, len(row)
    spread = f"mean ± sd over {seeds} seeds" if seeds > 1 else f"seed {config.seed}"
    settings = ", paper's settings" if config.paper else ""
    settings += ", --fast (a smoke test)" if config.fast else ""
    measure = f"{config.evaluate_on} accuracy over {len(row[0].order)} experiences"
    return f"{config.stream}{settings}: {measure}, {spread}"
