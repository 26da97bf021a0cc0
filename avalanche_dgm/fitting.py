"""Training phases, and the training loop that runs them in memory."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from avalanche_dgm.checks import one_of
from avalanche_dgm.errors import ConfigError, DivergenceError
from avalanche_dgm.settings import check_fields

#: Interval in steps of checking the loss, which synchronises with the device.
CHECK_EVERY = 50


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
        parameters = _trained(module)
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


Loss = Callable[[tuple[Tensor, ...], torch.Generator], Tensor]


@dataclass(frozen=True)
class OptimizationStep:
    """One of several alternating steps of a phase, such as those of a GAN.

    Attributes:
        name: Name of its loss in logs.
        parameters: The parameters that it trains; all others of the phase's module do not change.
        loss: Function from a batch, a random number generator and the number of the round, counted
            from 0, to a scalar loss.
        before_step: Called with the number of the round between the backward pass and the optimiser
            step, to change gradients.
    """

    name: str
    parameters: Sequence[nn.Parameter]
    loss: Callable[[tuple[Tensor, ...], torch.Generator, int], Tensor]
    before_step: Callable[[int], None] = lambda number: None


@dataclass(frozen=True)
class Phase:
    """A training phase of a network of a method.

    An adapter runs it: by `fit` in memory, or on a Lightning Trainer.

    Attributes:
        name: Name for progress bars, for example ``sleep: consolidating tasks 3, 4``.
        module: The module to train.
        loss: Function from a batch and a random number generator to a scalar loss; or several
            `OptimizationStep`, which make a round and are repeated in this order. They share one
            optimiser; parameters that a step does not train have no gradient, so that Adam changes
            neither them nor their moments.
        optimizer: Specification of the optimiser.
        steps: Number of optimiser steps of all kinds.
        batch_size: Samples of ``data`` per step.
        data: Tensors of equal length, indexed together; empty if ``loss`` draws its own samples.
        finish: Called once after the last step.
        abort: Called if the phase fails or is interrupted, after the module's weights from before
            the phase were restored.
    """

    name: str
    module: nn.Module
    loss: Loss | Sequence[OptimizationStep]
    optimizer: OptimizerSpec
    steps: int
    batch_size: int
    data: tuple[Tensor, ...] = ()
    finish: Callable[[], None] = lambda: None
    abort: Callable[[], None] = lambda: None

    @property
    def cycle(self) -> list[OptimizationStep]:
        """The steps of one round; a single loss is a round of one step.

        A single loss trains all parameters that require gradients at the time of the call.
        """
        if not callable(self.loss):
            return list(self.loss)
        loss, trained = self.loss, _trained(self.module)
        return [OptimizationStep("loss", trained, lambda batch, rng, number: loss(batch, rng))]


class StepCycle:
    """The loss and the trained parameters of each step of a phase.

    Args:
        phase: The phase, with the ``requires_grad`` of its training.
    """

    def __init__(self, phase: Phase) -> None:
        self.steps = phase.cycle
        parameters = [{id(p) for p in step.parameters} for step in self.steps]
        trained = _trained(phase.module)
        self._others = [[p for p in trained if id(p) not in own] for own in parameters]

    def at(self, step: int) -> OptimizationStep:
        """The kind of a step, counted from 0."""
        return self.steps[step % len(self.steps)]

    def others(self, step: int) -> list[nn.Parameter]:
        """The parameters that a step does not train."""
        return self._others[step % len(self.steps)]

    def loss(self, step: int, batch: tuple[Tensor, ...], rng: torch.Generator) -> Tensor:
        """The loss of a step."""
        return self.at(step).loss(batch, rng, step // len(self.steps))

    def before_step(self, step: int) -> None:
        """Drops gradients of parameters that the step does not train; calls its `before_step`."""
        for parameter in self.others(step):
            parameter.grad = None
        self.at(step).before_step(step // len(self.steps))

    @contextmanager
    def alone(self, step: int) -> Iterator[None]:
        """Disables gradients of parameters that the step does not train."""
        others = self.others(step)
        for parameter in others:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in others:
                parameter.requires_grad_(True)


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]


def epochs_to_steps(
    epochs: int | None, n_samples: int, batch_size: int, *, otherwise: int = 0
) -> int:
    """Number of batches in a number of epochs, including smaller last batches.

    Args:
        epochs: Number of epochs; ``None`` returns ``otherwise``.
        n_samples: Samples of the data set.
        batch_size: Samples of a batch.
        otherwise: Number of steps without epochs.
    """
    return otherwise if epochs is None else epochs * math.ceil(n_samples / batch_size)


class Batches(Iterator[tuple[Tensor, ...]]):
    """An infinite iterator of batches, shuffled in each epoch.

    Args:
        data: Tensors of equal length on one device, or none for empty batches.
        batch_size: Samples per batch; the last of an epoch may be smaller, but is dropped if it has
            a single sample (BatchNorm cannot train on it).
        rng: Generator on the data's device, used at the beginning of an epoch.
    """

    def __init__(self, data: tuple[Tensor, ...], *, batch_size: int, rng: torch.Generator) -> None:
        self.data, self.batch_size, self._rng = data, batch_size, rng
        self._order: Tensor | None = None
        self._position = 0

    def __next__(self) -> tuple[Tensor, ...]:
        if not self.data:
            return ()
        index = self._next_index()
        return tuple(tensor[index] for tensor in self.data)

    def _next_index(self) -> Tensor:
        n = len(self.data[0])
        while True:
            if self._order is None or self._position >= n:
                device = self.data[0].device
                self._order = torch.randperm(n, generator=self._rng, device=device)
                self._position = 0
            index = self._order[self._position : self._position + self.batch_size]
            self._position += self.batch_size
            if not len(index) == 1 < min(n, self.batch_size):
                return index

    def state(self) -> dict[str, Any]:
        """Order and position in the epoch, for `set_state`."""
        return {"order": self._order, "position": self._position}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores what `state` returned."""
        order = state["order"]
        self._order = order.to(self.data[0].device) if order is not None else None
        self._position = state["position"]


