"""The figure that is computed and not learned from a stream: deep linear networks of A-LTM."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.settings import whole

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
        ConfigError: The seed is negative, or the folder holds something else.
        StorageError: The folder cannot be written.
    """
    from avalanche_dgm.experiments import deep_linear

    whole("seed", seed, least=0)
    settings = deep_linear.Settings(seed=seed)
    _check_folder(folder, asdict(settings), overwrite=overwrite)
    result = deep_linear.run(settings)
    csv, numbers, picture = deep_linear.write(folder, result)
    return (
        f"{deep_linear.summary(result)}\n\nPictures:\n  {picture}\n\n"
        f"Numbers: CSV and JSON in {csv.parent}/ ({csv.name}, {numbers.name})"
    )


def _check_folder(folder: Path, settings: dict[str, object], *, overwrite: bool) -> None:
    """Refuses a folder with anything but this figure of the same settings.

    With ``overwrite`` it may be of other settings, and other files may be there.
    """
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    saved: dict[str, object] = {}
    with suppress(OSError, ValueError, KeyError, TypeError):
        saved = dict(json.loads((folder / _FILES[1]).read_text(encoding="utf-8"))["settings"])
    own = [name for name in names if name in _FILES]
    if own and not saved:
        raise ConfigError(
            f"{folder} holds {', '.join(own)}, but no numbers of this figure: it is not what wrote"
            " them. Choose another --name, or move them."
        )
    if overwrite:
        return
    foreign = [name for name in names if name not in _FILES]
    if foreign:
        raise ConfigError(
            f"{folder} holds {', '.join(foreign[:3])}, which is not of this figure. Choose another"
            " --name, or write beside it with --overwrite."
        )
    if saved and saved != settings:
        changes = [
            f"{k} {v} (was {saved.get(k)})" for k, v in settings.items() if saved.get(k) != v
        ]
        raise ConfigError(
            f"{folder} holds this figure with other settings: {', '.join(changes)}. Choose another"
            " --name, or replace it with --overwrite."
        )
