"""Makes an exhibit: trains missing runs, draws figures, and writes its folder."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from avalanche_dgm import files
from avalanche_dgm.dashboards.drawing import save
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments import storage
from avalanche_dgm.experiments.paper import PaperRuns
from avalanche_dgm.papers.exhibits import Exhibit, Request, Trained
from avalanche_dgm.papers.numbers import numbers_of, table_text, to_csv, to_json

#: The files of every exhibit, besides its figures.
NUMBERS, TABLE = "numbers.json", "numbers.csv"


def make(exhibit: Exhibit, request: Request, runs: PaperRuns, *, name: str | None = None) -> str:
    """Trains missing runs and writes the exhibit's folder.

    Args:
        exhibit: The exhibit.
        request: Its settings.
        runs: Trains the runs.
        name: Name of the folder; by default the exhibit's, with a suffix for settings that are not
            the paper's.

    Returns:
        The text for the terminal; empty in all processes but the first.

    Raises:
        ConfigError: The settings cannot be run, or the folder has other files.
        StorageError: A file cannot be written; the same command resumes.
    """
    folder = storage.run_folder(runs.out, name or exhibit.name + request.suffix)
    configs = exhibit.configs(request)
    if runs.options.is_global_zero:
        _check_folder(folder, exhibit)
    trained = Trained(request, runs.train(configs), folder)
    if exhibit.more is not None:
        # Not filtered by `only`, as they depend on runs that are.
        further = exhibit.more(request, trained)
        trained = Trained(request, {**trained.runs, **runs.train(further)}, folder)
    if not runs.options.is_global_zero:
        return ""
    results = exhibit.show(trained)
    numbers = numbers_of(exhibit, trained, results)
    pictures = {folder / f"{exhibit.name}{end}.png": f for end, f in results.figures.items()}
    for path, figure in pictures.items():
        save(figure, path)
    files.write_text(folder / TABLE, to_csv(numbers))
    # Last, as it marks the folder as complete.
    files.write_text(folder / NUMBERS, to_json(numbers))
    parts = [table_text(numbers), *results.notes]
    if pictures:
        parts.append("\n".join(["Pictures:", *(f"  {path}" for path in pictures)]))
    parts.append(f"Numbers: CSV and JSON in {folder}/")
    return "\n\n".join(part for part in parts if part)


def _check_folder(folder: Path, exhibit: Exhibit) -> None:
    """Checks that a folder has no other files than those of this exhibit."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder. Choose another --name or --out.")
    own = {NUMBERS, TABLE, *(path.name for path in folder.glob(f"{exhibit.name}*.png"))}
    names = sorted(p.name for p in folder.iterdir()) if folder.exists() else []
    existing = None
    with suppress(OSError, ValueError, TypeError, KeyError):
        existing = json.loads((folder / NUMBERS).read_text(encoding="utf-8"))["exhibit"]
    if existing is not None and existing != exhibit.name:
        raise ConfigError(f"{folder} has the exhibit {existing}. Choose another --name or --out.")
    foreign = [name for name in names if files.final_name(Path(name)) not in own]
    if foreign and existing is None:
        raise ConfigError(
            f"{folder} has {storage.first_names(foreign)}, and no exhibit. Choose another --name"
            " or --out, or empty the folder."
        )
