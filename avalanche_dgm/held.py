"""Size in bytes of everything that an object refers to: tensors, arrays, images of data sets."""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

# Objects that are no memory: names, code, and what is needed for training.
_OTHER = (
    *(str, bytes, int, float, type, types.ModuleType, types.FunctionType, types.MethodType),
    *(torch.Generator, torch.device, torch.dtype, Optimizer, LRScheduler, DataLoader),
    type(None),
)
# Attributes of an Avalanche strategy that are needed for training and evaluation only.
_OF_STRATEGY = frozenset(
    [
        *("model", "optimizer", "_criterion", "dataloader", "mbatch", "mb_output", "loss"),
        "batch_logits",
        *("experience", "adapted_dataset", "current_eval_stream", "_eval_streams"),
        *("evaluator", "clock", "optimized_param_id"),
    ]
)


def held_bytes(*owners: Any, without: Iterable[Any] = ()) -> int | None:
    """Size in bytes of everything that is reachable from objects by their attributes.

    Tensors and arrays that share memory count once, and so do images to which several buffers
    refer. Images count with their size in the data set, such as one byte per pixel, and with logits
    that are stored with them. Labels, transformed images, caches of modules, gradients and states
    of optimisers do not count.

    Args:
        *owners: Methods, plugins, buffers, modules, data sets, or an Avalanche strategy, whose
            plugins and attributes count, but not its model.
        without: What does not count: classes, objects, and the tensors of modules, such as the
            classifier.

    Returns:
        The size in bytes; ``None`` if the size of a data set's images is not known.
    """
    count = _Count()
    for other in without:
        count.leave_out(other)
    for owner in owners:
        count.visit(owner)
    return count.total()


def image_bytes(dataset: Any) -> int | None:
    """Size in bytes of one image as stored in a data set; ``None`` if it is not known.

    The data set, of Avalanche or PyTorch, has at least one image, all of one size.
    """
    source, _ = next(_sources(dataset, np.arange(1)))
    return _stored_size(source)


class _Count:
    """Visits objects and counts their bytes."""

    def __init__(self) -> None:
        #: Memory addresses that do not count.
        self._without: set[int] = set()
        self._others: tuple[type, ...] = _OTHER
        #: Whether objects of a class do not count: faster than `isinstance` with many classes.
        self._is_other: dict[type, bool] = {}
        self._visited: dict[int, Any] = {}
        self._views: dict[int, dict[tuple[int, int], int]] = {}
        self._sizes: dict[int, int] = {}
        self._images: dict[int, tuple[Any, set[int]]] = {}

    def total(self) -> int | None:
        """The bytes of all visited objects."""
        sizes = [(_stored_size(source), len(known)) for source, known in self._images.values()]
        if any(size is None for size, _ in sizes):
            return None
        tensors = sum(
            min(self._sizes[place], sum(views.values())) for place, views in self._views.items()
        )
        return tensors + sum((size or 0) * n for size, n in sizes)

    def leave_out(self, other: Any) -> None:
        """Excludes a class, an object, or a module's tensors."""
        if isinstance(other, type):
            self._others += (other,)
            return
        self._visited[id(other)] = other
        tensors = (*other.parameters(), *other.buffers()) if isinstance(other, nn.Module) else ()
        self._without |= {t.untyped_storage().data_ptr() for t in tensors if not is_lazy(t)}

    def visit(self, owner: Any) -> None:
        """Counts everything that is reachable from an object."""
        waiting = deque([owner])
        while waiting:
            value = waiting.popleft()
            kind = type(value)
            other = self._is_other.get(kind)
            if other is None:
                other = self._is_other[kind] = isinstance(value, self._others)
            if other or id(value) in self._visited:
                continue
            # A reference, so that no other object gets its id.
            self._visited[id(value)] = value
            if isinstance(value, dict):
                waiting.extend(value.values())
                continue
            if isinstance(value, (list, tuple, set, frozenset, deque)):
                waiting.extend(value)
                continue
            known = getattr(value, "__dict__", {})
            if isinstance(value, nn.Module) and hasattr(kind, "__getstate__"):
                # Without caches. Modules that cannot be pickled, such as parametrised ones, raise.
                with suppress(Exception):
                    state = value.__getstate__()
                    known = state if isinstance(state, dict) else known
            if isinstance(value, Tensor):
                self._add_tensor(value)
            elif isinstance(value, np.ndarray):
                self._add(value.ctypes.data, value.nbytes, value.ctypes.data, value.nbytes)
            elif "_flat_data" in known or isinstance(value, Dataset):
                waiting.extend(_beside(known))
                for source, indices in _sources(value, np.arange(len(value))):
                    self._images.setdefault(id(source), (source, set()))[1].update(indices.tolist())
            elif {"plugins", "mbatch"} <= known.keys():
                waiting.extend(part for name, part in known.items() if name not in _OF_STRATEGY)
                if value is not owner:
                    # The strategy of a generator, referred to by a plugin.
                    waiting.append(known["model"])
            elif not {"current_experience", "benchmark"} & known.keys():
                waiting.extend(known.values())

    def _add_tensor(self, tensor: Tensor) -> None:
        if is_lazy(tensor) or tensor.is_meta:
            return
        storage = tensor.untyped_storage()
        self._add(storage.data_ptr(), storage.nbytes(), tensor.data_ptr(), tensor.nbytes)

    def _add(self, place: int, size: int, start: int, nbytes: int) -> None:
        if place not in self._without:
            self._sizes[place] = size
            self._views.setdefault(place, {})[start, nbytes] = nbytes


