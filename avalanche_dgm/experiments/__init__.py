"""Experiments: configs of a method on a stream, their execution, results and reports.

Importing this package is fast; PyTorch, Avalanche and the reading of results are imported lazily.
"""

from typing import TYPE_CHECKING, Any

from avalanche_dgm.experiments.config import ExperimentConfig

if TYPE_CHECKING:
    from avalanche_dgm.experiments.methods import METHODS as METHODS
    from avalanche_dgm.experiments.results import RunResult as RunResult

__all__ = ["METHODS", "ExperimentConfig", "RunResult"]


def __getattr__(name: str) -> Any:
    if name == "METHODS":
        from avalanche_dgm.experiments.methods import METHODS

        return METHODS
    if name == "RunResult":
        from avalanche_dgm.experiments.results import RunResult

        return RunResult
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
