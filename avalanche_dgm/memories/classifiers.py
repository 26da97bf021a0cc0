"""The user's classifier: its logits, its checks, and how it grows."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from avalanche_dgm.classes import ClassTable
from avalanche_dgm.data import MASKED_LOGIT, ExperienceData, check_labels
from avalanche_dgm.errors import ConfigError, LabelError, UnsupportedModelError
from avalanche_dgm.modules import copied, evaluating, in_type_of
from avalanche_dgm.randomness import global_state, set_global_state

_HEAD = re.compile(r"classifiers\.(\d+)\.classifier\.weight")
_COUNTED = "known_train_tasks_labels"
#: Samples that a classifier is shown at once where its outputs are looked at.
_SHOWN = 64


def logits_of(learner: nn.Module, images: Tensor, tasks: Tensor, *, task_aware: bool) -> Tensor:
    """Returns a classifier's logits.

    Args:
        learner: The classifier.
        images: Float tensor (n, *shape), of any floating-point type.
        tasks: int64 tensor (n,), task labels.
        task_aware: Whether the classifier takes them as its second argument.

    Returns:
        Tensor (n, K).

    Raises:
        UnsupportedModelError: It answers with something else.
    """
    images = in_type_of(learner, images)
    logits = learner(images, tasks) if task_aware else learner(images)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        kind = type(logits).__name__
        shape = f" of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else ""
        raise UnsupportedModelError(
            f"The model answers with {kind}{shape}; one tensor of logits (batch, classes) is"
            " needed. Wrap it in a module whose forward returns that tensor."
        )
    return logits


def spread(logits: Tensor, classes: Tensor, tasks: Tensor, width: int, *, by_task: bool) -> Tensor:
    """Puts the logits of known classes in the places of their labels.

    Args:
        logits: Tensor (n, K), a column for each class.
        classes: int64 tensor (K, 3), rows of a `ClassTable`.
        tasks: int64 tensor (n,), task labels of what is classified.
        width: Outputs of the user's classifier.
        by_task: Whether a sample has the classes of its own task label only.

    Returns:
        Tensor (n, width), `MASKED_LOGIT` in other places.
    """
    if by_task:
        logits = logits.masked_fill(tasks[:, None] != classes[None, :, 1], MASKED_LOGIT)
    wide = logits.new_full((len(logits), width), MASKED_LOGIT)
    return wide.scatter_reduce(1, classes[None, :, 2].expand(len(logits), -1), logits, "amax")


@torch.no_grad()
def width_of(learner: nn.Module, data: ExperienceData, *, task_aware: bool) -> int:
    """Number of a classifier's outputs.

    Args:
        learner: The classifier, adapted to the experience.
        data: The experience; a sample of each class is shown.
        task_aware: See `logits_of`.

    Raises:
        LabelError: The head of a task has no output for one of its classes: it answers
            `MASKED_LOGIT` or minus infinity there, and would never learn it.
    """
    classes = ClassTable()
    rows = classes.add(data.tasks, data.labels)
    shown = torch.empty(len(classes), dtype=torch.int64, device=rows.device)
    shown[rows] = torch.arange(len(rows), device=rows.device)
    width = 0
    with evaluating(learner):
        for rows in shown.split(_SHOWN):
            labels, tasks = data.labels[rows], data.tasks[rows]
            logits = logits_of(learner, data.images[rows], tasks, task_aware=task_aware)
            width = max(width, logits.shape[1])
            own = logits.gather(1, labels.clamp(max=logits.shape[1] - 1)[:, None])[:, 0]
            # Exactly this number: a network may well answer with larger ones.
            missing = ((own == MASKED_LOGIT) | own.isneginf()) & (labels < logits.shape[1])
            if missing.any():
                first = int(missing.nonzero()[0])
                label, task = int(labels[first]), int(tasks[first])
                raise LabelError(
                    f"The experience has the label {label} with the task label {task}, and the"
                    " model has no output for it there. Give that head at least"
                    f" {label + 1} outputs, or number the classes of a task from 0."
                )
    return width


def check_learner(
    learner: nn.Module,
    data: ExperienceData,
    *,
    task_aware: bool,
    trained: bool,
    copies: str = "",
    adapt: Callable[[nn.Module], object] | None = None,
) -> None:
    """Checks that a classifier can learn an experience; changes neither it nor random numbers.

    Args:
        learner: The classifier.
        data: The experience.
        task_aware: Whether the classifier takes task labels.
        trained: Whether its parameters shall learn.
        copies: What copies of it are needed for, in sentences; empty if none are.
        adapt: Lets a classifier grow with the experience; ``None`` for one that does not.

    Raises:
        UnsupportedModelError: It has nothing to learn with, does not answer with one tensor of
            logits, or cannot be copied.
        LabelError: A label has no output.
    """
    before = global_state()
    try:
        network = learner
        lazy = any(isinstance(p, nn.UninitializedParameter) for p in learner.parameters())
        if copies or adapt is not None or lazy:
            try:
                network = copied(learner)
            except UnsupportedModelError as error:
                if copies:
                    raise UnsupportedModelError(f"{error} {copies}") from error
                # Adapters look at the labels once more, when the model itself has grown.
                return
        if adapt is not None:
            adapt(network)
        check_labels(data, width_of(network, data, task_aware=task_aware))
        if trained and not any(p.requires_grad for p in network.parameters()):
            raise UnsupportedModelError(
                f"The {type(learner).__name__} has no parameter that requires gradients, so it can"
                " learn nothing. Set requires_grad of those that shall be trained."
            )
        if copies and not lazy:
            first = data.images[:1], data.tasks[:1]
            with evaluating(network):
                shared = depends_on(
                    learner, lambda: logits_of(network, *first, task_aware=task_aware)
                )
            if shared:
                raise UnsupportedModelError(
                    f"A copy of the {type(learner).__name__} answers with the original's"
                    f" {', '.join(sorted(shared))}, through a function that holds on to the model,"
                    " such as a lambda. Make that a method."
                )
    finally:
        set_global_state(before)


@torch.no_grad()
def head_width(network: nn.Module, image: Tensor, task: int, *, task_aware: bool) -> int:
    """Number of outputs of a classifier's head of a task, asked with an image (1, *shape)."""
    label = torch.full((1,), task, dtype=torch.int64, device=image.device)
    with evaluating(network):
        return logits_of(network, image, label, task_aware=task_aware).shape[1]


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


