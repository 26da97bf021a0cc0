"""A run of Weights & Biases that starts when something is logged."""

from __future__ import annotations

import os
import warnings
from typing import Any

from avalanche_dgm.dashboards.wandb_runs import is_main_process, new_run_id, open_run
from avalanche_dgm.dashboards.wandb_sink import FailSafeWandbSink, Tables, WandbSink


class LazyWandbRun:
    """A W&B run in the main process, which can be pickled and then resumes.

    Args:
        settings: Keyword arguments of ``wandb.init``. Without an ``id``, that of the variable
            ``WANDB_RUN_ID`` or a new one is used, which is known before the run starts.
        who: Name of the logger, for a warning if the run cannot start.
        tables: Rows of tables that a resumed run has logged already.

    Attributes:
        settings: The run's settings.
    """

    def __init__(self, settings: dict[str, Any], who: str, *, tables: Tables | None = None) -> None:
        given = settings.get("id") or os.environ.get("WANDB_RUN_ID")
        self.settings = {**settings, "id": given or new_run_id()}
        self._who = who
        self._tables: Tables = {} if tables is None else tables
        self._tried = False
        self._run: Any = None
        self._sink: FailSafeWandbSink | None = None

    @property
    def run(self) -> Any:
        """The run; ``None`` in other processes, and if it could not start."""
        self._open()
        return self._run

    @property
    def sink(self) -> FailSafeWandbSink | None:
        """The run's sink; ``None`` if there is no run, and after it is finished."""
        self._open()
        return self._sink

    def _open(self) -> None:
        """Starts or resumes the run, if that was not tried yet."""
        if self._tried:
            return
        self._tried = True
        if not is_main_process():
            return
        try:
            self._run = open_run(self.settings)
            self._sink = FailSafeWandbSink(WandbSink(self._run, tables=self._tables))
        except Exception as error:
            self._run = None
            warnings.warn(
                f"{self._who} could not begin its run, so nothing is logged to W&B:"
                f" {type(error).__name__}: {' '.join(str(error).split())[:300]}. Training goes on;"
                " offline (mode='offline', or WANDB_MODE=offline) W&B needs neither a network nor"
                " an account.",
                RuntimeWarning,
                stacklevel=5,
            )
            return
        # A sweep, or a run that was joined, has another id; a disabled run has none of use.
        if not getattr(self._run, "disabled", False):
            self.settings["id"] = self._run.id

    def finish(self) -> None:
        """Finishes the run, if it started; waits until everything is uploaded."""
        sink, self._sink, self._tried = self._sink, None, True
        if sink is not None:
            sink.close()

    def __getstate__(self) -> dict[str, Any]:
        # After unpickling the run is resumed, if it exists.
        resume = self.settings.get("resume")
        resume = resume if resume in {"must", "auto"} else "allow"
        settings = {**self.settings, "resume": resume}
        return {**self.__dict__, "settings": settings, "_tried": False, "_run": None, "_sink": None}
