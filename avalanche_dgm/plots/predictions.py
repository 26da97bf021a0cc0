"""Predictions and example images of a method, its plugin or its module, for the figures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from avalanche_dgm.dashboards.views import Examples
from avalanche_dgm.errors import ConfigError, ShapeError
from avalanche_dgm.methods import Method
from avalanche_dgm.modules import evaluating, in_chunks


def method_of(memory: Any) -> Method:
    """The method in a plugin or a LightningModule, or the method itself.

    Raises:
        ConfigError: The object has no method.
    """
    method = getattr(memory, "method", memory)
    if not isinstance(method, Method):
        raise ConfigError(
            f"A {type(memory).__name__} has no method. Give a plugin of this package, its method,"
            " or its LightningModule."
        )
    return method


def examples(images: Tensor, labels: Tensor, tasks: Tensor | None) -> Examples:
    """Example images, with their shapes checked.

    Args:
        images: Float tensor (n, *shape), n at least 1.
        labels: int64 tensor (n,).
        tasks: int64 tensor (n,), task labels; ``None`` for 0.

    Raises:
        ShapeError: There is no image, or not as many labels or task labels as images.
    """
    tasks = torch.zeros_like(labels) if tasks is None else tasks
    if not len(images) or {labels.shape, tasks.shape} != {images.shape[:1]}:
        raise ShapeError(
            f"Of n images, at least one, labels and tasks must be of shape (n,); they are"
            f" {tuple(images.shape)}, {tuple(labels.shape)} and {tuple(tasks.shape)}."
        )
    return Examples(images, labels, tasks, torch.zeros_like(labels))


@torch.no_grad()
def predict(classifier: Any, inputs: Examples) -> Tensor:
    """The predicted labels of images.

    Args:
        classifier: A plugin, a method or a LightningModule, which predicts without a task oracle;
            or a function from images (n, *shape) to logits (n, K), such as a network.
        inputs: The images.

    Returns:
        int64 tensor (n,), labels, on the device of the images.

    Raises:
        ConfigError: The classifier is none of these.
    """
    method = getattr(classifier, "method", classifier)
    if isinstance(method, Method):
        with method.random.temporary_seed(0), evaluating(method):
            device = method.rng.device
            logits = in_chunks(
                lambda images, tasks: method.predict(images.to(device), tasks.to(device)),
                inputs.images,
                inputs.tasks,
            )
    elif callable(classifier):
        network = classifier if isinstance(classifier, nn.Module) else None
        weight = next(network.parameters(), None) if network is not None else None
        device = inputs.images.device if weight is None else weight.device
        with evaluating(network):
            logits = in_chunks(lambda images: classifier(images.to(device)), inputs.images)
    else:
        raise ConfigError(
            f"A {type(classifier).__name__} does not classify. Give a plugin of this package, its"
            " method or module, or a function from images (n, *shape) to logits (n, K)."
        )
    return logits.argmax(dim=1).to(inputs.images.device)
