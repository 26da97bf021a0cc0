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
        """Returns a copy of the samples at the given positions.

        Args:
            index: int64 tensor (M,), positions from 0 to N - 1.
        """
        return LabelledImages(self.images[index], self.labels[index])

    def of_classes(self, classes: Sequence[int]) -> LabelledImages:
        """Returns a copy of the samples of the given classes, in their order here."""
        wanted = torch.isin(self.labels, torch.tensor(list(classes), dtype=torch.int64))
        return self.take(wanted.nonzero().flatten())


@dataclass(frozen=True)
class Task:
    """What one experience of a stream holds.

    Attributes:
        data: Its samples.
        label: Its task label; the same task met again has the same one. An int64 tensor (N,) gives
            each sample one of its own.
        name: How tables and progress bars call it; the same task met again has the same one.
    """

    data: LabelledImages
    label: int | Tensor
    name: str


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Images in one tensor, labels in one list: the cheapest access to one sample that there is.

    Avalanche reads samples one by one, so the label is kept as the plain number that it wants.

    Attributes:
        images: float32 tensor (N, C, H, W), or (N, D), which may be of half precision; samples
            are float32 then.
        targets: The N classes.
    """

    def __init__(self, data: LabelledImages) -> None:
        self.images = data.images
        self.targets: list[int] = data.labels.tolist()

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index]
        # Other types are the method's to refuse.
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
    """Keeps a random part of every class, so that the classes keep their proportions.

    Args:
        data: The whole set.
        fraction: Share of each class to keep, above 0 and at most 1; at least one image stays.
        per_class: At most this many images of each class, or ``None`` for no limit.
        seed: Which images are kept; a larger part contains the smaller ones of the same seed.

    Returns:
        The kept samples in their old order.

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
    """Holds out a random part of every class.

    Args:
        data: The whole set.
        share: Share of each class to hold out, above 0 and below 1; at least one image is.
        seed: Which images are held out.

    Returns:
        The rest and the part held out, both in their old order.

    Raises:
        ConfigError: ``share`` is out of range.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = held_out(data.labels, share, generator=generator, name="test_fraction")
    return data.take((~chosen).nonzero().flatten()), data.take(chosen.nonzero().flatten())


def held_out(groups: Tensor, share: float, *, generator: torch.Generator, name: str) -> Tensor:
    """Chooses a random part of every group.

    Args:
        groups: int64 tensor (N,), the group of each sample.
        share: Share of each group, above 0 and below 1; at least one sample.
        generator: Chooses.
        name: What the share is, for the message.

    Returns:
        bool tensor (N,), true for the chosen ones.

    Raises:
        ConfigError: ``share`` is out of range.
    """
    number(name, share, above=0, below=1)
    return _some_of_each(groups, share, generator)


def _some_of_each(
    groups: Tensor, share: float, generator: torch.Generator, *, most: int | None = None
) -> Tensor:
    """Which samples (N,) are a random share of their group, at least one of each."""
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
    """Builds an Avalanche benchmark, one experience a task.

    Args:
        train: The tasks in the order in which they are met; a task may come more than once.
        test: The held-out samples of the tasks, each once.
        n_classes: Number of classes of the whole stream; labels lie in 0 ... n_classes - 1.
        **others: The tasks of further streams, such as ``valid``.

    Returns:
        A benchmark with ``train_stream``, ``test_stream`` and the others. Besides Avalanche's own
        attributes every experience has ``task_name`` and ``benchmark``, its data set the attribute
        ``task_names``, and the benchmark has ``n_classes`` and ``input_shape`` (C, H, W) or (D,).

    Raises:
        DataError: A task holds no samples.
    """
    from avalanche.benchmarks.utils.classification_dataset import (
        TaskAwareSupervisedClassificationDataset,
    )
    from avalanche.benchmarks.utils.data_attribute import DataAttribute, TaskLabels
    from avalanche.benchmarks.utils.flat_data import ConstantSequence

    streams = {"train": train, "test": test, **others}
    # Avalanche joins data sets whose labels are of one kind only.
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
        # Built directly: Avalanche's helpers add an empty layer of transforms to every access.
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
    """Makes a benchmark of Avalanche's data sets.

    Args:
        streams: By name, the data set and the task's name, if it has one, of each experience.
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
            # Avalanche's multi-head classifier indexes with them, which a set cannot.
            experience.classes_in_this_experience = sorted(experience.classes_in_this_experience)
    return benchmark
