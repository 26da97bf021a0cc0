"""The one inner training loop: tensors on the device, a progress bar, nothing else."""

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

#: Steps between two looks at the loss; each look waits for the device.
CHECK_EVERY = 50


SCHEDULES = ("constant", "one-cycle", "cosine")


@dataclass(frozen=True)
class OptimizerSpec:
    """Which optimiser trains a phase.

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
        """Takes a specification, or a mapping of its fields as configuration files have them.

        Args:
            name: Of the setting, for messages.
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
        """Makes the optimiser for a module's trainable parameters.

        Args:
            module: What it trains.
            fused: Whether Adam and RMSprop may take their step in one call; not while gradients
                are scaled.
        """
        parameters = _trained(module)
        if self.name == "adam":
            # The fused step is one call for all parameters: what a small network's time goes to.
            return torch.optim.Adam(
                parameters, lr=self.lr, **{"fused": fused or None, **self.options}
            )
        if self.name == "rmsprop":
            alone = set(self.options) <= {"alpha", "eps", "weight_decay"}
            kind = FusedRMSprop if fused and alone else torch.optim.RMSprop
            return kind(parameters, lr=self.lr, **self.options)
        return torch.optim.SGD(parameters, lr=self.lr, **self.options)

    def build_schedule(
        self, optimizer: torch.optim.Optimizer, steps: int, *, turns: int = 1
    ) -> torch.optim.lr_scheduler.LRScheduler | None:
        """Makes the learning rate schedule over a number of steps, if there is one.

        Args:
            optimizer: What `build` made; one that had a schedule before begins anew.
            steps: Its steps.
            turns: Steps in a row with the same learning rate, of ``"cosine"``.
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
        """Lets an optimiser's learning rates fall to 0 on half a cosine.

        Args:
            optimizer: It has its learning rates.
            steps: Its steps.
            turns: Steps in a row with the same learning rate.
        """
        n = -(-steps // turns)
        return torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * min(step // turns, n) / n))
        )

    def clip(self, module: nn.Module) -> None:
        """Limits the gradients in place, as Keras does: the norm first, then the values."""
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(module.parameters(), self.clip_norm)
        if self.clip_value is not None:
            nn.utils.clip_grad_value_(module.parameters(), self.clip_value)


class FusedRMSprop(torch.optim.Adam):
    """RMSprop with a step in one call, which PyTorch has for Adam only.

    Adam without a first moment is RMSprop but for its bias correction, which has gone after very
    many steps: so many are counted beforehand.

    Args:
        params: What it trains.
        lr: Learning rate.
        alpha: Share that the mean of squared gradients keeps in a step.
        eps: What is added to its root.
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
        # Here, as parameters may be replaced by others, which have no state yet.
        for p in group["params"]:
            if p.grad is not None and not self.state[p]:
                step = torch.full((), 1e9, dtype=torch.float32, device=p.device)
                moments = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
                self.state[p] = {"step": step, **moments}
        return super()._init_group(group, *lists)


Loss = Callable[[tuple[Tensor, ...], torch.Generator], Tensor]


@dataclass(frozen=True)
class OptimizationStep:
    """One kind of step of a phase in which several alternate, such as a GAN's two.

    Attributes:
        name: What its loss is shown under.
        parameters: What it trains. All others of the phase's module stay as they are.
        loss: From one batch, a generator of random numbers and the number of the round, counted
            from 0, to a scalar loss.
        before_step: Called with the number of the round between the backward pass and the step, to
            change gradients.
    """

    name: str
    parameters: Sequence[nn.Parameter]
    loss: Callable[[tuple[Tensor, ...], torch.Generator, int], Tensor]
    before_step: Callable[[int], None] = lambda number: None


