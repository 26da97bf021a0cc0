"""Feeds Avalanche's stock generator the intensities that it is written for."""

from __future__ import annotations

from typing import Any

from avalanche.core import SupervisedPlugin

# Mean and standard deviation of MNIST that Avalanche's default generator has built in.
MNIST_MEAN, MNIST_STD = 0.1307, 0.3081


class StandardisePlugin(SupervisedPlugin):
    """Standardises images in [0, 1] as Avalanche's MNIST benchmarks do.

    The streams of this package keep intensities in [0, 1], while the default generator of
    ``GenerativeReplay`` makes standardised images. Without this they would not match.
    """

    def before_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Standardises a training batch before replay joins it."""
        strategy.mbatch[0] = (strategy.mbatch[0] - MNIST_MEAN) / MNIST_STD

    def before_eval_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Standardises an evaluation batch."""
        strategy.mbatch[0] = (strategy.mbatch[0] - MNIST_MEAN) / MNIST_STD
