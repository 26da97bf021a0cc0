"""The classifiers of experiments, with one head or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from avalanche.models import MultiHeadClassifier, MultiTaskModule
from torch import Tensor, nn

from avalanche_dgm.models import AlexNetLike


class MLP(nn.Module):
    """Dense layers with ReLU, and one linear layer for all classes.

    Args:
        n_features: Number of values of an image.
        n_classes: Number of outputs.
        hidden: Units of each hidden layer.
        dropout: Probability of dropping a hidden unit, from 0 to below 1.
    """

    def __init__(
        self, n_features: int, n_classes: int, *, hidden: Sequence[int], dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.body = _body(n_features, hidden, dropout)
        self.classifier = nn.Linear(hidden[-1] if hidden else n_features, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits (n, n_classes) of images (n, C, H, W)."""
        return self.classifier(self.body(x))


class MultiHeadMLP(MultiTaskModule):
    """`MLP` with one head for each task label, for task-incremental streams.

    Args:
        n_features: Number of values of an image.
        hidden: Units of each hidden layer.
        dropout: Probability of dropping a hidden unit, from 0 to below 1.
    """

    def __init__(self, n_features: int, *, hidden: Sequence[int], dropout: float = 0.0) -> None:
        super().__init__()
        self.body = _body(n_features, hidden, dropout)
        self.classifier = MultiHeadClassifier(hidden[-1] if hidden else n_features, masking=False)

    def forward(self, x: Tensor, task_labels: Tensor) -> Tensor:
        """Returns logits of images (n, C, H, W) by the heads of their task labels (n,)."""
        return self.classifier(self.body(x), task_labels)


class MultiTaskAlexNet(MultiTaskModule):
    """`AlexNetLike` with a head for each task label, as an Avalanche multi-task module.

    The heads exist from the start with fixed sizes, so that each has the width of its task, even if
    an experience has several task labels.

    Args:
        shape: (C, H, W) of an image.
        heads: Task label -> number of outputs.
        **options: Further arguments of `AlexNetLike`.
    """

    def __init__(self, shape: tuple[int, ...], heads: Mapping[int, int], **options: Any) -> None:
        super().__init__()
        self.network = AlexNetLike(shape, heads, **options)

    def forward(self, x: Tensor, task_labels: Tensor | int | None) -> Any:
        """Returns logits (n, K) of images (n, C, H, W) by the heads of their task labels (n,).

        Without task labels it returns a dictionary of the logits of each trained task.
        """
        if task_labels is None:
            return self.forward_all_tasks(x)
        return self.network(x, task_labels)

    def forward_single_task(self, x: Tensor, task_label: int) -> Tensor:
        """Returns logits (n, K) of images (n, C, H, W) by one head."""
        return self.network(x, task_label)


def _body(n_features: int, hidden: Sequence[int], dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for units in hidden:
        layers += [nn.Linear(n_features, units), nn.ReLU()]
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
        n_features = units
    return nn.Sequential(*layers)
