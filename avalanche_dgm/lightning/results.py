"""The result of training over a stream."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from avalanche_dgm.methods import MethodStats
from avalanche_dgm.metrics.stream_accuracies import StreamAccuracies


@dataclass
class StreamResult:
    """The result of `fit_stream`.

    Attributes:
        accuracy: Float tensor (n_learned, n_test): accuracy (0 to 1) on each test experience after
            each learned one, NaN where it was not tested.
        order: Column of each training experience in ``accuracy``; ``None`` without a test
            experience of its own.
        metrics: Latest values of Avalanche's metrics, by name, after each experience.
        records: The method's statistics after each experience.
        seconds: Seconds of training on each experience, without the test.
        test_seconds: Seconds of the test after each experience.
        iterations: Training batches of new samples in each experience.
        shown: New samples in these batches, over all epochs.
        memory_bytes: Bytes of the method's memory after each experience, without the model.
        best_checkpoints: Best file of a ``ModelCheckpoint`` after each experience.
        stopped: Why the stream was stopped early, such as a time limit; ``None`` if it was not.
    """

    accuracy: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    order: list[int | None] | None = None
    metrics: list[dict[str, Any]] = field(default_factory=list)
    records: list[MethodStats] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    test_seconds: list[float] = field(default_factory=list)
    iterations: list[int] = field(default_factory=list)
    shown: list[int] = field(default_factory=list)
    memory_bytes: list[int] = field(default_factory=list)
    best_checkpoints: list[str] = field(default_factory=list)
    stopped: str | None = None

    def __len__(self) -> int:
        return len(self.accuracy)

    @property
    def average_accuracy(self) -> float:
        """Mean accuracy over the learned experiences, after the last one."""
        return self.continual.get("average_accuracy", math.nan)

    @property
    def accuracies(self) -> StreamAccuracies:
        """The accuracy matrix with the columns' experiences."""
        return StreamAccuracies(self.accuracy, self.order)

    @property
    def continual(self) -> dict[str, float]:
        """Continual-learning metrics, by their names in `avalanche_dgm.metrics`.

        Forward transfer is without a baseline. Metrics that are not defined yet are left out.
        """
        return self.accuracies.summaries()
