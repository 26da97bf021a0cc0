"""Means over an epoch of a strategy's training, without waiting for the device in each step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from avalanche_dgm.dashboards import keys


class EpochMeans:
    """Loss and accuracy of the classifier on an epoch's samples."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None
        self._n = 0

    def start(self) -> None:
        """Begins an epoch."""
        self._sums, self._n = None, 0

    def add(self, strategy: Any) -> int:
        """Adds the batch that a strategy has just trained on, on the device.

        Args:
            strategy: The strategy; its loss is the one that was minimised, replay included.

        Returns:
            Samples of the batch.
        """
        answers, labels, loss = strategy.mb_output, strategy.mb_y, strategy.loss.detach()
        n = len(labels)
        right = loss.new_tensor(torch.nan)
        if isinstance(answers, Tensor) and answers.ndim == 2:
            right = (answers.detach().argmax(dim=1) == labels).sum()
        batch = torch.stack([(loss * n).double().reshape(()), right.double()])
        self._sums = batch if self._sums is None else self._sums + batch
        self._n += n
        return n

    def values(self) -> dict[str, float]:
        """The means, by their keys; none if there was no batch. Waits for the device."""
        if self._sums is None:
            return {}
        loss, right = (self._sums / self._n).tolist()
        return {keys.TRAIN_LOSS: loss, keys.TRAIN_ACCURACY: right}

    def __getstate__(self) -> dict[str, Any]:
        return {"_sums": None, "_n": 0}
