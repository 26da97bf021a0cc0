"""An Avalanche plugin that ends the training of an experience at a target accuracy."""

from __future__ import annotations

from typing import Any

from avalanche.core import SupervisedPlugin
from torch import Tensor, distributed

from avalanche_dgm.plugins.accuracies import count_correct
from avalanche_dgm.stopping import TrainingTarget


class TargetAccuracyPlugin(SupervisedPlugin):
    """Ends the training of an experience once its running training accuracy is high enough.

    The strategy's ``train_epochs`` is the maximum number of epochs. Avalanche's
    ``EarlyStoppingPlugin``, which uses a validation stream, works with our plugins, too.
    ``fit_stream(..., until=0.99)`` is the same for a LightningModule.

    Args:
        accuracy: Running training accuracy of an epoch on new samples, without replayed ones,
            above 0 and at most 1.
        settle: Then decay the learning rate to 0 on half a cosine, over half as many further
            epochs; replaces a `CosineAnnealingPlugin`.

    Raises:
        ConfigError: The accuracy is out of range.
    """

    supports_distributed = True

    def __init__(self, accuracy: float = 0.99, *, settle: bool = False) -> None:
        """See the class for the arguments."""
        super().__init__()
        self.target = TrainingTarget(accuracy, settle=settle)
        self._rates: list[float] | None = None
        self._counts: Tensor | None = None
        self._batch = 0

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Checks the accuracy of the previous epoch, and stops training if it was the last."""
        done = strategy.clock.train_exp_epochs
        if done == 0:
            # The previous experience may have been interrupted.
            self._restore(strategy)
            self.target.begin(strategy.train_epochs)
            self._rates = [group["lr"] for group in strategy.optimizer.param_groups]
        elif self._counts is not None:
            self.target.end_epoch(done, self._accuracy(self._counts))
        self._counts, self._batch = None, 0
        if done >= self.target.last:
            strategy.stop_training()

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        if self.target.settle and self._rates is not None:
            done = strategy.clock.train_exp_epochs
            factor = self.target.factor(done, self._batch, len(strategy.dataloader))
            groups = strategy.optimizer.param_groups
            for group, rate in zip(groups, self._rates, strict=True):
                group["lr"] = factor * rate

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Counts a batch's correct predictions, on the device."""
        self._batch += 1
        if (batch := count_correct(strategy)) is not None:
            self._counts = batch if self._counts is None else self._counts + batch

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self._restore(strategy)
        self._counts = None

    def _restore(self, strategy: Any) -> None:
        for group, rate in zip(strategy.optimizer.param_groups, self._rates or [], strict=False):
            group["lr"] = rate
        self._rates = None

    @staticmethod
    def _accuracy(counts: Tensor) -> float:
        """Accuracy over all processes; synchronises with the device."""
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(counts)
        correct, n = counts.tolist()
        return float(correct / n)
