"""How a memory asks a classifier."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from avalanche_dgm.data import ExperienceData
from avalanche_dgm.errors import ConfigError, LabelError, UnsupportedModelError
from avalanche_dgm.models import NO_OUTPUT

#: Samples that a classifier is shown at once where its outputs are looked at.
_SHOWN = 64


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


@contextmanager
def evaluating(module: nn.Module | None) -> Iterator[None]:
    """Puts a module into evaluation mode for a while.

    Labelling what is generated must not move a classifier's BatchNorm statistics, nor drop units.

    Args:
        module: The module, left alone if it is in evaluation mode throughout, or ``None``.
    """
    training = [m for m in module.modules() if m.training] if module is not None else []
    for part in training:
        part.training = False
    try:
        yield
    finally:
        # One by one, so that parts which the user keeps in evaluation mode stay there.
        for part in training:
            part.training = True


@torch.no_grad()
def width_of(learner: nn.Module, data: ExperienceData, *, task_aware: bool) -> int:
    """Number of a classifier's outputs.

    Args:
        learner: The classifier, adapted to the experience.
        data: The experience; a sample of each class is shown.
        task_aware: Whether the classifier takes task labels.

    Raises:
        LabelError: The head of a task has no output for one of its classes: it answers `NO_OUTPUT`
            or minus infinity there, and would never learn it.
    """
    pairs, rows = torch.unique(
        torch.stack([data.tasks, data.labels], dim=1), dim=0, return_inverse=True
    )
    shown = torch.empty(len(pairs), dtype=torch.int64, device=rows.device)
    shown[rows] = torch.arange(len(rows), device=rows.device)
    width = 0
    with evaluating(learner):
        for rows in shown.split(_SHOWN):
            labels, tasks = data.labels[rows], data.tasks[rows]
            logits = ask(learner, data.images[rows], tasks, task_aware=task_aware)
            width = max(width, logits.shape[1])
            own = logits.gather(1, labels.clamp(max=logits.shape[1] - 1)[:, None])[:, 0]
            # Exactly this number: a network may well answer with larger ones.
            missing = ((own == NO_OUTPUT) | own.isneginf()) & (labels < logits.shape[1])
            if missing.any():
                first = int(missing.nonzero()[0])
                label, task = int(labels[first]), int(tasks[first])
                raise LabelError(
                    f"The experience has the label {label} with the task label {task}, and the"
                    " model has no output for it there. Give that head at least"
                    f" {label + 1} outputs, or number the classes of a task from 0."
                )
    return width


@torch.no_grad()
def head_width(network: nn.Module, image: Tensor, task: int, *, task_aware: bool) -> int:
    """Number of outputs of one of a classifier's heads.

    Args:
        network: The classifier.
        image: Float tensor (1, *shape), to ask with.
        task: The head's task label.
        task_aware: Whether the classifier takes task labels.
    """
    label = torch.full((1,), task, dtype=torch.int64, device=image.device)
    with evaluating(network):
        return ask(network, image, label, task_aware=task_aware).shape[1]


def check_heads(
    learner: nn.Module, image: Tensor, needed: Mapping[int, int], *, task_aware: bool
) -> None:
    """Checks that a classifier still has the outputs that it has learned.

    Args:
        learner: The classifier.
        image: Float tensor (1, *shape), to ask with.
        needed: Task label -> number of outputs.
        task_aware: Whether the classifier takes task labels.

    Raises:
        ConfigError: It has lost some.
    """
    for task, n in needed.items():
        width = head_width(learner, image, task, task_aware=task_aware)
        if width < n:
            head = f"The head of task {task}" if task_aware else "The classifier"
            raise ConfigError(
                f"{head} has {width} outputs now, and needs {n}: so many it has learned, and each"
                " is held. A head may grow between experiences, not shrink."
            )


def learned_outputs(known: Tensor, tasks: Tensor, width: int, *, by_task: bool) -> Tensor:
    """Which of a classifier's outputs were learned.

    Args:
        known: int64 tensor (k, 2), rows of task label and class that were learned.
        tasks: int64 tensor (n,), task labels of what is answered.
        width: Number of outputs.
        by_task: Whether a sample has the classes of its own task label only.

    Returns:
        bool tensor (n, width).
    """
    columns = (known[:, 1, None] == torch.arange(width, device=known.device)).float()
    if not by_task:
        return (columns.sum(dim=0) > 0).expand(len(tasks), width)
    mine = (tasks[:, None] == known[None, :, 0]).float()
    return (mine @ columns) > 0
