"""The contract between a method and the framework that drives it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avalanche_dgm.buffers import size_in_bytes
from avalanche_dgm.data import ExperienceData, Replay
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.fitting import Phase
from avalanche_dgm.losses import distillation
from avalanche_dgm.randomness import RandomSource


@dataclass
class Record:
    """What a method did, for metrics and reports.

    Attributes:
        replayed: Samples drawn for the learner in the current experience.
        histogram: How often each label was replayed in the current experience.
        stm_occupancy: Tasks that wait for the next sleep.
        sleeps: Consolidations so far.
        sleep_seconds: Seconds asleep so far.
        phase_seconds: Seconds of each phase of the current experience, by name.
    """

    replayed: int = 0
    histogram: dict[int, int] = field(default_factory=dict)
    stm_occupancy: int = 0
    sleeps: int = 0
    sleep_seconds: float = 0.0
    phase_seconds: dict[str, float] = field(default_factory=dict)


class Method(nn.Module):
    """A way to remember, driven through a few verbs.

    An adapter calls, for each experience: `attach`, `begin`, the phases of `before_learning`,
    then for each batch of the learner's training `replay` and `loss`, at last the phases of
    `after_learning` and `end`. Phases are run by the adapter, in the order in which they are
    yielded.

    Args:
        seed: Seed of everything random in the method; ``None`` takes one from PyTorch's global
            generator at the first draw.
    """

    def __init__(self, *, seed: int | None = None) -> None:
        super().__init__()
        whole = isinstance(seed, int) and not isinstance(seed, bool)
        if seed is not None and not (whole and 0 <= seed < 2**63):
            raise ConfigError(f"seed={seed!r} must be a whole number from 0 to 2**63 - 1, or None.")
        self.random = RandomSource(seed)
        self.experiences = 0
        self._record = Record()
        self._counts: Tensor | None = None

    @property
    def rng(self) -> torch.Generator:
        """The generator of random numbers on the device that the method is on."""
        tensors = chain(self.parameters(), self.buffers())
        device = next((t.device for t in tensors), torch.device("cpu"))
        return self.random.on(device)

    @property
    def record(self) -> Record:
        """What was done so far; reading it waits for the device."""
        if self._counts is not None:
            counts = self._counts.tolist()
            self._record.replayed = sum(counts)
            self._record.histogram = {i: c for i, c in enumerate(counts) if c}
        return self._record

    def attach(self, learner: nn.Module, *, task_aware: bool) -> None:
        """Tells which classifier learns.

        Args:
            learner: The user's model.
            task_aware: Whether it takes task labels as its second argument.
        """
        raise NotImplementedError

    def begin(self, data: ExperienceData) -> None:
        """Starts an experience: checks its data, takes room for it.

        Args:
            data: All of its samples.

        Raises:
            DataError: They cannot be learned; nothing was changed.
        """
        self._counts = None
        self._record.replayed, self._record.histogram = 0, {}
        self._record.phase_seconds = {}

    def before_learning(self, data: ExperienceData) -> Iterator[Phase]:
        """Yields what is trained before the learner."""
        yield from ()

    def replay(self, n: int) -> Replay | None:
        """Draws samples to go with a batch of the current experience.

        Args:
            n: Size of that batch.

        Returns:
            The samples, or ``None`` if there is nothing to replay yet.
        """
        return None

    @property
    def new_weight(self) -> float:
        """Weight of the current experience's loss, in (0, 1]; replay weighs the rest."""
        return 1.0

    def replay_loss(self, logits: Tensor, replay: Replay) -> Tensor:
        """The mean loss on replayed samples.

        Args:
            logits: Tensor (n, K), the learner's answers to ``replay.images``.
            replay: What was replayed.
        """
        if replay.targets is None:
            return F.cross_entropy(logits, replay.labels)
        return distillation(logits, replay.targets, temperature=self.temperature).mean()

    @property
    def temperature(self) -> float:
        """Softness of the soft labels."""
        return 1.0

    def after_learning(self, data: ExperienceData) -> Iterator[Phase]:
        """Yields what is trained after the learner."""
        yield from ()

    def end(self, data: ExperienceData) -> None:
        """Ends an experience; drops what was needed for it only."""
        self.experiences += 1

    def sample(self, n: int) -> Replay:
        """Draws samples of what is remembered, to look at."""
        raise NotImplementedError

    def count(self, replay: Replay, width: int) -> None:
        """Counts replayed labels on the device.

        Args:
            replay: What was replayed.
            width: Number of classes.
        """
        if self._counts is None or len(self._counts) < width:
            wider = torch.zeros(width, dtype=torch.int64, device=replay.labels.device)
            if self._counts is not None:
                wider[: len(self._counts)] = self._counts
            self._counts = wider
        self._counts.index_add_(0, replay.labels, torch.ones_like(replay.labels))

    def note_phase(self, name: str, seconds: float) -> None:
        """Notes how long a phase took."""
        spent = self._record.phase_seconds
        spent[name] = spent.get(name, 0.0) + seconds
        if name.startswith("sleep"):
            self._record.sleep_seconds += seconds

    def memory(self) -> list[nn.Module]:
        """The modules that exist only to remember, the learner not among them."""
        return []

    def memory_bytes(self) -> int:
        """Bytes that the memory takes beside the learner, stored samples included."""
        return sum(size_in_bytes(module) for module in self.memory())

    def get_extra_state(self) -> dict[str, Any]:
        """Random numbers and counters, for ``state_dict``."""
        record = self.record
        return {
            "random": self.random.get_state(),
            "experiences": self.experiences,
            "sleep_seconds": record.sleep_seconds,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Takes over what `get_extra_state` returned."""
        self.random.set_state(state["random"])
        self.experiences = state["experiences"]
        self._record.sleep_seconds = state["sleep_seconds"]
