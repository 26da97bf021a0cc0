"""Means over an epoch of a strategy's training, without waiting for the device in each step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from avalanche_dgm.dashboards import keys


class EpochMeans:
    """Loss, the mean over an epoch's batches, and accuracy of the classifier on its samples."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None
        self._n = self._batches = 0

    def start(self) -> None:
        """Begins an epoch."""
        self._sums, self._n, self._batches = None, 0, 0

    def add(self, strategy: Any) -> int:
        """Adds the batch that a strategy has just trained on; returns how many samples it has.

        The loss is the one that was minimised, replay included. Nothing waits for the device.
        """
        answers, labels, loss = strategy.mb_output, strategy.mb_y, strategy.loss.detach()
        n = len(labels)
        right = loss.new_tensor(torch.nan)
        if isinstance(answers, Tensor) and answers.ndim == 2:
            right = (answers.detach().argmax(dim=1) == labels).sum()
        batch = torch.stack([loss.double().reshape(()), right.double()])
        self._sums = batch if self._sums is None else self._sums + batch
        self._n += n
        self._batches += 1
        return n

    def values(self) -> dict[str, float]:
        """The means, by their keys; none if there was no batch. Waits for the device."""
        if self._sums is None:
            return {}
        loss, right = self._sums.tolist()
        return {keys.TRAIN_LOSS: loss / self._batches, keys.TRAIN_ACCURACY: right / self._n}

    def __getstate__(self) -> dict[str, Any]:
        return {"_sums": None, "_n": 0, "_batches": 0}
