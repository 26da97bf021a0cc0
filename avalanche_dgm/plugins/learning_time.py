"""Training time of a strategy."""

from __future__ import annotations

import math
import time
from typing import Any


class LearningTime:
    """Measures the seconds of training, without evaluations during training.

    Attributes:
        shown: Samples that the classifier was trained on in that time, set by the caller.
    """

    def __init__(self) -> None:
        self.shown = 0
        self._spent = 0.0
        self._since: float | None = None
        self._paused = False

    def start(self) -> None:
        """Starts the clock, continuing from the seconds so far."""
        self._since, self._paused = time.perf_counter(), False

    def pause(self) -> None:
        """Pauses the clock during an evaluation."""
        if self._since is not None:
            self._spent += time.perf_counter() - self._since
            self._since, self._paused = None, True

    def resume(self) -> None:
        """Resumes the clock after `pause`; otherwise does nothing."""
        if self._paused:
            self.start()

    def seconds(self) -> float:
        """Seconds so far; NaN if the clock was not started, as after loading a checkpoint."""
        if self._since is None:
            return math.nan
        return self._spent + time.perf_counter() - self._since

    def restart(self) -> None:
        """Resets the clock for the next experience."""
        self.shown, self._spent = 0, 0.0
        if self._since is not None:
            self.start()

    def __getstate__(self) -> dict[str, Any]:
        # Clocks of different processes are not comparable; only the seconds so far are saved.
        running = 0.0 if self._since is None else time.perf_counter() - self._since
        spent = self._spent + running
        return {**self.__dict__, "_spent": spent, "_since": None, "_paused": False}
