"""Drives a method by its verbs, as an adapter would: in memory, without any framework.

Tests import it as ``driver``: `conftest.py` puts this folder on the path.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from avalanche_dgm.data import ExperienceData, Step
from avalanche_dgm.fitting import fit
from avalanche_dgm.memories.classifiers import check_learner
from avalanche_dgm.methods import DGDMN
from avalanche_dgm.methods.abilities import LatentInputs, Routing


@cache
def _all_digits() -> tuple[Tensor, Tensor]:
    raw = load_digits()
    images = torch.tensor(raw.images / 16.0, dtype=torch.float32)[:, None]
    return images, torch.tensor(raw.target, dtype=torch.int64)


def digits(
    *classes: int, per_class: int | None = 60, skip: int = 0, key: str | None = None, task: int = 0
) -> ExperienceData:
    """Some of scikit-learn's digits as one experience, intensities in [0, 1]."""
    images, labels = _all_digits()
    stop = None if per_class is None else skip + per_class
    index = torch.cat([torch.nonzero(labels == c).flatten()[skip:stop] for c in classes])
    name = key if key is not None else ",".join(map(str, classes))
    tasks = torch.full((len(index),), task, dtype=torch.int64)
    return ExperienceData(images[index], labels[index], tasks, name, name)


def network(width: int = 10, *, seed: int = 0) -> nn.Module:
    """A classifier of 8x8 images with its own initial weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(1), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, width))


class MultiHead(nn.Module):
    """One head for each task label."""

    def __init__(self, n_tasks: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(1), nn.Linear(64, 32), nn.ReLU())
        self.heads = nn.ModuleList(nn.Linear(32, width) for _ in range(n_tasks))

    def forward(self, images: Tensor, tasks: Tensor) -> Tensor:
        every = torch.stack([head(self.body(images)) for head in self.heads], dim=1)
        return every[torch.arange(len(images)), tasks]


@dataclass
class Driver:
    """Trains a method on experiences, one after the other.

    Attributes:
        method: What remembers.
        learner: The user's classifier.
        steps: Optimiser steps of the learner an experience.
        batch_size: New samples a step.
        lr: Adam's learning rate.
        phases: Names of all phases that were run.
    """

    method: Any
    learner: nn.Module
    task_aware: bool = False
    steps: int = 20
    batch_size: int = 32
    lr: float = 3e-3
    width: int = 10
    seed: int = 0
    phases: list[str] = field(default_factory=list)

    def run(self, phases: Any) -> None:
        for phase in phases:
            seconds = fit(phase, self.method.rng)
            self.method.stats.add_phase(phase.name, seconds)
            self.phases.append(phase.name)

    def predict(self, images: Tensor, tasks: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Logits at test time."""
        tasks = torch.zeros(len(images), dtype=torch.int64) if tasks is None else tasks
        self.learner.eval()
        with torch.no_grad():
            if isinstance(self.method, DGDMN) or self.method.active is None:
                return self.method.predict(images, tasks, **kwargs)
            return self.learner(images, tasks) if self.task_aware else self.learner(images)

    def accuracy(self, data: ExperienceData, **kwargs: Any) -> float:
        answers = self.predict(data.images, data.tasks, **kwargs).argmax(dim=1)
        return float((answers == data.labels).float().mean())

    def train(self, data: ExperienceData) -> Driver:
        """Learns one experience."""
        method = self.method
        method.attach(self.learner, task_aware=self.task_aware)
        method.check(data)
        check_learner(
            self.learner,
            data,
            task_aware=self.task_aware,
            trained=method.needs.learner,
            copies=method.needs.copies,
        )
        if isinstance(method, Routing):
            self.run(method.make_room(data.key))
        method.begin(data)
        self.run(method.before_learning(data))
        self.learner.train()
        trained = method.active
        if trained is not None:
            self._learn(data, trained)
        self.run(method.after_learning(data))
        method.end(data)
        return self

    def _learn(self, data: ExperienceData, trained: nn.Module) -> None:
        optimizer = torch.optim.Adam(trained.parameters(), lr=self.lr)
        # Of its own, so that the order of batches does not depend on what the method draws.
        order = torch.Generator().manual_seed(self.seed + self.method.experiences)
        method = self.method
        latents = isinstance(method, LatentInputs)
        data = method.prepare(data) if latents else data
        alternates = latents and method.alternates
        for _ in range(self.steps):
            index = torch.randint(len(data), (self.batch_size,), generator=order)
            batch = data.take(index)
            replay = None if alternates else method.replay(self.batch_size)
            logits = method(batch.images, batch.tasks, width=self.width, replay=replay)
            answers, rest = logits[: len(batch)], logits[len(batch) :]
            new = F.cross_entropy(answers, batch.labels)
            step = Step(batch.images, batch.tasks, answers, new, len(batch), replay, rest)
            added = method.loss(step)
            method.stats.steps += 1
            if replay is not None:
                method.stats.count(replay, logits.shape[1])
            self._step(optimizer, new if added is None else new + added)
            if alternates:
                replay = method.replay(self.batch_size)
                nothing = batch.images[:0], batch.tasks[:0]
                logits = method(*nothing, width=self.width, replay=replay)
                method.stats.count(replay, logits.shape[1])
                step = Step(*nothing, logits[:0], None, self.batch_size, replay, logits)
                self._step(optimizer, method.loss(step))

    def _step(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def train_all(self, stream: Sequence[ExperienceData]) -> Driver:
        for data in stream:
            self.train(data)
        return self


def added_loss(
    method: Any, images: Tensor, tasks: Tensor, logits: Tensor, new: Tensor | None = None
) -> Any:
    """What a method adds to a step without replay."""
    return method.loss(Step(images, tasks, logits, new, len(images)))


def added_by_replay(method: Any, replay: Any, logits: Tensor, new: Tensor | None = None) -> Any:
    """What a method adds to a step with replayed samples; their own loss without ``new``."""
    n, nothing = len(replay), replay.images[:0]
    return method.loss(Step(nothing, replay.tasks[:0], logits[:0], new, n, replay, logits))


def in_a_process(work: Callable[[], Any]) -> int:
    """Runs a function in a forked process and returns how that ended."""
    child = os.fork()
    if not child:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def leave() -> None:
    """Ends this process at once, for the end of scripts whose return code a test reads.

    torch's threads for collectives can abort a process while its interpreter is being torn down
    (seen once on a busy machine, after everything was computed and printed).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
