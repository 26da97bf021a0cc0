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
    logits = _at_least_single(logits)
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
    logits = _at_least_single(logits)
    log_probabilities = F.log_softmax(logits / temperature, dim=1)[:, : targets.shape[1]]
    # A class without a target may have no output at all, a logit of minus infinity.
    parts = (targets * log_probabilities).masked_fill(targets == 0, 0.0)
    return -parts.sum(dim=1) * temperature**2


def _at_least_single(logits: Tensor) -> Tensor:
    """Logits in float32 under mixed precision, as PyTorch's own losses take them."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
