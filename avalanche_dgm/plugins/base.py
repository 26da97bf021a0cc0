"""The base of the plugins: calls a method from Avalanche's hooks."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from avalanche.core import BasePlugin, SupervisedPlugin
from avalanche.models.dynamic_modules import MultiTaskModule
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor, nn
from torch.utils.data import default_collate

from avalanche_dgm.data import ExperienceData, Replay, Step, check_labels, join
from avalanche_dgm.errors import AvalancheDGMError, ConfigError, UnsupportedModelError
from avalanche_dgm.fitting import Phase, fit, pending
from avalanche_dgm.memories.classifiers import width_of
from avalanche_dgm.methods import Method, MethodStats
from avalanche_dgm.metrics.cost import memory_bytes_of
from avalanche_dgm.modules import in_type_of, training_context
from avalanche_dgm.plugins.experiences import (
    TaskOracle,
    check_boundaries,
    check_training_shape,
    ends_task,
    find_oracle,
    full_experience,
    is_part,
    load,
    starts_task,
    test_rule,
    train_rule,
)
from avalanche_dgm.plugins.loop import (
    StrategyCriterion,
    check_forward,
    check_gradients,
    check_model,
    is_alone,
    undo_interrupted,
)
from avalanche_dgm.plugins.optimizers import check_step
from avalanche_dgm.plugins.partners import check_partners
from avalanche_dgm.plugins.samples import find_tasks, split_batch, task_column
from avalanche_dgm.plugins.steps import (
    BatchLossFactor,
    BatchMoments,
    SeenSteps,
    check_batch_labels,
)
from avalanche_dgm.randomness import global_state, set_global_state


class MethodPlugin(SupervisedPlugin):
    """Applies a continual-learning method in any ``SupervisedTemplate`` of Avalanche.

    Replayed samples are appended to each batch for the forward pass. The strategy, its metrics and
    other plugins see the model's outputs for the batch only.

    Args:
        method: The method.
        oracle: How tasks are identified: ``"auto"``, ``"experience"``, ``"classes"``, or a
            function from an experience to a string; see `avalanche_dgm.plugins.experiences`.
        progress: Whether to show progress bars of the method's phases.
    """

    supports_distributed = False
    #: Of the criterion in the loss of the current batch.
    _factor: BatchLossFactor | None = None
    #: Whether the current experience was read.
    _read = False
    #: The current experience, whole if the strategy trains on parts of it.
    _whole: Any = None
    #: Whether training ended before the last part of the current experience.
    _left = False

    def __init__(
        self, method: Method, *, oracle: str | TaskOracle = "auto", progress: bool = False
    ) -> None:
        """See the class for the arguments."""
        super().__init__()
        self.method = method
        self.progress = progress
        self.oracle = find_oracle(oracle)
        self._rule: TaskOracle | None = None
        self._column: int | None = None
        self._data: ExperienceData | None = None
        self._model_before: tuple[nn.Module, dict[str, Any]] | None = None
        self._n_seen = 0
        self.width = 0
        self._steps, self._moments = SeenSteps(), BatchMoments()
        self._criterion: StrategyCriterion | None = None
        self._replay: Replay | None = None
        self._replay_logits: Tensor | None = None
        self._labels: Tensor | None = None

    def run_phase(self, phase: Phase) -> float:
        """Trains a phase and returns its seconds; `run_on_trainer` replaces this."""
        return fit(phase, self.method.rng, progress=self.progress)

    def draw(self, n: int) -> Replay | None:
        """Samples the replay for a batch of ``n`` samples; `run_on_trainer` replaces this."""
        return self.method.replay(n)

    @property
    def stats(self) -> MethodStats:
        """Statistics of the method so far."""
        return self.method.stats.read()

    def memory_bytes(self) -> int:
        """Bytes of the memory without the user's model, including stored samples."""
        return memory_bytes_of(self.method)

    def learner_of(self, strategy: Any) -> nn.Module:
        """The user's model."""
        return strategy.model

    def attach(self, model: nn.Module) -> None:
        """Sets the method's classifier to train.

        Raises:
            UnsupportedModelError: The model is not a ``torch.nn.Module``.
        """
        if not isinstance(model, nn.Module):
            raise UnsupportedModelError(
                f"The strategy's model is a {type(model).__name__}, not a torch.nn.Module."
            )
        self.method.attach(model, task_aware=isinstance(model, MultiTaskModule))

    def finish(self, strategy: Any) -> nn.Module:
        """Sets the strategy's model to the user's trained model, unwrapped, and returns it."""
        return strategy.model

    def _run(self, phases: Iterator[Phase]) -> None:
        try:
            with training_context():
                for phase in pending(phases):
                    self.method.stats.add_phase(phase.name, self.run_phase(phase))
        except BaseException:
            # Also on Ctrl-C: an unfinished experience is rolled back.
            self.method.undo()
            self._data = None
            raise

    @property
    def partner_kind(self) -> str:
        """The plugin's key in `avalanche_dgm.plugins.partners.KINDS`."""
        return "batch"

    @property
    def alternates(self) -> bool:
        """Whether optimiser steps on the batch and on replay alternate."""
        return False

    def before_training(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Checks the strategy's compatibility, and marks training as running."""
        check_partners(strategy, self)
        self._left = self._data is not None and not self.method.in_training
        self.method.in_training, self._read = True, False

    def after_training(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Marks training as complete.

        Raises:
            ConfigError: The strategy left out hooks around the training of an experience.
        """
        ended = self._data is None or not ends_task(strategy.experience, self._n_seen)
        if not (self._read and ended):
            missing = "after_training_exp" if self._read else "before_train_dataset_adaptation"
            raise ConfigError(
                f"{type(strategy).__name__} trains without self._{missing}(), so the experience is"
                " not in the memory. Call the hooks of Avalanche's loop in all methods that it"
                " overrides, such as by super()."
            )
        self.method.in_training = False

    def before_eval(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Rolls back an interrupted training."""
        if undo_interrupted(self.method):
            self._data = None

    def before_train_dataset_adaptation(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Reads and checks the experience, before anything is trained or changed."""
        self._column, self._read = task_column(strategy.experience), True
        if self._is_further_part(strategy):
            self._n_seen += len(strategy.experience.dataset)
            return
        if self._left and self._data is not None:
            # The last parts of the previous experience were left out.
            self._end(self._data)
        if type(strategy).optimizer_step is SupervisedTemplate.optimizer_step:
            check_step(strategy.optimizer)
        self.method.undo()
        self._restore_model(strategy)
        self._data, self._n_seen = None, len(strategy.experience.dataset)
        self._whole = full_experience(strategy.experience)
        before = global_state()
        try:
            self._data = self._start(strategy, **kwargs)
        except AvalancheDGMError:
            # Reading may draw from the global generators.
            set_global_state(before)
            raise

    def _start(self, strategy: Any, **kwargs: Any) -> ExperienceData:
        check_gradients(self.method)
        experience = full_experience(strategy.experience)
        check_boundaries(experience, self.oracle, self.method)
        self._rule = train_rule(self.oracle, experience)
        # Without task labels, Avalanche's training batches ignore a dataset's collate_fn.
        has_tasks = hasattr(strategy.experience, "task_labels")
        data = load(
            experience,
            key=self._rule(experience),
            device=strategy.device,
            num_workers=kwargs.get("num_workers", 0),
            collate=None if has_tasks else default_collate,
        )
        self.method.to(strategy.device)
        learner = self.learner_of(strategy)
        self.attach(learner)
        self.method.check(data)
        check_model(self.method, learner, data, strategy.experience)
        check_training_shape(self.method, experience.dataset, data)
        check_forward(strategy, data)
        self.begin(strategy, data)
        return data

    def test_task_of(self, experience: Any) -> str:
        """The name of a test experience's task."""
        return test_rule(self.oracle, self._rule)(experience)

    def begin(self, strategy: Any, data: ExperienceData) -> None:
        """Starts the experience."""
        self.method.begin(data)

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Checks the adapted model against the data, and runs the phases before training."""
        self._steps.close()
        self._steps = SeenSteps(strategy, *(["after_update"] if self.alternates else []))
        if self._data is None or self._n_seen > len(strategy.experience.dataset):
            return
        self.width = self.width_of(strategy, self._data)
        check_labels(self._data, self.width)
        if not isinstance(strategy._criterion, BasePlugin):
            self._set_criterion(strategy)
        self._run(self.method.before_learning(self._data))
        self._keep_model(strategy)
        self._moments = BatchMoments(0 if is_part(strategy.experience) else self.width)

    def before_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Sets a criterion that is itself a plugin, which is now set up for the experience."""
        self._steps.count(strategy.optimizer)
        if isinstance(strategy._criterion, BasePlugin):
            self._set_criterion(strategy)

    def _set_criterion(self, strategy: Any) -> None:
        if self._data is not None:
            self._criterion = StrategyCriterion(strategy)
            learner, classes = self.learner_of(strategy), self._data.classes
            self.method.criterion.set(self._criterion, learner, width=self.width, classes=classes)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Sets the method's criterion, which its pickle does not contain."""
        self.__dict__.update(state)
        if self._criterion is not None:
            self.method.criterion.criterion = self._criterion

    def width_of(self, strategy: Any, data: ExperienceData) -> int:
        """Number of outputs of the user's model, after it was adapted to the experience."""
        learner = self.learner_of(strategy)
        return width_of(learner, data, task_aware=isinstance(learner, MultiTaskModule))

    def before_forward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Appends replayed samples to the batch, unless batch and replay alternate."""
        self._steps.call("before_forward")
        check_batch_labels(strategy.mbatch[1])
        self._convert(strategy)
        self._moments.add(*strategy.mbatch[:2])
        replay = None if self.alternates else self.draw(len(strategy.mbatch[0]))
        self._replay = replay
        if replay is None:
            return
        batch = list(strategy.mbatch)
        batch[0] = join(batch[0], replay.images)
        batch[1] = torch.cat([batch[1], replay.labels])
        place = find_tasks(batch, self._column)
        if place is not None:
            batch[place] = torch.cat([batch[place], replay.tasks])
        strategy.mbatch, self._labels = batch, batch[1]

    def before_eval_forward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Converts the images to the type of the model's weights."""
        self._convert(strategy)

    def _convert(self, strategy: Any) -> None:
        """Converts a batch's images to the type of the model's weights, as the memory does."""
        images, *others = strategy.mbatch
        if self.partner_kind == "batch" and images.is_floating_point():
            strategy.mbatch = [in_type_of(strategy.model, images), *others]

    def after_forward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Removes the replayed samples and their logits from the batch."""
        self._steps.call("after_forward")
        self._factor = BatchLossFactor(strategy)
        if self._replay is None:
            return
        expected, self._labels = self._labels, None
        check_batch_labels(strategy.mbatch[1], expected=expected)
        n = len(strategy.mbatch[0]) - len(self._replay)
        self._replay_logits = strategy.mb_output[n:]
        strategy.mb_output = strategy.mb_output[:n]
        strategy.mbatch = [column[:n] for column in strategy.mbatch]
        self.method.stats.count(self._replay, self._replay_logits.shape[1])

    def before_backward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Weights the losses of batch and replay; losses of other plugins are not weighted."""
        self._steps.call("before_backward")
        factor = 1.0 if self._factor is None else self._factor.measure(strategy)
        images, _, tasks = split_batch(strategy.mbatch, self._column)
        self.method.stats.steps += 1
        # Without losses that other plugins have added, which are not weighted.
        new = strategy.loss if self._replay is None else strategy.criterion()
        added = self.method.loss(
            Step(
                images,
                tasks,
                strategy.mb_output,
                new=new,
                n=len(strategy.mb_y),
                replay=self._replay,
                replay_logits=self._replay_logits,
            )
        )
        self._replay = self._replay_logits = None
        if added is not None:
            strategy.loss = strategy.loss + factor * added

    def after_backward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Checks that no other plugin has replaced the loss."""
        factor, self._factor = self._factor, None
        if factor is not None:
            factor.check()

    def after_update(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Drops the weights that an autocast around the training has copied before the step."""
        torch.clear_autocast_cache()

    def after_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Compares the batches of the first epoch with what the memory has read."""
        self._steps.check()
        self._moments.compare(self._data if is_alone(strategy) else None)

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Runs the phases after training, and ends the experience."""
        self._steps.end()
        if self._data is None or not ends_task(strategy.experience, self._n_seen):
            return
        self._end(self._data)

    def _end(self, data: ExperienceData) -> None:
        self._run(self.method.after_learning(data))
        self.method.end(data)
        self._data = self._model_before = self._whole = None

    def _keep_model(self, strategy: Any) -> None:
        """Copies the model's weights for a rollback, unless it is the first experience."""
        learner = self.learner_of(strategy)
        if self.method.experiences and self.method.active is learner:
            self._model_before = learner, copy.deepcopy(learner.state_dict())

    def _restore_model(self, strategy: Any) -> None:
        """Rolls the model back to its weights from before an interrupted training.

        Otherwise its degraded outputs would become the labels of replayed samples.
        """
        before, self._model_before = self._model_before, None
        if before is None or before[0] is not self.learner_of(strategy):
            return
        before[0].load_state_dict(before[1])
        warnings.warn(
            "The previous training was interrupted. Its experience is not in the memory, and the"
            " model was rolled back to its weights from before it.",
            stacklevel=2,
        )

    def _is_further_part(self, strategy: Any) -> bool:
        """Whether the strategy's experience is a later part of the current one."""
        if self._data is None or starts_task(strategy.experience):
            return False
        return full_experience(strategy.experience) is self._whole