def _beside(known: dict[str, Any]) -> Iterator[Tensor]:
    """Tensors of each sample of an Avalanche data set beside image and labels, such as logits."""
    for attribute in known.get("_data_attributes", {}).values():
        values = attribute.data
        if len(values) and isinstance(values[0], Tensor) and values[0].is_floating_point():
            yield from (values[i] for i in range(len(values)))


def _sources(dataset: Any, indices: NDArray[Any]) -> Iterator[tuple[Any, NDArray[Any]]]:
    """The data sets that store the images at some indices, and the indices in them."""
    known = getattr(dataset, "__dict__", {})
    if "_flat_data" in known:
        yield from _sources(known["_flat_data"], indices)
    elif "_datasets" in known:
        # Avalanche's concatenation of data sets, with an optional subset.
        own = known["_indices"]
        yield from _parts(known["_datasets"], indices if own is None else _array(own)[indices])
    elif isinstance(dataset, ConcatDataset):
        yield from _parts(dataset.datasets, indices)
    elif isinstance(dataset, Subset):
        yield from _sources(dataset.dataset, _array(dataset.indices)[indices])
    else:
        yield dataset, indices


def _parts(datasets: Iterable[Any], indices: NDArray[Any]) -> Iterator[tuple[Any, NDArray[Any]]]:
    start = 0
    for part in datasets:
        positions = indices[(indices >= start) & (indices < start + len(part))] - start
        start += len(part)
        if len(positions):
            yield from _sources(part, positions)


def _array(indices: Any) -> NDArray[Any]:
    return np.asarray(list(indices), dtype=np.int64)


def _stored_size(source: Any) -> int | None:
    """Bytes of the first image of a data set that does not wrap others."""
    data = getattr(source, "data", None)
    if isinstance(data, (Tensor, np.ndarray)) and len(data) == len(source):
        return int(data[0].nbytes)
    if hasattr(source, "samples") and hasattr(source, "loader"):
        # A folder of images, without its transforms.
        image = source.loader(source.samples[0][0])
    else:
        item = source[0]
        image = item[0] if isinstance(item, (tuple, list)) else item
    if isinstance(image, (Tensor, np.ndarray)):
        return int(image.nbytes)
    if hasattr(image, "getbands"):
        return int(len(image.getbands()) * image.width * image.height)
    return None
