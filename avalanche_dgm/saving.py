"""Files of a method's memory: weights, settings and random states, without code.

A file has the layout of `safetensors <https://github.com/huggingface/safetensors>`_: the length of
the header (8 bytes), the header (JSON), then the tensors' bytes. Reading it runs no code from the
file. The header's metadata are the format version; the method, its settings and the rest of its
state (JSON); and a SHA-256 of the whole file, computed with zeros in place of the digest.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from avalanche_dgm import __version__
from avalanche_dgm.errors import CheckpointError, ConfigError
from avalanche_dgm.files import replacing
from avalanche_dgm.methods.base import VERSION, Method, check_version
from avalanche_dgm.modules import copied

FileLike = str | os.PathLike[str] | IO[bytes]

_KIND = "avalanche_dgm memory"
_NO_DIGEST = "0" * 64
#: Names of data types in the header, the largest first, so that tensors are aligned.
_DTYPES = {
    "I64": torch.int64,
    "F64": torch.float64,
    "I32": torch.int32,
    "F32": torch.float32,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def save_memory(target: Any, file: FileLike) -> None:
    """Saves a method's memory and the weights of its classifier.

    Call it between experiences. The optimizer and the strategy are not saved; see
    `avalanche_dgm.save_checkpoint`. A path is replaced atomically.

    Args:
        target: A plugin, a method, or its LightningModule.
        file: Path (its folder is created if missing) or a file open for writing bytes.

    Raises:
        CheckpointError: Nothing was learned yet, an experience is unfinished, or the state contains
            other values than tensors, numbers, strings, lists and dictionaries.
        OSError: The file cannot be written.
    """
    method = _method_of(target)
    if method.learner is None:
        raise CheckpointError("There is nothing to save yet: train on an experience first.")
    if method.unfinished:
        raise CheckpointError(
            "An experience is unfinished. Save between experiences; after an interrupted one call"
            f" {type(method).__name__}.undo() first."
        )
    tensors: dict[Any, tuple[str, Tensor]] = {}
    memory = {
        "package": __version__,
        "method": type(method).__qualname__,
        "settings": settings_of(method),
        "task_aware": method.task_aware,
        "state": {k: _to_json(v, k, tensors) for k, v in method.state_dict().items()},
    }
    content = _to_bytes(json.dumps(memory), dict(tensors.values()))
    if isinstance(file, (str, os.PathLike)):
        with replacing(file) as opened:
            opened.write(content)
    else:
        file.write(content)


def load_memory(target: Any, file: FileLike, *, model: nn.Module | None = None) -> None:
    """Loads a file of `save_memory`, without running code from it.

    Afterwards the method samples, predicts and continues to learn like the saved one::

        plugin = DGRPlugin()
        load_memory(plugin, "memory.safetensors", model=net)
        strategy = Naive(model=net, optimizer=SGD(net.parameters(), lr=0.1), plugins=[plugin])

    Args:
        target: A plugin, a method, or its LightningModule, with the saved one's settings (the seed
            may differ, as random states are restored).
        file: Path or a file open for reading bytes.
        model: The classifier, with the saved one's architecture, into which the weights are loaded.
            A LightningModule has it already.

    Raises:
        CheckpointError: The file is damaged, no memory, or of another version, method, settings or
            network. Target and model are then unchanged.
        ConfigError: ``model`` is missing.
        UnsupportedModelError: The model cannot be copied; the file is first loaded into a copy.
        FileNotFoundError: There is no such file.
    """
    method = _method_of(target)
    name = f"'{file}'" if isinstance(file, (str, os.PathLike)) else "The file"
    saved, state = _read(file, name)
    _check(saved, method, name)
    learner = _learner_of(target, method, model)
    # A plugin attaches the model to its method.
    owner = method if isinstance(target, nn.Module) else target
    # Into a copy first, so that an error changes nothing.
    twin = copied(learner)
    memo = {id(a): b for a, b in zip(learner.modules(), twin.modules(), strict=True)}
    try:
        _fill(copy.deepcopy(owner, memo), twin, saved["task_aware"], state)
    except Exception as error:
        raise CheckpointError(
            f"{name} does not fit the model, a {type(learner).__name__}: {error} Build the model"
            " as for the saved run; unless it grows like Avalanche's classifiers, also grow it to"
            " the saved size (avalanche_model_adaptation)."
        ) from error
    _fill(owner, learner, saved["task_aware"], state)


def _fill(owner: Any, learner: nn.Module, task_aware: bool, state: dict[str, Any]) -> None:
    if isinstance(owner, Method):
        owner.attach(learner, task_aware=task_aware)
    else:
        owner.attach(learner)
    method = _method_of(owner)
    method.load_state_dict(state)
    device = next((p.device for p in learner.parameters()), None)
    if device is not None:
        method.to(device)


def _method_of(target: Any) -> Method:
    method = target if isinstance(target, Method) else getattr(target, "method", None)
    if not isinstance(method, Method):
        raise ConfigError(
            f"A {type(target).__name__} has no memory to save or load. Pass a plugin of this"
            " package, a method, or its LightningModule."
        )
    return method


def _learner_of(target: Any, method: Method, model: nn.Module | None) -> nn.Module:
    own = method.learner
    if model is None and own is None:
        raise ConfigError(
            "The file contains the weights of a classifier: pass model=, the network to load them"
            " into."
        )
    if isinstance(target, nn.Module) and target is not method and model not in (None, own):
        raise ConfigError(f"The {type(target).__name__} has its model already; leave model= out.")
    return model if model is not None else own  # type: ignore[return-value]


# Settings


def settings_of(method: Method) -> dict[str, Any]:
    """A method's settings with defaults and without seeds, as plain values."""
    settings: dict[str, Any] = _without_seeds(method.settings.to_dict())
    return settings


