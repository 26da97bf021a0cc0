"""Specification of optimisers and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import nn

from avalanche_dgm.checks import one_of
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.settings import check_fields

SCHEDULES = ("constant", "one-cycle", "cosine")


@dataclass(frozen=True)
class OptimizerSpec:
    """Specification of an optimiser.

    Attributes:
        name: ``"adam"``, ``"rmsprop"`` or ``"sgd"``.
        lr: Learning rate; with ``schedule="one-cycle"``, half of the peak.
        schedule: ``"constant"``; ``"one-cycle"`` (Smith & Topin 2018) over all steps; ``"cosine"``,
            half a cosine from ``lr`` to 0 over all steps.
        clip_norm: Maximum global norm of the gradients, or ``None``.
        clip_value: Maximum absolute value of each gradient, or ``None``.
        options: Further arguments of the ``torch.optim`` class.
    """

    name: str = "adam"
    lr: float = field(default=1e-3, metadata={"above": 0})
    schedule: str = "constant"
    clip_norm: float | None = field(default=None, metadata={"above": 0})
    clip_value: float | None = field(default=None, metadata={"above": 0})
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        one_of("optimizer", self.name, "adam", "rmsprop", "sgd")
        one_of("schedule", self.schedule, *SCHEDULES)
        check_fields(self)

    @classmethod
    def read(cls, name: str, value: Any) -> OptimizerSpec:
        """Reads a specification, or a mapping of its fields from a configuration file.

        Args:
            name: Name of the setting, for messages.
            value: The specification or the mapping.

        Raises:
            ConfigError: It is neither, or a field is unknown or cannot work.
        """
        if isinstance(value, OptimizerSpec):
            return value
        names = [f.name for f in fields(cls)]
        if not isinstance(value, Mapping) or not set(value) <= set(names):
            raise ConfigError(
                f"{name}={value!r} must be an OptimizerSpec, or a mapping of some of its fields:"
                f" {', '.join(names)}."
            )
        return cls(**value)

    def build(self, module: nn.Module, *, fused: bool = True) -> torch.optim.Optimizer:
        """Creates the optimiser of a module's trainable parameters.

        Args:
            module: The module.
            fused: Whether Adam and RMSprop may use fused steps, which gradient scaling excludes.
        """
        parameters = trainable(module)
        if self.name == "adam":
            # Fused steps are much faster for small networks.
            return torch.optim.Adam(
                parameters, lr=self.lr, **{"fused": fused or None, **self.options}
            )
        if self.name == "rmsprop":
            supported = set(self.options) <= {"alpha", "eps", "weight_decay"}
            kind = FusedRMSprop if fused and supported else torch.optim.RMSprop
            return kind(parameters, lr=self.lr, **self.options)
        return torch.optim.SGD(parameters, lr=self.lr, **self.options)

    def build_schedule(
        self, optimizer: torch.optim.Optimizer, steps: int, *, turns: int = 1
    ) -> torch.optim.lr_scheduler.LRScheduler | None:
        """Creates the learning rate schedule over a number of steps, if there is one.

        Args:
            optimizer: An optimiser of `build`; its learning rates are reset.
            steps: Number of steps.
            turns: With ``"cosine"``, consecutive steps with the same learning rate.
        """
        if self.schedule == "constant" or steps < 4:
            return None
        for group in optimizer.param_groups:
            group["lr"] = self.lr
            group.pop("initial_lr", None)
        if self.schedule == "cosine":
            return self.cosine(optimizer, steps, turns=turns)
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=2 * self.lr, total_steps=steps, cycle_momentum=False
        )

    @staticmethod
    def cosine(
        optimizer: torch.optim.Optimizer, steps: int, *, turns: int = 1
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Decays an optimiser's current learning rates to 0 by half a cosine.

        Args:
            optimizer: The optimiser.
            steps: Number of steps.
            turns: Consecutive steps with the same learning rate.
        """
        n = -(-steps // turns)
        return torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * min(step // turns, n) / n))
        )

    def clip(self, module: nn.Module) -> None:
        """Clips the gradients in place, like Keras: the norm first, then the values."""
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(module.parameters(), self.clip_norm)
        if self.clip_value is not None:
            nn.utils.clip_grad_value_(module.parameters(), self.clip_value)


class FusedRMSprop(torch.optim.Adam):
    """RMSprop with fused steps, which PyTorch only has for Adam.

    Adam without a first moment is RMSprop except for the bias correction, which vanishes with the
    number of steps: the step counter starts with a large number.

    Args:
        params: Parameters.
        lr: Learning rate.
        alpha: Decay of the mean of squared gradients.
        eps: Number that is added to its root.
        weight_decay: Factor of the weights that is added to the gradients.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            params, lr=lr, betas=(0.0, alpha), eps=eps, weight_decay=weight_decay, fused=True
        )

    def _init_group(self, group: dict[str, Any], *lists: Any) -> Any:
        # Here, as new parameters may replace others and have no state yet.
        for p in group["params"]:
            if p.grad is not None and not self.state[p]:
                step = torch.full((), 1e9, dtype=torch.float32, device=p.device)
                moments = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
                self.state[p] = {"step": step, **moments}
        return super()._init_group(group, *lists)


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that require gradients."""
    return [p for p in module.parameters() if p.requires_grad]
