"""What memories do with networks: growing buffers, copies, modes, data types, chunks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from avalanche_dgm.errors import UnsupportedModelError

M = TypeVar("M", bound=nn.Module)

#: Types in which a memory can be kept while nothing learns or samples.
AtRest = Literal["float32", "float16"]

#: Samples that pass through a network at once where no gradient is needed.
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

    ``train()`` does not thaw it, so that its BatchNorm statistics and dropout stay off even when
    it is a part of something that is put into training mode.

    Args:
        module: What to copy; the original is left alone.

    Raises:
        UnsupportedModelError: It cannot be copied.
    """

    def __init__(self, module: M) -> None:
        super().__init__()
        self.frozen: M = copied(module)
        # One by one, as scripted modules have no requires_grad_.
        for parameter in self.frozen.parameters():
            parameter.requires_grad_(False)
        self.train(False)

    @property
    def module(self) -> M:
        """The copy."""
        return self.frozen

    def train(self, mode: bool = True) -> Frozen[M]:
        """Stays in evaluation mode."""
        return super().train(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the copy."""
        return self.frozen(*args, **kwargs)


def copied(module: M) -> M:
    """A deep copy of a network, with weights of its own.

    Tensors that a forward pass left in an attribute, such as the weights of ``weight_norm`` and
    ``spectral_norm`` in their hook form, are copied by value: `copy.deepcopy` refuses what is part
    of a graph.

    Args:
        module: The network, which stays as it is.

    Raises:
        UnsupportedModelError: It holds something that cannot be copied, such as a lock.
    """
    try:
        # Without gradients, as copies of scripted modules would be part of a graph themselves.
        with torch.no_grad():
            memo: dict[int, Any] = {id(t): t.detach().clone() for t in _computed(module)}
            duplicate = copy.deepcopy(module, memo)
    except Exception as error:
        # What a copy of a user's model runs into can be anything.
        raise UnsupportedModelError(
            f"The {type(module).__name__} cannot be copied ({error}). Keep what cannot be copied"
            " out of its attributes, or give that a __deepcopy__."
        ) from error
    for mine, original in zip(duplicate.parameters(), module.parameters(), strict=True):
        if mine.requires_grad != original.requires_grad:
            mine.requires_grad_(original.requires_grad)
    return duplicate


def _computed(module: nn.Module) -> Iterator[Tensor]:
    """The tensors in a network's attributes that are results, not leaves of a graph."""
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
    """A copy of a module, by which what it changes afterwards is taken back.

    What does not change in place is not copied: frozen copies, and the buffers of `GrowingBuffers`.

    Args:
        module: The module.
        shared: Further objects within it that the copy has in common with it.
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
        """Makes a module what it was; afterwards this copy is part of it.

        Args:
            module: The module.
            keeping: Submodules of this class are restored, too, rather than replaced.
        """
        _become(module, self._copy, keeping)


def _become(module: nn.Module, other: nn.Module, keeping: type[nn.Module]) -> None:
    mine = module._modules
    module.__dict__.clear()
    module.__dict__.update(other.__dict__)
    for name, part in other._modules.items():
        own = mine.get(name)
        if isinstance(own, keeping) and isinstance(part, keeping):
            _become(own, part, keeping)
            module._modules[name] = own


@contextmanager
def evaluating(module: nn.Module | None) -> Iterator[None]:
    """Puts a module into evaluation mode for a while.

    Labelling what is generated must not move a classifier's BatchNorm statistics, nor drop units.

    Args:
        module: The module, left alone if it is in evaluation mode throughout, or ``None``.
    """
    training = [m for m in module.modules() if m.training] if module is not None else []
    for part in training:
        part.training = False
    try:
        yield
    finally:
        # One by one, so that parts which the user keeps in evaluation mode stay there.
        for part in training:
            part.training = True


def in_type_of(learner: nn.Module, samples: Tensor) -> Tensor:
    """Converts samples to the floating-point type of a network's first weights.

    Memories work in float32; networks may be in double or half precision.

    Args:
        learner: The network.
        samples: Float tensor (n, *shape).
    """
    for parameter in learner.parameters():
        if isinstance(parameter, nn.UninitializedParameter):
            return samples
        # Scales of normalisations often are of another type than the layers around them.
        if parameter.is_floating_point() and parameter.ndim > 1:
            return samples.to(parameter.dtype)
    return samples


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The numbers in another floating-point type; those beyond its range become its largest."""
    if not x.is_floating_point():
        return x
    largest = torch.finfo(dtype).max
    if largest < torch.finfo(x.dtype).max:
        x = x.clamp(-largest, largest)
    return x.to(dtype)


def convert(module: nn.Module, dtype: torch.dtype) -> None:
    """Rounds a module's parameters and buffers to another type; parameters stay the same objects.

    Args:
        module: The module.
        dtype: A floating-point type, see `rounded`.
    """
    # Weights of inference mode could not be trained later.
    with torch.inference_mode(False), torch.no_grad():
        for part in module.modules():
            for parameter in part.parameters(recurse=False):
                parameter.grad = None
                parameter.data = rounded(parameter.data, dtype)
            for name, buffer in part.named_buffers(recurse=False):
                setattr(part, name, rounded(buffer, dtype))


@contextmanager
def awake(module: nn.Module, at_rest: AtRest) -> Iterator[None]:
    """Computes in float32 with a module that is kept in a smaller type.

    What is written inside is rounded once, afterwards. What was kept before stays as it is:
    every number of the smaller type is one of float32.

    Args:
        module: The module, whose parameters and buffers are float32 inside.
        at_rest: The type in which they are kept.
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
    """The same numbers, in float32 if they were computed in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@torch.no_grad()
def in_chunks(function: Callable[..., Tensor], *samples: Tensor, size: int = CHUNK) -> Tensor:
    """Maps a function over any number of samples, a chunk at a time, without gradients.

    Args:
        function: From tensors (n, ...) to one (n, ...).
        *samples: Tensors (N, ...), an argument each; nothing may come of none.
        size: Samples of a chunk.
    """
    parts = zip(*(tensor.split(size) for tensor in samples), strict=True)
    return torch.cat([function(*part) for part in parts])
