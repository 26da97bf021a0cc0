"""How many samples of a consolidation are incoming and how many are generated.

Deep generative replay, Kamra et al. 2017, Section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from avalanche_dgm.errors import CapacityError


@dataclass(frozen=True)
class Budget:
    """The outcome of the replay rule.

    Attributes:
        n_incoming: Incoming samples that are kept.
        n_generated: Samples that the memory generates of what it knows.
        fraction: The share eta of incoming samples.
    """

    n_incoming: int
    n_generated: int
    fraction: float


def new_fraction(*, new: float, old: float, kappa: float, tasks: int | None = None) -> float:
    """Share eta of incoming samples: in proportion to the tasks, at least kappa a new task.

    Args:
        new: Incoming tasks, repetitions counted; above 0.
        old: Tasks in the dictionary, repetitions counted.
        kappa: Smallest share of one new task, in [0, 1].
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
        new: Incoming tasks, repetitions counted; at least 1.
        old: Tasks in the dictionary, repetitions counted.
        n_incoming: Incoming samples, at least 1.
        n_max: Most samples, generated and incoming together, or ``None`` for no limit.
        kappa: Smallest share of ``n_max`` for each new task, in [0, 1].
        tasks: Incoming tasks, each counted once; ``None`` if none is repeated.

    Returns:
        Whole numbers that add up to at most ``n_max``; nothing is generated when nothing is known.

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
    return Budget(kept, max(total - kept, 0), fraction)


def split_budget(n: int, sizes: Sequence[int]) -> list[int]:
    """Divides places among tasks or classes, as evenly as their sizes allow (water-filling).

    Each has the same right to the memory (Kamra et al. promise ``kappa`` to each new task), so a
    large one gives way to a small one.

    Args:
        n: Places.
        sizes: Samples of each task or class.

    Returns:
        Places of each, none above its size; they add up to ``n``, or to all samples if these are
        fewer.
    """
    shares = [0] * len(sizes)
    # Smallest first: what a small task leaves is divided among the larger ones.
    order = sorted(range(len(sizes)), key=lambda i: sizes[i])
    for position, i in enumerate(order):
        shares[i] = min(sizes[i], n // (len(sizes) - position))
        n -= shares[i]
    return shares


def check_capacity(*, n_max: int | None, kappa: float, new: int, old: int = 1) -> None:
    """Checks that what is promised to each new task can be held.

    Args:
        n_max: Most samples, or ``None``.
        kappa: Smallest share of ``n_max`` for each new task.
        new: Tasks that are consolidated at once, each counted once.
        old: Tasks that are known.

    Raises:
        CapacityError: It cannot.
    """
    if not 0 <= kappa <= 1:
        raise CapacityError(f"kappa={kappa} is a share: give a number from 0 to 1.")
    if n_max is not None and n_max < 1:
        raise CapacityError(f"n_max={n_max} must be at least 1 sample, or None for no limit.")
    if kappa * new > 1 + 1e-9:
        raise CapacityError(
            f"kappa={kappa} promises {kappa * new:.0%} of the memory to {new} tasks that are"
            f" consolidated at once. Lower kappa to at most {1 / new:.3g}, or consolidate fewer"
            " tasks at once (stm_size)."
        )
    if n_max is not None and n_max < new + (1 if old and kappa * new < 1 else 0):
        raise CapacityError(
            f"n_max={n_max} cannot hold one sample of each of {new} new tasks beside what was"
            " learned. Raise n_max."
        )
    if n_max is not None and 0 < kappa * n_max < 1:
        raise CapacityError(
            f"kappa={kappa} of n_max={n_max} is less than one sample a task. Raise either."
        )
