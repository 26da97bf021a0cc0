"""The classifier that the experiments train: a multilayer perceptron, with one head or several."""

from __future__ import annotations

from collections.abc import Sequence

from avalanche.models import MultiHeadClassifier, MultiTaskModule
from torch import Tensor, nn


class MLP(nn.Module):
    """Dense layers with ReLU, and one linear layer that answers for all classes.

    Args:
        n_features: Numbers in one image.
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
    """The same with one head for each task label, for task-incremental streams.

    Args:
        n_features: Numbers in one image.
        hidden: Units of each hidden layer.
        dropout: Probability of dropping a hidden unit, from 0 to below 1.
    """

    def __init__(self, n_features: int, *, hidden: Sequence[int], dropout: float = 0.0) -> None:
        super().__init__()
        self.body = _body(n_features, hidden, dropout)
        self.classifier = MultiHeadClassifier(hidden[-1] if hidden else n_features, masking=False)

    def forward(self, x: Tensor, task_labels: Tensor) -> Tensor:
        """Returns logits of images (n, C, H, W), each by the head of its task label (n,)."""
        return self.classifier(self.body(x), task_labels)


def _body(n_features: int, hidden: Sequence[int], dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for units in hidden:
        layers += [nn.Linear(n_features, units), nn.ReLU()]
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
        n_features = units
    return nn.Sequential(*layers)
