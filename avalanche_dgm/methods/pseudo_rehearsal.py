"""Pseudopattern rehearsal (Robins 1995, 2004; Kamra et al. 2017, Section 4.1 and appendix B).

Random inputs, labelled by the previous classifier, are replayed in place of old samples.

==========================================  =======================================================
paper (Kamra et al. 2017)                   code
==========================================  =======================================================
pseudopatterns: random inputs and the       `PseudoRehearsal.replay`
network's outputs for them, Sec. 4.1
memory of a fixed size, filled up with      ``memory_size``
pseudopatterns, appendix B.4
==========================================  =======================================================
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from avalanche_dgm.data import ExperienceData, Replay, check_experience
from avalanche_dgm.errors import CapacityError, UnknownTaskError
from avalanche_dgm.generators.ranges import check_variety
from avalanche_dgm.losses import UserCriterion
from avalanche_dgm.memories.classifiers import logits_of
from avalanche_dgm.methods.base import Needs
from avalanche_dgm.methods.finetuning import FinetunedMethod, FinetuningSettings
from avalanche_dgm.methods.registry import register
from avalanche_dgm.modules import Frozen, GrowingBuffers, evaluating, size_in_bytes
from avalanche_dgm.settings import MethodSettings


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


@dataclass(frozen=True, kw_only=True)
class PseudoRehearsalSettings(FinetuningSettings, MethodSettings):
    """Settings of pseudopattern rehearsal.

    Attributes:
        memory_size: Total number of new and random samples of an experience (appendix B.4);
            ``None`` for as many random ones as new.
        labels: ``"hard"`` (the paper) or ``"soft"``.
        temperature: Temperature of the softmax of soft labels, above 0.
    """

    memory_size: int | None = None
    labels: Literal["hard", "soft"] = "hard"
    temperature: float = field(default=2.0, metadata={"above": 0})


def _paper(stream: str, *, scale: float) -> dict[str, Any]:
    """The size of the memory in Kamra et al. 2017, appendix B.4."""
    sizes = {"digits": 18_000, "permnist": 60_000, "tdigits": 36_000}
    return {"memory_size": round(sizes[stream] * scale)}


@register("pseudo-rehearsal", "the same as ppr", paper=_paper)
@register("ppr", "random inputs, labelled by the previous classifier", paper=_paper)
class PseudoRehearsal(FinetunedMethod):
    """Pseudo-rehearsal: replays random inputs with the previous classifier's labels."""

    settings_type: ClassVar[type[MethodSettings]] = PseudoRehearsalSettings
    needs = Needs(copies="A copy labels what is replayed.")

    def __init__(self, settings: PseudoRehearsalSettings | None = None, **changes: Any) -> None:
        super().__init__(settings, **changes)
        self._temperature = self.settings.temperature
        self.criterion = UserCriterion(soft_labels=self.settings.labels == "soft")
        self.box = _InputBox()
        self._previous: Frozen[nn.Module] | None
        self._hold("_previous", None)
        self._random_per_new = 0.0

    def check(self, data: ExperienceData) -> None:
        check_experience(data, shape=self.box.shape)
        check_variety(data.images, first=self.box.shape is None)
        self._check_budget(size_in_bytes(self.box), "It keeps two numbers and the task labels.")
        n, size = len(data), self.settings.memory_size
        if size is not None and self.experiences and size <= n:
            raise CapacityError(
                f"memory_size={size} leaves no room beside the experience's {n} samples, so"
                " nothing would be rehearsed. Raise it above the size of an experience."
            )

    def _begin(self, data: ExperienceData) -> None:
        super()._begin(data)
        n = len(data)
        self._random_per_new = ((self.settings.memory_size or 2 * n) - n) / n
        learner = self.learner if self.experiences else None
        self._hold("_previous", Frozen(learner) if learner is not None else None)
        self._new_weight = 1.0 if learner is None else 1.0 / (1.0 + self._random_per_new)

    @torch.no_grad()
    def replay(self, n: int) -> Replay | None:
        """Draws random inputs, uniform over the range of intensities seen so far."""
        if self._previous is None:
            return None
        return self._random(max(1, round(n * self._random_per_new)), self._previous)

    def _random(self, n: int, labeller: nn.Module) -> Replay:
        """Random inputs, labelled by a network."""
        box = self.box
        images = torch.rand(n, *(box.shape or ()), generator=self.rng, device=box.low.device)
        images = box.low + images * (box.high - box.low)
        which = torch.randint(len(box.tasks), (n,), generator=self.rng, device=box.tasks.device)
        tasks = box.tasks[which]
        logits = logits_of(labeller, images, tasks, task_aware=self.task_aware)
        soft = self.settings.labels == "soft"
        targets = torch.softmax(logits / self._temperature, dim=1) if soft else None
        return Replay(images, logits.argmax(dim=1), tasks, targets)

    def end(self, data: ExperienceData) -> None:
        self.box.include(data)
        self._hold("_previous", None)
        super().end(data)

    @torch.no_grad()
    def sample(self, n: int) -> Replay:
        """See `Inspectable.sample`: random inputs, labelled by the current learner."""
        if self.box.shape is None or self.learner is None:
            raise UnknownTaskError("Nothing was learned yet: train on an experience first.")
        with evaluating(self.learner):
            return self._random(n, self.learner)
