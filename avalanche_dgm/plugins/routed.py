"""The user's model and a method's own learners in one module that Avalanche can adapt."""

from __future__ import annotations

from typing import Any

import torch
from avalanche.models.dynamic_modules import MultiTaskModule
from torch import Tensor, nn

from avalanche_dgm.methods import Method
from avalanche_dgm.plugins.loop import undo_interrupted


class RoutedModel(nn.Module):
    """Answers as a method does: with what learns in training, with what knows at test.

    The user's model stays what it was, as ``ltm``; model adaptation reaches it as before. The
    method is not a submodule, so that optimisers and other plugins see learners only.

    Args:
        ltm: The user's model.
        method: What answers.

    Attributes:
        stm: The method's own learners in use, by `Method.learners`.
        width: Number of outputs of the user's model.
        task_key: The task of the images to come, from an oracle, or ``None``.
    """

    def __init__(self, ltm: nn.Module, method: Method) -> None:
        super().__init__()
        self._wrap(ltm, method)

    def _wrap(self, ltm: nn.Module, method: Method) -> None:
        self.ltm = ltm
        self.stm = nn.ModuleDict()
        self.width = 0
        self.task_key: str | None = None
        # Past nn.Module's own __setattr__, which would register it.
        object.__setattr__(self, "_method", method)

    @property
    def method(self) -> Method:
        """What answers."""
        return self.__dict__["_method"]

    def route(self, images: Tensor, tasks: Tensor) -> Tensor:
        """Returns logits.

        Args:
            images: Float tensor (n, *shape).
            tasks: int64 tensor (n,), task labels.
        """
        if self.training:
            return self.method(images, tasks, width=self.width)
        undo_interrupted(self.method)
        return self.method.predict(images, tasks, key=self.task_key)

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits (n, classes) for images (n, *shape)."""
        return self.route(x, torch.zeros(len(x), dtype=torch.int64, device=x.device))


class RoutedMultiTaskModel(RoutedModel, MultiTaskModule):
    """The same around a model that is given task labels."""

    def __init__(self, ltm: nn.Module, method: Method) -> None:
        MultiTaskModule.__init__(self)
        self._wrap(ltm, method)

    def forward(  # type: ignore[override]
        self, x: Tensor, task_labels: Tensor | None = None
    ) -> Tensor | dict[int, Tensor]:
        """Returns logits, or those of each task that was trained where there are no task labels.

        Args:
            x: Images (n, *shape).
            task_labels: int64 tensor (n,).
        """
        if task_labels is None:
            return MultiTaskModule.forward_all_tasks(self, x)
        return self.route(x, task_labels)

    def forward_single_task(self, x: Tensor, task_label: int) -> Tensor:
        """Returns logits for images of one task label."""
        labels = torch.full((len(x),), task_label, dtype=torch.int64, device=x.device)
        return self.route(x, labels)


def wrap(model: Any, method: Method) -> RoutedModel:
    """Puts a model into the routed module that fits it."""
    if isinstance(model, MultiTaskModule):
        return RoutedMultiTaskModel(model, method)
    return RoutedModel(model, method)
