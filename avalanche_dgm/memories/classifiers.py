"""The user's classifier: its logits, checks of it, and its growth."""

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
#: Batch size for checks of a classifier's outputs.
_CHECK_BATCH = 64


def logits_of(learner: nn.Module, images: Tensor, tasks: Tensor, *, task_aware: bool) -> Tensor:
    """A classifier's logits (n, K) of images (n, *shape), of any floating-point type.

    A ``task_aware`` classifier takes task labels (n,) as its second argument.

    Raises:
        UnsupportedModelError: The classifier returns something else.
    """
    images = in_type_of(learner, images)
    logits = learner(images, tasks) if task_aware else learner(images)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        kind = type(logits).__name__
        shape = f" of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else ""
        raise UnsupportedModelError(
            f"The model returns {kind}{shape}; one tensor of logits (batch, classes) is needed."
            " Wrap it in a module whose forward returns that tensor."
        )
    return logits


def is_masked(logits: Tensor) -> Tensor:
    """Where a classifier has no output: bool tensor of the shape of its logits.

    Growing heads return `MASKED_LOGIT` there, others minus infinity. Compared exactly, as valid
    logits may be large and negative.
    """
    return (logits == MASKED_LOGIT) | logits.isneginf()


def spread(logits: Tensor, classes: Tensor, tasks: Tensor, width: int, *, by_task: bool) -> Tensor:
    """Moves the logits (n, K) of known classes to the columns of their labels, (n, width).

    The classes (K, 3) are rows of a `ClassTable`. All other classes have `MASKED_LOGIT`, and with
    ``by_task`` also those of other tasks than the sample's, ``tasks`` (n,).
    """
    if by_task:
        logits = logits.masked_fill(tasks[:, None] != classes[None, :, 1], MASKED_LOGIT)
    wide = logits.new_full((len(logits), width), MASKED_LOGIT)
    return wide.scatter_reduce(1, classes[None, :, 2].expand(len(logits), -1), logits, "amax")


@torch.no_grad()
def width_of(learner: nn.Module, data: ExperienceData, *, task_aware: bool) -> int:
    """Number of outputs of a classifier that is adapted to the experience.

    One sample of each class is used.

    Raises:
        LabelError: A task's head has no output for one of its classes: the logit is `MASKED_LOGIT`
            or minus infinity, and the class would never be learned.
    """
    classes = ClassTable()
    rows = classes.add(data.tasks, data.labels)
    examples = torch.empty(len(classes), dtype=torch.int64, device=rows.device)
    examples[rows] = torch.arange(len(rows), device=rows.device)
    width = 0
    with evaluating(learner):
        for rows in examples.split(_CHECK_BATCH):
            labels, tasks = data.labels[rows], data.tasks[rows]
            logits = logits_of(learner, data.images[rows], tasks, task_aware=task_aware)
            width = max(width, logits.shape[1])
            own = logits.gather(1, labels.clamp(max=logits.shape[1] - 1)[:, None])[:, 0]
            missing = is_masked(own) & (labels < logits.shape[1])
            if missing.any():
                first = int(missing.nonzero()[0])
                label, task = int(labels[first]), int(tasks[first])
                raise LabelError(
                    f"The experience has the label {label} with the task label {task}, but the"
                    " model's head of this task has no output for it. Give that head at least"
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
    """Checks that a classifier can learn an experience; changes neither it nor random states.

    Args:
        learner: The classifier.
        data: The experience.
        task_aware: Whether the classifier takes task labels.
        trained: Whether its parameters will be trained.
        copies: Why copies of it are needed, in sentences; empty if none are.
        adapt: Grows a classifier for the experience; ``None`` if it has a fixed size.

    Raises:
        UnsupportedModelError: It has no trainable parameter, does not return one tensor of logits,
            or cannot be copied.
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
                # Adapters check the labels again after the model itself has grown.
                return
        if adapt is not None:
            adapt(network)
        check_labels(data, width_of(network, data, task_aware=task_aware))
        if trained and not any(p.requires_grad for p in network.parameters()):
            raise UnsupportedModelError(
                f"The {type(learner).__name__} has no parameter that requires gradients, so it"
                " cannot learn. Set requires_grad of the parameters to train."
            )
        if copies and not lazy:
            first = data.images[:1], data.tasks[:1]
            with evaluating(network):
                shared = depends_on(
                    learner, lambda: logits_of(network, *first, task_aware=task_aware)
                )
            if shared:
                raise UnsupportedModelError(
                    f"A copy of the {type(learner).__name__} uses the original's"
                    f" {', '.join(sorted(shared))}, through a function that refers to the model,"
                    " such as a lambda. Make that a method."
                )
    finally:
        set_global_state(before)


@torch.no_grad()
def head_width(network: nn.Module, image: Tensor, task: int, *, task_aware: bool) -> int:
    """Number of outputs of a classifier's head of a task, measured on an image (1, *shape)."""
    label = torch.full((1,), task, dtype=torch.int64, device=image.device)
    with evaluating(network):
        return logits_of(network, image, label, task_aware=task_aware).shape[1]


def check_heads(
    learner: nn.Module, image: Tensor, needed: Mapping[int, int], *, task_aware: bool
) -> None:
    """Raises a `ConfigError` if a classifier no longer has the outputs of learned classes.

    ``needed`` maps task labels to numbers of outputs, measured on an image (1, *shape).
    """
    for task, n in needed.items():
        width = head_width(learner, image, task, task_aware=task_aware)
        if width < n:
            head = f"The head of task {task}" if task_aware else "The classifier"
            raise ConfigError(
                f"{head} has {width} outputs, but {n} were learned. A head may grow between"
                " experiences, not shrink."
            )


def depends_on(model: nn.Module, run: Callable[[], Tensor]) -> set[str]:
    """Names of a model's parameters, frozen or not, on which the result of ``run`` depends."""
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
# than its saved state. They are detected by their attributes, without importing Avalanche.


def grow_to(model: nn.Module | None, state: Mapping[str, Any], prefix: str = "") -> None:
    """Resizes a model's growing classifiers to the outputs and heads in a state, with new weights.

    The model's names have the prefix in the ``state_dict``.
    """
    for name, part in _parts(model).items():
        # The heads of a multi-head classifier are adapted by the classifier.
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
    """Counters of Avalanche's multi-task modules that are not in their ``state_dict``, by name."""
    return {
        name: {"width": part.max_class_label, "tasks": sorted(getattr(part, _COUNTED))}
        for name, part in _parts(model).items()
        if hasattr(part, _COUNTED)
    }


def set_counted(model: nn.Module | None, state: Mapping[str, Any]) -> None:
    """Restores the counters returned by `counted`."""
    parts: dict[str, Any] = _parts(model)
    for name in state.keys() & parts.keys():
        parts[name].max_class_label = state[name]["width"]
        setattr(parts[name], _COUNTED, set(state[name]["tasks"]))


def _parts(model: nn.Module | None) -> dict[str, nn.Module]:
    return dict(model.named_modules()) if model is not None else {}
