"""Utilities for modules: growing buffers, copies, modes, data types, batches."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from avalanche_dgm.errors import UnsupportedModelError

M = TypeVar("M", bound=nn.Module)

#: Types in which a memory can be stored between training and sampling.
AtRest = Literal["float32", "float16"]

#: Batch size of inference.
CHUNK = 1024


class GrowingBuffers(nn.Module):
    """Loads a ``state_dict`` whose buffers and parameters have other shapes than its own."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        own = {**self._buffers, **self._parameters}
        for name, tensor in own.items():
            saved = state_dict.get(prefix + name)
            if tensor is None or saved is None or saved.shape == tensor.shape:
                continue
            fresh = tensor.detach().new_empty(saved.shape)
            if name in self._parameters:
                fresh = nn.Parameter(fresh, requires_grad=tensor.requires_grad)
            setattr(self, name, fresh)
        super()._load_from_state_dict(state_dict, prefix, *args)


def size_in_bytes(module: nn.Module) -> int:
    """Bytes of a module's parameters and buffers, each counted once."""
    tensors = {id(t): t for t in [*module.parameters(), *module.buffers()]}
    return sum(t.numel() * t.element_size() for t in tensors.values())


class Frozen(nn.Module, Generic[M]):
    """A deep copy of a module without gradients, always in evaluation mode.

    ``train()`` has no effect, so BatchNorm statistics do not change and dropout is off even if it
    is a submodule of a module in training mode.

    Args:
        module: The module to copy, which is not changed.

    Raises:
        UnsupportedModelError: It cannot be copied.
    """

    def __init__(self, module: M) -> None:
        super().__init__()
        self.frozen: M = copied(module)
        # Each parameter, as scripted modules have no requires_grad_.
        for parameter in self.frozen.parameters():
            parameter.requires_grad_(False)
        self.train(False)

    @property
    def module(self) -> M:
        """The copy itself, for its other methods than ``forward``.

        It is in evaluation mode until `train` is called on it or on a module of which it is a
        submodule, so do not register it as one.
        """
        return self.frozen

    def train(self, mode: bool = True) -> Frozen[M]:
        """Stays in evaluation mode."""
        return super().train(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the copy."""
        return self.frozen(*args, **kwargs)


def copied(module: M) -> M:
    """A deep copy of a network.

    Tensors that a forward pass stored in an attribute, such as the weights of ``weight_norm`` and
    ``spectral_norm`` in their hook form, are copied by value, as `copy.deepcopy` refuses tensors of
    a graph.

    Args:
        module: The network, which is not changed.

    Raises:
        UnsupportedModelError: An attribute cannot be copied, such as a lock.
    """
    try:
        # Without gradients, as copies of scripted modules would otherwise be part of a graph.
        with torch.no_grad():
            memo: dict[int, Any] = {id(t): t.detach().clone() for t in _computed(module)}
            duplicate = copy.deepcopy(module, memo)
    except Exception as error:
        # Copying a user's model may raise any error.
        raise UnsupportedModelError(
            f"The {type(module).__name__} cannot be copied ({error}). Remove attributes that cannot"
            " be copied, or give them a __deepcopy__."
        ) from error
    for parameter, original in zip(duplicate.parameters(), module.parameters(), strict=True):
        if parameter.requires_grad != original.requires_grad:
            parameter.requires_grad_(original.requires_grad)
    return duplicate


def _computed(module: nn.Module) -> Iterator[Tensor]:
    """The tensors in a network's attributes that are not leaves of a graph."""
    seen: set[int] = set()
    waiting: list[Any] = [value for part in module.modules() for value in vars(part).values()]
    while waiting:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, (nn.Module, type)):
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            if not value.is_leaf:
                yield value
        elif isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, (list, tuple, set)):
            waiting.extend(value)
        elif not callable(value):
            waiting.extend(getattr(value, "__dict__", {}).values())


class Savepoint:
    """A copy of a module, for rolling back later changes.

    Objects that do not change in place are not copied: `Frozen` modules, and the buffers of
    `GrowingBuffers`.

    Args:
        module: The module.
        shared: Further objects in it that are not copied.
    """

    def __init__(self, module: nn.Module, *, shared: Iterable[Any] = ()) -> None:
        same = list(shared)
        for part in module.modules():
            if isinstance(part, Frozen):
                same.append(part)
            elif isinstance(part, GrowingBuffers):
                same += part.buffers(recurse=False)
        self._copy = copy.deepcopy(module, {id(part): part for part in same if part is not None})

    def restore(self, module: nn.Module, *, keeping: type[nn.Module]) -> None:
        """Rolls a module back; afterwards this copy is part of it.

        Submodules of the class ``keeping`` are rolled back in place, not replaced.
        """
        _become(module, self._copy, keeping)


