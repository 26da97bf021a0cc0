"""The dual memory as an Avalanche plugin."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from avalanche_dgm.data import ExperienceData
from avalanche_dgm.errors import UnsupportedModelError
from avalanche_dgm.methods import DGDMN
from avalanche_dgm.methods.paper_settings import dgdmn_hyper
from avalanche_dgm.plugins.base import MethodPlugin
from avalanche_dgm.plugins.experiences import TaskOracle, classes_of, starts_task
from avalanche_dgm.plugins.routed import RoutedModel, wrap
from avalanche_dgm.signatures import takes_arguments_of


@takes_arguments_of(DGDMN)
class DGDMNPlugin(MethodPlugin):
    """Deep generative dual memory (Kamra et al. 2017) for any strategy, without an argument.

    The strategy's optimiser and epochs train the small short-term learner of each task. The
    user's model is the long-term learner: it is trained in sleep, after every ``stm_size`` tasks,
    on what the memories generate, and stays the object that the user made. ``strategy.model``
    becomes a `RoutedModel` that holds both; `finish` puts the user's model back::

        strategy = Naive(model=net, optimizer=optimizer, plugins=[DGDMNPlugin()])

    Args:
        seed: Seed of the memory; ``None`` follows ``torch.manual_seed``.
        oracle: How tasks are told apart; see `MethodPlugin`. Used at test time only with
            ``routing="oracle"``.
        progress: Whether to show progress bars.
        **hyper: Any field of `avalanche_dgm.memories.DualMemorySettings`.

    Raises:
        ConfigError: A hyper-parameter is unknown or cannot work.
    """

    method: DGDMN

    def __init__(
        self,
        *,
        seed: int | None = None,
        oracle: str | TaskOracle = "auto",
        progress: bool = False,
        **hyper: Any,
    ) -> None:
        super().__init__(DGDMN(seed=seed, **hyper), oracle=oracle, progress=progress)

    @classmethod
    def paper(cls, stream: str, *, scale: float = 1.0, **overrides: Any) -> DGDMNPlugin:
        """The paper's settings (appendix B); see `avalanche_dgm.methods.paper_settings`.

        DGR as in the paper is ``paper(stream, short_term=False, stm_size=1)``.

        Args:
            stream: ``"digits"``, ``"permnist"`` or ``"tdigits"``.
            scale: Share of the data set that is used; the memory shrinks with it.
            **overrides: Arguments of the plugin that shall differ.
        """
        return cls(**{**dgdmn_hyper(stream, scale=scale), **overrides})

    def learner_of(self, strategy: Any) -> nn.Module:
        """The user's model, wrapped or not."""
        model = strategy.model
        return model.ltm if isinstance(model, RoutedModel) else model

    def sleep(self) -> None:
        """Consolidates now, whether the short-term memory is full or not."""
        self._run(self.method.sleep())

    def finish(self, strategy: Any) -> nn.Module:
        """Consolidates what still waits, and gives the strategy its own model back.

        Args:
            strategy: The strategy that was trained.

        Returns:
            The user's model, which has learned everything.
        """
        self.sleep()
        strategy.model = self.learner_of(strategy)
        return strategy.model

    def _routed(self, strategy: Any) -> RoutedModel:
        model = strategy.model
        if isinstance(model, RoutedModel):
            if model.method is not self.method:
                raise UnsupportedModelError(
                    "The strategy's model is routed by another DGDMNPlugin already. Give the"
                    " strategy one of them."
                )
            return model
        if not isinstance(model, nn.Module):
            raise UnsupportedModelError(
                f"The strategy's model is a {type(model).__name__}, not a torch.nn.Module."
            )
        routed = wrap(model, self.method).to(strategy.device)
        routed.train(model.training)
        strategy.model = routed
        return routed

    def begin(self, strategy: Any, data: ExperienceData) -> None:
        """Wraps the model once, takes a short-term memory, and shows its learner to Avalanche."""
        super().begin(strategy, data)
        routed = self._routed(strategy)
        routed.task_key = None
        routed.collect()

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """See `MethodPlugin.before_training_exp`; also learns how wide the answers are."""
        if self._data is not None and starts_task(strategy.experience):
            strategy.model.width = self.width_of(strategy, self._data)
        super().before_training_exp(strategy, *args, **kwargs)

    def before_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Without short-term memories nothing is learned before sleep."""
        if not self.method.settings.short_term:
            strategy.stop_training()

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Sleeps if it is time, and frees the learners of what was consolidated."""
        super().after_training_exp(strategy, *args, **kwargs)
        if isinstance(strategy.model, RoutedModel):
            strategy.model.collect()

    def before_eval(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Consolidates before an evaluation between experiences, with ``routing="sleep"``."""
        if self._data is None:
            with torch.enable_grad():
                self._run(self.method.before_predicting())
            if isinstance(strategy.model, RoutedModel):
                strategy.model.collect()

    def before_eval_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Asks the oracle, with ``routing="oracle"``, which task the test images are from."""
        if isinstance(strategy.model, RoutedModel):
            key = self.oracle(strategy.experience)
            strategy.model.task_key = self.method.test_key(key, classes_of(strategy.experience))
