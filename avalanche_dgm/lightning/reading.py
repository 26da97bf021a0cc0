"""Whether an experience may be read once into memory, or must be read anew for every batch."""

from __future__ import annotations

from typing import Any

import torch

from avalanche_dgm.plugins.experiences import image_of, reads_differ
from avalanche_dgm.randomness import global_state, set_global_state

#: Bytes: larger experiences are read as they are needed, and this much of test sets is kept.
MEMORY_LIMIT = 4 * 2**30


def fits_in_memory(dataset: Any, *, training: bool) -> bool:
    """Whether a data set may be read once into tensors and served from them ever after.

    Reads some samples, with global generators seeded for it and put back, so that all processes
    answer the same.

    Args:
        dataset: An Avalanche data set.
        training: Whether it is trained on; then its transforms of training must be those of
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