def _become(module: nn.Module, other: nn.Module, keeping: type[nn.Module]) -> None:
    modules = module._modules
    module.__dict__.clear()
    module.__dict__.update(other.__dict__)
    for name, part in other._modules.items():
        own = modules.get(name)
        if isinstance(own, keeping) and isinstance(part, keeping):
            _become(own, part, keeping)
            module._modules[name] = own


@contextmanager
def training_context() -> Iterator[None]:
    """Enables gradients inside the context, and turns the caller's inference mode and autocast off.

    An evaluation, in which a method may train, is often run within them.
    """
    with ExitStack() as contexts:
        contexts.enter_context(torch.inference_mode(False))
        contexts.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                # Without its cache of weights, which lasts until the caller's context ends.
                off = torch.autocast(device, enabled=False, cache_enabled=False)
                contexts.enter_context(off)
        yield


@contextmanager
def evaluating(module: nn.Module | None) -> Iterator[None]:
    """Sets a module, if there is one, to evaluation mode inside the context."""
    training = [m for m in module.modules() if m.training] if module is not None else []
    for part in training:
        part.training = False
    try:
        yield
    finally:
        # Only these, as the user may have set other submodules to evaluation mode.
        for part in training:
            part.training = True
        # A surrounding autocast keeps the copies of weights that it made without gradients; PyTorch
        # 2.6 would train with them.
        torch.clear_autocast_cache()


def in_type_of(learner: nn.Module, samples: Tensor) -> Tensor:
    """Converts samples (n, *shape) to the floating-point type of a network's first weights.

    Memories work in float32; networks may be in double or half precision.
    """
    for parameter in learner.parameters():
        if isinstance(parameter, nn.UninitializedParameter):
            return samples
        # Normalisations often have another type than the other layers.
        if parameter.is_floating_point() and parameter.ndim > 1:
            return samples.to(parameter.dtype)
    return samples


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Converts to another floating-point type; values beyond its range are clamped."""
    if not x.is_floating_point():
        return x
    largest = torch.finfo(dtype).max
    if largest < torch.finfo(x.dtype).max:
        x = x.clamp(-largest, largest)
    return x.to(dtype)


def convert(module: nn.Module, dtype: torch.dtype) -> None:
    """Rounds a module's parameters, in place, and buffers to another type, see `rounded`."""
    # Weights created in inference mode could not be trained later.
    with torch.inference_mode(False), torch.no_grad():
        for part in module.modules():
            for parameter in part.parameters(recurse=False):
                parameter.grad = None
                parameter.data = rounded(parameter.data, dtype)
            for name, buffer in part.named_buffers(recurse=False):
                setattr(part, name, rounded(buffer, dtype))


@contextmanager
def awake(module: nn.Module, at_rest: str) -> Iterator[None]:
    """Converts a module to float32 inside the context, and back to the type ``at_rest`` afterwards.

    Unchanged values are not rounded again, as every value of the smaller type is one of float32.
    """
    if at_rest == "float32":
        yield
        return
    convert(module, torch.float32)
    try:
        yield
    finally:
        convert(module, getattr(torch, at_rest))


def at_least_single(x: Tensor) -> Tensor:
    """Converts half precision to float32; other types are unchanged."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@torch.no_grad()
def in_chunks(function: Callable[..., Tensor], *samples: Tensor, size: int = CHUNK) -> Tensor:
    """Applies a function to samples batch by batch, without gradients.

    The function maps tensors (n, ...) to one tensor (n, ...); the samples are its arguments, each
    (N, ...) with N at least 1.
    """
    parts = zip(*(tensor.split(size) for tensor in samples), strict=True)
    return torch.cat([function(*part) for part in parts])


def agree(one: Tensor, two: Tensor) -> bool:
    """Whether two outputs of a network have the same shape and, up to rounding, the same values."""
    if one.shape != two.shape:
        return False
    kind = torch.promote_types(one.dtype, two.dtype)
    one, two = one.to(kind), two.to(kind)
    # NaN equals NaN: the network may have diverged.
    size = float(two.abs().nan_to_num(0.0, 0.0).max()) if two.numel() else 0.0
    return torch.allclose(one, two, rtol=1e-3, atol=1e-4 * size, equal_nan=True)
