"""Training phases, and the training loop that runs them in memory."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from avalanche_dgm.errors import DivergenceError
from avalanche_dgm.optimizers import OptimizerSpec, trainable

#: Interval in steps of checking the loss, which synchronises with the device.
CHECK_EVERY = 50


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
        loss, trained = self.loss, trainable(self.module)
        return [OptimizationStep("loss", trained, lambda batch, rng, number: loss(batch, rng))]


def pending(phases: Iterable[Phase]) -> Iterator[Phase]:
    """Yields the phases that have steps; finishes the others."""
    for phase in phases:
        if phase.steps < 1:
            phase.finish()
        else:
            yield phase


class StepCycle:
    """The loss and the trained parameters of each step of a phase.

    Args:
        phase: The phase, with the ``requires_grad`` of its training.
    """

    def __init__(self, phase: Phase) -> None:
        self.steps = phase.cycle
        parameters = [{id(p) for p in step.parameters} for step in self.steps]
        trained = trainable(phase.module)
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


def epochs_to_steps(
    epochs: int | None, n_samples: int, batch_size: int, *, otherwise: int = 0
) -> int:
    """Number of batches in a number of epochs, including smaller last batches.

    If ``epochs`` is ``None``, it is ``otherwise``.
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
                # A surrounding autocast would go on with its copies of the old weights.
                torch.clear_autocast_cache()
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
    """Raises a `DivergenceError` if the sum of a phase's losses, a scalar, is not finite.

    ``step`` is the number of steps so far.
    """
    if not math.isfinite(float(total)):
        raise DivergenceError(
            f"The loss of {phase.name!r} was not finite by step {step} of {phase.steps}. The"
            " weights from before this phase were restored. Lower its"
            f" learning rate (now {phase.optimizer.lr:g}), set clip_norm, or check the images'"
            " range; then train on this experience again."
        )
