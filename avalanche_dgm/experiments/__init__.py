"""Experiments: a method, a stream and their settings as data, and what runs and reports them.

Importing this package is cheap; PyTorch and Avalanche are imported when a run starts.
"""

from typing import TYPE_CHECKING, Any

from avalanche_dgm.experiments.config import ExperimentConfig
from avalanche_dgm.experiments.results import RunResult

if TYPE_CHECKING:
    from avalanche_dgm.experiments.methods import METHODS as METHODS

__all__ = ["METHODS", "ExperimentConfig", "RunResult"]


def __getattr__(name: str) -> Any:
    if name != "METHODS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from avalanche_dgm.experiments.methods import METHODS

    return METHODS
