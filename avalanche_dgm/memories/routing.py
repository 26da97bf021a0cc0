"""Which memory explains an image best."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from avalanche_dgm.memories.generative import DeepGenerativeMemory


@torch.no_grad()
def choose_memory(
    memories: Sequence[DeepGenerativeMemory], images: Tensor, tasks: Tensor, *, by_task: bool
) -> Tensor:
    """Chooses a memory for each image by the largest evidence lower bound.

    Args:
        memories: The candidates; one without a generator is chosen only if no other can be.
        images: Float tensor (n, *shape).
        tasks: int64 tensor (n,), task labels.
        by_task: Whether only memories that learned an image's task label may answer for it.

    Returns:
        int64 tensor (n,), positions in ``memories``.
    """
    # Finite, so that a memory that holds nothing still beats nothing at all.
    worst = torch.finfo(torch.float32).max
    scores = []
    for memory in memories:
        if memory.generator is None or memory.density is None or not len(memory.density.classes):
            scores.append(torch.full((len(images),), worst, device=images.device))
            continue
        score = memory.generator.negative_elbo(images)
        if by_task:
            known = (tasks[:, None] == memory.density.classes.tasks[None, :]).any(dim=1)
            score = score.masked_fill(~known, worst)
        scores.append(score)
    # The last candidate is the LTM: it answers where no memory qualifies.
    return len(memories) - 1 - torch.stack(scores[::-1]).argmin(dim=0)
