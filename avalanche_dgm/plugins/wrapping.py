"""The plugin of methods that route between their own networks or train on latents."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from avalanche_dgm.classes import ClassTable
from avalanche_dgm.data import ExperienceData, Step
from avalanche_dgm.methods.abilities import LatentInputs, Routing
from avalanche_dgm.methods.closed_form import ClosedForm
from avalanche_dgm.plugins.base import MethodPlugin
from avalanche_dgm.plugins.experiences import is_augmented, is_part
from avalanche_dgm.plugins.loop import (
    PreparedBatches,
    average_gradients,
    is_alone,
    undo_interrupted,
)
from avalanche_dgm.plugins.optimizers import replace_parameters
from avalanche_dgm.plugins.samples import classes_of, split_batch
from avalanche_dgm.plugins.wrapped import WrappedModel, put_model, wrap


class WrappingPlugin(MethodPlugin):
    """Wraps the strategy's model if the method has its own networks or trains on latents.

    ``strategy.model`` is then a `WrappedModel` around the user's model, until `finish`. For
    training on latents an experience is encoded once, or batch by batch if it is augmented or
    another plugin adds samples. See `MethodPlugin` for the arguments.
    """

    #: Classes of the experience, if batches also have samples of other classes.
    _own: ClassTable | None = None
    #: Whether the batch has no sample of the experience.
    _nothing = False
    #: Parameters without an update in this step, with their gradients.
    _set_aside: Sequence[tuple[nn.Parameter, Tensor | None]] = ()
    #: Whether `finish` was called since the last experience.
    _finished = False

    @property
    def routing(self) -> Routing | None:
        """The method, if it trains or predicts with its own networks."""
        method: Any = self.method
        return method if isinstance(method, Routing) and method.routes else None

    @property
    def latents(self) -> LatentInputs | None:
        """The method, if the classifier is trained on latents."""
        method: Any = self.method
        return method if isinstance(method, LatentInputs) and method.uses_latents else None

    @property
    def wraps(self) -> bool:
        """Whether the strategy's model is wrapped."""
        return self.routing is not None or self.latents is not None

    @property
    def partner_kind(self) -> str:
        """See `MethodPlugin.partner_kind`."""
        if self.routing is not None:
            return "closed" if isinstance(self.method, ClosedForm) else "own"
        return "latents" if self.latents is not None else "batch"

    @property
    def alternates(self) -> bool:
        """See `MethodPlugin.alternates`."""
        return self.latents is not None and self.latents.alternates

    def learner_of(self, strategy: Any) -> nn.Module:
        """The user's model, wrapped or not."""
        model = strategy.model
        return model.model if isinstance(model, WrappedModel) else model

    def _wrapped(self, strategy: Any) -> WrappedModel | None:
        model = strategy.model
        return model if isinstance(model, WrappedModel) and model.method is self.method else None

    def _wrap(self, strategy: Any) -> WrappedModel:
        model = strategy.model
        if isinstance(model, WrappedModel):
            return model
        wrapped = wrap(model, self.method).to(strategy.device)
        wrapped.train(model.training)
        put_model(strategy, wrapped)
        return wrapped

    def consolidate(self) -> None:
        """Consolidates the pending tasks into the user's model."""
        undo_interrupted(self.method)
        if isinstance(self.method, Routing):
            self._run(self.method.consolidate())

    def sleep(self) -> None:
        """The former name of `consolidate`."""
        warnings.warn("sleep() is deprecated; use consolidate().", FutureWarning, stacklevel=2)
        self.consolidate()

    def finish(self, strategy: Any) -> nn.Module:
        """Consolidates, sets the strategy's model to the user's model, and returns it.

        Parameters of the method's own networks are removed from the optimiser.
        """
        self.consolidate()
        self._finished = True
        self._use(strategy, {})
        put_model(strategy, self.learner_of(strategy))
        return super().finish(strategy)

    def _use_networks(self, strategy: Any) -> None:
        self._use(strategy, self.routing.networks() if self.routing is not None else {})

    def _use(self, strategy: Any, networks: dict[str, nn.Module]) -> None:
        """Replaces the method's networks in the wrapped model, if any, and the optimiser."""
        wrapped = self._wrapped(strategy)
        if wrapped is None:
            return
        before = dict(wrapped.networks.named_parameters(prefix="networks"))
        wrapped.networks = nn.ModuleDict(networks)
        now = dict(wrapped.networks.named_parameters(prefix="networks"))
        replace_parameters(strategy.optimizer, before, now)
        if strategy.optimized_param_id is not None:
            # Avalanche would look for these parameters in the optimiser.
            for name in before:
                strategy.optimized_param_id.pop(name, None)

    def begin(self, strategy: Any, data: ExperienceData) -> None:
        """Starts the experience and wraps the model if necessary."""
        if self.routing is not None:
            self._run(self.routing.make_room(data.key))
        super().begin(strategy, data)
        if self.wraps:
            self._finished = False
            self._wrap(strategy).task_key = None
            self._use_networks(strategy)

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        wrapped = self._wrapped(strategy)
        if wrapped is not None and self._data is not None:
            wrapped.width = self.width_of(strategy, self._data)
        super().before_training_exp(strategy, *args, **kwargs)
        if self.latents is None or self._data is None or is_part(strategy.experience):
            return
        if not is_alone(strategy):
            return
        dataset = strategy.experience.dataset
        prepared = self.latents.prepare(self._data, augmented=lambda: is_augmented(dataset))
        if prepared is not self._data:
            strategy.dataloader = PreparedBatches(
                prepared,
                strategy.train_mb_size,
                shuffle=kwargs.get("shuffle", True),
                drop_last=kwargs.get("drop_last", False),
            )

    def before_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Skips the epochs if the method has no classifier to train."""
        super().before_training_epoch(strategy, *args, **kwargs)
        if self.method.active is None:
            strategy.stop_training()
        # Here, as plugins may replace datasets and loaders until now.
        alone = self.routing is None or self._data is None or is_alone(strategy)
        self._own = None
        if not alone and self._data is not None:
            self._own = ClassTable()
            self._own.add(self._data.tasks, self._data.labels)

    def before_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Encodes images, and drops samples of classes that the method's network lacks."""
        super().before_training_iteration(strategy, *args, **kwargs)
        self._nothing = False
        if self._wrapped(strategy) is None:
            return
        images, labels, tasks = split_batch(strategy.mbatch, self._column)
        if self.latents is not None:
            strategy.mbatch = [self.latents.encode_batch(images, tasks), *strategy.mbatch[1:]]
        if self._own is None:
            return
        known = self._own.find(tasks, labels) >= 0
        self._nothing = not bool(known.any())
        if not self._nothing:
            strategy.mbatch = [column[known] for column in strategy.mbatch]

    def before_update(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Removes gradients from other plugins' losses for all but the active learner."""
        active = self.method.active
        if self._wrapped(strategy) is None or active is None:
            return
        own = set() if self._nothing else {id(parameter) for parameter in active.parameters()}
        others = [p for p in strategy.model.parameters() if id(p) not in own]
        self._set_aside = [(p, p.grad) for p in others if p.grad is not None]
        for parameter, _ in self._set_aside:
            parameter.grad = None

    def after_update(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Takes a step on replay, if steps alternate; restores these gradients for plugins."""
        super().after_update(strategy, *args, **kwargs)
        if self.alternates:
            self._steps.call("after_update")
            self._step_on_replay(strategy)
        for parameter, gradient in self._set_aside:
            parameter.grad = gradient
        self._set_aside = []

    def _step_on_replay(self, strategy: Any) -> None:
        replay = self.draw(len(strategy.mb_x))
        if replay is None:
            return
        self._steps.step_on_replay()
        logits = self.method(replay.images, replay.tasks, width=self.width)
        self.method.stats.count(replay, logits.shape[1])
        step = Step.on_replay(replay, logits, len(strategy.mb_y))
        # Uses the strategy's methods, which may be overridden; metrics see the batch's loss.
        loss, strategy.loss = strategy.loss, self.method.loss(step)
        strategy.optimizer.zero_grad()
        strategy.backward()
        average_gradients(strategy.optimizer)
        strategy.optimizer_step()
        torch.clear_autocast_cache()
        strategy.loss = loss

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """See `MethodPlugin.after_training_exp`; frees networks that are no longer used."""
        super().after_training_exp(strategy, *args, **kwargs)
        self._use_networks(strategy)

    def before_eval(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Runs the phases before an evaluation, unless it is during training."""
        super().before_eval(strategy, *args, **kwargs)
        if self._data is not None:
            return
        if self.wraps and strategy.model is self.method.learner and not self._finished:
            # A loaded method may be evaluated before it is trained further.
            self.method.to(strategy.device)
            self._wrap(strategy)
        if self.routing is not None:
            self._run(self.routing.before_predicting())
        self._use_networks(strategy)

    def before_eval_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Sets the task of the test images, for methods that route by an oracle."""
        wrapped = self._wrapped(strategy)
        if wrapped is not None and self.routing is not None:
            key = self.test_task_of(strategy.experience)
            wrapped.task_key = self.routing.test_key(key, classes_of(strategy.experience))
