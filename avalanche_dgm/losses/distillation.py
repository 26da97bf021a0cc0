"""Cross-entropy with softened targets (Hinton et al. 2015)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_targets(logits: Tensor, *, allowed: Tensor, temperature: float) -> Tensor:
    """Turns a teacher's logits into probabilities over the classes that it knows.

    Args:
        logits: Tensor (n, K).
        allowed: bool tensor (n, K) or (K,), true where the teacher has learned the class; each row
            holds at least one.
        temperature: Above 0; larger is softer.

    Returns:
        Tensor (n, K), rows sum to one, zero outside ``allowed``.
    """
    return torch.softmax((logits / temperature).masked_fill(~allowed, float("-inf")), dim=1)


def distillation(logits: Tensor, targets: Tensor, *, temperature: float) -> Tensor:
    """Cross-entropy of softened predictions against soft targets, times the squared temperature.

    Targets narrower than the logits (the student has grown) count as zero on the new classes.

    Args:
        logits: Tensor (n, K), the student's.
        targets: Tensor (n, J), J <= K, rows sum to one.
        temperature: Above 0, the one with which the targets were made. The factor of its square
            keeps the gradient's size independent of it (Hinton et al. 2015, Sec. 2).

    Returns:
        Tensor (n,).
    """
    log_probabilities = F.log_softmax(logits / temperature, dim=1)[:, : targets.shape[1]]
    return -(targets * log_probabilities).sum(dim=1) * temperature**2
