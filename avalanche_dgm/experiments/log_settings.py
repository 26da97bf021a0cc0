"""Where a run of the command line shows its panels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments.config import ExperimentConfig, require_known
from avalanche_dgm.files import write_text

if TYPE_CHECKING:
    from avalanche_dgm.dashboards.sinks import Sink

PLACES = ("files", "wandb", "tensorboard", "none")
#: Folder of the panels in a run's folder, and the file that names its run of W&B.
FOLDER = "panels"
_WANDB_ID = "wandb-run.txt"


@dataclass(frozen=True)
class LogSettings:
    """Where a run's panels go.

    Attributes:
        places: ``"files"`` (CSV and PNG in the run folder), ``"wandb"``, ``"tensorboard"`` (in the
            run folder), or ``"none"`` alone.
        project: W&B's project.

    Raises:
        ConfigError: A place is unknown, or ``"none"`` is not alone.
    """

    places: tuple[str, ...] = ("files",)
    project: str = "avalanche-dgm"

    def __post_init__(self) -> None:
        for place in self.places:
            require_known("place to log to", place, PLACES)
        if "none" in self.places and len(self.places) > 1:
            raise ConfigError("'none' logs nothing: give it alone, or leave it out.")

    def open(self, folder: Path, config: ExperimentConfig) -> list[Sink]:
        """Opens the places."""
        from avalanche_dgm.dashboards.file_sink import FileSink
        from avalanche_dgm.dashboards.tensorboard_sink import TensorBoardSink

        sinks: list[Sink] = []
        if "files" in self.places:
            sinks.append(FileSink(folder / FOLDER))
        if "tensorboard" in self.places:
            sinks.append(TensorBoardSink(folder / "tensorboard"))
        if "wandb" in self.places:
            sinks += self._wandb(folder, config)
        return sinks

    def _wandb(self, folder: Path, config: ExperimentConfig) -> list[Sink]:
        from avalanche_dgm.dashboards import keys
        from avalanche_dgm.dashboards.file_sink import FileSink
        from avalanche_dgm.dashboards.sinks import FailSafeSink
        from avalanche_dgm.dashboards.wandb_sink import Tables, WandbSink

        note = folder / _WANDB_ID
        known = note.read_text(encoding="utf-8").strip() if note.exists() else ""
        settings = {
            "project": self.project,
            "name": f"{config.method}-{config.stream}-seed{config.seed}",
            "group": f"{config.method}-{config.stream}",
            "id": known,
            "resume": "allow",
            "dir": str(folder),
            "config": {"run": config.to_json()},
        }
        tables: Tables = {}
        if known and "files" in self.places:
            # W&B shows a table as it was logged last: with the rows from before the interruption.
            files = FileSink(folder / FOLDER)
            tables = {key: files.table_rows(key) for key in keys.TABLES}
        sink = WandbSink(settings, tables=tables)
        if sink.run is None:
            return []
        safe = FailSafeSink(sink)
        safe.attempt("its id", lambda: write_text(note, f"{sink.run.id}\n"))
        return [safe]