def depends_on(model: nn.Module, run: Callable[[], Tensor]) -> set[str]:
    """Names of the parameters that a result depends on, whether they are frozen or not.

    Args:
        model: Whose parameters.
        run: Makes the result.
    """
    named = {n: p for n, p in model.named_parameters() if p.is_floating_point()}
    frozen = [p for p in named.values() if not p.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            result = run()
            if not result.requires_grad:
                return set()
            gradients = torch.autograd.grad(result.sum(), list(named.values()), allow_unused=True)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
    return {n for n, g in zip(named, gradients, strict=True) if g is not None}


# Classifiers whose outputs or heads grow. Avalanche's ``IncrementalClassifier`` and
# ``MultiHeadClassifier`` grow when a model is adapted to an experience, so a new model is smaller
# than a saved state of it. They are known by what they have: this layer does not import Avalanche.


def grow_to(model: nn.Module | None, state: Mapping[str, Any], prefix: str = "") -> None:
    """Gives growing classifiers the outputs and heads that a state has, with new weights.

    Args:
        model: Some parts of which may be such classifiers; other parts are left alone. ``None``
            for nothing.
        state: A ``state_dict``.
        prefix: What the model's names begin with there.
    """
    for name, part in _parts(model).items():
        # The heads of a multi-head classifier are adapted by it alone.
        if not (hasattr(part, "adaptation") and getattr(part, "_auto_adapt", False)):
            continue
        start = f"{prefix}{name}." if name else prefix
        saved = {k[len(start) :]: v for k, v in state.items() if k.startswith(start)}
        widths = {int(m[1]): len(v) for k, v in saved.items() if (m := _HEAD.fullmatch(k))}
        if "classifier.weight" in saved and isinstance(
            getattr(part, "classifier", None), nn.Linear
        ):
            widths = {0: len(saved["classifier.weight"])}
        ours = {k: len(v) for k, v in part.state_dict().items() if k.endswith("classifier.weight")}
        for task, width in widths.items():
            names = {"classifier.weight", f"classifiers.{task}.classifier.weight"}
            if all(ours.get(name) != width for name in names):
                experience = SimpleNamespace(
                    classes_in_this_experience=[width - 1], task_labels=[task]
                )
                part.adaptation(experience)  # type: ignore[operator]


def counted(model: nn.Module | None) -> dict[str, Any]:
    """What Avalanche's multi-task modules count outside of their ``state_dict``, by name."""
    return {
        name: {"width": part.max_class_label, "tasks": sorted(getattr(part, _COUNTED))}
        for name, part in _parts(model).items()
        if hasattr(part, _COUNTED)
    }


def set_counted(model: nn.Module | None, state: Mapping[str, Any]) -> None:
    """Takes over what `counted` returned."""
    parts: dict[str, Any] = _parts(model)
    for name in state.keys() & parts.keys():
        parts[name].max_class_label = state[name]["width"]
        setattr(parts[name], _COUNTED, set(state[name]["tasks"]))


def _parts(model: nn.Module | None) -> dict[str, nn.Module]:
    return dict(model.named_modules()) if model is not None else {}
