"""Whether generated samples resemble real ones, to find a training that failed."""

from __future__ import annotations

import torch
from torch import Tensor

#: Steps of a generator from which on poor samples are a failure; fewer may just be too few.
LEAST_ROUNDS = 500
#: Generated samples that are compared.
MOST_COMPARED = 2048
#: Real and generated samples of a class from which on their means are compared.
LEAST_SAMPLES = 16
#: Squared distance of the means of a class, relative to the variance of the real samples, above
#: which generated samples are unlike them. On digits it is .01 to .16 after a training that went
#: well, 2 after one that did not, and 1 if all generated samples are the same one.
FARTHEST = 0.5


def unlike(real: Tensor, real_rows: Tensor, generated: Tensor, generated_rows: Tensor) -> list[int]:
    """Classes whose generated samples are, on average, far from the real ones, in ascending order.

    Real samples (N, *shape) and generated ones (M, *shape) have the same units, and the classes
    (N,) and (M,). Those with few samples are not compared.
    """
    found = []
    for row in real_rows.unique().tolist():
        ours, theirs = generated[generated_rows == row], real[real_rows == row]
        if min(len(ours), len(theirs)) < LEAST_SAMPLES:
            continue
        distance = (ours.mean(dim=0) - theirs.mean(dim=0)).square().sum()
        limit = FARTHEST * theirs.var(dim=0).sum() + torch.finfo(real.dtype).eps
        # Not ">", as the distance of samples that are not finite is not a number.
        if not distance <= limit:
            found.append(row)
    return found
