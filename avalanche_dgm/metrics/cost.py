"""Memory size and training time of methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.held import held_bytes
from avalanche_dgm.methods.abilities import Inspectable
from avalanche_dgm.methods.base import Method
from avalanche_dgm.metrics.plotted import PlottedMetric

#: Name for phases that are not in ``phases`` of a `Cost`.
OTHER = "other"


class MemorySize(PlottedMetric):
    """Size of a memory, without the classifier, at the last update.

    It is the number of bytes (weights, statistics and stored samples), of parameters, and of stored
    samples or latents; 0 without an update. Every process holds the full memory, so the maximum
    over processes is used, not the sum.
    """

    is_differentiable = False
    higher_is_better = False
    # An update replaces the state: states of batches cannot be added.
    full_state_update = True

    size: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("size", torch.zeros(3, dtype=torch.int64), dist_reduce_fx="max")

    def update(self, method: Any) -> None:
        """Measures a memory.

        Args:
            method: A method, its plugin or LightningModule, or any other module, which then counts
                as the memory.

        Raises:
            ConfigError: ``method`` is none of these.
        """
        found = (memory_bytes_of(method), memory_parameters_of(method), stored_samples_of(method))
        self.size = torch.tensor(found, device=self.size.device)

    def compute(self) -> dict[str, Tensor]:
        """Returns ``bytes``, ``parameters`` and ``stored_samples``, int64 scalars."""
        return dict(zip(("bytes", "parameters", "stored_samples"), self.size, strict=True))


class Cost(PlottedMetric):
    """Seconds in total and of each phase, and samples per second.

    Updates are summed. Over processes, times are the maximum and samples the sum.

    Args:
        phases: Names of phases to distinguish; all others are ``other``. Names are compared up to a
            colon: ``sleep: tasks 3, 4`` is ``sleep``. Needed in advance, as processes may have
            different phases.

    Raises:
        ConfigError: A name is repeated or is ``other``.
    """

    is_differentiable = False
    higher_is_better = None
    # Seconds are summed over updates, but not over processes.
    full_state_update = True

    phase_seconds: Tensor
    seconds: Tensor
    shown: Tensor

    def __init__(
        self, phases: Sequence[str] = ("generator", "classifier", "sleep"), **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.phases = (*phases, OTHER)
        if len(set(self.phases)) != len(self.phases):
            raise ConfigError(
                f"phases={tuple(phases)} must be different names, and none of them {OTHER!r}."
            )
        zeros = torch.zeros(len(self.phases), dtype=torch.float64)
        self.add_state("phase_seconds", zeros, dist_reduce_fx="max")
        self.add_state("seconds", zeros[0].clone(), dist_reduce_fx="max")
        self.add_state("shown", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, phase_seconds: Mapping[str, float], *, shown: int, seconds: float) -> None:
        """Adds an experience.

        Args:
            phase_seconds: Seconds of each phase by name, such as `MethodStats.phase_seconds`.
            shown: Samples that this process trained the classifier on, over all epochs.
            seconds: Total seconds, at least 0.

        Raises:
            ConfigError: A number is negative or NaN.
        """
        if not all(value >= 0 for value in (*phase_seconds.values(), shown, seconds)):
            raise ConfigError(
                f"Seconds of phases {dict(phase_seconds)}, shown={shown} and seconds={seconds} must"
                " be 0 or more."
            )
        spent = dict.fromkeys(self.phases, 0.0)
        for kind, value in seconds_by_kind(phase_seconds).items():
            spent[kind if kind in spent else OTHER] += value
        self.phase_seconds += self.phase_seconds.new_tensor(list(spent.values()))
        self.seconds += seconds
        self.shown += shown

    def compute(self) -> dict[str, Tensor]:
        """Returns scalars: ``seconds``, ``samples_per_second`` and ``seconds/<phase>``.

        Samples per second are NaN for 0 seconds.
        """
        speed = torch.where(self.seconds > 0, self.shown / self.seconds, torch.nan)
        values = {"seconds": self.seconds, "samples_per_second": speed}
        for name, value in zip(self.phases, self.phase_seconds, strict=True):
            values[f"seconds/{name}"] = value
        return {name: value.float() for name, value in values.items()}


def seconds_by_kind(phase_seconds: Mapping[str, float]) -> dict[str, float]:
    """Sums the seconds of phases whose names are equal up to a colon.

    ``sleep: tasks 3, 4`` counts as ``sleep``.
    """
    totals: dict[str, float] = {}
    for name, seconds in phase_seconds.items():
        kind = name.split(":")[0].strip().replace(" ", "_")
        totals[kind] = totals.get(kind, 0.0) + seconds
    return totals


def memory_bytes_of(method: Any) -> int:
    """Bytes of a memory without the classifier; see `held_bytes`."""
    found = _inner(method)
    if isinstance(found, Method):
        return found.held_bytes()
    return held_bytes(found) or 0


def memory_parameters_of(method: Any) -> int:
    """Number of parameters of a memory without the classifier, each counted once."""
    found = _inner(method)
    learner = found.learner if isinstance(found, Method) else None
    others = {id(p) for p in learner.parameters()} if learner is not None else set()
    return sum(p.numel() for p in found.parameters() if id(p) not in others)


def stored_samples_of(method: Any) -> int:
    """Number of samples or latents that a memory stores."""
    found = _inner(method)
    return found.stored_samples() if isinstance(found, Inspectable) else 0


def _inner(method: Any) -> nn.Module:
    inner = getattr(method, "method", method)
    if not isinstance(inner, nn.Module):
        raise ConfigError(
            f"A {type(method).__name__} has no memory to measure. Pass a method of this package,"
            " its plugin or LightningModule, or any other module."
        )
    return inner
