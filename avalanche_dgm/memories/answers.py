"""How a memory asks a classifier."""

from __future__ import annotations

from torch import Tensor, nn

from avalanche_dgm.errors import UnsupportedModelError


def ask(learner: nn.Module, images: Tensor, tasks: Tensor, *, task_aware: bool) -> Tensor:
    """Returns a classifier's logits.

    Args:
        learner: The classifier.
        images: Float tensor (n, *shape).
        tasks: int64 tensor (n,), task labels.
        task_aware: Whether the classifier takes them as its second argument.

    Returns:
        Tensor (n, K).

    Raises:
        UnsupportedModelError: It answers with something else.
    """
    logits = learner(images, tasks) if task_aware else learner(images)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        kind = type(logits).__name__
        shape = f" of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else ""
        raise UnsupportedModelError(
            f"The model answers with {kind}{shape}; one tensor of logits (batch, classes) is"
            " needed. Wrap it in a module whose forward returns that tensor."
        )
    return logits
