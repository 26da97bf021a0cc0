"""Strategies with Avalanche's own plugins, for a run with a Trainer."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.logging import BaseLogger
from avalanche.training.plugins import EvaluationPlugin

from avalanche_dgm.experiments.building import build_model, optimizer_of
from avalanche_dgm.experiments.methods import StrategyInputs, build_strategy
from avalanche_dgm.experiments.results import Step
from avalanche_dgm.experiments.run_spec import RunSpec, measured, sizes_held
from avalanche_dgm.plugins.accuracies import ExperienceAccuracies
from avalanche_dgm.plugins.metrics import MemoryMetrics, memory_metrics

Report = Callable[[list[Step]], None]


def make_strategy(spec: RunSpec, logger: StepLogger | None) -> Any:
    """Builds network, optimiser and strategy.

    Args:
        spec: What the run learns.
        logger: What collects its measurements; ``None`` in processes that do not.
    """
    model = build_model(spec.config, spec.benchmark, spec.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        evaluator = EvaluationPlugin(
            *accuracy_metrics(experience=True, stream=True),
            ExperienceAccuracies(),
            *memory_metrics(),
            loggers=[logger] if logger is not None else [],
            collect_all=False,
        )
    return build_strategy(
        StrategyInputs(
            config=spec.config,
            model=model,
            optimizer=optimizer_of(spec.config).build(model, fused=False),
            evaluator=evaluator,
            device=torch.device("cpu"),
            shape=spec.shape,
            n_images=spec.n_images,
            progress=False,
        )
    )


class StepLogger(BaseLogger):
    """Adds a step to the result after each experience of a strategy.

    It is pickled with the strategy, into checkpoints and to other processes.

    Args:
        columns: The result's column of each experience that is learned.
        tested: The test experiences, in the order of the columns.
        sizes: Images of each of them.
        report: Called with all steps so far after each experience.
    """

    #: The report function of this process, as that of a logger from a checkpoint is outdated.
    _report: ClassVar[Report | None] = None

    def __init__(
        self, columns: list[int], tested: list[int], sizes: list[int], report: Report
    ) -> None:
        super().__init__()
        self.columns, self.tested, self.sizes = columns, tested, sizes
        self.steps: list[Step] = []
        self._mine = report
        self._started = self._trained = self._tested = 0.0
        StepLogger._report = report

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # In a spawned process, the first logger was sent there; others come from checkpoints.
        if StepLogger._report is None:
            StepLogger._report = self._mine

    def before_training(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Starts the clock."""
        self._started = time.perf_counter()

    def after_training(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Stops it."""
        self._trained = time.perf_counter() - self._started

    def before_eval(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Starts another one."""
        self._tested = time.perf_counter()

    def after_eval(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Adds a step; here all metrics have been computed."""
        accuracies = ExperienceAccuracies.of(strategy)
        step = Step(
            experience=self.columns[len(self.steps)],
            **measured([accuracies.get(j) for j in self.tested], self.sizes),
            **sizes_held(*MemoryMetrics.of(strategy)),
            seconds=self._trained,
            eval_seconds=time.perf_counter() - self._tested,
        )
        self.steps.append(step)
        if StepLogger._report is not None:
            StepLogger._report(self.steps)