def _without_seeds(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_seeds(v) for k, v in value.items() if k != "seed"}
    return value


def _check(saved: dict[str, Any], method: Method, name: str) -> None:
    kind = type(method).__qualname__
    if saved["method"] != kind:
        raise CheckpointError(
            f"{name} holds the memory of {saved['method']}, not of {kind}. Load it into a"
            f" {saved['method']}."
        )
    ours, theirs = settings_of(method), saved["settings"]
    # Settings that are not in the file are newer than the file.
    differ = [k for k in sorted(theirs) if k not in ours or ours[k] != theirs[k]]
    if differ:
        listed = ", ".join(f"{k}={theirs[k]!r} (now {ours.get(k)!r})" for k in differ)
        raise CheckpointError(
            f"{name} was saved with other settings: {listed}. Make the {kind} with those."
        )


# State as JSON


def _to_json(value: Any, name: str, tensors: dict[Any, tuple[str, Tensor]]) -> Any:
    """Converts to JSON values; tensors are collected by memory address and replaced by names."""
    if isinstance(value, Tensor):
        if value.dtype not in _NAMES or value.layout != torch.strided:
            raise CheckpointError(
                f"{name} is a tensor of {value.dtype} ({value.layout}), which the file format does"
                " not support. Use save_checkpoint for this model."
            )
        # The classifier has several names in a method; its weights are saved once.
        place = (value.data_ptr(), value.dtype, value.device, value.shape, value.stride())
        first, _ = tensors.setdefault(place if value.numel() else name, (name, value.detach()))
        return {"tensor": first}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        items = [_to_json(item, f"{name}.{i}", tensors) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"dict": {k: _to_json(v, f"{name}.{k}", tensors) for k, v in value.items()}}
    raise CheckpointError(
        f"{name} in the state is a {type(value).__name__}; the file format supports tensors,"
        " numbers, strings, lists and dictionaries with string keys. Use save_checkpoint for this"
        " model, or give its class a get_extra_state of plain values."
    )


def _from_json(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_from_json(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple":
        return tuple(_from_json(item, tensors) for item in content)
    if kind == "dict":
        return {k: _from_json(v, tensors) for k, v in content.items()}
    raise ValueError(f"unknown kind of value {kind!r}")


# Bytes


def _to_bytes(memory: str, tensors: Mapping[str, Tensor]) -> bytes:
    order = list(_NAMES)
    sizes = sorted(tensors, key=lambda name: order.index(tensors[name].dtype))
    metadata = {"format": "pt", "kind": _KIND, "version": str(VERSION), "sha256": _NO_DIGEST}
    header: dict[str, Any] = {"__metadata__": {**metadata, "memory": memory}}
    parts, end = [], 0
    for name in sizes:
        value = tensors[name].cpu().contiguous()
        parts.append(value.reshape(-1).view(torch.uint8).numpy().tobytes())
        start, end = end, end + len(parts[-1])
        places = {"shape": list(value.shape), "data_offsets": [start, end]}
        header[name] = {"dtype": _NAMES[value.dtype], **places}
    written = json.dumps(header).encode()
    written += b" " * (-len(written) % 8)
    content = struct.pack("<Q", len(written)) + written + b"".join(parts)
    digest = hashlib.sha256(content).hexdigest().encode()
    return content.replace(_NO_DIGEST.encode(), digest, 1)


def _read(file: FileLike, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads and verifies a file: method, settings and task_aware, and the state."""
    raw = Path(file).read_bytes() if isinstance(file, (str, os.PathLike)) else file.read()
    foreign = (
        f"{name} is no memory, or it is damaged. Load a file of save_memory. (A Trainer's file is"
        " for load_from_checkpoint; one of save_checkpoint for maybe_load_checkpoint, which can run"
        " code from the file.)"
    )
    try:
        (length,) = struct.unpack_from("<Q", raw)
        header = json.loads(raw[8 : 8 + length])
        metadata = header.pop("__metadata__")
        known = metadata["kind"] == _KIND
        version, digest = int(metadata["version"]), metadata["sha256"]
    except Exception as error:
        raise CheckpointError(foreign) from error
    if not known:
        raise CheckpointError(foreign)
    check_version(name, version)
    damaged = f"{name} is damaged: its checksum does not match. Use another copy."
    at = raw.find(str(digest).encode(), 8)
    whole = hashlib.sha256(raw[:at] + _NO_DIGEST.encode() + raw[at + len(_NO_DIGEST) :])
    if at < 0 or whole.hexdigest() != digest:
        raise CheckpointError(damaged)
    try:
        data = memoryview(raw)[8 + length :]
        tensors = {k: _tensor(data, **v) for k, v in header.items()}
        memory = json.loads(metadata["memory"])
        state = {k: _from_json(v, tensors) for k, v in memory.pop("state").items()}
        return {k: memory[k] for k in ("method", "settings", "task_aware")}, state
    except Exception as error:
        raise CheckpointError(damaged) from error


def _tensor(data: memoryview, *, dtype: str, shape: list[int], data_offsets: list[int]) -> Tensor:
    start, end = data_offsets
    if not math.prod(shape):
        return torch.empty(shape, dtype=_DTYPES[dtype])
    flat = torch.frombuffer(bytearray(data[start:end]), dtype=_DTYPES[dtype])
    return flat.reshape(shape)
