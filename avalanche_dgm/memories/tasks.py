"""The dictionary of a deep generative memory: which tasks it knows, how often it met them."""

from __future__ import annotations

from typing import Any


class TaskDictionary:
    """Task keys with an index, and the number of times each was met (Kamra et al., Sec. 3.1)."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._index: dict[str, int] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._counts

    def __iter__(self) -> Any:
        return iter(self._counts)

    def __len__(self) -> int:
        return len(self._counts)

    @property
    def total(self) -> int:
        """Tasks met, repetitions counted."""
        return sum(self._counts.values())

    def count(self, key: str) -> int:
        """How often a task was met."""
        return self._counts.get(key, 0)

    def add(self, key: str, times: int = 1) -> None:
        """Notes that a task was met."""
        self._counts[key] = self.count(key) + times
        self.index(key)

    def index(self, key: str) -> int:
        """A whole number for the task, the same for ever, counting from 0."""
        return self._index.setdefault(key, len(self._index))

    def to_state(self) -> dict[str, Any]:
        """Returns plain dictionaries."""
        return {"counts": dict(self._counts), "index": dict(self._index)}

    def from_state(self, state: dict[str, Any]) -> None:
        """Takes over what `to_state` returned."""
        self._counts = dict(state["counts"])
        self._index = dict(state["index"])
