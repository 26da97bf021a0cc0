"""Checks of a model before an experience is learned."""

from __future__ import annotations

from typing import Any

from avalanche.models.dynamic_modules import (
    DynamicModule,
    MultiTaskModule,
    avalanche_model_adaptation,
)
from torch import nn

from avalanche_dgm.data import ExperienceData
from avalanche_dgm.memories.classifiers import check_learner
from avalanche_dgm.methods import Method
from avalanche_dgm.plugins.samples import with_class_labels


def check_model(method: Method, model: nn.Module, data: ExperienceData, experience: Any) -> None:
    """Checks that a method can teach a model an experience; changes nothing.

    Args:
        method: The method.
        model: The user's model, on the device of the data.
        data: The experience, which the method has checked.
        experience: Avalanche's experience, to which growing models are adapted: a copy here.

    Raises:
        UnsupportedModelError: The model cannot learn it.
        LabelError: It would have no output for one of the labels.
    """
    grows = any(isinstance(module, DynamicModule) for module in model.modules())
    check_learner(
        model,
        data,
        task_aware=isinstance(model, MultiTaskModule),
        trained=method.needs.learner,
        copies="" if method.experiences else method.needs.copies,
        adapt=(lambda copy: avalanche_model_adaptation(copy, with_class_labels(experience)))
        if grows
        else None,
    )
