"""Where the old inputs come from on which A-LTM holds its answers.

A source is a method whose inputs are replayed and whose labels are not needed: the stable network
answers instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from avalanche_dgm.data import ExperienceData, Replay, check_experience
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.generators import Generator
from avalanche_dgm.memories.stored import StoredMemory
from avalanche_dgm.methods.abilities import Inspectable, ReplaySource
from avalanche_dgm.methods.base import Method
from avalanche_dgm.methods.registry import METHODS, load_methods
from avalanche_dgm.modules import copied

#: Settings that are A-LTM's own to say.
_OURS = ("replay_size", "seed", "temperature")


class StoredReplay(Inspectable, ReplaySource, Method):
    """A class-balanced choice of the samples of each experience, as they are.

    Args:
        store: Where they are kept; it is empty.
    """

    def __init__(self, store: StoredMemory) -> None:
        super().__init__()
        self.store = store

    def check(self, data: ExperienceData) -> None:
        """See `Method.check`."""
        check_experience(data, shape=self.store.shape)
        self.store.check(data.labels, data.tasks)
        self.store.check_size(tuple(data.images.shape[1:]), data.labels, data.tasks)

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


def make_source(replay: Any, settings: Mapping[str, Any] | None = None) -> Method:
    """Makes the method whose old inputs A-LTM replays.

    Args:
        replay: A `StoredMemory`, a `Generator`, a method that is a `ReplaySource`, the name of a
            registered one, or ``None`` for a method that remembers nothing. An object has learned
            nothing, and stays as it is.
        settings: Those of the method that is named.

    Raises:
        ConfigError: It is nothing of these, or has learned something already.
    """
    if replay is None:
        return Method()
    if isinstance(replay, str):
        return _named(replay, settings or {})
    if settings is not None:
        raise ConfigError(
            f"source={dict(settings)!r} is for replay by a method that is named. Give settings of"
            f" this {type(replay).__name__} where it is made."
        )
    if isinstance(replay, StoredMemory) and not len(replay):
        return StoredReplay(copied(replay))
    if isinstance(replay, Generator):
        return _named("dgr", {"generator": replay})
    if isinstance(replay, Method) and isinstance(replay, ReplaySource) and not replay.experiences:
        # Made anew, as the settings may name parts of a model, which must not be copied.
        kind: Any = type(replay)
        made: Method = kind(replay.settings, **kind.source_settings)
        return made
    raise ConfigError(
        f"replay={replay!r} cannot be replayed. Give a StoredMemory, a Generator, or a method that"
        f" is a ReplaySource, none of which has learned anything; or one of {_known()}."
    )


def _named(name: str, settings: Mapping[str, Any]) -> Method:
    load_methods()
    named = METHODS.get(name)
    if named is None or not issubclass(named.kind, ReplaySource):
        raise ConfigError(f"replay={name!r} is not known; use one of {_known()}.")
    kind: Any = named.kind
    foreign = sorted(set(settings) & {*kind.source_settings, *_OURS})
    if foreign:
        raise ConfigError(
            f"{foreign[0]!r} in source is not for replay={name!r} to say: the stable network"
            " answers what is replayed, and replay_size and seed are A-LTM's. Leave it out."
        )
    made: Method = kind(**{**named.fixed, **settings, **kind.source_settings})
    return made


def _known() -> str:
    load_methods()
    names = [name for name, method in METHODS.items() if issubclass(method.kind, ReplaySource)]
    return ", ".join(["None", *map(repr, ["stored", "generated", *sorted(names)])])
