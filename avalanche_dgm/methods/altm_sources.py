"""Sources of the old inputs that A-LTM replays.

A source is a method that provides inputs without labels: the targets are the stable network's
logits.
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

#: Settings that A-LTM sets itself.
_OURS = ("replay_size", "seed", "temperature")


class StoredReplay(Inspectable, ReplaySource, Method):
    """Stores a class-balanced selection of the samples of each experience.

    Args:
        store: An empty store.
    """

    def __init__(self, store: StoredMemory) -> None:
        super().__init__()
        self.store = store

    def check(self, data: ExperienceData) -> None:
        check_experience(data, shape=self.store.shape)
        self.store.check(data.labels, data.tasks)
        self.store.check_size(tuple(data.images.shape[1:]), data.labels, data.tasks)

    def sample_old(self, n: int) -> Replay | None:
        return self.store.draw(n, self.rng) if len(self.store) else None

    def end(self, data: ExperienceData) -> None:
        """Stores some of the experience's samples."""
        self.store.add(data.images, data.labels, data.tasks, self.rng)
        super().end(data)

    def sample(self, n: int) -> Replay:
        return self.store.draw(n, self.rng)

    def stored_samples(self) -> int:
        return len(self.store)


def make_source(replay: Any, settings: Mapping[str, Any] | None = None) -> Method:
    """Makes the method whose old inputs A-LTM replays.

    Args:
        replay: A `StoredMemory`, a `Generator`, a method that is a `ReplaySource`, the name of a
            registered one, or ``None`` for a method without a memory. An object must be untrained;
            it is copied.
        settings: Settings of the named method.

    Raises:
        ConfigError: It is none of these, or is trained already.
    """
    if replay is None:
        return Method()
    if isinstance(replay, str):
        return _named(replay, settings or {})
    if settings is not None:
        raise ConfigError(
            f"source={dict(settings)!r} is only for replay by a named method. Give settings to"
            f" this {type(replay).__name__} when you create it."
        )
    if isinstance(replay, StoredMemory) and not len(replay):
        return StoredReplay(copied(replay))
    if isinstance(replay, Generator):
        return _named("dgr", {"generator": replay})
    if isinstance(replay, Method) and isinstance(replay, ReplaySource) and not replay.experiences:
        # A new object: settings may refer to parts of a model, which must not be copied.
        kind: Any = type(replay)
        source: Method = kind(replay.settings, **kind.source_settings)
        return source
    if isinstance(replay, (StoredMemory, ReplaySource)):
        raise ConfigError(
            f"The {type(replay).__name__} given as replay has learned already. Give a new one: it"
            " learns the same experiences as A-LTM."
        )
    named = replay if isinstance(replay, (int, float)) else type(replay).__name__
    raise ConfigError(
        f"replay={named} cannot be replayed. Give an untrained StoredMemory, Generator, or"
        f" method that is a ReplaySource; or one of {_known()}."
    )


def fast_source(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings of A-LTM for smoke tests: a small source, for its other settings."""
    replay = settings.get("replay")
    if replay == "generated":
        return {"generator_steps": 30}
    source = METHODS.get(str(replay))
    fast = source.fast_settings({}) if source is not None else {}
    return {"source": fast} if fast else {}


def _named(name: str, settings: Mapping[str, Any]) -> Method:
    load_methods()
    named = METHODS.get(name)
    if named is None or not issubclass(named.kind, ReplaySource):
        raise ConfigError(f"replay={name!r} is not known; use one of {_known()}.")
    kind: Any = named.kind
    foreign = sorted(set(settings) & {*kind.source_settings, *_OURS})
    if foreign:
        raise ConfigError(
            f"{foreign[0]!r} in source cannot be set for replay={name!r}: the targets are the"
            " stable network's logits, and replay_size and seed are settings of A-LTM. Leave it"
            " out."
        )
    source: Method = kind(**{**named.fixed, **settings, **kind.source_settings})
    return source


def _known() -> str:
    load_methods()
    names = [name for name, method in METHODS.items() if issubclass(method.kind, ReplaySource)]
    return ", ".join(["None", *map(repr, ["stored", "generated", *sorted(names)])])
