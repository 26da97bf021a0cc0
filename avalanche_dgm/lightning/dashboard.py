"""Dashboards of runs with a Trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from avalanche_dgm.dashboards.dashboard import Dashboard, LearnedExperience
from avalanche_dgm.dashboards.file_sink import FileSink
from avalanche_dgm.dashboards.keys import TRAIN_ACCURACY, TRAIN_LOSS, settings_of
from avalanche_dgm.dashboards.sinks import Panel, Sink
from avalanche_dgm.dashboards.tensorboard_sink import TensorBoardSink
from avalanche_dgm.lightning.module import MethodModule
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.results import StreamResult
from avalanche_dgm.lightning.watching import ReportingCallback
from avalanche_dgm.plugins.learned import Learned
from avalanche_dgm.plugins.samples import stream_of
from avalanche_dgm.plugins.tested import log_examples, names_of


class DashboardCallback(ReportingCallback):
    """Logs a dashboard of the method's memory to the Trainer's loggers or elsewhere.

    Panels have the same names as those of `avalanche_dgm.DashboardLogger`, so that runs of both
    backends share a dashboard. Only the first process logs; training is not changed::

        fit_stream(module, benchmark, callbacks=[DashboardCallback()],
                   trainer=dict(logger=WandbLogger(project="memories")))

    Args:
        sinks: Where to log panels; ``None`` for the Trainer's loggers for W&B, TensorBoard and CSV
            (in a folder ``panels`` beside the CSV files).
        samples_per_class: Samples per class in image grids.
        latents: Whether to plot an embedding of test latents after the last experience.
        checkpoints: Whether to log the best checkpoint of a ``ModelCheckpoint`` after each
            experience; W&B stores it as an artifact.

    Raises:
        ConfigError: ``samples_per_class`` is below 1.
    """

    def __init__(
        self,
        sinks: Sequence[Sink] | None = None,
        *,
        samples_per_class: int = 8,
        latents: bool = True,
        checkpoints: bool = False,
    ) -> None:
        super().__init__(self._log_training)
        # Checks the arguments; the sinks are opened at the start of the stream.
        Dashboard([], samples_per_class=samples_per_class)
        self._sinks = sinks
        self.samples_per_class, self.latents = samples_per_class, latents
        self.checkpoints = checkpoints
        self.dashboard: Dashboard | None = None
        self._benchmark: Any = None

    def logs_to(self, logger: pl.loggers.Logger) -> bool:
        kinds = (pl.loggers.WandbLogger, pl.loggers.TensorBoardLogger)
        return self._sinks is None and isinstance(logger, kinds)

    def _log_training(self, values: dict[str, float], step: int) -> None:
        if self.dashboard is not None:
            self.dashboard.log_training(values, step=step)

    def on_stream_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, benchmark: Any, result: StreamResult
    ) -> None:
        """Opens the sinks and logs the method's settings, in the first process."""
        super().on_stream_start(trainer, module, benchmark, result)
        self._benchmark = benchmark
        if trainer.is_global_zero:
            sinks = self._sinks if self._sinks is not None else logger_sinks(trainer)
            self.dashboard = Dashboard(
                sinks, samples_per_class=self.samples_per_class, latents=self.latents
            )
            if isinstance(module, MethodModule):
                self.dashboard.log_settings({"method": settings_of(module.method)})

    def on_experience_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, result: StreamResult
    ) -> None:
        if self.dashboard is None or not isinstance(module, MethodModule):
            return
        stream, n = list(self._benchmark.train_stream), len(result)
        learned = Learned.of(stream[:n])
        before = result.records[-2].sleeps if n > 1 else 0
        experience = LearnedExperience(
            experiences=n,
            seconds=result.seconds[-1],
            shown=result.shown[-1],
            n_classes=len(learned.classes),
            stats=result.records[-1],
        )
        self.dashboard.log_experience(experience, module.method)
        if self.checkpoints and result.best_checkpoints[-1]:
            self.dashboard.log_checkpoint(Path(result.best_checkpoints[-1]), at=n)
        self._log_test(module, result, last=n == len(stream))
        self.dashboard.log_sleep(result.records[-1], before=before, at=n)

    def _log_test(self, module: MethodModule, result: StreamResult, *, last: bool) -> None:
        dashboard, tests = self.dashboard, list(self._benchmark.test_stream)
        if dashboard is None or not tests or result.accuracy.isnan().all():
            return
        whole = stream_of(tests[0]) or tests
        names = dict(zip((int(e.current_experience) for e in whole), names_of(whole), strict=True))
        positions = [int(test.current_experience) for test in tests]
        dashboard.log_test(
            result.accuracies,
            names=[names[j] for j in positions],
            experiences=positions,
            seconds=result.test_seconds[-1],
        )
        seen = [positions[column] for column in result.accuracies.learned()]
        log_examples(dashboard, module.method, tests, seen, at=len(result), last=last)

    def __getstate__(self) -> dict[str, Any]:
        # Spawned processes open the sinks themselves.
        return {**self.__dict__, "dashboard": None}


class _BesideLightning(TensorBoardSink):
    """Leaves out means of epochs: Lightning logs them by the same names, over its own steps."""

    def log(self, panels: Mapping[str, Panel], *, axis: str, at: int) -> None:
        kept = {k: p for k, p in panels.items() if k not in (TRAIN_LOSS, TRAIN_ACCURACY)}
        super().log(kept, axis=axis, at=at)


def logger_sinks(trainer: pl.Trainer) -> list[Sink]:
    """The sinks of a Trainer's loggers for W&B, TensorBoard and CSV files."""
    found: list[Sink] = []
    for logger in trainer.loggers:
        if isinstance(logger, pl.loggers.WandbLogger):
            from avalanche_dgm.dashboards.wandb_sink import WandbSink

            found.append(WandbSink(logger.experiment))
        elif isinstance(logger, pl.loggers.TensorBoardLogger):
            found.append(_BesideLightning(logger.experiment))
        elif isinstance(logger, pl.loggers.CSVLogger):
            found.append(FileSink(Path(logger.log_dir) / "panels"))
    return found
