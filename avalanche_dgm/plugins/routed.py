"""The user's model and the short-term learners in one module that Avalanche can adapt."""

from __future__ import annotations

from typing import Any

import torch
from avalanche.models.dynamic_modules import MultiTaskModule
from torch import Tensor, nn

from avalanche_dgm.methods import DGDMN


class RoutedModel(MultiTaskModule):
    """Answers with the short-term learner in training, and with the memory that knows at test.

    The user's model stays what it was, as ``ltm``; model adaptation reaches it as before.

    Args:
        ltm: The user's model.
        method: The dual memory; not a submodule, so that optimisers and other plugins see
            learners only.
    """

    def __init__(self, ltm: nn.Module, method: DGDMN) -> None:
        super().__init__()
        self.ltm = ltm
        self.stm = nn.ModuleDict()
        self.width = 0
        self.task_key: str | None = None
        object.__setattr__(self, "_method", method)

    @property
    def method(self) -> DGDMN:
        """The dual memory."""
        return object.__getattribute__(self, "_method")

    def collect(self) -> None:
        """Takes over the short-term learners that are in use now, each under its slot."""
        self.stm = nn.ModuleDict(
            {slot: memory.task_learner for slot, memory in self.method.dual.stm.items()}  # type: ignore[misc]
        )

    def adaptation(self, experience: Any) -> None:
        """Nothing of its own: Avalanche goes on to the user's model by itself."""

    def forward(self, x: Tensor, task_labels: Tensor | None = None) -> Tensor:
        """Returns logits.

        Args:
            x: Images (n, *shape).
            task_labels: int64 tensor (n,); ``None`` counts as zeros.
        """
        if task_labels is None:
            task_labels = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        if self.training:
            return self.method.respond(x, task_labels, width=self.width)
        return self.method.predict(x, task_labels, key=self.task_key)

    def forward_single_task(self, x: Tensor, task_label: int) -> Tensor:
        """Returns logits for images of one task label."""
        labels = torch.full((len(x),), task_label, dtype=torch.int64, device=x.device)
        return self(x, labels)
