"""Means over an epoch of a strategy's training, with one device synchronisation per epoch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from avalanche_dgm.dashboards import keys


class EpochMeans:
    """Mean loss over an epoch's batches, and accuracy on its samples."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None
        self._n = self._batches = 0

    def start(self) -> None:
        """Starts an epoch."""
        self._sums, self._n, self._batches = None, 0, 0

    def add(self, strategy: Any) -> int:
        """Adds a strategy's training batch; returns the number of samples.

        The loss is the optimised one, including replay.
        """
        logits, labels, loss = strategy.mb_output, strategy.mb_y, strategy.loss.detach()
        n = len(labels)
        correct = loss.new_tensor(torch.nan)
        if isinstance(logits, Tensor) and logits.ndim == 2:
            correct = (logits.detach().argmax(dim=1) == labels).sum()
        batch = torch.stack([loss.double().reshape(()), correct.double()])
        self._sums = batch if self._sums is None else self._sums + batch
        self._n += n
        self._batches += 1
        return n

    def values(self) -> dict[str, float]:
        """The means, by key; empty without batches. Synchronises with the device."""
        if self._sums is None:
            return {}
        loss, correct = self._sums.tolist()
        return {keys.TRAIN_LOSS: loss / self._batches, keys.TRAIN_ACCURACY: correct / self._n}

    def __getstate__(self) -> dict[str, Any]:
        return {"_sums": None, "_n": 0, "_batches": 0}
