"""Where the old inputs come from on which A-LTM holds its answers: stored, or a memory's.

A source is a method whose inputs are replayed and whose labels are not needed: the stable network
answers instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from avalanche_dgm.data import ExperienceData, Replay, check_experience
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.memories import MemorySettings
from avalanche_dgm.memories.stored import StoredMemory
from avalanche_dgm.methods.abilities import Inspectable, ReplaySource
from avalanche_dgm.methods.base import Method
from avalanche_dgm.methods.dgr import DGR
from avalanche_dgm.methods.dynamic_memory import DynamicMemory
from avalanche_dgm.methods.ewc_generator import EWCGenerator
from avalanche_dgm.methods.latent_replay import LatentReplay
from avalanche_dgm.methods.mergan import GANReplay, MeRGAN
from avalanche_dgm.settings import make_settings


class StoredReplay(Inspectable, ReplaySource, Method):
    """A class-balanced choice of the samples of each experience, as they are.

    Args:
        **size: Arguments of `StoredMemory`.
    """

    def __init__(self, **size: Any) -> None:
        super().__init__()
        self.store = StoredMemory(**size)

    def check(self, data: ExperienceData) -> None:
        """See `Method.check`."""
        check_experience(data, shape=self.store.shape)
        self.store.check(data.labels, data.tasks)

    def sample_old(self, n: int) -> Replay | None:
        """See `ReplaySource.sample_old`."""
        return self.store.draw(n, self.rng) if len(self.store) else None

    def end(self, data: ExperienceData) -> None:
        """Stores some of the experience's samples."""
        self.store.add(data.images, data.labels, data.tasks, self.rng)
        super().end(data)

    def sample(self, n: int) -> Replay:
        """See `Inspectable.sample`."""
        return self.store.draw(n, self.rng)

    def stored_samples(self) -> int:
        """See `Inspectable.stored_samples`."""
        return len(self.store)

    def memory(self) -> list[nn.Module]:
        """The store."""
        return [self.store]


class GeneratedReplay(ReplaySource, DGR):
    """What a deep generative memory makes of the inputs of old experiences.

    It is `DGR` without its learner: nobody has to label what is generated.
    """

    def attach(self, learner: nn.Module, *, task_aware: bool) -> None:
        """See `Method.attach`; the memory itself gets no learner."""
        Method.attach(self, learner, task_aware=task_aware)

    def sample_old(self, n: int) -> Replay | None:
        """See `ReplaySource.sample_old`: of the generator as it was before this experience."""
        return self._previous.module.sample(n, self.rng) if self._previous is not None else None


#: What is fixed of a source: who answers is A-LTM's network, and no label is needed. A generative
#: adversarial network's replay also has samples of the new classes otherwise
#: (``own_fake_fraction``).
_GAN = {"classifier": "learner", "own_fake_fraction": 0.0}
_LATENT = {"schedule": "mixed", "labels": "hard"}
#: Sources that are methods with arguments of their own, and what A-LTM says of them.
METHODS: dict[str, tuple[Callable[..., Method], dict[str, Any]]] = {
    "latent-replay": (LatentReplay, _LATENT),
    "dynamic-memory": (DynamicMemory, _GAN),
    "mergan": (MeRGAN, _GAN),
    "ewc-generator": (EWCGenerator, _GAN),
    "gan-replay": (GANReplay, _GAN),
}
#: What is A-LTM's own.
_OURS = ("replay_size", "seed", "temperature")
#: Values of A-LTM's ``replay``.
REPLAYS = (None, "stored", "generated", *METHODS)


def make_source(
    replay: str | None,
    *,
    sizes: Mapping[str, Any],
    hyper: Mapping[str, Any],
    arguments: Mapping[str, Any] | None,
) -> Method | None:
    """Makes what is replayed.

    Args:
        replay: One of `REPLAYS`.
        sizes: How much is stored, with ``"stored"``: arguments of `StoredMemory`, or ``None``.
        hyper: Fields of `MemorySettings`, with ``"generated"``.
        arguments: Those of the method that ``replay`` names, or ``None``.

    Raises:
        ConfigError: An argument is unknown, cannot work, or is for another kind of replay.
    """
    given = {name: size for name, size in sizes.items() if size is not None}
    if given and replay != "stored":
        raise ConfigError(f"{', '.join(given)} is for replay='stored', which stores samples.")
    if hyper and replay != "generated":
        # An unknown name says so first.
        make_settings(MemorySettings, dict(hyper))
        raise ConfigError(
            f"{', '.join(sorted(hyper))} is for replay='generated', which has such a generator."
        )
    if arguments is not None and replay not in METHODS:
        raise ConfigError(
            f"source={dict(arguments)!r} is for replay by one of {', '.join(METHODS)}. Other"
            " replay takes its arguments beside it."
        )
    if replay is None:
        return None
    if replay == "stored":
        return StoredReplay(**(given or {"share": 0.1, "grows": False}))
    if replay == "generated":
        return GeneratedReplay(**hyper)
    return _method(replay, arguments or {})


def _method(name: str, arguments: Mapping[str, Any]) -> Method:
    kind, fixed = METHODS[name]
    foreign = sorted(set(arguments) & {*fixed, *_OURS})
    if foreign:
        raise ConfigError(
            f"{foreign[0]!r} in source is not for replay={name!r} to say: the stable network"
            " answers what is replayed, and replay_size and seed are A-LTM's. Leave it out."
        )
    return kind(**arguments, **fixed)
