"""Fingerprints of runs: what must be equal when an interrupted run resumes.

They hold class names, hyper-parameters, the network's parameters, the optimiser and the stream: its
classes, task labels, numbers of samples and a checksum of some of them. Devices, loggers, metrics,
progress bars and worker processes may differ, and so may what training changes.
"""

from __future__ import annotations

import dataclasses
import inspect
import zlib
from collections.abc import Iterable, Mapping, Sequence, Sized
from itertools import chain
from numbers import Number
from typing import Any

import numpy as np
import torch
from avalanche.logging import BaseLogger
from avalanche.models.dynamic_modules import DynamicModule
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.templates.base_sgd import PeriodicEval
from torch import Tensor, nn

from avalanche_dgm.errors import AvalancheDGMError, CheckpointError
from avalanche_dgm.fitting import OptimizerSpec
from avalanche_dgm.methods import Method
from avalanche_dgm.plugins.samples import (
    classes_of,
    experiences_of,
    labels_of,
    sample_of,
    seeded,
    task_labels_of,
)
from avalanche_dgm.saving import settings_of
from avalanche_dgm.settings import Settings

#: Values by name, as shown in error messages.
Fingerprint = dict[str, Any]

#: Attribute of a strategy that holds its fingerprint from before training.
FINGERPRINT = "_fingerprint"
_STREAM = "experience"
_NETWORK = "network: "
#: Constructor arguments that may differ, that are compared elsewhere, or that training changes.
_IGNORED = {
    *("device", "evaluator", "eval_every", "eval_mb_size", "peval_mode", "plugins", "loggers"),
    # The method's settings are compared; it has no weights before training.
    "method",
    # Seeds may be drawn; a method's is compared elsewhere.
    *(
        "folder",
        "path",
        "log_dir",
        "seed",
        "verbose",
        "progress",
        "num_workers",
        "model",
        "module",
        "optimizer",
        "last_epoch",
    ),
}
#: Options of optimisers that do not change the result of a step.
_IMPLEMENTATION = {"foreach", "fused", "capturable", "differentiable"}
_NAMES = {"lr": "learning rate"}


def check_same(saved: Mapping[str, Any], now: Mapping[str, Any], *, where: str) -> None:
    """Checks that two fingerprints are equal.

    Args:
        saved: The fingerprint of the interrupted run.
        now: The fingerprint of the run that resumes it.
        where: Name of the interrupted run, such as "The checkpoint x.pt", for the message.

    Raises:
        CheckpointError: They differ; the message names every difference.
    """
    found = []
    for name in {**saved, **now}:
        before, after = saved.get(name, "none"), now.get(name, "none")
        if before != after:
            found.append(f"{name}: {before} in the checkpoint, {after} now")
    if found:
        more = f"; and {len(found) - 8} more" if len(found) > 8 else ""
        raise CheckpointError(
            f"{where} is of another run: {'; '.join(found[:8])}{more}. Go on with what it was begun"
            " with, or name another place for a new run."
        )


def of_network(model: nn.Module) -> Fingerprint:
    """Shape and type of each parameter and buffer of a network.

    Args:
        model: The network.
    """
    tensors = chain(model.named_parameters(), model.named_buffers())
    return {f"{_NETWORK}{name}": _tensor(value) for name, value in tensors}


def _tensor(value: Tensor) -> str:
    kind = str(value.dtype).removeprefix("torch.")
    if nn.parameter.is_lazy(value):
        return f"{kind} of a size that is not known yet"
    return f"{kind} {tuple(value.shape)}"


def of_stream(stream: Iterable[Any]) -> Fingerprint:
    """The samples, classes and task labels of each experience.

    Args:
        stream: The training experiences; empty for a lazy stream.
    """
    experiences = experiences_of(stream)
    if experiences is None:
        return {}
    described = [_experience(experience) for experience in experiences]
    return {
        f"{_STREAM}s": len(described),
        **{f"{_STREAM} {i}": text for i, text in enumerate(described, start=1)},
    }


def _experience(experience: Any) -> str:
    dataset = experience.dataset
    text = f"{len(dataset)} samples, data {_checksum(dataset)}"
    try:
        labels = np.asarray(labels_of(dataset), dtype=np.int64)
        classes = ", ".join(map(str, classes_of(experience)))
    except (AvalancheDGMError, TypeError, ValueError, RuntimeError):
        return text  # Labels that are no classes.
    tasks = ", ".join(map(str, task_labels_of(experience)))
    order = f"{zlib.crc32(labels.tobytes()):08x}"
    return f"{text}, classes {classes}, task labels {tasks}, labels {order}"


