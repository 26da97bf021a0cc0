"""Parsing of a run's result from JSON, with errors for values that no run writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments.config import ExperimentConfig
from avalanche_dgm.experiments.results import RunResult, Step

T = TypeVar("T")
#: Largest number of seconds or bytes that is accepted.
_MOST = 1e18


def parse_result(values: Any) -> RunResult:
    """Reads what `RunResult.to_json` returned.

    Args:
        values: What a JSON file holds, whatever it is.

    Raises:
        ConfigError: It is no result; the message names what is wrong.
    """
    found = _object(values, "the file")
    tasks = _list(_get(found, "tasks"), "tasks", _text)
    order = _list(_get(found, "order"), "order", _below(len(tasks)))
    steps = _list(_get(found, "steps"), "steps", lambda step, name: _step(step, name, len(tasks)))
    if len(steps) > len(order):
        raise ConfigError(f"{len(steps)} steps are more than the {len(order)} experiences")
    provenance = _object(_get(found, "provenance"), "provenance")
    _object(provenance.get("versions", {}), "provenance: versions")
    _optional(_text)(provenance.get("started"), "provenance: started")
    config = _object(_get(found, "config"), "config")
    for name in ("stream_options", "method_options", "model_options"):
        _object(config.get(name, {}), name)
    try:
        read = ExperimentConfig.from_json(config)
        read.to_json()
    except ConfigError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise ConfigError(f"config cannot be used: {error}") from error
    return RunResult(
        config=read,
        tasks=tasks,
        order=order,
        steps=steps,
        provenance=provenance,
        shape=tuple(_list(_get(found, "image_shape"), "image_shape", _count)),
        # These came later.
        method_settings=_object(found.get("method_settings", {}), "method_settings"),
    )


def _step(values: Any, name: str, n_tasks: int) -> Step:
    found = _object(values, name)
    known = {field.name for field in dataclasses.fields(Step)}
    unknown = sorted(found.keys() - known)
    if unknown:
        raise ConfigError(f"{name} has '{unknown[0]}', which no step has")
    for key in known - {"fid", "generated_accuracy", "peak_bytes"}:  # These came later.
        _get(found, key)
    accuracy = _list(_get(found, "accuracy"), f"{name}: accuracy", _optional(_share))
    if len(accuracy) != n_tasks:
        raise ConfigError(f"{name}: {len(accuracy)} accuracies do not fit {n_tasks} tasks")
    read: dict[str, Callable[[Any, str], Any]] = {
        "experience": _below(n_tasks),
        "stream_accuracy": _optional(_share),
        "phases": lambda v, n: {k: _amount(x, n) for k, x in _object(v, n).items()},
        "histogram": _histogram,
        "fid": _optional(_amount),
        "generated_accuracy": _optional(_share),
        **dict.fromkeys(("seconds", "eval_seconds", "sleep_seconds"), _amount),
        **dict.fromkeys(("replayed", "stm_occupancy", "sleeps"), _count),
        **dict.fromkeys(("memory_bytes", "peak_bytes"), _optional(_count)),
    }
    rest = {key: read[key](value, f"{name}: {key}") for key, value in found.items() if key in read}
    return Step(accuracy=accuracy, **rest)


def _histogram(value: Any, name: str) -> dict[int, int]:
    try:
        labels = {int(label): count for label, count in _object(value, name).items()}
    except ValueError as error:
        raise ConfigError(f"{name} has a label that is no number") from error
    return {label: _count(count, name) for label, count in labels.items()}


def _get(values: dict[str, Any], key: str) -> Any:
    if key not in values:
        raise ConfigError(f"'{key}' is missing in it")
    return values[key]


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{name} is {_kind(value)} instead of an object")
    return value


def _list(value: Any, name: str, read: Callable[[Any, str], T]) -> list[T]:
    if not isinstance(value, list):
        raise ConfigError(f"{name} is {_kind(value)} instead of a list")
    return [read(item, f"{name}[{i}]") for i, item in enumerate(value)]


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{name} is {_kind(value)} instead of a text")
    return value


def _number(value: Any, name: str, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{name} is {_kind(value)} instead of a number")
    if not 0 <= value <= most:
        shown = "not a number" if value != value else "outside what can be measured"
        raise ConfigError(f"{name} is {shown}; it must be from 0 to {most:g}")
    return value


def _share(value: Any, name: str) -> float:
    return _number(value, name, 100)  # A page can show more than 1, and nothing absurd.


def _amount(value: Any, name: str) -> float:
    return _number(value, name, _MOST)


def _count(value: Any, name: str) -> int:
    if not isinstance(value, int):
        raise ConfigError(f"{name} is {_kind(value)} instead of a whole number")
    return int(_number(value, name, _MOST))


def _below(n: int) -> Callable[[Any, str], int]:
    def read(value: Any, name: str) -> int:
        if _count(value, name) >= n:
            raise ConfigError(f"{name} is {value}, and there are {n} tasks")
        return int(value)

    return read


def _optional(read: Callable[[Any, str], T]) -> Callable[[Any, str], T | None]:
    return lambda value, name: None if value is None else read(value, name)


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return kinds.get(type(value), "null" if value is None else "a number")
