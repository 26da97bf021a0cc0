"""Descriptions of strategies and plugins by class names and hyper-parameters.

They are logged, and compared when a run resumes. Devices, loggers, metrics, worker processes and
state that training changes are not included.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sized
from numbers import Number
from typing import Any

import numpy as np
import torch
from avalanche.logging import BaseLogger
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.templates.base_sgd import PeriodicEval
from torch import nn

from avalanche_dgm.dashboards.keys import settings_of
from avalanche_dgm.methods import Method

#: Constructor arguments that do not affect training, or that are described elsewhere.
_LEFT_OUT = {
    *("device", "num_workers", "verbose", "progress", "folder", "path", "log_dir"),
    *("evaluator", "eval_every", "eval_mb_size", "peval_mode", "loggers"),
    *("plugins", "model", "module", "optimizer", "criterion", "method"),
    # Seeds may be random, and the last epoch is state. A method's seed is among its settings.
    *("seed", "last_epoch"),
}
#: Options of optimisers that do not change the result of a step.
_IMPLEMENTATION = {"foreach", "fused", "capturable", "differentiable"}
#: Levels of nested objects.
_DEPTH = 3
_UNKNOWN = object()


def describe_strategy(strategy: Any, *, parts: bool = True) -> dict[str, Any]:
    """Describes a strategy, its criterion, its optimiser and its plugins, as nested JSON values.

    Without ``parts``, objects within plugins are left out, which training may change.
    """
    found = describe(strategy, depth=0)
    found["criterion"] = readable(getattr(strategy, "_criterion", None))
    optimizer = getattr(strategy, "optimizer", None)
    options = {
        name: readable(value)
        for name, value in getattr(optimizer, "defaults", {}).items()
        if name not in _IMPLEMENTATION
    }
    found["optimizer"] = {"class": type(optimizer).__name__, **_known(options)}
    plugins: dict[str, dict[str, Any]] = {}
    for plugin in strategy.plugins:
        if isinstance(plugin, (EvaluationPlugin, BaseLogger, PeriodicEval)):
            continue
        kind = type(plugin).__name__
        n_same = sum(plugin["class"] == kind for plugin in plugins.values())
        name = f"{kind} {n_same + 1}" if n_same else kind
        plugins[name] = describe(plugin, depth=_DEPTH if parts else 0)
    return _known({**found, "plugins": plugins})


def describe_module(module: Any) -> dict[str, Any]:
    """Describes a `MethodModule`: its method, optimiser, criterion and other arguments."""
    elsewhere = {*module.method.settings.names(), "optimizer", "criterion"}
    found = {n: readable(v) for n, v in module.hparams.items() if n not in elsewhere}
    found["method"] = describe(module.method)
    found["optimizer"] = readable(module._make_optimizer)
    found["criterion"] = readable(module.criterion)
    return _known(found)


def describe(owner: Any, *, depth: int = _DEPTH) -> dict[str, Any]:
    """Describes an object by its class and its attributes named as constructor arguments.

    A method is described by its settings; nested objects are included down to ``depth`` levels.
    """
    if isinstance(owner, Method):
        return settings_of(owner)
    kept = getattr(owner, "__dict__", {})
    found: dict[str, Any] = {"class": type(owner).__name__}
    # A plugin's attribute may have the name of a setting, which its method describes.
    method = kept.get("method")
    settings = method.settings.names() if isinstance(method, Method) else set()
    for name in sorted(_arguments(type(owner)) & kept.keys() - _LEFT_OUT - settings):
        found[name] = readable(kept[name])
    for name, part in {**kept, **kept.get("_modules", {})}.items():
        if isinstance(part, Method) or (depth and _is_part(part)):
            described = describe(part, depth=depth - 1)
            if len(described) > 1:
                found[name.strip("_")] = described
    return _known(found)


def readable(value: Any) -> Any:
    """Converts a value to JSON, functions and modules without parameters to a string.

    Returns:
        `_UNKNOWN` for other objects.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (type, torch.dtype)) or inspect.isroutine(value):
        return getattr(value, "__qualname__", str(value))
    if isinstance(value, nn.Module) and next(value.parameters(), None) is None:
        return repr(value)
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if not isinstance(value, (list, tuple, Mapping)) or len(value) >= 100:
        return _UNKNOWN
    keys = list(map(str, value)) if isinstance(value, Mapping) else None
    items = [readable(item) for item in (value.values() if isinstance(value, Mapping) else value)]
    if any(item is _UNKNOWN for item in items):
        return _UNKNOWN
    return items if keys is None else dict(zip(keys, items, strict=True))


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens a description to names such as ``optimizer.lr``."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        inner = isinstance(value, Mapping)
        found |= flat(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return found


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not _UNKNOWN}


def _arguments(kind: type) -> set[str]:
    """Names of the constructor arguments of a class and its base classes."""
    names: set[str] = set()
    for base in (k for k in kind.__mro__ if "__init__" in vars(k) and k is not object):
        for source in (base, vars(base)["__init__"]):
            try:
                names |= inspect.signature(source).parameters.keys()
            except (TypeError, ValueError):
                continue
    return names


def _is_part(value: Any) -> bool:
    """Whether an attribute is an object with its own hyper-parameters."""
    root = type(value).__module__.partition(".")[0]
    library = root in ("builtins", "torch", "numpy", "collections", "functools", "weakref", "types")
    # Objects with a length hold samples, which the fingerprint of the stream compares.
    other = (BaseLogger, EvaluationPlugin, Sized, Number, type)
    return not library and not isinstance(value, other) and not hasattr(value, "train_mb_size")
