"""Progress bars of the classifier's training, as an Avalanche logger that writes to stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from avalanche.logging import BaseLogger
from tqdm import tqdm

from avalanche_dgm.plugins.epoch_means import EpochMeans


class ProgressLogger(BaseLogger):
    """One bar an experience, over all its iterations, naming experience and epoch.

    It also stands in for Avalanche's loggers, so that an evaluator without any does not warn.

    Args:
        enabled: Whether to show anything.
        n_experiences: Length of the stream, for "experience 3/10".
        label: What is trained, put before the bar.
    """

    def __init__(self, *, enabled: bool, n_experiences: int, label: str = "") -> None:
        super().__init__()
        self.enabled = enabled
        self.n_experiences = n_experiences
        self.label = label
        self.position = 0
        self._bar: tqdm[Any] | None = None

    def before_training_epoch(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Opens the experience's bar, or names the next epoch."""
        if not self.enabled:
            return
        epoch = strategy.clock.train_exp_epochs + 1
        where = f"experience {self.position + 1}/{self.n_experiences}"
        name = f"{self.label}, {where}" if self.label else where
        name = f"{name}, epoch {epoch}/{strategy.train_epochs}"
        if self._bar is None:
            self._bar = bar(len(strategy.dataloader) * strategy.train_epochs, name)
        self._bar.set_description(name, refresh=False)

    def after_training_iteration(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Moves the bar by one iteration."""
        if self._bar is not None:
            self._bar.update()

    def after_training_epoch(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Closes the bar after the last epoch: what a method trains next has bars of its own."""
        if strategy.clock.train_exp_epochs + 1 >= strategy.train_epochs:
            self.close()

    def after_training_exp(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Closes the bar if training stopped early."""
        self.close()

    def close(self) -> None:
        """Removes the bar, also after an interruption."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_bar": None}


class EpochMeansLogger(BaseLogger):
    """Reports the classifier's mean loss and accuracy after each epoch.

    Args:
        show: Called with the values by key and the classifier's optimiser steps so far.
    """

    def __init__(self, show: Callable[[dict[str, float], int], None]) -> None:
        super().__init__()
        self._show: Callable[[dict[str, float], int], None] | None = show
        self._means = EpochMeans()

    def before_training_epoch(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Resets the means."""
        self._means.start()

    def after_training_iteration(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Adds a batch."""
        self._means.add(strategy)

    def after_training_epoch(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Reports the means; waits for the device."""
        values = self._means.values()
        if values and self._show is not None:
            self._show(values, strategy.clock.train_iterations)

    def __getstate__(self) -> dict[str, Any]:
        # A run that continues brings a logger of its own.
        return {**self.__dict__, "_show": None}


class ExperienceStartLogger(BaseLogger):
    """Calls a function when plugins have started an experience, before any training.

    Args:
        tell: Called with the strategy.
    """

    def __init__(self, tell: Callable[[Any], None]) -> None:
        super().__init__()
        self._tell: Callable[[Any], None] | None = tell

    def after_train_dataset_adaptation(
        self, strategy: Any, metric_values: Any, **kwargs: Any
    ) -> None:
        """Calls the function: plugins have started just before."""
        if self._tell is not None:
            self._tell(strategy)

    def __getstate__(self) -> dict[str, Any]:
        # A run that continues brings a logger of its own.
        return {**self.__dict__, "_tell": None}


def bar(total: int, name: str) -> tqdm[Any]:
    """Makes a bar on stderr.

    Args:
        total: Number of iterations.
        name: Put before the bar.
    """
    return tqdm(total=total, desc=name, unit="it", leave=False, file=sys.stderr, dynamic_ncols=True)
