"""The table of learned classes, for all memories."""

from __future__ import annotations

import torch
from torch import Tensor

from avalanche_dgm.modules import GrowingBuffers


class ClassTable(GrowingBuffers):
    """The learned classes, in the order in which they were added.

    A *class* is a pair of task label and label, so several tasks with the same labels have
    different classes. A memory may also distinguish groups, such as experiences or tasks.

    Attributes:
        rows: int64 tensor (K, 3): group, task label, label of each class.
    """

    rows: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rows", torch.empty(0, 3, dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def groups(self) -> Tensor:
        """int64 tensor (K,), the group of each class; 0 without groups."""
        return self.rows[:, 0]

    @property
    def tasks(self) -> Tensor:
        """int64 tensor (K,), the task label of each class."""
        return self.rows[:, 1]

    @property
    def labels(self) -> Tensor:
        """int64 tensor (K,), the label of each class."""
        return self.rows[:, 2]

    def add(self, tasks: Tensor, labels: Tensor, *, group: int | Tensor = 0) -> Tensor:
        """Adds the new classes of samples, in ascending order; returns each sample's row (N,).

        Args:
            tasks: int64 tensor (N,), task labels.
            labels: int64 tensor (N,).
            group: The group of all samples, or int64 tensor (N,), the group of each.
        """
        pairs = _triples(tasks, labels, group)
        distinct, inverse = torch.unique(pairs, dim=0, return_inverse=True)
        self.rows = self.rows.to(pairs.device)
        new = (self._find(distinct) < 0).nonzero().flatten()
        self.rows = torch.cat([self.rows, distinct[new]])
        return self._find(distinct)[inverse]

    def find(self, tasks: Tensor, labels: Tensor, *, group: int | Tensor = 0) -> Tensor:
        """The row (N,) of each sample's class, -1 for unknown classes; arguments as of `add`."""
        return self._find(_triples(tasks, labels, group))

    def _find(self, triples: Tensor) -> Tensor:
        if not len(self):
            return torch.full_like(triples[:, 0], -1)
        same = (triples[:, None] == self.rows[None]).all(dim=2)
        return torch.where(same.any(dim=1), same.int().argmax(dim=1), -1)

    def count_with(self, tasks: Tensor, labels: Tensor) -> int:
        """The number of classes including those of samples, see `find`."""
        pairs = torch.stack([tasks, labels], dim=1)[self.find(tasks, labels) < 0]
        return len(self) + len(torch.unique(pairs, dim=0))

    def balanced(self, n: int, rng: torch.Generator) -> Tensor:
        """Draws rows (n,), balanced over labels and, within a label, over its tasks and groups.

        Systematic sampling: each row's count differs by less than one from its exact share. The
        rows are ascending; ``rng`` is on the table's device.
        """
        same = (self.labels[:, None] == self.labels[None, :]).sum(dim=1)
        ends = torch.cumsum(1.0 / same.double(), dim=0)
        start = torch.rand((), generator=rng, device=ends.device, dtype=torch.float64)
        points = (torch.arange(n, device=ends.device) + start) / n * ends[-1]
        return torch.searchsorted(ends, points).clamp_(max=len(self) - 1)

    def outputs(self, tasks: Tensor, width: int, *, by_task: bool) -> Tensor:
        """Which of a classifier's outputs were learned, a bool tensor (n, width).

        With ``by_task``, a sample's classes are only those of its task label, ``tasks`` (n,).
        """
        columns = (self.labels[:, None] == torch.arange(width, device=self.rows.device)).float()
        if not by_task:
            return (columns.sum(dim=0) > 0).expand(len(tasks), width)
        same_task = (tasks[:, None] == self.tasks[None]).float()
        return (same_task @ columns) > 0


def _triples(tasks: Tensor, labels: Tensor, group: int | Tensor) -> Tensor:
    groups = torch.zeros_like(tasks) + group
    return torch.stack([groups, tasks, labels], dim=1)
