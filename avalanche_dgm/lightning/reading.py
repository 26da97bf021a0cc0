"""Whether an experience can be read once into memory, or must be read for every batch."""

from __future__ import annotations

from typing import Any

import torch

from avalanche_dgm.plugins.experiences import image_of, reads_differ
from avalanche_dgm.randomness import global_state, set_global_state

#: Largest size in bytes of an experience in memory, and of all cached test sets together.
MEMORY_LIMIT = 4 * 2**30


def fits_in_memory(dataset: Any, *, training: bool) -> bool:
    """Whether a dataset can be read once into tensors.

    Reads some samples under a fixed seed, restored afterwards, so that all processes agree.

    Args:
        dataset: An Avalanche dataset.
        training: Whether it is for training; then its training transforms must equal those of
            evaluation.

    Returns:
        False if reading is random, or if the tensors would take more than 4 GiB.
    """
    n = len(dataset)
    if n == 0:
        return True
    evaluated = dataset.eval()
    before = global_state()
    size = image_of(evaluated, 0).numel() * torch.finfo(torch.float32).bits // 8
    set_global_state(before)
    if n * size > MEMORY_LIMIT:
        return False
    return not reads_differ(dataset.train() if training else evaluated, evaluated)
