"""Dividing places over classes, and choosing samples for them at random."""

from __future__ import annotations

import torch
from torch import Tensor


def fill(available: list[int], size: int) -> list[int]:
    """Divides a number of places over classes, as equally as their samples allow.

    Args:
        available: Samples of each class.
        size: Places in all.

    Returns:
        Places of each class, none more than it has samples.
    """
    places = [0] * len(available)
    order = sorted(range(len(available)), key=available.__getitem__)
    for position, i in enumerate(order):
        places[i] = min(available[i], size // (len(order) - position))
        size -= places[i]
    return places


def shuffle(members: Tensor, counts: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Orders samples by class, and randomly within each.

    Args:
        members: Tensor (N,), each sample's class.
        counts: int64 tensor (K,), samples of each class.
        rng: Generator on their device.

    Returns:
        Positions (N,), and how many of its class come before each (N,).
    """
    noise = torch.rand(len(members), generator=rng, device=members.device, dtype=torch.float64)
    order = torch.argsort(members + noise)
    starts = torch.cumsum(counts, dim=0) - counts
    rank = torch.arange(len(members), device=members.device) - starts[members[order].long()]
    return order, rank


def choose_members(members: Tensor, quotas: list[int], rng: torch.Generator) -> Tensor:
    """Positions of a random choice of samples, so many of each class.

    Args:
        members: int64 tensor (N,), each sample's class.
        quotas: How many of each class are wanted.
        rng: Generator on the samples' device.
    """
    counts = torch.bincount(members, minlength=len(quotas))
    order, rank = shuffle(members, counts, rng)
    limits = torch.tensor(quotas, device=members.device)
    return order[rank < limits[members[order]]]
