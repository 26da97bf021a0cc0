"""The replay rule: numbers of incoming and generated samples (Kamra et al. 2017, Sec. 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from avalanche_dgm.errors import CapacityError


def choose(n: int, k: int, rng: torch.Generator) -> Tensor:
    """Random indices of ``k`` of ``n`` samples, or of all if there are fewer."""
    return torch.randperm(n, generator=rng, device=rng.device)[:k]


@dataclass(frozen=True)
class Budget:
    """The result of the replay rule (Sec. 3.1).

    Attributes:
        n_incoming: Number of incoming samples to keep.
        n_generated: Number of samples to generate.
    """

    n_incoming: int
    n_generated: int


def new_fraction(*, new: float, old: float, kappa: float, tasks: int | None = None) -> float:
    """Fraction eta of incoming samples: in proportion to tasks, at least kappa per new task.

    Args:
        new: Incoming tasks, with repetitions; above 0.
        old: Tasks in the dictionary, with repetitions.
        kappa: Minimum fraction of one new task, in [0, 1].
        tasks: Incoming tasks, each counted once; ``None`` if none is repeated.
    """
    return min(1.0, max(new / (new + old), kappa * (new if tasks is None else tasks)))


def replay_budget(
    *,
    new: int,
    old: int,
    n_incoming: int,
    n_max: int | None,
    kappa: float,
    tasks: int | None = None,
) -> Budget:
    """Applies the replay rule.

    Args:
        new: Incoming tasks, with repetitions; at least 1.
        old: Tasks in the dictionary, with repetitions.
        n_incoming: Incoming samples, at least 1.
        n_max: Maximum number of generated and incoming samples, or ``None`` for no limit.
        kappa: Minimum fraction of ``n_max`` for each new task, in [0, 1].
        tasks: Incoming tasks, each counted once; ``None`` if none is repeated.

    Returns:
        Numbers that add up to at most ``n_max``; without old tasks nothing is generated.

    Raises:
        CapacityError: ``n_max`` has no room for one sample of each task.
    """
    tasks = new if tasks is None else tasks
    check_capacity(n_max=n_max, kappa=kappa, new=tasks, old=old)
    fraction = new_fraction(new=new, old=old, kappa=kappa, tasks=tasks) if old else 1.0
    total = round(n_incoming / fraction)
    if n_max is not None:
        total = min(n_max, total)
    kept = min(n_incoming, max(round(fraction * total), tasks))
    return Budget(kept, max(total - kept, 0))


def check_capacity(*, n_max: int | None, kappa: float, new: int, old: int = 1) -> None:
    """Raises a `CapacityError` if the memory has no room for the minimum of each new task."""
    if not 0 <= kappa <= 1:
        raise CapacityError(f"kappa={kappa} is a fraction: give a number from 0 to 1.")
    if n_max is not None and n_max < 1:
        raise CapacityError(f"n_max={n_max} must be at least 1 sample, or None for no limit.")
    if kappa * new > 1 + 1e-9:
        raise CapacityError(
            f"kappa={kappa} reserves {kappa * new:.0%} of the memory for {new} tasks that are"
            f" consolidated at once. Lower kappa to at most {1 / new:.3g}, or consolidate fewer"
            " tasks at once (stm_size)."
        )
    if n_max is not None and n_max < new + (1 if old and kappa * new < 1 else 0):
        raise CapacityError(
            f"n_max={n_max} cannot hold one sample of each of {new} new tasks beside old samples."
            " Raise n_max."
        )
    if n_max is not None and 0 < kappa * n_max < 1:
        raise CapacityError(
            f"kappa={kappa} of n_max={n_max} is less than one sample per task. Raise either."
        )
