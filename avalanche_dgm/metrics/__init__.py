"""How well a stream was learned, how good what a memory replays is, and what it costs.

Functions over an accuracy matrix, the torchmetrics on top, and what looks at generators, replay,
memory and time.
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
from avalanche_dgm.metrics.cost import Cost, MemorySize
from avalanche_dgm.metrics.density_coverage import DensityCoverage
from avalanche_dgm.metrics.frechet import FrechetDistance
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
from avalanche_dgm.metrics.reconstruction import ReconstructionError
from avalanche_dgm.metrics.replayed import ClassCoverage, LabelAgreement

__all__ = [
    "AccuracyMatrix",
    "AverageAccuracy",
    "AverageAnytimeAccuracy",
    "BackwardTransfer",
    "ClassCoverage",
    "Cost",
    "DensityCoverage",
    "Forgetting",
    "ForwardTransfer",
    "FrechetDistance",
    "GeneratorLog",
    "GeneratorQuality",
    "LabelAgreement",
    "LearningAccuracy",
    "MemorySize",
    "Quality",
    "ReconstructionError",
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
