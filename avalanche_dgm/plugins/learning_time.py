"""How long a strategy learns."""

from __future__ import annotations

import math
import time
from typing import Any


class LearningTime:
    """Adds up the seconds of learning, without those of evaluations in its midst.

    Attributes:
        shown: Samples that the classifier was shown meanwhile; whoever counts them adds them here.
    """

    def __init__(self) -> None:
        self.shown = 0
        self._spent = 0.0
        self._since: float | None = None
        self._paused = False

    def start(self) -> None:
        """Goes on from what was spent before."""
        self._since, self._paused = time.perf_counter(), False

    def pause(self) -> None:
        """Stops where learning is interrupted, by an evaluation."""
        if self._since is not None:
            self._spent += time.perf_counter() - self._since
            self._since, self._paused = None, True

    def resume(self) -> None:
        """Goes on after `pause`; does nothing without one."""
        if self._paused:
            self.start()

    def seconds(self) -> float:
        """Seconds so far; NaN while it does not run, as where a checkpoint is continued."""
        if self._since is None:
            return math.nan
        return self._spent + time.perf_counter() - self._since

    def restart(self) -> None:
        """Begins anew, for the next experience."""
        self.shown, self._spent = 0, 0.0
        if self._since is not None:
            self.start()

    def __getstate__(self) -> dict[str, Any]:
        # Another process, or another day, has another clock; what was spent before counts.
        running = 0.0 if self._since is None else time.perf_counter() - self._since
        spent = self._spent + running
        return {**self.__dict__, "_spent": spent, "_since": None, "_paused": False}
