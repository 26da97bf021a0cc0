"""A logger of Avalanche's evaluation plugin that shows what is remembered."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from avalanche.logging import BaseLogger
from torch import Tensor

from avalanche_dgm.dashboards.dashboard import Dashboard, Learned
from avalanche_dgm.dashboards.sinks import Sink
from avalanche_dgm.dashboards.views import Examples
from avalanche_dgm.methods import Record
from avalanche_dgm.plugins.epoch_means import EpochMeans
from avalanche_dgm.plugins.experiences import whole
from avalanche_dgm.plugins.metrics import find_plugins
from avalanche_dgm.plugins.tested import TestTable, examples_of, names_of, of_test


class DashboardLogger(BaseLogger, SupervisedPlugin):
    """Shows panels of any strategy's run, and of the memory of this package that it has, if any.

    Give it to the evaluation plugin, and evaluate on the test stream after each experience::

        logger = DashboardLogger([FileSink("runs/dgr/panels")])
        evaluator = EvaluationPlugin(accuracy_metrics(stream=True), loggers=[logger])
        strategy = Naive(..., plugins=[DGRPlugin()], evaluator=evaluator)

    What is learned is the same with it and without it. It goes into checkpoints of the strategy
    and continues from them. See `avalanche_dgm.dashboards.keys` for the panels.

    Args:
        sinks: Places to show panels.
        samples_per_class: Samples of each class in pictures.
        latents: Whether to embed the latents of test images after the last experience.

    Raises:
        ConfigError: ``samples_per_class`` is below 1.
    """

    def __init__(
        self, sinks: Sequence[Sink] = (), *, samples_per_class: int = 8, latents: bool = True
    ) -> None:
        super().__init__()
        self._sinks = list(sinks)
        self.samples_per_class, self.latents = samples_per_class, latents
        # So that what cannot work is said here; places are opened when something is shown.
        Dashboard([], samples_per_class=samples_per_class)
        self._dashboard: Dashboard | None = None
        self._names: list[str] = []
        self._learned: list[int] = []
        self._classes: set[tuple[int, int]] = set()
        self._table = TestTable()
        self._examples: Examples | None = None
        self._sleeps = 0
        self._n_of_method = 0
        self._training = False
        self._started = self._tested = 0.0
        self._shown = 0
        self._means = EpochMeans()
        self._right: dict[int, Tensor] = {}

    def make_sinks(self) -> Sequence[Sink]:
        """The places to show panels; called before the first of them, also after a resumption."""
        return self._sinks

    @property
    def dashboard(self) -> Dashboard:
        """What turns events into panels; made when it is first needed."""
        if self._dashboard is None:
            self._dashboard = Dashboard(
                self.make_sinks(), samples_per_class=self.samples_per_class, latents=self.latents
            )
        return self._dashboard

    def before_training(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Begins to measure the time."""
        self._training, self._started, self._shown = True, time.perf_counter(), 0
        plugins = find_plugins(strategy)
        if plugins:
            self._slept(plugins[0].record)
            self._n_of_method = plugins[0].method.experiences

    def after_training(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Evaluations count from now on."""
        self._training = False

    def before_training_epoch(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Begins to sum."""
        self._means.start()

    def after_training_iteration(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Adds a batch."""
        self._shown += self._means.add(strategy)

    def after_training_epoch(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Shows the epoch's means; waits for the device."""
        values = self._means.values()
        if values:
            self.dashboard.trained(values, step=strategy.clock.train_iterations)

    def after_training_exp(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Shows what is remembered, if an experience is over: of online streams, the last part."""
        plugins = find_plugins(strategy)
        method = plugins[0].method if plugins else None
        if method is not None and method.experiences == self._n_of_method:
            return
        if method is None and not getattr(strategy.experience, "is_last_subexp", True):
            return
        experience = whole(strategy.experience)
        stream = getattr(experience, "origin_stream", None) or [experience]
        self._names = self._names or names_of(stream)
        self._learned.append(int(experience.current_experience))
        self._classes |= _classes(experience)
        now = time.perf_counter()
        record = plugins[0].record if plugins else None
        facts = Learned(
            experiences=len(self._learned),
            seconds=now - self._started,
            shown=self._shown,
            n_classes=len(self._classes),
            shape=tuple(experience.dataset[0][0].shape),
            record=record,
        )
        self.dashboard.learned(facts, method)
        if method is not None:
            self._n_of_method = method.experiences
        # What was drawn to be looked at is not the next experience's time.
        self._started, self._shown = time.perf_counter(), 0

    def before_eval(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Begins to count answers."""
        self._right, self._tested = {}, time.perf_counter()
        tested = [e for e in strategy.current_eval_stream if of_test(e)]
        if tested and not self._training:
            self._table.names = self._table.names or names_of(tested[0].origin_stream)

    def after_eval_iteration(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Counts a batch on the device."""
        experience, answers = strategy.experience, strategy.mb_output
        if self._training or not of_test(experience):
            return
        if not isinstance(answers, Tensor) or answers.ndim != 2:
            return
        right = (answers.argmax(dim=1) == strategy.mb_y).sum()
        batch = torch.stack([right, right.new_tensor(len(strategy.mb_y))])
        position = int(experience.current_experience)
        self._right[position] = self._right.get(position, 0) + batch

    def after_eval(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Shows the accuracies, if the test stream was evaluated after an experience."""
        if not self._right or not self._learned:
            return
        seconds = time.perf_counter() - self._tested
        counts = torch.stack(list(self._right.values())).double()
        accuracies = (counts[:, 0] / counts[:, 1]).tolist()
        self._table.put(len(self._learned), dict(zip(self._right, accuracies, strict=True)))
        self._right = {}
        experiences = self._table.experiences
        columns = self._table.columns(self._learned, self._names)
        self.dashboard.tested(
            self._table.matrix(),
            columns=columns,
            names=[self._table.names[j] for j in experiences],
            experiences=experiences,
            seconds=seconds,
        )
        self._look(strategy, [experiences[column] for column in columns])
        for plugin in find_plugins(strategy)[:1]:
            self._slept(plugin.record)

    def _slept(self, record: Record) -> None:
        """Shows a sleep, of which some are between experiences."""
        at = len(self._learned)
        if at:
            self.dashboard.slept(record, before=self._sleeps, at=at)
        self._sleeps = record.sleeps

    def _look(self, strategy: Any, learned: list[int]) -> None:
        """Shows what the memory makes of test images of what was learned."""
        plugins = find_plugins(strategy)
        if not plugins:
            return
        if self._examples is None:
            stream = [e for e in strategy.current_eval_stream if of_test(e)]
            self._examples = examples_of(stream, least=self.samples_per_class)
        if self._examples is not None:
            last = len(self._learned) == len(self._names)
            seen = self._examples.of(learned)
            self.dashboard.examined(plugins[0].method, seen, at=len(self._learned), last=last)

    def close(self) -> None:
        """Ends the run in all places."""
        if self._dashboard is not None:
            self._dashboard.close()
            self._dashboard = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_dashboard": None, "_examples": None}


def _classes(experience: Any) -> set[tuple[int, int]]:
    """Task labels and classes of an experience, as far as it tells them."""
    task = int(getattr(experience, "task_label", 0) or 0)
    return {(task, int(c)) for c in getattr(experience, "classes_in_this_experience", ())}
