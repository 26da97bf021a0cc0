"""What a Lightning Trainer is told to do, as data; nothing of Lightning is imported."""

from __future__ import annotations

from dataclasses import dataclass

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.settings import positive, whole

#: What changes the numbers that are learned; the rest says where and how often.
IN_RESULT = ("precision", "accumulate", "clip")
#: Those that leave the weights of 32 bits, which memories are made of.
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")


@dataclass(frozen=True)
class TrainerSettings:
    """Settings of the Trainer that runs an experiment; an object that exists is valid.

    Attributes:
        devices: Devices of each node, at least 1, or "auto" for all that there are.
        accelerator: Kind of device in Lightning's words, such as "cpu" or "gpu"; ``None`` takes
            the experiment's ``device``.
        strategy: How several devices work together: "auto", "ddp" or another of its kind.
        num_nodes: Machines, at least 1.
        precision: Of the numbers computed with: "32-true", "16-mixed" or "bf16-mixed".
        accumulate: Batches a step of the optimiser, at least 1.
        clip: Largest Euclidean norm of all gradients together, above 0, or ``None``.
        save_every: Optimiser steps between two saves within an experience, at least 1.

    Raises:
        ConfigError: A value is out of range.
    """

    devices: int | str = 1
    accelerator: str | None = None
    strategy: str = "auto"
    num_nodes: int = 1
    precision: str = "32-true"
    accumulate: int = 1
    clip: float | None = None
    save_every: int = 1000

    def __post_init__(self) -> None:
        if self.devices != "auto":
            whole("devices", self.devices, otherwise=", or auto")
        for name in ("num_nodes", "accumulate", "save_every"):
            whole(name, getattr(self, name))
        if not (self.strategy == "auto" or str(self.strategy).startswith("ddp")):
            raise ConfigError(
                f"strategy is {self.strategy!r}. Memories need whole networks on every device: use"
                " auto, ddp, or another strategy of its kind such as ddp_spawn."
            )
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"precision is {self.precision!r}. Use one of {', '.join(PRECISIONS)}: memories"
                " keep weights of 32 bits."
            )
        positive("clip", self.clip, optional=True)
