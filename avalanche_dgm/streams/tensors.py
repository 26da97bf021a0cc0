"""Labelled images in memory, and Avalanche benchmarks built from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from avalanche_dgm.checks import number, whole
from avalanche_dgm.errors import DataError

if TYPE_CHECKING:
    from avalanche.benchmarks import CLScenario


@dataclass(frozen=True)
class LabelledImages:
    """A set of images, or of feature vectors, with one class each.

    Attributes:
        images: float32 tensor (N, C, H, W), intensities in [0, 1]; or float32 or float16 (N, D).
        labels: int64 tensor (N,), classes counted from 0.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> LabelledImages:
        """Returns a copy of the samples at indices (M,)."""
        return LabelledImages(self.images[index], self.labels[index])

    def of_classes(self, classes: Sequence[int]) -> LabelledImages:
        """Returns a copy of the samples of the given classes, in their original order."""
        mask = torch.isin(self.labels, torch.tensor(list(classes), dtype=torch.int64))
        return self.take(mask.nonzero().flatten())


@dataclass(frozen=True)
class Task:
    """The data of an experience of a stream.

    Attributes:
        data: Its samples.
        label: Its task label; a repeated task has the same one. An int64 tensor (N,) is the task
            label of each sample.
        name: Name for tables and progress bars; a repeated task has the same one.
    """

    data: LabelledImages
    label: int | Tensor
    name: str


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """A data set with images in one tensor and labels in a list, for fast access to single samples.

    Attributes:
        images: float32 tensor (N, C, H, W), or float32 or float16 tensor (N, D); samples are
            float32.
        targets: The N labels.
    """

    def __init__(self, data: LabelledImages) -> None:
        self.images = data.images
        self.targets: list[int] = data.labels.tolist()

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index]
        # Methods refuse other types.
        return image.float() if image.dtype == torch.float16 else image, self.targets[index]

    def __len__(self) -> int:
        return len(self.targets)


def thin(
    data: LabelledImages,
    *,
    fraction: float = 1.0,
    per_class: int | None = None,
    seed: int = 0,
) -> LabelledImages:
    """Keeps a random fraction of every class.

    Args:
        data: The whole set.
        fraction: Fraction of each class to keep, above 0 and at most 1; at least one image.
        per_class: At most this many images of each class, or ``None`` for no limit.
        seed: Determines the kept images; those of a larger fraction include those of a smaller one.

    Returns:
        The kept samples in their original order.

    Raises:
        ConfigError: ``fraction`` or ``per_class`` is out of range.
    """
    number("fraction", fraction, above=0, most=1)
    whole("images of each class", per_class, optional=True)
    if fraction == 1.0 and per_class is None:
        return data
    generator = torch.Generator().manual_seed(seed)
    chosen = _some_of_each(data.labels, fraction, generator, most=per_class)
    return data.take(chosen.nonzero().flatten())


