"""The statistics that a method reports."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from avalanche_dgm.data import Replay


@dataclass
class MethodStats:
    """Statistics of a method's training, for metrics and reports.

    Attributes:
        steps: Training steps of the classifier in the current experience.
        replayed: Replayed samples in the current experience, updated by `read`.
        histogram: Replayed samples of each label in the current experience, updated by `read`.
        stm_occupancy: Tasks in the short-term memory that wait for the next sleep.
        sleeps: Number of sleeps so far.
        sleep_seconds: Duration of all sleeps so far, in seconds.
        phase_seconds: Duration of each phase of the current experience, in seconds, by its name.
        peak_bytes: Largest size of the method's memory in the current experience, in bytes, without
            the classifier and with temporary copies; measured at the experience's begin and end.
        counts: int64 tensor (K,), replayed samples of each label, on the device; ``None`` before
            the first replay.
    """

    steps: int = 0
    replayed: int = 0
    histogram: dict[int, int] = field(default_factory=dict)
    stm_occupancy: int = 0
    sleeps: int = 0
    sleep_seconds: float = 0.0
    phase_seconds: dict[str, float] = field(default_factory=dict)
    peak_bytes: int = 0
    counts: Tensor | None = field(default=None, repr=False, compare=False)

    def begin(self) -> None:
        """Resets the statistics of the current experience."""
        self.counts, self.replayed, self.histogram, self.phase_seconds = None, 0, {}, {}
        self.steps = self.peak_bytes = 0

    def count(self, replay: Replay, width: int) -> None:
        """Counts the labels of a replay batch, for a classifier with ``width`` outputs."""
        counts = torch.zeros(0, dtype=torch.int64) if self.counts is None else self.counts
        counts = counts.to(replay.labels.device)
        if len(counts) < width:
            counts = nn.functional.pad(counts, (0, width - len(counts)))
        self.counts = counts.index_add_(0, replay.labels, torch.ones_like(replay.labels))

    def add_phase(self, name: str, seconds: float) -> None:
        """Adds the duration of a phase."""
        self.phase_seconds[name] = self.phase_seconds.get(name, 0.0) + seconds
        if name.startswith("sleep"):
            self.sleep_seconds += seconds

    def note_bytes(self, n: int) -> None:
        """Updates the peak with the current size in bytes."""
        self.peak_bytes = max(self.peak_bytes, n)

    def read(self) -> MethodStats:
        """Updates ``replayed`` and ``histogram``; synchronises with the device."""
        if self.counts is not None:
            counts = self.counts.tolist()
            self.replayed = sum(counts)
            self.histogram = {i: c for i, c in enumerate(counts) if c}
        return self

    def state(self) -> dict[str, Any]:
        """The statistics of the current experience, for `set_state`."""
        names = ("steps", "counts", "phase_seconds", "sleep_seconds", "peak_bytes")
        return copy.deepcopy({name: getattr(self, name) for name in names})

    def set_state(self, state: dict[str, Any], device: torch.device) -> None:
        """Restores what `state` returned, on a device."""
        vars(self).update(copy.deepcopy(state))
        if self.counts is not None:
            self.counts = self.counts.to(device)
