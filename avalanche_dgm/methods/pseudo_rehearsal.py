"""Pseudopattern rehearsal (Robins 1995, 2004; Kamra et al. 2017, Section 4.1 and appendix B).

Random inputs, labelled by the learner's former self, stand for the old tasks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from avalanche_dgm.data import ExperienceData, Replay, check_experience
from avalanche_dgm.errors import CapacityError, ConfigError, UnknownTaskError
from avalanche_dgm.generators.ranges import check_variety
from avalanche_dgm.losses import UserCriterion
from avalanche_dgm.memories import Frozen
from avalanche_dgm.memories.classifiers import logits_of
from avalanche_dgm.methods.abilities import Inspectable
from avalanche_dgm.methods.base import Method, Needs
from avalanche_dgm.methods.paper_settings import PAPER
from avalanche_dgm.methods.registry import register
from avalanche_dgm.modules import GrowingBuffers


class _InputBox(GrowingBuffers):
    """The range and shape of the inputs seen so far, and their task labels."""

    low: Tensor
    high: Tensor
    tasks: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.shape: tuple[int, ...] | None = None
        self.register_buffer("low", torch.tensor(float("inf")))
        self.register_buffer("high", torch.tensor(float("-inf")))
        self.register_buffer("tasks", torch.empty(0, dtype=torch.int64))

    def include(self, data: ExperienceData) -> None:
        self.to(data.images.device)
        self.shape = tuple(data.images.shape[1:])
        self.low = torch.minimum(self.low, data.images.amin().to(self.low))
        self.high = torch.maximum(self.high, data.images.amax().to(self.high))
        self.tasks = torch.unique(torch.cat([self.tasks, data.tasks]))

    def get_extra_state(self) -> dict[str, Any]:
        return {"shape": self.shape}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.shape = state["shape"]


def _paper(stream: str, *, scale: float) -> dict[str, Any]:
    """The size of the memory in Kamra et al. 2017."""
    return {"memory_size": round(PAPER[stream].rehearsal_size * scale)}


@register("pseudo-rehearsal", "the same as ppr", paper=_paper)
@register("ppr", "random inputs, labelled by the network before each experience", paper=_paper)
class PseudoRehearsal(Inspectable, Method):
    """Rehearsal of uniformly random inputs.

    Args:
        memory_size: Samples in memory, new and random together; the random ones fill what the
            experience leaves (appendix B.4). ``None`` for as many random ones as new.
        labels: ``"hard"`` (the paper) or ``"soft"``.
        temperature: Softness of soft labels, above 0.
        seed: See `Method`.
    """

    needs = Needs(copies="A copy labels what is replayed.")

    def __init__(
        self,
        *,
        memory_size: int | None = None,
        labels: str = "hard",
        temperature: float = 2.0,
        seed: int | None = None,
    ) -> None:
        super().__init__(seed=seed)
        if labels not in ("hard", "soft"):
            raise ConfigError(f"labels={labels!r} is not known; use one of hard, soft.")
        if not temperature > 0:
            raise ConfigError(f"temperature={temperature} must be above 0.")
        if memory_size is not None and memory_size < 1:
            raise CapacityError(f"memory_size={memory_size} must be at least 1, or None.")
        self.memory_size, self.labels = memory_size, labels
        self._temperature = temperature
        self.criterion = UserCriterion(soft_labels=labels == "soft")
        self.box = _InputBox()
        self._previous: Frozen[nn.Module] | None
        self._hold("_previous", None)
        self._random_per_new = 0.0

    def check(self, data: ExperienceData) -> None:
        """See `Method.check`."""
        check_experience(data, shape=self.box.shape)
        check_variety(data.images, first=self.box.shape is None)
        n = len(data)
        if self.memory_size is not None and self.experiences and self.memory_size <= n:
            raise CapacityError(
                f"memory_size={self.memory_size} is filled by the experience's {n} samples, so"
                " nothing would be rehearsed. Raise it above the size of an experience."
            )

    def _begin(self, data: ExperienceData) -> None:
        """See `Method.begin`."""
        super()._begin(data)
        n = len(data)
        self._random_per_new = ((self.memory_size or 2 * n) - n) / n
        learner = self.learner if self.experiences else None
        self._hold("_previous", Frozen(learner) if learner is not None else None)
        # The share of new samples.
        self._new_weight = 1.0 if learner is None else 1.0 / (1.0 + self._random_per_new)

    @torch.no_grad()
    def replay(self, n: int) -> Replay | None:
        """Draws random inputs, uniform over the range of intensities seen so far."""
        if self._previous is None:
            return None
        size = max(1, round(n * self._random_per_new))
        box = self.box
        images = torch.rand(size, *(box.shape or ()), generator=self.rng, device=box.low.device)
        images = box.low + images * (box.high - box.low)
        which = torch.randint(len(box.tasks), (size,), generator=self.rng, device=box.tasks.device)
        tasks = box.tasks[which]
        logits = logits_of(self._previous.module, images, tasks, task_aware=self.task_aware)
        soft = self.labels == "soft"
        targets = torch.softmax(logits / self._temperature, dim=1) if soft else None
        return Replay(images, logits.argmax(dim=1), tasks, targets)

    def end(self, data: ExperienceData) -> None:
        """See `Method.end`."""
        self.box.include(data)
        self._hold("_previous", None)
        super().end(data)

    def sample(self, n: int) -> Replay:
        """Draws random inputs with the labels that the learner gives them now.

        Args:
            n: How many.

        Raises:
            UnknownTaskError: Nothing was learned yet.
        """
        if self.box.shape is None or self.learner is None:
            raise UnknownTaskError("Nothing was learned yet: train on an experience first.")
        kept, share = self._previous, self._random_per_new
        self._hold("_previous", Frozen(self.learner))
        self._random_per_new = 1.0
        try:
            replay = self.replay(n)
        finally:
            self._hold("_previous", kept)
            self._random_per_new = share
        if replay is None:
            raise UnknownTaskError("Nothing was learned yet: train on an experience first.")
        return replay

    def memory(self) -> list[nn.Module]:
        """The range of the inputs: nothing else is stored."""
        return [self.box]
