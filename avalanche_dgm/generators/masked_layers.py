"""Layers whose units or weights are masked task by task (Ostapenko et al. 2019, Sec. 3)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import prod, sqrt
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avalanche_dgm.generators.groups import Group, MaskOptions, Scale
from avalanche_dgm.generators.masks import GrowingTensors, Mask
from avalanche_dgm.generators.task_norms import NormReLU


class MaskedLayer(GrowingTensors, ABC):
    """Base of the linear layers without biases.

    Args:
        source: The channels that are read, or the number of inputs that have no mask.
        target: The channels that are written.
        kernel: Size of the kernel; empty for dense layers.
        options: What is masked.
    """

    out_dim: ClassVar[int] = 0
    in_dim: ClassVar[int] = 1
    weight: nn.Parameter

    def __init__(
        self, source: Group | int, target: Group, kernel: tuple[int, ...], options: MaskOptions
    ) -> None:
        super().__init__()
        self.source = source if isinstance(source, Group) else None
        self._n_inputs = 0 if isinstance(source, Group) else source
        self.target, self.kernel, self.options = target, kernel, options
        by_weight = options.masking == "weights"
        self.weight = nn.Parameter(_initial(self.shape(), normal=not by_weight))
        self.mask = Mask(self.shape()) if by_weight else None

    def shape(self) -> tuple[int, ...]:
        """Shape of the weight for the present widths of the groups."""
        return self._arranged(
            self.source.width if self.source is not None else self._n_inputs, self.target.width
        )

    def masked_weight(self, task: int | None, scale: Scale) -> Tensor:
        """Returns the weight as a task sees it: its own part, masked if weights are masked."""
        if self.mask is not None:
            mask = self.mask.values(task, scale)
            return self._part(tuple(mask.shape)) * mask
        if task is None or self.target.mask is None:
            return self.weight
        n_inputs = self._n_inputs
        if self.source is not None and self.source.mask is not None:
            n_inputs = self.source.mask.hard(task).numel()
        return self._part(self._arranged(n_inputs, self.target.mask.hard(task).numel()))

    def forward(self, x: Tensor, *, task: int | None = None, scale: Scale = None) -> Tensor:
        """Applies the layer, and the units' mask if it comes before the normalisation.

        Args:
            x: Tensor (n, inputs) or (n, inputs, H, W), of the widths that the task had.
            task: A finished task, or ``None`` for the learning one.
            scale: Steepness of the learning task's mask.
        """
        y = self._apply_weight(x, self.masked_weight(task, scale))
        return self.target.apply(y, task, scale) if self.options.placement == "before" else y

    @torch.no_grad()
    def protect(self) -> None:
        """Zeroes the gradients of the weights that earlier tasks keep (Eq. 4), in place."""
        gradient = self.weight.grad
        if gradient is None:
            return
        if self.mask is not None:
            gradient.masked_fill_(self.mask.reserved, 0)
        elif self.target.mask is not None:
            kept = self._along(self.target.mask.reserved, self.out_dim)
            source = self.source.mask if self.source is not None else None
            if self.options.protection == "ends" and source is not None:
                kept = kept & self._along(source.reserved, self.in_dim)
            gradient.masked_fill_(kept, 0)

    @torch.no_grad()
    def grow(self) -> None:
        """Extends the weight to the present widths of the groups; the old block stays."""
        shape = self.shape()
        if shape != tuple(self.weight.shape):
            weight = _initial(shape, normal=self.mask is not None).to(self.weight)
            weight[tuple(slice(n) for n in self.weight.shape)] = self.weight
            self.weight = nn.Parameter(weight)
        if self.mask is not None:
            self.mask.grow(shape)

    def outputs_for(self, n_weights: int, added_inputs: int) -> int:
        """Returns how many outputs have to be added to gain weights.

        Args:
            n_weights: How many weights are needed.
            added_inputs: How many inputs are added anyway, which gains some already.
        """
        n_inputs, n_outputs = self.weight.shape[self.in_dim], self.weight.shape[self.out_dim]
        area = prod(self.kernel)
        missing = n_weights - added_inputs * n_outputs * area
        return max(0, -(-missing // ((n_inputs + added_inputs) * area)))

    @abstractmethod
    def _apply_weight(self, x: Tensor, weight: Tensor) -> Tensor:
        """Applies the weight as the task sees it, without the units' mask."""

    def _arranged(self, n_inputs: int, n_outputs: int) -> tuple[int, ...]:
        ends = (n_outputs, n_inputs) if self.out_dim == 0 else (n_inputs, n_outputs)
        return (*ends, *self.kernel)

    def _part(self, shape: tuple[int, ...]) -> Tensor:
        # A copy in one piece: kernels may sum in another order when rows lie further apart, and
        # the outputs of a finished task must not change in a single bit.
        return self.weight[tuple(slice(n) for n in shape)].contiguous()

    def _along(self, units: Tensor, dim: int) -> Tensor:
        return units.view(*(-1 if d == dim else 1 for d in range(self.weight.ndim)))


