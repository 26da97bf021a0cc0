"""The figure that is computed and not learned from a stream: deep linear networks of A-LTM."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from avalanche_dgm.errors import ConfigError

# What `deep_linear.write` leaves; the JSON file says of which settings.
_FILES = ("altm-fig1.csv", "altm-fig1.json", "altm-fig1.png")


@dataclass(frozen=True)
class ComputedFigure:
    """A figure that needs no data and has no methods to choose from.

    Attributes:
        name: How it is called on the command line.
        title: What is plotted.
        shows: What the paper reads from it.
    """

    name: str
    title: str
    shows: str


ALTM_FIG1 = ComputedFigure(
    "altm-fig1",
    "Figure 1 of A-LTM: two equal tasks, one head each, in deep linear networks",
    "Learning the same task again with another head disturbs the old head; learning both at once"
    " does not. In turns it disturbs less each time, and takes over 100 epochs longer.",
)


def draw(folder: Path, *, seed: int = 0, overwrite: bool = False) -> str:
    """Computes the figure, in seconds on a CPU, and writes it.

    Args:
        folder: Where to.
        seed: Of data and initial weights, 0 or more.
        overwrite: Replace what the folder holds.

    Returns:
        The text for the terminal: what the figure shows, and where the files are.

    Raises:
        ConfigError: The seed is negative, or the folder holds something else or cannot be written.
    """
    from avalanche_dgm.experiments import deep_linear

    if seed < 0:
        raise ConfigError(f"seed is {seed}; a whole number of at least 0 is needed.")
    settings = deep_linear.Settings(seed=seed)
    if not overwrite:
        _check_folder(folder, asdict(settings))
    result = deep_linear.run(settings)
    try:
        csv, numbers, picture = deep_linear.write(folder, result)
    except OSError as error:
        raise ConfigError(
            f"Cannot write to {folder}: {error.strerror}. Choose another --out."
        ) from error
    return (
        f"{deep_linear.summary(result)}\n\nPictures:\n  {picture}\n\n"
        f"Numbers: CSV and JSON in {csv.parent}/ ({csv.name}, {numbers.name})"
    )


def _check_folder(folder: Path, settings: dict[str, object]) -> None:
    """Refuses a folder with anything but this figure of the same settings."""
    if not folder.is_dir():
        return
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in _FILES)
    if foreign:
        raise ConfigError(
            f"{folder} holds {', '.join(foreign[:3])}, which is not of this figure. Choose another"
            " --name, or write beside it with --overwrite."
        )
    try:
        saved = json.loads((folder / _FILES[1]).read_text(encoding="utf-8"))["settings"]
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError):
        saved = {}
    if saved != settings:
        changes = [
            f"{k} {v} (was {saved.get(k)})" for k, v in settings.items() if saved.get(k) != v
        ]
        raise ConfigError(
            f"{folder} holds this figure with other settings: {', '.join(changes)}. Choose another"
            " --name, or replace it with --overwrite."
        )
