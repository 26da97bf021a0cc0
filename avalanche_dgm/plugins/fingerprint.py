"""Fingerprints of runs, which must be equal when an interrupted run resumes.

They contain a description of the settings, the shapes of the network's parameters, and the stream's
classes, task labels, numbers of samples and a checksum of some samples.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import numpy as np
import torch
from avalanche.models.dynamic_modules import DynamicModule
from torch import Tensor, nn

from avalanche_dgm.errors import AvalancheDGMError, CheckpointError
from avalanche_dgm.plugins.description import describe_module, describe_strategy, flat
from avalanche_dgm.plugins.samples import (
    classes_of,
    experiences_of,
    labels_of,
    sample_of,
    seeded,
    task_labels_of,
)

#: Values by name, as shown in error messages.
Fingerprint = dict[str, Any]

#: Attribute of a strategy that holds its fingerprint from before training.
FINGERPRINT = "_fingerprint"
_STREAM = "experience"
_NETWORK = "network: "


def check_same(saved: Mapping[str, Any], now: Mapping[str, Any], *, where: str) -> None:
    """Checks that two fingerprints are equal; settings of a method that are new are ignored.

    Raises:
        CheckpointError: They differ; the message lists the differences.
    """
    found = []
    for name in {**saved, **now}:
        owner = name.rpartition(".")[0]
        if name not in saved and owner.endswith("method") and f"{owner}.class" in saved:
            continue  # A method's setting that did not exist in an earlier version.
        before, after = saved.get(name, "none"), now.get(name, "none")
        if before != after:
            found.append(f"{name}: {before} in the checkpoint, {after} now")
    if found:
        more = f"; and {len(found) - 8} more" if len(found) > 8 else ""
        raise CheckpointError(
            f"{where} is of another run: {'; '.join(found[:8])}{more}. Resume with the same"
            " settings and data, or use another path for a new run."
        )


def of_network(model: nn.Module) -> Fingerprint:
    """Shape and type of each parameter and buffer of a network."""
    tensors = chain(model.named_parameters(), model.named_buffers())
    return {f"{_NETWORK}{name}": _tensor(value) for name, value in tensors}


def _tensor(value: Tensor) -> str:
    kind = str(value.dtype).removeprefix("torch.")
    if nn.parameter.is_lazy(value):
        return f"{kind} of unknown size"
    return f"{kind} {tuple(value.shape)}"


def of_stream(stream: Iterable[Any]) -> Fingerprint:
    """The samples, classes and task labels of each experience."""
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
        return text  # The labels are not classes.
    tasks = ", ".join(map(str, task_labels_of(experience)))
    order = f"{zlib.crc32(labels.tobytes()):08x}"
    return f"{text}, classes {classes}, task labels {tasks}, labels {order}"


def _checksum(dataset: Any) -> str:
    """A checksum of three samples, with evaluation transforms."""
    n = len(dataset)
    dataset = dataset.eval() if hasattr(dataset, "eval") else dataset
    values = []
    for i in sorted({0, n // 2, n - 1}) if n else []:
        reads = []
        for _ in range(2):
            # Random samples, which differ even under the same seed, are left out.
            with seeded(0):
                try:
                    reads.append(sample_of(dataset, i)[0].detach().cpu().double().flatten())
                except AvalancheDGMError:
                    return "not known"
        if torch.equal(reads[0], reads[1]):
            # Depends on the order of the values, but hardly on rounding.
            weights = torch.arange(1, len(reads[0]) + 1, dtype=torch.float64).cos()
            values.append(float(reads[0] @ weights))
    return " ".join(f"{value:.4g}" for value in values) or "not known"


def of_strategy(strategy: Any, *, trained: bool = False) -> Fingerprint:
    """The fingerprint of a strategy; if it was trained, without state that training changes."""
    return flat(describe_strategy(strategy, parts=not trained)) | of_network(strategy.model)


def of_module(module: Any, stream: Iterable[Any]) -> Fingerprint:
    """The fingerprint of a `MethodModule` and its stream."""
    return flat(describe_module(module)) | of_network(module.model) | of_stream(stream)


def _trained(strategy: Any) -> bool:
    clock = getattr(strategy, "clock", None)
    return getattr(clock, "train_exp_counter", 0) > 0


def store_fingerprint(strategy: Any, stream: Iterable[Any] | None = None) -> None:
    """Stores the fingerprint of a strategy on it, unless it was already trained."""
    if not _trained(strategy):
        own = of_strategy(strategy)
        strategy.__dict__[FINGERPRINT] = own | (of_stream(stream) if stream is not None else {})


def check_strategy(
    saved: Any, strategy: Any, stream: Iterable[Any] | None = None, *, where: str
) -> None:
    """Checks that a loaded strategy has the fingerprint of the strategy it is loaded into.

    Raises:
        CheckpointError: They differ.
    """
    before = saved.__dict__.get(FINGERPRINT)
    now = strategy.__dict__.get(FINGERPRINT)
    if before is not None and now is None and not _trained(strategy):
        now = of_strategy(strategy)
    if before is None or now is None:
        # At least one of them was trained before a fingerprint was stored.
        before, now = of_strategy(saved, trained=True), of_strategy(strategy, trained=True)
        wrapped = type(saved.model) is not type(strategy.model)
        growing = _growing(strategy.model, wrapped=wrapped)
        before, now = (_without(growing, fingerprint) for fingerprint in (before, now))
    streams = {name for name in before if name.startswith(_STREAM)}
    now = _without((_STREAM,), now)
    if stream is None or not streams:
        before = _without((_STREAM,), before)
    else:
        now |= of_stream(stream)
    check_same(before, now, where=where)


def _growing(model: nn.Module, *, wrapped: bool) -> tuple[str, ...]:
    """Prefixes of parameters that training may add, resize or rename."""
    if wrapped:
        return (_NETWORK,)
    return tuple(
        f"{_NETWORK}{name}." if name else _NETWORK
        for name, part in model.named_modules()
        if isinstance(part, DynamicModule)
    )


def _without(prefixes: tuple[str, ...], found: Fingerprint) -> Fingerprint:
    return {name: value for name, value in found.items() if not name.startswith(prefixes)}
