"""Reading of samples, batches and experiences from any of Avalanche's benchmark builders."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from avalanche_dgm.errors import DataError, LabelError
from avalanche_dgm.randomness import global_state, seed_globally, set_global_state

#: Name of a dataset's attribute for task labels in Avalanche.
_TASK_LABELS = "targets_task_labels"
#: Name of a dataset's attribute for task names in the streams of this package.
TASK_NAMES = "task_names"

#: A function from samples to a batch.
Collate = Callable[[list[Any]], Any]

#: Cache of labels that had to be read sample by sample.
_READ: dict[int, tuple[weakref.ref[Any], list[int]]] = {}


def task_column(experience: Any) -> int | None:
    """The index of the task label in an experience's samples, from the end, such as -1.

    ``None`` without task labels; other columns, such as sample indices, do not count.
    """
    dataset = experience.dataset
    appended = [
        name
        for name, attribute in getattr(dataset, "_data_attributes", {}).items()
        if attribute.use_in_getitem
    ]
    if _TASK_LABELS in appended:
        return appended.index(_TASK_LABELS) - len(appended)
    # Avalanche uses the last column of such an experience as task labels.
    return -1 if hasattr(experience, "task_labels") else None


def find_tasks(batch: Sequence[Tensor], column: int | None) -> int | None:
    """The index of the task labels in a batch, ``None`` if there are none; see `task_column`."""
    return None if column is None or len(batch) < 3 else max(len(batch) + column, 2)


def split_batch(batch: Sequence[Tensor], column: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Returns images (n, *shape), labels (n,) and task labels (n,) of a batch.

    Without a column of task labels (see `task_column`), they are 0.
    """
    images, labels = torch.as_tensor(batch[0]), torch.as_tensor(batch[1])
    place = find_tasks(batch, column)
    if place is not None:
        return images, labels, torch.as_tensor(batch[place])
    return images, labels, torch.zeros(len(images), dtype=torch.int64, device=labels.device)


def collate_of(dataset: Any) -> Collate:
    """The collate function of a dataset."""
    return getattr(dataset, "collate_fn", None) or default_collate


def sample_of(dataset: Any, i: int) -> Sequence[Tensor]:
    """A batch of one sample, collated with the dataset's collate function.

    Raises:
        DataError: The sample cannot be converted to tensors.
    """
    sample = dataset[i]
    # A collate function may raise, or return samples unchanged that it cannot convert.
    with suppress(TypeError):
        batch = columns_of(collate_of(dataset)([sample]))
        if isinstance(batch[0], Tensor):
            return batch
    image = sample[0] if isinstance(sample, Sequence) else sample
    raise DataError(
        f"The samples have images of type {type(image).__name__}, not tensors. Convert them with a"
        " transform (torchvision.transforms.ToTensor), or give the dataset a collate_fn."
    )


def columns_of(batch: Any) -> Sequence[Tensor]:
    """Returns a batch, checked to have images and labels.

    Raises:
        DataError: The batch lacks images or labels.
    """
    if not isinstance(batch, Sequence) or len(batch) < 2:
        raise DataError(
            f"A batch of the dataset is a {type(batch).__name__}; a tuple that begins with images"
            " and labels is needed. Give the dataset a collate_fn that returns one."
        )
    return batch


def labels_of(dataset: Any) -> list[int]:
    """The class of each sample of a dataset, from ``targets`` or, without, from the samples."""
    targets = getattr(dataset, "targets", None)
    if targets is not None:
        return [int(label) for label in targets]
    cached = _READ.get(id(dataset))
    if cached is not None and cached[0]() is dataset:
        return cached[1]
    evaluated = dataset.eval()
    with seeded(0):
        labels = [int(sample_of(evaluated, i)[1]) for i in range(len(evaluated))]
    for key in [key for key, (reference, _) in _READ.items() if reference() is None]:
        del _READ[key]
    _READ[id(dataset)] = weakref.ref(dataset), labels
    return labels


def classes_of(experience: Any) -> tuple[int, ...]:
    """The classes of an experience, in ascending order; without a list, those of its samples.

    Raises:
        LabelError: The classes are not numbers.
    """
    classes = getattr(experience, "classes_in_this_experience", None)
    if classes is None:
        targets = getattr(experience.dataset, "targets", None)
        classes = labels_of(experience.dataset) if targets is None else _distinct(targets)
    try:
        return tuple(sorted({int(c) for c in classes}))
    except ValueError as error:
        raise LabelError(
            f"The experience has classes that are not integers ({error}). Give each sample an int64"
            " class index."
        ) from error


def task_labels_of(experience: Any) -> tuple[int, ...]:
    """The task labels of an experience, in ascending order; 0 if it has none."""
    labels = getattr(experience, "task_labels", None)
    if labels is None and task_column(experience) is not None:
        labels = _distinct(getattr(experience.dataset, _TASK_LABELS))
    return tuple(sorted({int(t) for t in labels})) if labels else (0,)


def _distinct(values: Any) -> Iterable[Any]:
    """The distinct values of a dataset's attribute; Avalanche's attributes cache them."""
    return getattr(values, "uniques", values) if len(values) else ()


def task_name_of(experience: Any) -> str | None:
    """The name of an experience's task, ``None`` if the stream has no task names.

    Parts of an online stream have it in their datasets.
    """
    own = getattr(experience, "task_name", None)
    if own is not None:
        return str(own)
    names = getattr(experience.dataset, TASK_NAMES, None)
    return " + ".join(sorted(map(str, _distinct(names)))) if names else None


def with_class_labels(experience: Any) -> Any:
    """An experience with lists of its classes and task labels, which dynamic models read.

    Returns:
        The experience, or a copy if it lacked a list.
    """
    lists = {
        "classes_in_this_experience": classes_of(experience),
        "task_labels": task_labels_of(experience),
    }
    missing = {name: list(v) for name, v in lists.items() if not hasattr(experience, name)}
    if missing:
        experience = copy.copy(experience)
        for name, value in missing.items():
            setattr(experience, name, value)
    return experience


def stream_of(experience: Any) -> Any:
    """The stream of an experience, whole if the experience is of a slice, or ``None``."""
    # Avalanche asserts that an experience has a stream.
    with suppress(AttributeError, AssertionError):
        stream = experience.origin_stream
        if getattr(stream, "slice_ids", None) is None:
            return stream
        # Experiences of a slice have their positions in the whole stream.
        return getattr(stream.benchmark, "streams", {}).get(stream.name, stream)
    return None


def experiences_of(stream: Any) -> list[Any] | None:
    """The experiences of a stream, ``None`` if it is lazy."""
    source = getattr(stream, "exps_iter", stream)
    finite = isinstance(source, Sized) and isinstance(stream, Iterable)
    return list(stream) if finite else None


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds the global generators, and restores them afterwards."""
    before = global_state()
    seed_globally(seed)
    try:
        yield
    finally:
        set_global_state(before)
