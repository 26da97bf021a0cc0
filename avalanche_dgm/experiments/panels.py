"""The dashboard of a run of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avalanche_dgm.dashboards import keys
from avalanche_dgm.dashboards.dashboard import Dashboard, LearnedExperience
from avalanche_dgm.dashboards.file_sink import FileSink
from avalanche_dgm.dashboards.sinks import FailSafeSink, Sink
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments.config import ExperimentConfig, require_known
from avalanche_dgm.experiments.methods import is_joint
from avalanche_dgm.experiments.results import RunResult
from avalanche_dgm.experiments.run_spec import RunSpec
from avalanche_dgm.experiments.storage import PANELS
from avalanche_dgm.files import write_text
from avalanche_dgm.methods import Method, MethodStats
from avalanche_dgm.plugins.learned import Learned
from avalanche_dgm.plugins.tested import log_examples

PLACES = ("files", "wandb", "tensorboard", "none")
#: File in a run's folder with the id of its W&B run.
_WANDB_ID = "wandb-run.txt"
#: Samples per class in pictures.
_SAMPLES = 8


@dataclass(frozen=True)
class LogSettings:
    """Where to log a run's panels.

    Attributes:
        places: ``"files"`` (CSV and PNG in the run folder), ``"wandb"``, ``"tensorboard"`` (in the
            run folder), or only ``"none"``.
        project: W&B's project.

    Raises:
        ConfigError: A place is unknown, or ``"none"`` is not the only one.
    """

    places: tuple[str, ...] = ("files",)
    project: str = "avalanche-dgm"

    def __post_init__(self) -> None:
        for place in self.places:
            require_known("place for logs", place, PLACES)
        if "none" in self.places and len(self.places) > 1:
            raise ConfigError("'none' logs nothing: give only that, or leave it out.")

    def open(self, folder: Path, config: ExperimentConfig) -> list[Sink]:
        """Opens the sinks."""
        from avalanche_dgm.dashboards.tensorboard_sink import TensorBoardSink

        sinks: list[Sink] = []
        if "files" in self.places:
            # Only the files are required; other sinks may fail.
            sinks.append(FailSafeSink(FileSink(folder / PANELS), required=True))
        if "tensorboard" in self.places:
            sinks.append(TensorBoardSink(folder / "tensorboard"))
        if "wandb" in self.places:
            sinks += self._wandb(folder, config)
        return sinks

    def _wandb(self, folder: Path, config: ExperimentConfig) -> list[Sink]:
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
            # W&B replaces a table when it is logged, so rows from before an interruption are added.
            files = FileSink(folder / PANELS)
            tables = {key: files.table_rows(key) for key in keys.TABLES}
        sink = WandbSink(settings, tables=tables)
        if sink.run is None:
            return []
        safe = FailSafeSink(sink)
        safe.attempt("its id", lambda: write_text(note, f"{sink.run.id}\n"))
        return [safe]


class RunPanels:
    """Logs a run of either backend to a dashboard.

    Args:
        spec: The run's experiences.
        folder: The run folder, or ``None`` to log nothing.
        settings: Where to log panels.
    """

    # Not a dataclass: Lightning would copy its fields to spawned processes.
    def __init__(self, spec: RunSpec, folder: Path | None, settings: LogSettings) -> None:
        self.spec, self.folder, self.settings = spec, folder, settings
        self._dashboard: Dashboard | None = None

    @property
    def dashboard(self) -> Dashboard:
        """The dashboard, opened on first use."""
        if self._dashboard is None:
            sinks: Sequence[Sink] = []
            if self.folder is not None:
                sinks = self.settings.open(self.folder, self.spec.config)
            self._dashboard = Dashboard(sinks, samples_per_class=_SAMPLES)
        return self._dashboard

    def log_training(self, values: dict[str, float], step: int) -> None:
        """Logs an epoch's means."""
        # Joint training restarts in each experience, and so would its steps.
        if not is_joint(self.spec.method):
            self.dashboard.log_training(values, step=step)

    def log_experience(self, result: RunResult, method: Method | None) -> None:
        """Logs the last step, and the method's settings with the first one."""
        spec, dashboard = self.spec, self.dashboard
        if not dashboard.sinks:
            return
        n, step = len(result.steps), result.steps[-1]
        learned = [spec.benchmark.train_stream[i] for i in spec.order[:n]]
        # Joint training trains on all experiences so far.
        trained = {spec.order[i] for i in range(0 if is_joint(spec.method) else n - 1, n)}
        n_trained = sum(len(spec.benchmark.train_stream[i].dataset) for i in trained)
        stats = MethodStats(
            replayed=step.replayed,
            histogram=step.histogram,
            stm_occupancy=step.stm_occupancy,
            sleeps=step.sleeps,
            sleep_seconds=step.sleep_seconds,
            phase_seconds=step.phases,
        )
        experience = LearnedExperience(
            experiences=n,
            seconds=step.seconds,
            shown=n_trained * spec.config.epochs,
            n_classes=len(Learned.of(learned).classes),
            stats=stats,
        )
        if result.method_settings and method is not None:
            dashboard.log_settings({"method": keys.settings_of(method)})
        dashboard.log_experience(experience, method)
        accuracies = result.accuracies
        dashboard.log_test(accuracies, names=result.tasks, seconds=step.eval_seconds)
        before = result.steps[-2].sleeps if n > 1 else 0
        dashboard.log_sleep(stats, before=before, at=n)
        if method is not None:
            seen = [spec.tested[column] for column in accuracies.learned()]
            log_examples(
                dashboard, method, spec.test_experiences(), seen, at=n, last=result.complete
            )

    def close(self) -> None:
        """Closes the dashboard."""
        if self._dashboard is not None:
            self._dashboard.close()
            self._dashboard = None

    def __getstate__(self) -> dict[str, Any]:
        # Spawned processes open the sinks themselves.
        return {**self.__dict__, "_dashboard": None}
