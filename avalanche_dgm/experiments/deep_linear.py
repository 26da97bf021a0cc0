"""Interference between two equal tasks in deep linear networks (Furlanello et al. 2016, Fig. 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from avalanche_dgm import settings as base
from avalanche_dgm.models import DeepLinear
from avalanche_dgm.optimizers import OptimizerSpec
from avalanche_dgm.randomness import RandomSource

A, B = 0, 1
"""The two tasks, and the heads that learn them."""


@dataclass(frozen=True, kw_only=True)
class Settings(base.Settings):
    """Settings of the experiment; the paper only gives the 50 epochs between switches.

    Attributes:
        depth: Levels of the tree below its root, at most 12; it has 2 ** depth items.
        features: Features of each item.
        flip: Probability that a feature changes its sign from a node to its child, 0 to 0.5.
        hidden: Hidden units.
        scale: Standard deviation of the initial weights.
        lr: Learning rate of full-batch gradient descent; an epoch is one step.
        epochs: Epochs before the switch of (a) and (b), and as many after it.
        period: Epochs between the switches of (c).
        periods: Number of periods.
        converged: Threshold for convergence of the mean squared error of both tasks, relative to
            squared targets.
        seed: Seed of data and initial weights.
    """

    depth: int = field(default=4, metadata={"most": 12})
    features: int = 100
    flip: float = field(default=0.1, metadata={"least": 0, "most": 0.5})
    hidden: int = 32
    scale: float = field(default=0.08, metadata={"above": 0})
    lr: float = field(default=0.05, metadata={"above": 0})
    epochs: int = 300
    period: int = 50
    periods: int = 14
    converged: float = field(default=0.01, metadata={"above": 0})
    seed: int = field(default=0, metadata={"least": 0})


@dataclass(frozen=True)
class Panel:
    """The errors of one training.

    Attributes:
        title: The order of tasks.
        trained: The tasks of each epoch.
        errors: Squared errors of tasks A and B before each epoch and after the last, relative to
            the targets' sum of squares: tensor (len(trained) + 1, 2).
    """

    title: str
    trained: tuple[tuple[int, ...], ...]
    errors: Tensor

    def rise(self, task: int, start: int, stop: int) -> float:
        """The largest rise of an error above its value at ``start``, until ``stop``."""
        part = self.errors[start : stop + 1, task]
        return float(part.max() - part[0])

    def converged(self, threshold: float) -> int | None:
        """The epoch after which the mean error stays below the threshold; ``None`` if never."""
        above = (self.errors.mean(dim=1) >= threshold).nonzero()
        epoch = int(above[-1]) + 1 if len(above) else 0
        return epoch if epoch < len(self.errors) else None


@dataclass(frozen=True)
class DeepLinearResult:
    """The panels of the figure, and numbers derived from them.

    Attributes:
        settings: The settings.
        panels: "a" (A, then B), "b" (A, then both) and "c" (alternating; "d" is a part of it), and
            "both", in which both are learned from the start.
    """

    settings: Settings
    panels: Mapping[str, Panel]

    @property
    def interference(self) -> dict[str, float]:
        """The rise of A's error after the switch, in (a) and in (b)."""
        start = self.settings.epochs
        return {name: self.panels[name].rise(A, start, 2 * start) for name in ("a", "b")}

    @property
    def delay(self) -> int | None:
        """Additional epochs of (c) to converge, relative to both; ``None`` if either does not."""
        turns, both = (
            self.panels[name].converged(self.settings.converged) for name in ("c", "both")
        )
        return None if turns is None or both is None else turns - both


def hierarchical_features(
    depth: int, n: int, flip: float, *, generator: torch.Generator | None = None
) -> Tensor:
    """Draws features by a branching diffusion on a binary tree (Saxe et al. 2013).

    Each feature starts at the root with a random sign, which changes with probability ``flip`` from
    every node to each of its children. Two items whose last common ancestor is d levels above them
    have the expected product (1 - 2 flip) ** (2 d).

    Args:
        depth: Levels of the tree below its root.
        n: Number of independent features.
        flip: Probability of a change of sign.
        generator: Random number generator.

    Returns:
        Float64 tensor (2 ** depth, n) of -1 and 1, in the order of the tree's leaves.
    """
    values = 1.0 - 2.0 * torch.randint(2, (1, n), generator=generator).double()
    for _ in range(depth):
        values = values.repeat_interleave(2, dim=0)
        flipped = torch.rand(values.shape, generator=generator, dtype=torch.float64) < flip
        values = torch.where(flipped, -values, values)
    return values


def train(title: str, trained: Sequence[tuple[int, ...]], settings: Settings) -> Panel:
    """Trains on the tasks of each epoch, always from the same initial weights."""
    generator = torch.Generator().manual_seed(settings.seed)
    targets = hierarchical_features(
        settings.depth, settings.features, settings.flip, generator=generator
    )
    # Unit length, so that the learning rate does not depend on the number of features.
    targets = targets / settings.features**0.5
    items = torch.eye(len(targets), dtype=torch.float64)
    with RandomSource(settings.seed).seeded_init():
        model = DeepLinear(
            len(items),
            settings.hidden,
            (settings.features, settings.features),
            scale=settings.scale,
        ).double()
    optimizer = OptimizerSpec("sgd", settings.lr).build(model)
    total = targets.square().sum()
    errors = torch.empty(len(trained) + 1, 2, dtype=torch.float64)
    for epoch, tasks in enumerate([*trained, ()]):
        squares = torch.stack([(outputs - targets).square().sum() for outputs in model(items)])
        errors[epoch] = squares.detach() / total
        if tasks:
            # No gradients for the other head, which momentum or decay would change.
            optimizer.zero_grad(set_to_none=True)
            (0.5 * squares[list(tasks)].sum()).backward()
            optimizer.step()
    return Panel(title, tuple(trained), errors)


def run(settings: Settings | None = None) -> DeepLinearResult:
    """Runs all panels of the figure, in seconds on a CPU."""
    settings = settings or Settings()
    before = [(A,)] * settings.epochs
    turns = [((A, B)[i % 2],) for i in range(settings.periods) for _ in range(settings.period)]
    plans: dict[str, tuple[str, list[tuple[int, ...]]]] = {
        "a": ("task A, then B", [*before, *[(B,)] * settings.epochs]),
        "b": ("task A, then A and B", [*before, *[(A, B)] * settings.epochs]),
        "c": (f"A and B in turns of {settings.period} epochs", list(turns)),
        "both": ("A and B from the start", [(A, B)] * len(turns)),
    }
    return DeepLinearResult(
        settings, {name: train(title, plan, settings) for name, (title, plan) in plans.items()}
    )