def fit(phase: Phase, rng: torch.Generator, *, progress: bool = False) -> float:
    """Runs a phase from start to end.

    Args:
        phase: The phase.
        rng: Generator on the module's device, for shuffling and the loss.
        progress: Whether to show a progress bar on standard error.

    Returns:
        Duration in seconds.

    Raises:
        DivergenceError: The loss was not finite; the module has its weights from before the phase.
    """
    started = time.perf_counter()
    module, spec = phase.module, phase.optimizer
    before = copy.deepcopy(module.state_dict())
    modes = [(part, part.training) for part in module.modules()]
    optimizer = spec.build(module)
    schedule = spec.build_schedule(optimizer, phase.steps)
    module.train()
    # NaN propagates through the sum, so it suffices to check it at intervals.
    total: Tensor | None = None
    cycle, losses = StepCycle(phase), {}
    try:
        with torch.enable_grad(), _bar(phase, progress) as bar:
            batches = Batches(phase.data, batch_size=phase.batch_size, rng=rng)
            for step in range(phase.steps):
                with cycle.alone(step):
                    loss = cycle.loss(step, next(batches), rng)
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                cycle.before_step(step)
                spec.clip(module)
                optimizer.step()
                if schedule is not None:
                    schedule.step()
                losses[cycle.at(step).name] = loss.detach()
                total = loss.detach() if total is None else total + loss.detach()
                done = step + 1
                if done % CHECK_EVERY == 0 or done == phase.steps:
                    check_finite(phase, total, done)
                    values = {name: f"{float(value):.4g}" for name, value in losses.items()}
                    bar.set_postfix(values, refresh=False)
                bar.update()
            # The last step's gradient may be the first that is not finite.
            if not all(bool(torch.isfinite(p).all()) for p in module.parameters()):
                check_finite(phase, torch.tensor(math.nan), phase.steps)
    except BaseException:
        # Also on Ctrl-C: a partly trained network must not replace the previous one.
        module.load_state_dict(before)
        phase.abort()
        raise
    finally:
        optimizer.zero_grad(set_to_none=True)
        for part, mode in modes:
            part.training = mode
    phase.finish()
    return time.perf_counter() - started


def _bar(phase: Phase, progress: bool) -> Any:
    return tqdm(total=phase.steps, desc=phase.name, disable=not progress, leave=False, unit="step")


def check_finite(phase: Phase, total: Tensor, step: int) -> None:
    """Checks the sum of a phase's losses.

    Args:
        phase: The phase.
        total: Scalar.
        step: Number of steps so far.

    Raises:
        DivergenceError: It is not finite.
    """
    if not math.isfinite(float(total)):
        raise DivergenceError(
            f"The loss of {phase.name!r} was not finite by step {step} of {phase.steps}. The"
            " weights from before this phase were restored. Lower its"
            f" learning rate (now {phase.optimizer.lr:g}), set clip_norm, or check the images'"
            " range; then train on this experience again."
        )
