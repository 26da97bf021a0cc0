"""Classifiers whose outputs or heads grow, in saved states.

Avalanche's ``IncrementalClassifier`` and ``MultiHeadClassifier`` grow when a model is adapted to an
experience, so a new model is smaller than a saved state of it. They are known by what they have:
this layer does not import Avalanche.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from torch import nn

_HEAD = re.compile(r"classifiers\.(\d+)\.classifier\.weight")
_COUNTED = "known_train_tasks_labels"


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
    """What Avalanche's multi-task modules count outside of their ``state_dict``, by name.

    Args:
        model: The classifier.
    """
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
