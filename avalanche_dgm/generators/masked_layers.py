"""Layers with masks over units or weights for each task (Ostapenko et al. 2019, Sec. 3)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod, sqrt
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avalanche_dgm.generators.gan_settings import GANSettings
from avalanche_dgm.generators.masks import Mask, View
from avalanche_dgm.modules import GrowingBuffers


@dataclass(eq=False)
class Group:
    """Channels that several layers share, so that they grow together.

    Attributes:
        name: Unique name within a generator.
        width: Current number of channels.
        mask: Their mask (width,), or ``None`` if weights are masked. A group is not a module, so
            the generator registers the mask.
        initial: Initial number of channels.
    """

    name: str
    width: int
    mask: Mask | None = None
    initial: int = field(init=False)

    def __post_init__(self) -> None:
        self.initial = self.width

    def apply(self, x: Tensor, view: View) -> Tensor:
        """Multiplies (n, width, ...) by the channels' mask, if there is one."""
        if self.mask is None:
            return x
        return x * self.mask.values(*view).view(-1, *(1,) * (x.ndim - 2))


class MaskedLayer(GrowingBuffers, ABC):
    """Base class of linear layers and convolutions without biases.

    Args:
        source: Input channels, or the number of inputs without a mask.
        target: Output channels.
        kernel: Size of the kernel; empty for dense layers.
        settings: The generator's settings.
    """

    out_dim: ClassVar[int] = 0
    in_dim: ClassVar[int] = 1
    weight: nn.Parameter

    def __init__(
        self, source: Group | int, target: Group, kernel: tuple[int, ...], settings: GANSettings
    ) -> None:
        super().__init__()
        self.source = source if isinstance(source, Group) else None
        self._n_inputs = 0 if isinstance(source, Group) else source
        self.target, self.kernel, self.settings = target, kernel, settings
        by_weight = settings.masking == "weights"
        self.weight = nn.Parameter(_initial(self.shape(), normal=not by_weight))
        self.mask = Mask(self.shape()) if by_weight else None
        #: Initial number of weights.
        self._n_initial = self.weight.numel()

    def shape(self) -> tuple[int, ...]:
        """Shape of the weight for the current widths of the groups."""
        return self._arranged(
            self.source.width if self.source is not None else self._n_inputs, self.target.width
        )

    def masked_weight(self, view: View) -> Tensor:
        """A task's part of the weight, masked if weights are masked."""
        task = view.task
        if self.mask is not None:
            mask = self.mask.values(*view)
            return self._part(tuple(mask.shape)) * mask
        if task is None or self.target.mask is None:
            return self.weight
        n_inputs = self._n_inputs
        if self.source is not None and self.source.mask is not None:
            n_inputs = self.source.mask.hard(task).numel()
        return self._part(self._arranged(n_inputs, self.target.mask.hard(task).numel()))

    def forward(self, x: Tensor, view: View) -> Tensor:
        """Applies the layer, and the units' mask if ``placement="before"``.

        Args:
            x: Tensor (n, inputs) or (n, inputs, H, W), with the task's widths.
            view: The task.
        """
        y = self._apply_weight(x, self.masked_weight(view))
        return self.target.apply(y, view) if self.settings.placement == "before" else y

    @torch.no_grad()
    def protect(self) -> None:
        """Zeroes the gradients of reserved weights (Eq. 4), in place."""
        gradient = self.weight.grad
        if gradient is None:
            return
        if self.mask is not None:
            gradient.masked_fill_(self.mask.reserved, 0)
        elif self.target.mask is not None:
            reserved = self._along(self.target.mask.reserved, self.out_dim)
            source = self.source.mask if self.source is not None else None
            if self.settings.protection == "ends" and source is not None:
                reserved = reserved & self._along(source.reserved, self.in_dim)
            gradient.masked_fill_(reserved, 0)

    @torch.no_grad()
    def grow(self) -> None:
        """Extends the weight to the current widths of the groups; old weights do not change."""
        shape = self.shape()
        if shape != tuple(self.weight.shape):
            weight = _initial(shape, normal=self.mask is not None).to(self.weight)
            weight[tuple(slice(n) for n in self.weight.shape)] = self.weight
            self.weight = nn.Parameter(weight)
        if self.mask is not None:
            self.mask.grow(shape)

    def outputs_needed(self, added_inputs: int) -> int:
        """Outputs to add for as many free weights as initially; 0 without masks over weights.

        ``added_inputs`` is the number of inputs that are added anyway.
        """
        if self.mask is None:
            return 0
        n_inputs, n_outputs = self.weight.shape[self.in_dim], self.weight.shape[self.out_dim]
        area = prod(self.kernel)
        missing = self._n_initial - self.mask.n_free - added_inputs * n_outputs * area
        return max(0, -(-missing // ((n_inputs + added_inputs) * area)))

    @abstractmethod
    def _apply_weight(self, x: Tensor, weight: Tensor) -> Tensor:
        """Applies a task's weight, without the units' mask."""

    def _arranged(self, n_inputs: int, n_outputs: int) -> tuple[int, ...]:
        ends = (n_outputs, n_inputs) if self.out_dim == 0 else (n_inputs, n_outputs)
        return (*ends, *self.kernel)

    def _part(self, shape: tuple[int, ...]) -> Tensor:
        # Contiguous: with other strides kernels may sum in another order, and the outputs of a
        # finished task must be bit-identical.
        return self.weight[tuple(slice(n) for n in shape)].contiguous()

    def _along(self, units: Tensor, dim: int) -> Tensor:
        return units.view(*(-1 if d == dim else 1 for d in range(self.weight.ndim)))


class MaskedLinear(MaskedLayer):
    """Dense layer (n, inputs) -> (n, outputs)."""

    def __init__(self, source: Group | int, target: Group, settings: GANSettings) -> None:
        super().__init__(source, target, (), settings)

    def _apply_weight(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight)


class MaskedConv2d(MaskedLayer):
    """Convolution (n, inputs, H, W) -> (n, outputs, H, W).

    Args:
        kernel: Side of the kernel, odd.
    """

    def __init__(
        self, source: Group | int, target: Group, settings: GANSettings, *, kernel: int = 3
    ) -> None:
        super().__init__(source, target, (kernel, kernel), settings)

    def _apply_weight(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight, padding=self.kernel[0] // 2)


class MaskedConvTranspose2d(MaskedLayer):
    """Transposed convolution (n, inputs, H, W) -> (n, outputs, H', W').

    Args:
        kernel: Height and width of the kernel.
        stride: Factor of the output's sides.
        padding: Rows and columns that are cut off at each side of the output.
    """

    out_dim = 1
    in_dim = 0

    def __init__(
        self,
        source: Group | int,
        target: Group,
        settings: GANSettings,
        *,
        kernel: tuple[int, int] = (4, 4),
        stride: int = 2,
        padding: int = 1,
    ) -> None:
        super().__init__(source, target, kernel, settings)
        self.stride, self.padding = stride, padding

    def _apply_weight(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.conv_transpose2d(x, weight, stride=self.stride, padding=self.padding)


def _initial(shape: tuple[int, ...], *, normal: bool) -> Tensor:
    # On the CPU, so that a seed gives the same weights on every device.
    weight = torch.empty(shape)
    if normal:
        return nn.init.normal_(weight, 0.0, 0.02)
    return nn.init.xavier_uniform_(weight, gain=sqrt(2))


class PerTask(nn.ModuleList):
    """A module for each task, in order; the last may be that of the current task."""

    def finish(self) -> None:
        """Freezes the last module."""
        self[-1].requires_grad_(False)
        self[-1].zero_grad(set_to_none=True)

    def restore(self, modules: Iterable[nn.Module], *, learning: bool) -> None:
        """Replaces the modules before a state is loaded; those of equal shapes are kept.

        There is one for each task; with ``learning``, the last one is trainable.
        """
        restored = list(modules)
        for task, (current, other) in enumerate(zip(self, restored, strict=False)):
            if [p.shape for p in current.parameters()] == [p.shape for p in other.parameters()]:
                restored[task] = current
        for task, module in enumerate(restored):
            module.requires_grad_(learning and task == len(restored) - 1)
        while len(self):
            del self[-1]
        self.extend(restored)


class NormReLU(nn.Module):
    """A BatchNorm for each task and ReLU, then the units' mask if ``placement="after"``.

    Finished tasks always use their running statistics.

    Args:
        group: The channels.
        settings: The generator's settings.

    Attributes:
        norms: The BatchNorm of each task.
    """

    def __init__(self, group: Group, settings: GANSettings) -> None:
        super().__init__()
        self.group, self.settings = group, settings
        self.norms = PerTask()

    def begin(self) -> None:
        """Adds a BatchNorm of the current width for a new task."""
        self.norms.append(nn.BatchNorm1d(self.group.width))

    def forward(self, x: Tensor, view: View) -> Tensor:
        """Normalises and activates (n, width) or (n, width, H, W).

        In training mode the current task uses batch statistics, unless there is only one value per
        channel.

        Args:
            x: Tensor with the task's width.
            view: The task.
        """
        norm: Any = self.norms[-1 if view.task is None else view.task]
        training = view.task is None and self.training and x.numel() > x.shape[1]
        statistics = norm.running_mean, norm.running_var
        y = F.relu(F.batch_norm(x, *statistics, norm.weight, norm.bias, training=training))
        return self.group.apply(y, view) if self.settings.placement == "after" else y
