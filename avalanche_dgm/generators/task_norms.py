"""Batch normalisation apart for each task (Ostapenko et al. 2019)."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avalanche_dgm.generators.groups import Group, MaskOptions, Scale


class _Norm(nn.Module):
    """Scale, shift and statistics of one task."""

    mean: Tensor
    variance: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))


class TaskNorm(nn.Module):
    """Batch normalisation with scale, shift and statistics of its own for each task.

    Finished tasks use their running statistics, whatever mode the module is in.

    Args:
        group: The channels that are normalised.
    """

    _anchor: Tensor

    def __init__(self, group: Group) -> None:
        super().__init__()
        self.group = group
        self.norms = nn.ModuleList()
        self.learning = False
        # Where to build the next one: there may be no other tensor yet.
        self.register_buffer("_anchor", torch.zeros(0), persistent=False)

    def begin(self) -> None:
        """Adds a fresh normalisation of the present width, for a task to learn."""
        self.norms.append(_Norm(self.group.width).to(self._anchor))
        self.learning = True

    def end(self) -> None:
        """Freezes the learning task's normalisation."""
        freeze(self.norms[-1])
        self.learning = False

    def drop(self) -> None:
        """Throws the learning task's normalisation away."""
        self.norms = nn.ModuleList(self.norms[:-1])
        self.learning = False

    def forward(self, x: Tensor, *, task: int | None = None) -> Tensor:
        """Normalises (n, width) or (n, width, H, W).

        In train mode the learning task uses the batch's statistics, unless there is but one value
        per channel.

        Args:
            x: Tensor of the width that the task had.
            task: A finished task, or ``None`` for the learning one.
        """
        norm = cast(_Norm, self.norms[-1 if task is None else task])
        training = task is None and self.training and x.numel() > x.shape[1]
        return F.batch_norm(x, norm.mean, norm.variance, norm.weight, norm.bias, training=training)

    def get_extra_state(self) -> dict[str, Any]:
        """The width of each task, so that they can be built again."""
        return {"widths": [norm.mean.numel() for norm in self._norms()], "learning": self.learning}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Builds the normalisations before their weights are loaded."""
        norms = self._norms()[: len(state["widths"])]
        for task, width in enumerate(state["widths"]):
            if task == len(norms):
                norms.append(_Norm(width).to(self._anchor))
            elif norms[task].mean.numel() != width:
                norms[task] = _Norm(width).to(self._anchor)
        self.norms, self.learning = nn.ModuleList(norms), state["learning"]
        for task, norm in enumerate(norms):
            norm.requires_grad_(self.learning and task == len(norms) - 1)

    def _norms(self) -> list[_Norm]:
        return [cast(_Norm, norm) for norm in self.norms]


class NormReLU(TaskNorm):
    """`TaskNorm` and ReLU, and the units' mask if it comes after the activation.

    Args:
        group: The channels.
        options: What is masked, and where.
    """

    def __init__(self, group: Group, *, options: MaskOptions) -> None:
        super().__init__(group)
        self.options = options

    def forward(self, x: Tensor, *, task: int | None = None, scale: Scale = None) -> Tensor:
        """Returns the activations, of the shape of ``x``."""
        y = F.relu(super().forward(x, task=task))
        return self.group.apply(y, task, scale) if self.options.placement == "after" else y


def freeze(module: nn.Module) -> None:
    """Ends the learning of a module's parameters."""
    module.requires_grad_(False)
    module.zero_grad(set_to_none=True)
