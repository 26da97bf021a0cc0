"""Layers whose units or weights are masked task by task (Ostapenko et al. 2019, Sec. 3)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod, sqrt
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avalanche_dgm.errors import ShapeError
from avalanche_dgm.generators.masks import Mask, View
from avalanche_dgm.modules import AtRest, GrowingBuffers
from avalanche_dgm.settings import Plain, check_fields


@dataclass(frozen=True)
class MaskedSpec(Plain):
    """Everything that is needed to build a `MaskedGenerator` again.

    With unit masks ``placement="before"``, an unused unit still emits the constant
    ``ReLU(shift)`` of its normalisation. ``protection="ends"`` lets the weights from such units
    into reserved ones change, so together the two let the images of earlier tasks drift. This is
    what the authors' code does; the other combinations keep every earlier image as it was.

    Attributes:
        architecture: ``"dcgan"``, ``"resnet"`` or ``"dense"``.
        shape: Shape of one sample: (C, H, W), or (D,) for ``"dense"``.
        width: Channels of the narrowest layer at the start (the authors' ``ngf``).
        latent: Number of noise inputs.
        masking: ``"units"``, one entry per output channel; ``"weights"``, one per weight; or
            ``"none"``: the same network without masks. The next two options are about units.
        placement: ``"before"`` the normalisation (``y = m * (W x)``, Eq. 2), or ``"after"`` the
            activation.
        protection: Which weights earlier tasks keep: ``"fan"``, all that lead into a reserved
            unit (Eq. 4), or ``"ends"``, those between two reserved units (Serrà et al. 2018,
            Eq. 2). Weights from the noise are kept by their output alone.
        bounded: Whether samples lie in -1..1, so that the last layer ends in a tanh.
        at_rest: The type of the weights while no task is being learned. All of them are rounded
            when a task ends; those that it reserved stay as they are then, bit by bit.

    Raises:
        ConfigError: A value that cannot work.
        ShapeError: The architecture cannot make samples of this shape.
    """

    architecture: Literal["dcgan", "resnet", "dense"]
    shape: tuple[int, ...]
    width: int = 20
    latent: int = 128
    masking: Literal["units", "weights", "none"] = "units"
    placement: Literal["before", "after"] = "before"
    protection: Literal["fan", "ends"] = "fan"
    bounded: bool = True
    at_rest: AtRest = "float32"

    def __post_init__(self) -> None:
        sides = self.shape[1:]
        if self.architecture == "dense":
            fits, needed = len(self.shape) == 1, "flat samples (D,)"
        else:
            fits = len(self.shape) == 3 and not any(side % 8 for side in sides)
            needed = "images (C, H, W) whose sides are multiples of 8"
        if not fits or min(self.shape) < 1:
            raise ShapeError(
                f"A {self.architecture} generator makes {needed}, not {self.shape}. Reshape them,"
                " or use another architecture."
            )
        check_fields(self)


@dataclass(eq=False)
class Group:
    """Channels that grow together, because layers write to and read from the same ones.

    Attributes:
        name: Unique within a generator.
        width: Present number of channels.
        mask: Their mask (width,), or ``None`` where weights are masked. A group is no module, so
            the generator has to register it.
        initial: Number of channels at the start.
    """

    name: str
    width: int
    mask: Mask | None = None
    initial: int = field(init=False)

    def __post_init__(self) -> None:
        self.initial = self.width

    def apply(self, x: Tensor, view: View) -> Tensor:
        """Multiplies (n, width, ...) by the mask of the channels, if there is one."""
        if self.mask is None:
            return x
        return x * self.mask.values(*view).view(-1, *(1,) * (x.ndim - 2))


class MaskedLayer(GrowingBuffers, ABC):
    """Base of the linear layers without biases.

    Args:
        source: The channels that are read, or the number of inputs that have no mask.
        target: The channels that are written.
        kernel: Size of the kernel; empty for dense layers.
        spec: What is masked.
    """

    out_dim: ClassVar[int] = 0
    in_dim: ClassVar[int] = 1
    weight: nn.Parameter

    def __init__(
        self, source: Group | int, target: Group, kernel: tuple[int, ...], spec: MaskedSpec
    ) -> None:
        super().__init__()
        self.source = source if isinstance(source, Group) else None
        self._n_inputs = 0 if isinstance(source, Group) else source
        self.target, self.kernel, self.spec = target, kernel, spec
        by_weight = spec.masking == "weights"
        self.weight = nn.Parameter(_initial(self.shape(), normal=not by_weight))
        self.mask = Mask(self.shape()) if by_weight else None
        #: Weights at the start, all of them free.
        self._n_initial = self.weight.numel()

    def shape(self) -> tuple[int, ...]:
        """Shape of the weight for the present widths of the groups."""
        return self._arranged(
            self.source.width if self.source is not None else self._n_inputs, self.target.width
        )

    def masked_weight(self, view: View) -> Tensor:
        """The weight as a task sees it: its own part, masked if weights are masked."""
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
        """Applies the layer, and the units' mask if it comes before the normalisation.

        Args:
            x: Tensor (n, inputs) or (n, inputs, H, W), of the widths that the task had.
            view: The task.
        """
        y = self._apply_weight(x, self.masked_weight(view))
        return self.target.apply(y, view) if self.spec.placement == "before" else y

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
            if self.spec.protection == "ends" and source is not None:
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

    def outputs_needed(self, added_inputs: int) -> int:
        """How many outputs make as many weights free as at the start; 0 without a mask of weights.

        Args:
            added_inputs: How many inputs are added anyway.
        """
        if self.mask is None:
            return 0
        n_inputs, n_outputs = self.weight.shape[self.in_dim], self.weight.shape[self.out_dim]
        area = prod(self.kernel)
        missing = self._n_initial - self.mask.n_free - added_inputs * n_outputs * area
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

    def __init__(self, source: Group | int, target: Group, spec: MaskedSpec) -> None:
        super().__init__(source, target, (), spec)

    def _apply_weight(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight)


class MaskedConv2d(MaskedLayer):
    """Convolution (n, inputs, H, W) -> (n, outputs, H, W) with an odd kernel."""

    def __init__(
        self, source: Group | int, target: Group, spec: MaskedSpec, *, kernel: int = 3
    ) -> None:
        super().__init__(source, target, (kernel, kernel), spec)

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
        spec: MaskedSpec,
        *,
        kernel: tuple[int, int] = (4, 4),
        stride: int = 2,
        padding: int = 1,
    ) -> None:
        super().__init__(source, target, kernel, spec)
        self.stride, self.padding = stride, padding

    def _apply_weight(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.conv_transpose2d(x, weight, stride=self.stride, padding=self.padding)


def _initial(shape: tuple[int, ...], *, normal: bool) -> Tensor:
    # Drawn on the CPU, so that the same seed gives the same weights on every device.
    weight = torch.empty(shape)
    if normal:
        return nn.init.normal_(weight, 0.0, 0.02)
    return nn.init.xavier_uniform_(weight, gain=sqrt(2))


class PerTask(nn.ModuleList):
    """A module for each task, in their order; the last one may be learning."""

    def finish(self) -> None:
        """Freezes the last one."""
        self[-1].requires_grad_(False)
        self[-1].zero_grad(set_to_none=True)

    def restore(self, modules: Iterable[nn.Module], *, learning: bool) -> None:
        """Takes other modules, whose weights are loaded next; equal ones keep their parameters.

        Args:
            modules: One for each task.
            learning: Whether the last one is learning.
        """
        found = list(modules)
        for task, (mine, other) in enumerate(zip(self, found, strict=False)):
            if [p.shape for p in mine.parameters()] == [p.shape for p in other.parameters()]:
                found[task] = mine
        for task, module in enumerate(found):
            module.requires_grad_(learning and task == len(found) - 1)
        while len(self):
            del self[-1]
        self.extend(found)


class NormReLU(nn.Module):
    """Batch normalisation of each task's own and ReLU; the units' mask if it comes after these.

    Finished tasks use their running statistics, whatever mode the module is in.

    Args:
        group: The channels that are normalised.
        spec: What is masked, and where.

    Attributes:
        norms: Scale, shift and statistics of each task.
    """

    def __init__(self, group: Group, spec: MaskedSpec) -> None:
        super().__init__()
        self.group, self.spec = group, spec
        self.norms = PerTask()

    def begin(self) -> None:
        """Adds a fresh normalisation of the present width, for a task to learn."""
        self.norms.append(nn.BatchNorm1d(self.group.width))

    def forward(self, x: Tensor, view: View) -> Tensor:
        """Normalises and activates (n, width) or (n, width, H, W).

        In train mode the learning task uses the batch's statistics, unless there is but one value
        per channel.

        Args:
            x: Tensor of the width that the task had.
            view: The task.
        """
        norm: Any = self.norms[-1 if view.task is None else view.task]
        training = view.task is None and self.training and x.numel() > x.shape[1]
        statistics = norm.running_mean, norm.running_var
        y = F.relu(F.batch_norm(x, *statistics, norm.weight, norm.bias, training=training))
        return self.group.apply(y, view) if self.spec.placement == "after" else y
