"""How well a stream was learned, and how good the samples are that a memory generates.

Functions over an accuracy matrix, the torchmetrics on top, and what looks at generators.
"""

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
from avalanche_dgm.metrics.generator_log import GeneratorLog
from avalanche_dgm.metrics.generator_quality import (
    GeneratorQuality,
    Quality,
    Reference,
    train_reference,
)

__all__ = [
    "AccuracyMatrix",
    "AverageAccuracy",
    "AverageAnytimeAccuracy",
    "BackwardTransfer",
    "Forgetting",
    "ForwardTransfer",
    "GeneratorLog",
    "GeneratorQuality",
    "LearningAccuracy",
    "Quality",
    "Reference",
    "Retention",
    "average_accuracy",
    "average_anytime_accuracy",
    "backward_transfer",
    "forgetting",
    "forward_transfer",
    "learning_accuracy",
    "retention",
    "train_reference",
]
