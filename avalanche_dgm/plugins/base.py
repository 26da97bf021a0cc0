"""What all plugins share: an experience's life from Avalanche's hooks to a method's verbs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from avalanche.core import SupervisedPlugin
from avalanche.models.dynamic_modules import MultiTaskModule
from torch import Tensor, nn

from avalanche_dgm.data import ExperienceData, Replay, check_labels
from avalanche_dgm.fitting import Phase, fit
from avalanche_dgm.memories.answers import ask
from avalanche_dgm.methods import Method, Record
from avalanche_dgm.plugins.experiences import (
    TaskOracle,
    ends_task,
    find_oracle,
    load,
    starts_task,
    whole,
)

M = TypeVar("M", bound=Method)


class MethodPlugin(SupervisedPlugin):
    """Drives a method from inside any ``SupervisedTemplate``.

    Replayed samples go through the model together with each batch, after it; the strategy, its
    metrics and other plugins see the answers to the batch only.

    Args:
        method: What remembers.
        oracle: How tasks are told apart: ``"auto"``, ``"experience"``, ``"classes"``, or a
            function from an experience to a string; see `avalanche_dgm.plugins.experiences`.
        progress: Whether to show progress bars for what the method trains on the side.
    """

    supports_distributed = False

    def __init__(
        self, method: Method, *, oracle: str | TaskOracle = "auto", progress: bool = False
    ) -> None:
        super().__init__()
        self.method = method
        self.progress = progress
        self.oracle = find_oracle(oracle)
        self._data: ExperienceData | None = None
        self._n_seen = 0
        self._replay: Replay | None = None
        self._replay_logits: Tensor | None = None

    @property
    def record(self) -> Record:
        """What the method did so far."""
        return self.method.record

    def memory_bytes(self) -> int:
        """Bytes that the memory takes beside the user's model, stored samples included."""
        return self.method.memory_bytes()

    def learner_of(self, strategy: Any) -> nn.Module:
        """The user's model."""
        return strategy.model

    def prepare_model(self, strategy: Any) -> None:
        """Called before the model is adapted to an experience."""

    def _run(self, phases: Iterator[Phase]) -> None:
        for phase in phases:
            seconds = fit(phase, self.method.rng, progress=self.progress)
            self.method.note_phase(phase.name, seconds)

    def before_train_dataset_adaptation(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Reads and checks the experience; nothing was trained or changed before."""
        if not starts_task(strategy.experience):
            self._n_seen += len(strategy.experience.dataset)
            return
        self._data, self._n_seen = None, len(strategy.experience.dataset)
        experience = whole(strategy.experience)
        data = load(
            experience,
            key=self.oracle(experience),
            device=strategy.device,
            num_workers=kwargs.get("num_workers", 0),
        )
        self.method.to(strategy.device)
        learner = self.learner_of(strategy)
        self.method.attach(learner, task_aware=isinstance(learner, MultiTaskModule))
        self.begin(strategy, data)
        self._data = data

    def begin(self, strategy: Any, data: ExperienceData) -> None:
        """Starts the experience; subclasses may put the model in order as well."""
        self.method.begin(data)

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Checks the adapted model against the data, then trains what comes before it."""
        if self._data is None or not starts_task(strategy.experience):
            return
        check_labels(self._data, self.width_of(strategy, self._data))
        self._run(self.method.before_learning(self._data))

    @torch.no_grad()
    def width_of(self, strategy: Any, data: ExperienceData) -> int:
        """Number of outputs of the user's model, once it is adapted to the experience."""
        learner = self.learner_of(strategy)
        was_training = learner.training
        learner.eval()
        try:
            logits = ask(
                learner,
                data.images[:2],
                data.tasks[:2],
                task_aware=isinstance(learner, MultiTaskModule),
            )
        finally:
            learner.train(was_training)
        return logits.shape[1]

    def before_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Puts replayed samples behind the batch."""
        replay = self.method.replay(len(strategy.mbatch[0]))
        self._replay = replay
        if replay is None:
            return
        batch = strategy.mbatch
        strategy.mbatch = [
            torch.cat([batch[0], replay.images.to(batch[0].dtype)]),
            torch.cat([batch[1], replay.labels]),
            *batch[2:-1],
            torch.cat([batch[-1], replay.tasks]),
        ]

    def after_forward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Takes the replayed samples and the answers to them off the batch again."""
        if self._replay is None:
            return
        n = len(strategy.mbatch[0]) - len(self._replay)
        self._replay_logits = strategy.mb_output[n:]
        strategy.mb_output = strategy.mb_output[:n]
        batch = strategy.mbatch
        strategy.mbatch = [batch[0][:n], batch[1][:n], *batch[2:-1], batch[-1][:n]]
        self.method.count(self._replay, self._replay_logits.shape[1])

    def before_backward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Weighs the batch's loss against the replay's; what other plugins added stays whole."""
        if self._replay is None or self._replay_logits is None:
            return
        weight = self.method.new_weight
        new = strategy.criterion()
        old = self.method.replay_loss(self._replay_logits, self._replay)
        strategy.loss = strategy.loss + (1 - weight) * (old - new)
        self._replay = self._replay_logits = None

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Trains what comes after the model, and ends the experience."""
        if self._data is None or not ends_task(strategy.experience, self._n_seen):
            return
        self._run(self.method.after_learning(self._data))
        self.method.end(self._data)
        self._data = None