@dataclass(frozen=True)
class Phase:
    """A network that a method trains itself, and how.

    An adapter runs it: `fit` here in memory, or a Lightning Trainer.

    Attributes:
        name: What a progress bar calls it, for example ``sleep: consolidating tasks 3, 4``.
        module: What is trained.
        loss: From one batch and a generator of random numbers to a scalar loss; or several kinds of
            `OptimizationStep`, taken in this order, round after round. They share one optimiser:
            what a step does not train has no gradient, and Adam leaves it and its moments alone.
        optimizer: How it is trained.
        steps: Number of optimiser steps, of all kinds together.
        batch_size: Samples of ``data`` a step.
        data: Tensors of equal length, indexed together; empty when ``loss`` draws its own.
        finish: Called once after the last step.
        broken_off: Called if it ends before, when the module has its weights from before it.
    """

    name: str
    module: nn.Module
    loss: Loss | Sequence[OptimizationStep]
    optimizer: OptimizerSpec
    steps: int
    batch_size: int
    data: tuple[Tensor, ...] = ()
    finish: Callable[[], None] = lambda: None
    broken_off: Callable[[], None] = lambda: None

    @property
    def cycle(self) -> list[OptimizationStep]:
        """The steps of one round; a single loss makes a round of one step.

        Of a single loss it trains whatever requires a gradient at the time of the call.
        """
        if not callable(self.loss):
            return list(self.loss)
        loss, trained = self.loss, _trained(self.module)
        return [OptimizationStep("loss", trained, lambda batch, rng, number: loss(batch, rng))]


class StepCycle:
    """Which loss trains which parameters in each step of a phase.

    Args:
        phase: The phase; its module's ``requires_grad`` are those of the training.
    """

    def __init__(self, phase: Phase) -> None:
        self.steps = phase.cycle
        mine = [{id(p) for p in step.parameters} for step in self.steps]
        trained = _trained(phase.module)
        self._others = [[p for p in trained if id(p) not in own] for own in mine]

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
        """Drops the gradients of what the step does not train, and lets it change the rest."""
        for parameter in self.others(step):
            parameter.grad = None
        self.at(step).before_step(step // len(self.steps))

    @contextmanager
    def alone(self, step: int) -> Iterator[None]:
        """Computes no gradients for what the step does not train."""
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
    """Number of batches in some passes over a data set, the last of each pass may be smaller.

    Args:
        epochs: Passes; ``None`` for a number of steps in their place.
        n_samples: Samples of the data set.
        batch_size: Samples of a batch.
        otherwise: That number of steps.
    """
    return otherwise if epochs is None else epochs * math.ceil(n_samples / batch_size)


class Batches(Iterator[tuple[Tensor, ...]]):
    """Shuffled batches, pass after pass, for ever.

    Args:
        data: Tensors of equal length on one device, or none for empty batches.
        batch_size: Samples per batch; the last of a pass may be smaller, but a last one of a single
            sample is left out (BatchNorm cannot train on it).
        rng: Generator on the data's device; drawn from when a pass begins.
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
        """Where in its pass it is, for `set_state` of an equal one."""
        return {"order": self._order, "position": self._position}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues where `state` was called."""
        order = state["order"]
        self._order = order.to(self.data[0].device) if order is not None else None
        self._position = state["position"]


def fit(phase: Phase, rng: torch.Generator, *, progress: bool = False) -> float:
    """Runs a phase from start to end.

    Args:
        phase: What to train.
        rng: Generator on the module's device; shuffles, and is handed to the loss.
        progress: Whether to show a bar on standard error.

    Returns:
        Seconds that it took.

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
    # NaN spreads through the sum, so one look now and then sees a loss that was lost in between.
    total: Tensor | None = None
    cycle, seen = StepCycle(phase), {}
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
                seen[cycle.at(step).name] = loss.detach()
                total = loss.detach() if total is None else total + loss.detach()
                done = step + 1
                if done % CHECK_EVERY == 0 or done == phase.steps:
                    check_finite(phase, total, done)
                    shown = {name: f"{float(value):.4g}" for name, value in seen.items()}
                    bar.set_postfix(shown, refresh=False)
                bar.update()
            # The last step's gradient may have been the first that was not finite.
            if not all(bool(torch.isfinite(p).all()) for p in module.parameters()):
                check_finite(phase, torch.tensor(math.nan), phase.steps)
    except BaseException:
        # Also on Ctrl-C: a half-trained generator must not stand in for what it replaces.
        module.load_state_dict(before)
        phase.broken_off()
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
        step: Steps that it was summed over.

    Raises:
        DivergenceError: It is not finite.
    """
    if not math.isfinite(float(total)):
        raise DivergenceError(
            f"The loss of {phase.name!r} was not finite by step {step} of {phase.steps}. The"
            " weights from before this phase were put back and nothing learned is lost. Lower its"
            f" learning rate (now {phase.optimizer.lr:g}), set clip_norm, or check the images'"
            " range; then train on this experience again."
        )
