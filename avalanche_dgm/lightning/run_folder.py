"""The checkpoint files of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from avalanche_dgm.errors import CheckpointError, ConfigError
from avalanche_dgm.files import final_name, replacing
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.ranks import Ranks

#: Where a run resumes: experience, stage, and step within the stage.
Position = tuple[int, int, int]
_NAME = re.compile(r"(\d+)-(\d+)-(\d+)\.rank(\d+)\.pt")


class RunFolder:
    """One process's checkpoint files of a run, named by position."""

    def __init__(self, folder: Path, trainer: pl.Trainer) -> None:
        self.path, self._trainer, self._ranks = folder, trainer, Ranks.of(trainer)

    def latest(self, *, resume: bool) -> Position | None:
        """The last position that every process has saved, or ``None``.

        Raises:
            ConfigError: The folder holds a run and ``resume`` is off.
        """
        latest = max(self._files().values(), default=(-1, 0, 0))
        if self._ranks.is_distributed:
            strategy = self._trainer.strategy
            own = torch.tensor(latest, device=strategy.root_device)
            experience, stage, step = min(tuple(p) for p in strategy.all_gather(own).tolist())
            latest = experience, stage, step
        if latest[0] < 0:
            return None
        if not resume:
            raise ConfigError(
                f"The folder {self.path} holds an earlier run. Pass resume=True to continue it,"
                " or name another folder."
            )
        return latest

    def read(self, position: Position) -> dict[str, Any]:
        """Loads the checkpoint at a position, onto the CPU.

        Raises:
            CheckpointError: The file is missing or damaged.
        """
        path = self._file(position)
        try:
            content = torch.load(path, map_location="cpu", weights_only=False)
        except Exception as error:
            raise CheckpointError(
                f"The checkpoint {path} cannot be read: {error!r}. Remove the folder to start from"
                " the first experience."
            ) from error
        return dict(content)

    def write(self, position: Position, content: Mapping[str, Any]) -> None:
        """Saves a checkpoint at a position."""
        with replacing(self._file(position)) as file:
            torch.save(dict(content), file)

    def write_alone(self, position: Position, content: Mapping[str, Any]) -> None:
        """Saves a checkpoint and, once every process has saved, removes all others."""
        self.write(position, content)
        self._trainer.strategy.barrier("saved")
        for path in self._files(partial=True):
            if path != self._file(position):
                path.unlink(missing_ok=True)

    def remove(self, position: Position) -> None:
        """Removes the checkpoint at a position."""
        self._file(position).unlink(missing_ok=True)

    def _file(self, position: Position) -> Path:
        experience, stage, steps = position
        name = f"{experience:04d}-{stage:03d}-{steps:09d}.rank{self._ranks.rank}.pt"
        return self.path / name

    def _files(self, *, partial: bool = False) -> dict[Path, Position]:
        """This process's files; with ``partial`` also unfinished temporary files."""
        found = {}
        for path in list(self.path.iterdir()) if self.path.exists() else []:
            match = _NAME.fullmatch(final_name(path) if partial else path.name)
            if match and int(match[4]) == self._ranks.rank:
                found[path] = int(match[1]), int(match[2]), int(match[3])
        return found
