"""How well a stream was learned: functions over an accuracy matrix, and the torchmetrics on top."""

from avalanche_dgm.metrics.accuracy_matrix import (
    AccuracyMatrix,
    AverageAccuracy,
    AverageAnytimeAccuracy,
    BackwardTransfer,
    Forgetting,
    ForwardTransfer,
    LearningAccuracy,
    Retention,
)
from avalanche_dgm.metrics.functional import (
    average_accuracy,
    average_anytime_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    learning_accuracy,
    retention,
)

__all__ = [
    "AccuracyMatrix",
    "AverageAccuracy",
    "AverageAnytimeAccuracy",
    "BackwardTransfer",
    "Forgetting",
    "ForwardTransfer",
    "LearningAccuracy",
    "Retention",
    "average_accuracy",
    "average_anytime_accuracy",
    "backward_transfer",
    "forgetting",
    "forward_transfer",
    "learning_accuracy",
    "retention",
]
