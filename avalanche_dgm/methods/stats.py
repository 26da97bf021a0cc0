"""What a method tells of its work."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from avalanche_dgm.data import Replay


@dataclass
class MethodStats:
    """What a method did, for metrics and reports.

    Attributes:
        replayed: Samples replayed to the classifier in the current experience, as of `read`.
        histogram: How often each label was replayed in the current experience, as of `read`.
        stm_occupancy: Tasks that wait for the next sleep.
        sleeps: Consolidations so far.
        sleep_seconds: Seconds asleep so far.
        phase_seconds: Seconds of each phase of the current experience, by name.
        counts: int64 tensor (K,), replayed samples of each label, on the device; ``None`` before
            the first.
    """

    replayed: int = 0
    histogram: dict[int, int] = field(default_factory=dict)
    stm_occupancy: int = 0
    sleeps: int = 0
    sleep_seconds: float = 0.0
    phase_seconds: dict[str, float] = field(default_factory=dict)
    counts: Tensor | None = field(default=None, repr=False, compare=False)

    def begin(self) -> None:
        """Starts counting anew for an experience."""
        self.counts, self.replayed, self.histogram, self.phase_seconds = None, 0, {}, {}

    def count(self, replay: Replay, width: int) -> None:
        """Counts replayed labels on the device.

        Args:
            replay: What was replayed.
            width: Number of classes.
        """
        if self.counts is None or len(self.counts) < width:
            wider = torch.zeros(width, dtype=torch.int64, device=replay.labels.device)
            if self.counts is not None:
                wider[: len(self.counts)] = self.counts
            self.counts = wider
        self.counts.index_add_(0, replay.labels, torch.ones_like(replay.labels))

    def add_phase(self, name: str, seconds: float) -> None:
        """Adds the time that a phase took.

        Args:
            name: The phase's name.
            seconds: How long it took.
        """
        self.phase_seconds[name] = self.phase_seconds.get(name, 0.0) + seconds
        if name.startswith("sleep"):
            self.sleep_seconds += seconds

    def read(self) -> MethodStats:
        """Brings ``replayed`` and ``histogram`` up to date; waits for the device."""
        if self.counts is not None:
            counts = self.counts.tolist()
            self.replayed = sum(counts)
            self.histogram = {i: c for i, c in enumerate(counts) if c}
        return self

    def state(self) -> dict[str, Any]:
        """What changes within an experience, for `set_state`."""
        return {
            "counts": self.counts.clone() if self.counts is not None else None,
            "phase_seconds": dict(self.phase_seconds),
            "sleep_seconds": self.sleep_seconds,
        }

    def set_state(self, state: dict[str, Any], device: torch.device) -> None:
        """Continues where `state` was called.

        Args:
            state: What it returned.
            device: Where the method is.
        """
        counts = state["counts"]
        self.counts = counts.to(device).clone() if counts is not None else None
        self.phase_seconds = dict(state["phase_seconds"])
        self.sleep_seconds = state["sleep_seconds"]
