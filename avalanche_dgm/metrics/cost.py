"""What remembering costs: memory and time."""

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

#: The phases that a `Cost` has no name for.
OTHER = "other"


class MemorySize(PlottedMetric):
    """Size of a memory, without the classifier, at the last update.

    Counted are bytes of weights, statistics and stored samples, parameters, and samples, or latents
    of samples, that are kept as they are. All processes hold the whole memory, so theirs are not
    added up: the largest counts. If nothing was looked at, all is 0.
    """

    is_differentiable = False
    higher_is_better = False
    # An update replaces what was there: a batch's state cannot be added to it.
    full_state_update = True

    size: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("size", torch.zeros(3, dtype=torch.int64), dist_reduce_fx="max")

    def update(self, method: Any) -> None:
        """Looks at a memory.

        Args:
            method: A method, the plugin or LightningModule that it is in, or any other module, all
                of which is then taken for the memory.

        Raises:
            ConfigError: It is none of these.
        """
        found = (memory_bytes_of(method), memory_parameters_of(method), stored_samples_of(method))
        self.size = torch.tensor(found, device=self.size.device)

    def compute(self) -> dict[str, Tensor]:
        """Returns ``bytes``, ``parameters`` and ``stored_samples``, int64 scalars."""
        return dict(zip(("bytes", "parameters", "stored_samples"), self.size, strict=True))


class Cost(PlottedMetric):
    """Seconds in total and of each phase, and samples per second.

    Updates are added up. Of several processes, which learn side by side, the longest time counts,
    and the samples of all.

    Args:
        phases: Names of phases to tell apart. A phase is known by what stands before a colon:
            ``sleep: tasks 3, 4`` is ``sleep``. All others are ``other``. Needed beforehand, as a
            process may have a phase that another has not.

    Raises:
        ConfigError: A name is there twice, or is ``other``.
    """

    is_differentiable = False
    higher_is_better = None
    # Seconds of updates are added, those of processes are not.
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
            shown: Samples that the classifier was shown by this process, each pass counted.
            seconds: Seconds in all, from 0 on.

        Raises:
            ConfigError: A number is below 0 or none.
        """
        if not all(value >= 0 for value in (*phase_seconds.values(), shown, seconds)):
            raise ConfigError(
                f"Seconds of phases {dict(phase_seconds)}, shown={shown} and seconds={seconds} must"
                " be numbers from 0 on."
            )
        spent = dict.fromkeys(self.phases, 0.0)
        for kind, value in seconds_by_kind(phase_seconds).items():
            spent[kind if kind in spent else OTHER] += value
        self.phase_seconds += self.phase_seconds.new_tensor(list(spent.values()))
        self.seconds += seconds
        self.shown += shown

    def compute(self) -> dict[str, Tensor]:
        """Returns scalars: ``seconds``, ``samples_per_second`` and ``seconds/<phase>`` of each.

        Samples a second are NaN if no time has passed.
        """
        speed = torch.where(self.seconds > 0, self.shown / self.seconds, torch.nan)
        values = {"seconds": self.seconds, "samples_per_second": speed}
        for name, value in zip(self.phases, self.phase_seconds, strict=True):
            values[f"seconds/{name}"] = value
        return {name: value.float() for name, value in values.items()}


def seconds_by_kind(phase_seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds of phases whose names are equal up to a colon, added up.

    Args:
        phase_seconds: Seconds by name: ``sleep: tasks 3, 4`` counts as ``sleep``.
    """
    found: dict[str, float] = {}
    for name, seconds in phase_seconds.items():
        kind = name.split(":")[0].strip().replace(" ", "_")
        found[kind] = found.get(kind, 0.0) + seconds
    return found


def memory_bytes_of(method: Any) -> int:
    """Bytes of a memory beside the classifier: all that hangs on it; see `held_bytes`.

    Args:
        method: As in `MemorySize.update`.
    """
    found = _inner(method)
    if isinstance(found, Method):
        return found.held_bytes()
    return held_bytes(found) or 0


def memory_parameters_of(method: Any) -> int:
    """Parameters of a memory beside the classifier, each counted once."""
    found = _inner(method)
    learner = found.learner if isinstance(found, Method) else None
    others = {id(p) for p in learner.parameters()} if learner is not None else set()
    return sum(p.numel() for p in found.parameters() if id(p) not in others)


def stored_samples_of(method: Any) -> int:
    """Samples, or latents of samples, that a memory keeps as they are."""
    found = _inner(method)
    return found.stored_samples() if isinstance(found, Inspectable) else 0


def _inner(method: Any) -> nn.Module:
    inner = getattr(method, "method", method)
    if not isinstance(inner, nn.Module):
        raise ConfigError(
            f"A {type(method).__name__} has no memory to measure. Give a method of this package,"
            " its plugin or LightningModule, or any other module."
        )
    return inner
