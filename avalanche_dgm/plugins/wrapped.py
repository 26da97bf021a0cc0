"""A wrapper around the user's model that predicts with the method."""

from __future__ import annotations

from typing import Any

import torch
from avalanche.models.dynamic_modules import MultiTaskModule
from torch import Tensor, nn

from avalanche_dgm.methods import Method
from avalanche_dgm.plugins.loop import undo_interrupted


class WrappedModel(nn.Module):
    """A wrapper that returns the method's training logits or, in evaluation, its predictions.

    The user's model is a submodule, so that Avalanche adapts it. The method is not a submodule, so
    that optimisers and other plugins see only the networks in training.

    Attributes:
        networks: The method's own networks in use, from `Routing.networks`.
        width: Number of outputs of the user's model.
        task_key: The task of the test images, from an oracle, or ``None``.
    """

    def __init__(self, model: nn.Module, method: Method) -> None:
        super().__init__()
        self._wrap(model, method)

    def _wrap(self, model: nn.Module, method: Method) -> None:
        self.model = model
        self.networks = nn.ModuleDict()
        self.width = 0
        self.task_key: str | None = None
        # Bypasses nn.Module.__setattr__, which would register a submodule.
        object.__setattr__(self, "_method", method)

    @property
    def method(self) -> Method:
        """The method."""
        return self.__dict__["_method"]

    def logits(self, x: Tensor, tasks: Tensor) -> Tensor:
        """Returns logits.

        Args:
            x: Images (n, *shape), or latents if the method trains on latents.
            tasks: int64 tensor (n,), task labels.
        """
        if self.training:
            return self.method(x, tasks, width=self.width)
        undo_interrupted(self.method)
        return self.method.predict(x, tasks, key=self.task_key)

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits (n, classes); see `logits`."""
        return self.logits(x, torch.zeros(len(x), dtype=torch.int64, device=x.device))


class WrappedMultiTaskModel(WrappedModel, MultiTaskModule):
    """A `WrappedModel` around a model that takes task labels."""

    def __init__(self, model: nn.Module, method: Method) -> None:
        MultiTaskModule.__init__(self)
        self._wrap(model, method)

    def forward(  # type: ignore[override]
        self, x: Tensor, task_labels: Tensor | None = None
    ) -> Tensor | dict[int, Tensor]:
        """Returns logits; without task labels (n,), those for each trained task, by task."""
        if task_labels is None:
            return MultiTaskModule.forward_all_tasks(self, x)
        return self.logits(x, task_labels)

    def forward_single_task(self, x: Tensor, task_label: int) -> Tensor:
        """Returns logits for samples of one task label."""
        labels = torch.full((len(x),), task_label, dtype=torch.int64, device=x.device)
        return self.logits(x, labels)


def wrap(model: nn.Module, method: Method) -> WrappedModel:
    """Wraps a model, with or without task labels."""
    kind = WrappedMultiTaskModel if isinstance(model, MultiTaskModule) else WrappedModel
    return kind(model, method)


def put_model(strategy: Any, model: nn.Module) -> None:
    """Replaces a strategy's model by its parent or child module, and renames the parameters."""
    previous, strategy.model = strategy.model, model
    added, removed = _prefix(model, previous), _prefix(previous, model)
    if strategy.optimized_param_id is not None:
        strategy.optimized_param_id = {
            added + name.removeprefix(removed): parameter
            for name, parameter in strategy.optimized_param_id.items()
        }


def _prefix(parent: nn.Module, child: nn.Module) -> str:
    """The prefix of a child's parameters in its parent; empty if it is not a child."""
    return next((f"{name}." for name, part in parent.named_children() if part is child), "")