def hold_out(
    data: LabelledImages, share: float, *, seed: int = 0
) -> tuple[LabelledImages, LabelledImages]:
    """Holds out a random fraction of every class.

    Args:
        data: The whole set.
        share: Fraction of each class to hold out, above 0 and below 1; at least one image.
        seed: Determines the held-out images.

    Returns:
        The remaining and the held-out samples, both in their original order.

    Raises:
        ConfigError: ``share`` is out of range.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = held_out(data.labels, share, generator=generator, name="test_fraction")
    return data.take((~chosen).nonzero().flatten()), data.take(chosen.nonzero().flatten())


def held_out(groups: Tensor, share: float, *, generator: torch.Generator, name: str) -> Tensor:
    """Chooses a random fraction of every group.

    Args:
        groups: int64 tensor (N,), the group of each sample.
        share: Fraction of each group, above 0 and below 1; at least one sample.
        generator: Random number generator.
        name: Name of the fraction, for the message.

    Returns:
        bool tensor (N,), true for chosen samples.

    Raises:
        ConfigError: ``share`` is out of range.
    """
    number(name, share, above=0, below=1)
    return _some_of_each(groups, share, generator)


def _some_of_each(
    groups: Tensor, share: float, generator: torch.Generator, *, most: int | None = None
) -> Tensor:
    """Mask (N,) of a random fraction of each group, at least one sample."""
    chosen = torch.zeros(len(groups), dtype=torch.bool)
    for group in groups.unique():
        positions = (groups == group).nonzero().flatten()
        count = max(1, round(share * len(positions)))
        order = torch.randperm(len(positions), generator=generator)
        chosen[positions[order[: count if most is None else min(count, most)]]] = True
    return chosen


def build_benchmark(
    train: Sequence[Task], test: Sequence[Task], *, n_classes: int, **others: Sequence[Task]
) -> CLScenario:
    """Builds an Avalanche benchmark with one experience per task.

    Args:
        train: The tasks in the order of training; a task may be repeated.
        test: The held-out samples of the tasks, each once.
        n_classes: Number of classes of the whole stream; labels lie in 0 ... n_classes - 1.
        **others: The tasks of further streams, such as ``valid``.

    Returns:
        A benchmark with ``train_stream``, ``test_stream`` and the others. In addition to
        Avalanche's attributes, every experience has ``task_name`` and ``benchmark``, its data set
        has ``task_names``, and the benchmark has ``n_classes`` and ``input_shape`` (C, H, W) or
        (D,).

    Raises:
        DataError: A task has no samples.
    """
    from avalanche.benchmarks.utils.classification_dataset import (
        TaskAwareSupervisedClassificationDataset,
    )
    from avalanche.benchmarks.utils.data_attribute import DataAttribute, TaskLabels
    from avalanche.benchmarks.utils.flat_data import ConstantSequence

    streams = {"train": train, "test": test, **others}
    # Avalanche can only concatenate data sets whose task labels have one type.
    several = any(isinstance(task.label, Tensor) for tasks in streams.values() for task in tasks)

    def as_dataset(task: Task) -> TaskAwareSupervisedClassificationDataset:
        if len(task.data) == 0:
            raise DataError(
                f"The task '{task.name}' has no images. Is one of its classes missing from the"
                " training or the test set?"
            )
        dataset = ImageDataset(task.data)
        labels: Any = ConstantSequence(task.label, len(dataset))
        if several:
            labels = (torch.zeros_like(task.data.labels) + task.label).tolist()
        # Built directly, as Avalanche's helpers add an empty transform to every access.
        return TaskAwareSupervisedClassificationDataset(
            [dataset],
            data_attributes=[
                DataAttribute(dataset.targets, "targets"),
                TaskLabels(labels),
                DataAttribute(ConstantSequence(task.name, len(dataset)), "task_names"),
            ],
        )

    benchmark = assemble(
        {name: [(as_dataset(task), task.name) for task in tasks] for name, tasks in streams.items()}
    )
    benchmark.n_classes = n_classes
    benchmark.input_shape = tuple(train[0].data.images.shape[1:])
    return benchmark


def assemble(streams: Mapping[str, Sequence[tuple[Any, str | None]]]) -> CLScenario:
    """Makes a benchmark from Avalanche data sets.

    Args:
        streams: By name: the data set and the task's name, or ``None``, of each experience.
    """
    from avalanche.benchmarks import benchmark_from_datasets, with_classes_timeline
    from avalanche.benchmarks.scenarios.task_aware import with_task_labels

    datasets = {name: [data for data, _ in parts] for name, parts in streams.items()}
    benchmark = with_task_labels(with_classes_timeline(benchmark_from_datasets(**datasets)))
    for name, parts in streams.items():
        for experience, (_, task) in zip(benchmark.streams[name], parts, strict=True):
            experience.benchmark = benchmark
            if task is not None:
                experience.task_name = task
            # A list, as Avalanche's multi-head classifier uses it as an index.
            experience.classes_in_this_experience = sorted(experience.classes_in_this_experience)
    return benchmark
