"""A logger of Avalanche's evaluation plugin that logs panels."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from avalanche.core import SupervisedPlugin
from avalanche.logging import BaseLogger

from avalanche_dgm.dashboards.dashboard import Dashboard, LearnedExperience
from avalanche_dgm.dashboards.sinks import Sink
from avalanche_dgm.dashboards.wandb_sink import is_main_process
from avalanche_dgm.methods import MethodStats
from avalanche_dgm.plugins.accuracies import AccuracyRecorder
from avalanche_dgm.plugins.description import describe_strategy
from avalanche_dgm.plugins.epoch_means import EpochMeans
from avalanche_dgm.plugins.learned import tested_of
from avalanche_dgm.plugins.learning_time import LearningTime
from avalanche_dgm.plugins.metrics import find_plugins
from avalanche_dgm.plugins.samples import stream_of
from avalanche_dgm.plugins.tested import log_examples, names_of


class DashboardLogger(BaseLogger, SupervisedPlugin):
    """Logs panels of a strategy's run and, with a plugin of this package, of its memory.

    Give it to the evaluation plugin, and evaluate on the test stream after each experience::

        logger = DashboardLogger([FileSink("runs/dgr/panels")])
        evaluator = EvaluationPlugin(accuracy_metrics(stream=True), loggers=[logger])
        strategy = Naive(..., plugins=[DGRPlugin()], evaluator=evaluator)

    Training is not changed. The logger is saved in and restored from checkpoints of the strategy.
    Only the first process logs. See `avalanche_dgm.dashboards.keys` for the panels.

    Args:
        sinks: Where to log panels.
        samples_per_class: Samples per class in image grids.
        latents: Whether to plot an embedding of test latents after the last experience.

    Raises:
        ConfigError: ``samples_per_class`` is below 1.
    """

    def __init__(
        self, sinks: Sequence[Sink] = (), *, samples_per_class: int = 8, latents: bool = True
    ) -> None:
        """See the class for the arguments."""
        # Skips BaseLogger.__init__, which raises in processes other than the first.
        super(BaseLogger, self).__init__()
        self._sinks = list(sinks)
        self.samples_per_class, self.latents = samples_per_class, latents
        # Checks the arguments; the sinks are opened with the first log.
        Dashboard([], samples_per_class=samples_per_class)
        self._dashboard: Dashboard | None = None
        self._accuracies = AccuracyRecorder()
        self._names: list[str] = []
        self._sleeps = 0
        self._training = False
        self._time = LearningTime()
        self._tested = 0.0
        self._means = EpochMeans()

    def make_sinks(self) -> Sequence[Sink]:
        """Returns the sinks; called before the first panel, also after resuming."""
        return self._sinks

    @property
    def dashboard(self) -> Dashboard:
        """The dashboard, created on first access."""
        if self._dashboard is None:
            sinks = self.make_sinks() if self.watches else []
            self._dashboard = Dashboard(
                sinks, samples_per_class=self.samples_per_class, latents=self.latents
            )
        return self._dashboard

    @property
    def watches(self) -> bool:
        """Whether panels are logged: only in the first process."""
        return is_main_process()

    def before_training(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Logs the settings, and starts the clock."""
        self._training = True
        self.dashboard.log_settings(_settings_of(strategy))
        self._time.start()
        for plugin in find_plugins(strategy)[:1]:
            self._log_sleep(plugin.stats)

    def after_training(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Pauses the clock; later evaluations are logged."""
        self._training = False
        self._time.pause()

    def before_training_exp(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        self._accuracies.learned.begin(strategy.experience)

    def before_training_epoch(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        self._means.start()

    def after_training_iteration(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        if self.watches:
            self._time.shown += self._means.add(strategy)

    def after_training_epoch(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Logs the epoch's means; synchronises with the device."""
        values = self._means.values()
        if values:
            self.dashboard.log_training(values, step=strategy.clock.train_iterations)

    def after_training_exp(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Logs the memory after an experience; in online streams after its last part."""
        learned = self._accuracies.learned
        if not (learned.end(strategy.experience) and self.watches):
            return
        plugins = find_plugins(strategy)
        # Reading the stats synchronises with the device, so that all work is timed.
        stats = plugins[0].stats if plugins else None
        experience = LearnedExperience(
            experiences=len(learned.positions),
            seconds=self._time.seconds(),
            shown=self._time.shown,
            n_classes=len(learned.classes),
            stats=stats,
        )
        self.dashboard.log_experience(experience, plugins[0].method if plugins else None)
        # The time for the panels does not count towards the next experience.
        self._time.restart()

    def before_eval(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Resets the counts of correct predictions."""
        self._time.pause()
        self._tested = time.perf_counter()
        if self._training or not self.watches:
            return
        self._accuracies.before_eval(strategy)
        tests = tested_of(strategy, self._accuracies.stream)
        if tests and not self._names:
            self._names = names_of(stream_of(tests[0]))

    def after_eval_iteration(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        if self.watches and not self._training:
            self._accuracies.after_eval_iteration(strategy)

    def after_eval(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Logs the accuracies, if the test stream was evaluated after an experience."""
        if self._training:
            self._time.resume()
            return
        if not self._accuracies.end():
            return
        seconds, found = time.perf_counter() - self._tested, self._accuracies.accuracies()
        self.dashboard.log_test(found, names=self._names, seconds=seconds)
        plugins = find_plugins(strategy)
        if plugins:
            so_far = self._accuracies.learned
            at = len(so_far.positions)
            log_examples(
                self.dashboard,
                plugins[0].method,
                tested_of(strategy, self._accuracies.stream),
                found.learned(),
                at=at,
                last=at >= so_far.n_stream,
            )
            self._log_sleep(plugins[0].stats)

    def _log_sleep(self, stats: MethodStats) -> None:
        """Logs a sleep, if there was one since the last call."""
        at = len(self._accuracies.learned.positions)
        if at:
            self.dashboard.log_sleep(stats, before=self._sleeps, at=at)
        self._sleeps = stats.sleeps

    def close(self) -> None:
        """Closes the sinks."""
        if self._dashboard is not None:
            self._dashboard.close()
            self._dashboard = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_dashboard": None}


def _settings_of(strategy: Any) -> dict[str, Any]:
    """The settings of a strategy and of its method of this package, if any."""
    described = describe_strategy(strategy)
    found: dict[str, Any] = {"strategy": described}
    for plugin in find_plugins(strategy)[:1]:
        found["method"] = described["plugins"][type(plugin).__name__].pop("method")
    return found