def _checksum(dataset: Any) -> str:
    """A checksum of three samples, read as in evaluation."""
    n = len(dataset)
    dataset = dataset.eval() if hasattr(dataset, "eval") else dataset
    values = []
    for i in sorted({0, n // 2, n - 1}) if n else []:
        looks = []
        for _ in range(2):
            # Reading may be random; samples that differ under the same seed are left out.
            with seeded(0):
                try:
                    looks.append(sample_of(dataset, i)[0].detach().cpu().double().flatten())
                except AvalancheDGMError:
                    return "not known"
        if torch.equal(looks[0], looks[1]):
            # Depends on the order of the values, and little on rounding.
            weights = torch.arange(1, len(looks[0]) + 1, dtype=torch.float64).cos()
            values.append(float(looks[0] @ weights))
    return " ".join(f"{value:.4g}" for value in values) or "not known"


def of_arguments(owner: Any, prefix: str = "", *, depth: int = 0) -> Fingerprint:
    """The constructor arguments of an object that it keeps as attributes of the same names.

    Of a method these are its settings, which its parts share.

    Args:
        owner: The object.
        prefix: Prefix of their names.
        depth: Levels of nested objects to include.
    """
    found: Fingerprint = {}
    kept = getattr(owner, "__dict__", {})
    method = kept.get("method", owner)
    settings = method.settings.names() if isinstance(method, Method) else set()
    for name in _arguments(type(owner)) - settings:
        value = kept.get(name, _UNKNOWN)
        value = _UNKNOWN if isinstance(value, Settings) else _plain(value)
        if name not in _IGNORED and value is not _UNKNOWN:
            found[prefix + _NAMES.get(name, name)] = value
    for name, part in chain(kept.items(), kept.get("_modules", {}).items()) if depth else ():
        if _is_part(part):
            found |= of_arguments(part, f"{prefix}{name.strip('_')}.", depth=depth - 1)
    if isinstance(owner, Method):
        found |= {f"{prefix}{name}": value for name, value in settings_of(owner).items()}
    return found


def _arguments(kind: type) -> set[str]:
    names: set[str] = set()
    for base in (k for k in kind.__mro__ if "__init__" in vars(k) and k is not object):
        for source in (base, vars(base)["__init__"]):
            try:
                names |= inspect.signature(source).parameters.keys()
            except (TypeError, ValueError):
                continue
    return names


def _is_part(value: Any) -> bool:
    """Whether an attribute's own arguments are compared, too."""
    root = type(value).__module__.partition(".")[0]
    library = root in ("builtins", "torch", "numpy", "collections", "functools", "weakref", "types")
    # Objects with a length hold samples, which are compared elsewhere.
    ours = not isinstance(value, (BaseLogger, EvaluationPlugin, Sized, Number, type))
    return ours and not library and not hasattr(value, "train_mb_size")


_UNKNOWN = object()


def _plain(value: Any) -> Any:
    """A value that can be compared and printed; `_UNKNOWN` for other objects."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Number):
        return value.item() if isinstance(value, np.generic) else str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, (type, torch.dtype)) or inspect.isroutine(value):
        return getattr(value, "__qualname__", str(value))
    if isinstance(value, nn.Module) and next(value.parameters(), None) is None:
        return repr(value)
    if isinstance(value, Mapping):
        value = list(value.items())
    if isinstance(value, Sequence) and len(value) < 100:
        parts = [_plain(item) for item in value]
        return _UNKNOWN if any(part is _UNKNOWN for part in parts) else str(parts)
    return _UNKNOWN


def of_strategy(strategy: Any, *, begun: bool = False) -> Fingerprint:
    """The fingerprint of a strategy.

    Args:
        strategy: An Avalanche strategy.
        begun: Whether it may have been trained: then only what training does not change counts.
    """
    found = of_arguments(strategy)
    criterion = _plain(getattr(strategy, "_criterion", None))
    if criterion is not _UNKNOWN:
        found["criterion"] = criterion
    optimizer = getattr(strategy, "optimizer", None)
    found["optimizer"] = type(optimizer).__name__
    for name, value in getattr(optimizer, "defaults", {}).items():
        if name not in _IMPLEMENTATION and _plain(value) is not _UNKNOWN:
            found[_NAMES.get(name, f"optimizer's {name}")] = _plain(value)
    kinds: dict[str, int] = {}
    for plugin in strategy.plugins:
        if isinstance(plugin, (EvaluationPlugin, BaseLogger, PeriodicEval)):
            continue
        kind = type(plugin).__name__
        kinds[kind] = kinds.get(kind, 0) + 1
        name = kind if kinds[kind] == 1 else f"{kind} {kinds[kind]}"
        found[f"plugin {name}"] = "there"
        source = getattr(getattr(plugin, "method", None), "random", plugin)
        if not begun and hasattr(source, "seed"):
            found[f"{name}'s seed"] = _plain(source.seed)
        found |= of_arguments(plugin, f"{name}'s ", depth=0 if begun else 3)
    return found | of_network(strategy.model)


def _trained(strategy: Any) -> bool:
    clock = getattr(strategy, "clock", None)
    return getattr(clock, "train_exp_counter", 0) > 0


def store_fingerprint(strategy: Any, stream: Iterable[Any] | None = None) -> None:
    """Stores the fingerprint of a strategy on it, before training.

    Args:
        strategy: The strategy; does nothing if it was trained already.
        stream: The training experiences, if known.
    """
    if not _trained(strategy):
        made = of_strategy(strategy)
        strategy.__dict__[FINGERPRINT] = made | (of_stream(stream) if stream is not None else {})


def check_strategy(
    saved: Any, strategy: Any, stream: Iterable[Any] | None = None, *, where: str
) -> None:
    """Checks that a loaded strategy was made as the one that it is loaded into.

    Args:
        saved: The strategy loaded from a checkpoint.
        strategy: The strategy that resumes, not trained yet.
        stream: Its training experiences, if known.
        where: Name of the checkpoint, for the message.

    Raises:
        CheckpointError: They differ.
    """
    begun = saved.__dict__.get(FINGERPRINT)
    now = strategy.__dict__.get(FINGERPRINT)
    if begun is not None and now is None and not _trained(strategy):
        now = of_strategy(strategy)
    if begun is None or now is None:
        # At least one of them was trained before a fingerprint was stored.
        begun, now = of_strategy(saved, begun=True), of_strategy(strategy, begun=True)
        wrapped = type(saved.model) is not type(strategy.model)
        _allow_growth(begun, now, strategy.model, wrapped=wrapped)
    now = {name: value for name, value in now.items() if not name.startswith(_STREAM)}
    streams = {name for name in begun if name.startswith(_STREAM)}
    if stream is None or not streams:
        begun = {name: value for name, value in begun.items() if name not in streams}
    else:
        now |= of_stream(stream)
    check_same(begun, now, where=where)


def _allow_growth(saved: Fingerprint, now: Fingerprint, model: nn.Module, *, wrapped: bool) -> None:
    """Removes parameters that may have grown or been renamed in training."""
    if wrapped:
        growing: tuple[str, ...] = (_NETWORK,)
    else:
        growing = tuple(
            f"{_NETWORK}{name}." if name else _NETWORK
            for name, part in model.named_modules()
            if isinstance(part, DynamicModule)
        )
    for name in [n for n in {**saved, **now} if n.startswith(growing)] if growing else []:
        saved.pop(name, None)
        now.pop(name, None)


def of_module(module: Any, stream: Iterable[Any]) -> Fingerprint:
    """The fingerprint of a `MethodModule` and its stream.

    Args:
        module: The module, not trained yet.
        stream: The training experiences.
    """
    found: Fingerprint = {}
    # The stream has a batch size, too, which the memory's must not hide.
    settings = module.method.settings.names()
    for name, value in module.hparams.items():
        if name != "optimizer":
            found[f"method.{name}" if name in settings else name] = _plain(value)
    spec = module._make_optimizer
    if isinstance(spec, OptimizerSpec):
        for name, value in dataclasses.asdict(spec).items():
            found[_NAMES.get(name, f"optimizer's {name}")] = _plain(value)
    found["criterion"] = _plain(module.criterion)
    found = {name: value for name, value in found.items() if value is not _UNKNOWN}
    method = of_arguments(module.method, "method.", depth=3)
    return found | method | of_network(module.model) | of_stream(stream)
