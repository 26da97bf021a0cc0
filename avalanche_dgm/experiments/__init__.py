"""Experiments: a method, a stream and their settings as data, and what runs and reports them.

Importing this package is cheap; PyTorch and Avalanche are imported when a run starts.
"""

from avalanche_dgm.experiments.config import ExperimentConfig
from avalanche_dgm.experiments.methods import METHODS
from avalanche_dgm.experiments.results import RunResult

__all__ = ["ExperimentConfig", "METHODS", "RunResult"]
