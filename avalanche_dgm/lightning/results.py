"""The result of training over a stream."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from avalanche_dgm.methods import MethodStats
from avalanche_dgm.metrics import functional


@dataclass
class StreamResult:
    """The outcome of `fit_stream`.

    Attributes:
        accuracy: Float tensor (n_learned, n_test): accuracy (0 to 1) on each test experience after
            each learned one, NaN where it was not tested.
        metrics: Last values of Avalanche's metrics, by name, after each experience.
        records: The method's statistics after each experience.
        seconds: Seconds of training on each experience, without the test.
        test_seconds: Seconds of the test after each experience.
        iterations: Batches of new samples that the classifier was trained on in each experience.
        shown: Samples that the classifier was trained on in each experience, over all epochs.
        memory_bytes: Bytes of the method's memory after each experience, without the model.
        best_checkpoints: Best file of a ``ModelCheckpoint`` after each experience.
        stopped: Why the stream was stopped early, such as a time limit; ``None`` if it was not.
    """

    accuracy: Tensor = field(default_factory=lambda: torch.empty(0, 0))
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
        """Mean accuracy, after the last experience, over those learned."""
        return self.continual.get("average_accuracy", math.nan)

    @property
    def continual(self) -> dict[str, float]:
        """Continual-learning metrics, by their names in `avalanche_dgm.metrics`.

        Average, average anytime and learning accuracy, forgetting, backward transfer, retention,
        and forward transfer without a baseline. Those that need a longer stream are left out.
        """
        matrix = self.accuracy
        if not matrix.numel():
            return {}
        values = {
            "average_accuracy": functional.average_accuracy(matrix),
            "average_anytime_accuracy": functional.average_anytime_accuracy(matrix),
            "learning_accuracy": functional.learning_accuracy(matrix),
            "forward_transfer": functional.forward_transfer(matrix),
        }
        if len(matrix) > 1:
            values["forgetting"] = functional.forgetting(matrix)
            values["backward_transfer"] = functional.backward_transfer(matrix)
            values["retention"] = functional.retention(matrix)
        return {name: float(value) for name, value in values.items() if not value.isnan()}
