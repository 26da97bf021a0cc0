"""Plugins whose method may answer in place of the user's model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from avalanche_dgm.data import ExperienceData
from avalanche_dgm.errors import UnsupportedModelError
from avalanche_dgm.plugins.base import PLAIN_LOADERS, MethodPlugin
from avalanche_dgm.plugins.optimizers import exchange
from avalanche_dgm.plugins.routed import RoutedModel, wrap
from avalanche_dgm.plugins.samples import classes_of, split_batch


class RoutingPlugin(MethodPlugin):
    """Drives a method that answers at test time, or learns by batches, with networks of its own.

    ``strategy.model`` becomes a `RoutedModel` that holds the user's model and the method's
    learners; `finish` puts the user's model back. See `MethodPlugin` for the arguments.
    """

    method: Any
    #: Task labels and classes (K, 2) of the experience, if batches have samples of others.
    _own: Tensor | None = None
    #: Whether a batch has none of the experience.
    _nothing = False
    #: Parameters that do not learn in this step, with their gradients.
    _set_aside: Sequence[tuple[nn.Parameter, Tensor | None]] = ()

    @property
    def partner_kind(self) -> str:
        """See `MethodPlugin.partner_kind`."""
        return "own" if self.method.routes else "batch"

    def learner_of(self, strategy: Any) -> nn.Module:
        """The user's model, wrapped or not."""
        model = strategy.model
        return model.ltm if isinstance(model, RoutedModel) else model

    #: Whether `finish` was called since the last experience.
    _finished = False

    def _wrapped(self, strategy: Any) -> RoutedModel | None:
        model = strategy.model
        return model if isinstance(model, RoutedModel) and model.method is self.method else None

    def _routed(self, strategy: Any) -> RoutedModel:
        model = strategy.model
        if isinstance(model, RoutedModel):
            return model
        if not isinstance(model, nn.Module):
            raise UnsupportedModelError(
                f"The strategy's model is a {type(model).__name__}, not a torch.nn.Module."
            )
        routed = wrap(model, self.method).to(strategy.device)
        routed.train(model.training)
        self.put_model(strategy, routed)
        return routed

    def finish(self, strategy: Any) -> nn.Module:
        """See `MethodPlugin.finish`; what its optimiser held of the method's learners leaves it."""
        self._finished = True
        routed = self._wrapped(strategy)
        if routed is not None:
            self._show_learners(strategy, routed, {})
        return super().finish(strategy)

    def _collect(self, strategy: Any, routed: RoutedModel) -> None:
        """Shows the method's learners to Avalanche, those that are in use now."""
        self._show_learners(strategy, routed, self.method.networks())

    def _show_learners(
        self, strategy: Any, routed: RoutedModel, learners: dict[str, nn.Module]
    ) -> None:
        before = dict(routed.stm.named_parameters(prefix="stm"))
        routed.stm = nn.ModuleDict(learners)
        exchange(strategy.optimizer, before, dict(routed.stm.named_parameters(prefix="stm")))
        if strategy.optimized_param_id is not None:
            # By these names Avalanche would look for what the optimiser holds no more.
            for name in before:
                strategy.optimized_param_id.pop(name, None)

    def begin(self, strategy: Any, data: ExperienceData) -> None:
        """Starts the experience, wraps the model once, and shows its learners to Avalanche."""
        self._run(self.method.make_room(data.key))
        super().begin(strategy, data)
        if not self.method.routes:
            return
        self._finished = False
        routed = self._routed(strategy)
        routed.task_key = None
        self._collect(strategy, routed)

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """See `MethodPlugin.before_training_exp`; also learns how wide the answers are."""
        routed = self._wrapped(strategy)
        if routed is not None and self._data is not None:
            routed.width = self.width_of(strategy, self._data)
        super().before_training_exp(strategy, *args, **kwargs)

    def before_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Trains nothing by batches where nothing learns by them."""
        super().before_training_epoch(strategy, *args, **kwargs)
        if self.method.active is None:
            strategy.stop_training()
        # Once all plugins have put their data sets and loaders in place.
        self._own = None if self._data is None or self._alone(strategy) else self._data.pairs

    def _alone(self, strategy: Any) -> bool:
        """Whether batches have samples of the experience, or of a part of it, and no others."""
        part = len(strategy.adapted_dataset) == len(strategy.experience.dataset)
        return part and type(strategy.dataloader) in PLAIN_LOADERS

    def before_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Leaves out samples of other tasks: the learner of this one has no outputs for them."""
        super().before_training_iteration(strategy, *args, **kwargs)
        self._nothing = False
        if self._own is None or self._wrapped(strategy) is None:
            return
        _, labels, tasks = split_batch(strategy.mbatch, self._column)
        pairs = torch.stack([tasks, labels], dim=1)
        mine = (pairs[:, None] == self._own[None]).all(dim=2).any(dim=1)
        self._nothing = not bool(mine.any())
        if not self._nothing:
            strategy.mbatch = [column[mine] for column in strategy.mbatch]

    def before_update(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Trains nothing but the active learner, whatever other plugins have added to the loss."""
        active = self.method.active
        if self._wrapped(strategy) is None or active is None:
            return
        own = set() if self._nothing else {id(parameter) for parameter in active.parameters()}
        others = [p for p in strategy.model.parameters() if id(p) not in own]
        self._set_aside = [(p, p.grad) for p in others if p.grad is not None]
        for parameter, _ in self._set_aside:
            parameter.grad = None

    def after_update(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Gives the other gradients back to those who look at them after the step."""
        super().after_update(strategy, *args, **kwargs)
        for parameter, gradient in self._set_aside:
            parameter.grad = gradient
        self._set_aside = []

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Trains what comes after the model, and frees the learners that are in use no more."""
        super().after_training_exp(strategy, *args, **kwargs)
        routed = self._wrapped(strategy)
        if routed is not None:
            self._collect(strategy, routed)

    def before_eval(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Trains what comes before an evaluation between experiences."""
        super().before_eval(strategy, *args, **kwargs)
        if self._data is not None:
            return
        method = self.method
        if method.routes and strategy.model is method.learner and not self._finished:
            # What was loaded answers before anything more is learned.
            method.to(strategy.device)
            self._routed(strategy)
        with torch.enable_grad():
            self._run(method.before_predicting())
        routed = self._wrapped(strategy)
        if routed is not None:
            self._collect(strategy, routed)

    def before_eval_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Asks the oracle, if the method routes by it, which task the test images are from."""
        routed = self._wrapped(strategy)
        if routed is not None:
            key = self.test_task_of(strategy.experience)
            routed.task_key = self.method.test_key(key, classes_of(strategy.experience))
