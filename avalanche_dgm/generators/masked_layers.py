"""Layers whose units or weights are masked task by task (Ostapenko et al. 2019, Sec. 3)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from math import prod, sqrt
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.generators.masks import GrowingTensors, Mask

#: Steepness of a soft mask, where one is needed.
Scale = float | Tensor | None


@dataclass(frozen=True)
class MaskOptions:
    """What is masked, where, and what is kept for earlier tasks.

    With unit masks ``placement="before"``, an unused unit still emits the constant
    ``ReLU(shift)`` of its normalisation. ``protection="ends"`` lets the weights from such units
    into reserved ones change, so together the two let the images of earlier tasks drift. This is
    what the authors' code does; the other combinations keep every earlier image as it was.

    Attributes:
        masking: ``"units"``, one entry per output channel; ``"weights"``, one per weight; or
            ``"none"``: the same network without masks, for comparisons. The other options are about
            units.
        placement: ``"before"`` the normalisation (``y = m * (W x)``, Eq. 2), or ``"after"`` the
            activation.
        protection: Which weights earlier tasks keep: ``"fan"``, all that lead into a reserved
            unit (Eq. 4), or ``"ends"``, those between two reserved units (Serrà et al. 2018,
            Eq. 2). Weights from the noise are kept by their output alone.

    Raises:
        ConfigError: Another value.
    """

    masking: str = "units"
    placement: str = "before"
    protection: str = "fan"

    def __post_init__(self) -> None:
        for name, allowed in (
            ("masking", ("units", "weights", "none")),
            ("placement", ("before", "after")),
            ("protection", ("fan", "ends")),
        ):
            if getattr(self, name) not in allowed:
                choice = ", ".join(map(repr, allowed))
                raise ConfigError(f"Unknown {name} {getattr(self, name)!r}; use one of {choice}.")


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

    def apply(self, x: Tensor, task: int | None, scale: Scale) -> Tensor:
        """Multiplies (n, width, ...) by the mask of the channels, if there is one."""
        if self.mask is None:
            return x
        return x * self.mask.values(task, scale).view(-1, *(1,) * (x.ndim - 2))


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


def _initial(shape: tuple[int, ...], *, normal: bool) -> Tensor:
    # Drawn on the CPU, so that the same seed gives the same weights on every device.
    weight = torch.empty(shape)
    if normal:
        return nn.init.normal_(weight, 0.0, 0.02)
    return nn.init.xavier_uniform_(weight, gain=sqrt(2))


# Normalisation apart for each task


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