class MaskedLinear(MaskedLayer):
    """Dense layer (n, inputs) -> (n, outputs)."""

    def __init__(self, source: Group | int, target: Group, *, options: MaskOptions) -> None:
        super().__init__(source, target, (), options)

    def _apply_weight(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight)


class MaskedConv2d(MaskedLayer):
    """Convolution (n, inputs, H, W) -> (n, outputs, H, W) with an odd kernel."""

    def __init__(
        self, source: Group | int, target: Group, *, kernel: int = 3, options: MaskOptions
    ) -> None:
        super().__init__(source, target, (kernel, kernel), options)

    def _apply_weight(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight, padding=self.kernel[0] // 2)


class MaskedConvTranspose2d(MaskedLayer):
    """Transposed convolution (n, inputs, H, W) -> (n, outputs, H', W')."""

    out_dim = 1
    in_dim = 0

    def __init__(
        self,
        source: Group | int,
        target: Group,
        *,
        kernel: tuple[int, int] = (4, 4),
        stride: int = 2,
        padding: int = 1,
        options: MaskOptions,
    ) -> None:
        super().__init__(source, target, kernel, options)
        self.stride, self.padding = stride, padding

    def _apply_weight(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.conv_transpose2d(x, weight, stride=self.stride, padding=self.padding)


class MaskedResidualBlock(nn.Module):
    """Upsampling residual block (Gulrajani et al. 2017, App. F) on a stream of channels.

    Args:
        stream: The channels that the block reads and adds to.
        inner: The channels between its two convolutions.
        options: What is masked.
    """

    def __init__(self, stream: Group, inner: Group, *, options: MaskOptions) -> None:
        super().__init__()
        self.norm1 = NormReLU(stream, options=options)
        self.conv1 = MaskedConv2d(stream, inner, options=options)
        self.norm2 = NormReLU(inner, options=options)
        self.conv2 = MaskedConv2d(inner, stream, options=options)

    def forward(self, x: Tensor, *, task: int | None = None, scale: Scale = None) -> Tensor:
        """Maps (n, stream, H, W) to (n, stream, 2H, 2W)."""
        y = F.interpolate(self.norm1(x, task=task, scale=scale), scale_factor=2)
        y = self.norm2(self.conv1(y, task=task, scale=scale), task=task, scale=scale)
        return self.conv2(y, task=task, scale=scale) + F.interpolate(x, scale_factor=2)


def _initial(shape: tuple[int, ...], *, normal: bool) -> Tensor:
    # Drawn on the CPU, so that the same seed gives the same weights on every device.
    weight = torch.empty(shape)
    if normal:
        return nn.init.normal_(weight, 0.0, 0.02)
    return nn.init.xavier_uniform_(weight, gain=sqrt(2))
