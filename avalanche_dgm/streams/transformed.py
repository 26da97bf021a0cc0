"""The two streams of transformed digits in the DGDMN paper (Kamra et al. 2017, Sec. 8.1)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from avalanche_dgm.checks import whole
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.streams.sources import load_set
from avalanche_dgm.streams.tensors import LabelledImages, Task, build_benchmark, thin

if TYPE_CHECKING:
    from avalanche.benchmarks import CLScenario

Transform = Callable[[Tensor], Tensor]


def permnist(
    root: str | os.PathLike[str] | None = None,
    *,
    n_train: int = 30_000,
    repeat: Sequence[int] = (),
    task_labels: bool = False,
    fraction: float = 1.0,
    n_train_per_class: int | None = None,
    seed: int = 0,
    download: bool = False,
) -> CLScenario:
    """Permnist: six transforms of MNIST, all with the same ten labels.

    The tasks are the original images; with the central 8x8 patch black, white, or permuted; with
    the central 12x12 patch permuted; and mirrored. Each draws its own training images.

    Args:
        root: Folder with MNIST in torchvision's layout; ``None`` for ``AVALANCHE_DGM_DATA``.
        n_train: Training images of each task, drawn at random; at most all of MNIST.
        repeat: Tasks (0 to 5) to repeat, with the same images, after the sixth; in the paper the
            first and the last, ``(0, 5)``. The test stream always has six experiences.
        task_labels: Give every task its own task label, which repetitions share (otherwise all have
            0).
        fraction: Fraction of each class's training and test images to keep.
        n_train_per_class: At most this many training images of each class and task.
        seed: Determines the permutations and the drawn images.
        download: Download MNIST if it is missing.

    Returns:
        A benchmark of images (1, 28, 28) in [0, 1].

    Raises:
        DataError: MNIST cannot be found.
        ConfigError: An option is out of range.
    """
    generator = torch.Generator().manual_seed(seed)
    transforms: list[tuple[str, Transform]] = [
        ("original", _same),
        ("black 8x8 patch", _patch(8, lambda x: torch.zeros_like(x))),
        ("white 8x8 patch", _patch(8, lambda x: torch.ones_like(x))),
        ("permuted 8x8 patch", _patch(8, _permuted(8, generator))),
        ("permuted 12x12 patch", _patch(12, _permuted(12, generator))),
        ("mirrored", _mirrored),
    ]
    whole("n_train", n_train)
    unknown = [task for task in repeat if not 0 <= task < len(transforms)]
    if unknown:
        raise ConfigError(f"repeat has the tasks {unknown}; Permnist has the tasks 0 to 5.")
    train, test = load_set("MNIST", root, download=download)
    test = thin(test, fraction=fraction, seed=seed)

    train_tasks, test_tasks = [], []
    for number, (name, transform) in enumerate(transforms):
        drawn = torch.randperm(len(train), generator=generator)[:n_train].sort().values
        kept = thin(
            train.take(drawn), fraction=fraction, per_class=n_train_per_class, seed=seed + number
        )
        label = number if task_labels else 0
        train_tasks.append(Task(_transformed(kept, transform), label, name))
        test_tasks.append(Task(_transformed(test, transform), label, name))
    train_tasks += [train_tasks[task] for task in repeat]
    return build_benchmark(train_tasks, test_tasks, n_classes=10)


def tdigits(
    root: str | os.PathLike[str] | None = None,
    *,
    n_labels: int = 40,
    images_per_task: int | None = None,
    task_labels: bool = False,
    fraction: float = 1.0,
    seed: int = 0,
    download: bool = False,
) -> CLScenario:
    """TDigits: 40 tasks, each one digit of MNIST in one of four orientations.

    First the ten digits, then their mirror images, upside-down images and reflections about the
    main diagonal. The paper's 240,000 images are all of MNIST four times, on average 6,000 per
    task.

    Args:
        root: Folder with MNIST in torchvision's layout; ``None`` for ``AVALANCHE_DGM_DATA``.
        n_labels: 40, a class for each task, or 10, the digits. The paper does not say which it
            used.
        images_per_task: At most this many training images per task; ``None`` for all of the digit
            (5,421 to 6,742).
        task_labels: Give every task its own task label (otherwise all have 0).
        fraction: Fraction of each task's training and test images to keep.
        seed: Determines the kept images, which all four orientations share.
        download: Download MNIST if it is missing.

    Returns:
        A benchmark of images (1, 28, 28) in [0, 1].

    Raises:
        DataError: MNIST cannot be found.
        ConfigError: An option is out of range.
    """
    if n_labels not in (10, 40):
        raise ConfigError(f"n_labels is {n_labels}; TDigits has 40 or 10 labels.")
    train, test = load_set("MNIST", root, download=download)
    train = thin(train, fraction=fraction, per_class=images_per_task, seed=seed)
    test = thin(test, fraction=fraction, seed=seed)
    orientations: list[tuple[str, Transform]] = [
        ("", _same),
        (" mirrored", _mirrored),
        (" upside down", lambda images: images.flip(-2)),
        (" about the diagonal", lambda images: images.transpose(-2, -1).contiguous()),
    ]

    def tasks(data: LabelledImages) -> list[Task]:
        parts = []
        for i, (name, transform) in enumerate(orientations):
            for digit in range(10):
                images = _transformed(data.of_classes([digit]), transform)
                if n_labels == 40:
                    images = LabelledImages(images.images, images.labels + 10 * i)
                label = 10 * i + digit if task_labels else 0
                parts.append(Task(images, label, f"digit {digit}{name}"))
        return parts

    return build_benchmark(tasks(train), tasks(test), n_classes=n_labels)


def _transformed(data: LabelledImages, transform: Transform) -> LabelledImages:
    return LabelledImages(transform(data.images), data.labels)


def _same(images: Tensor) -> Tensor:
    return images


def _mirrored(images: Tensor) -> Tensor:
    return images.flip(-1)


def _patch(size: int, change: Transform) -> Transform:
    """Applies ``change`` to the central ``size`` x ``size`` pixels of images (N, C, H, W)."""

    def transform(images: Tensor) -> Tensor:
        top, left = (images.shape[-2] - size) // 2, (images.shape[-1] - size) // 2
        where = (..., slice(top, top + size), slice(left, left + size))
        changed = images.clone()
        changed[where] = change(images[where])
        return changed

    return transform


def _permuted(size: int, generator: torch.Generator) -> Transform:
    """Permutes the pixels of patches (N, C, size, size), by one random permutation."""
    order = torch.randperm(size * size, generator=generator)
    return lambda patch: patch.flatten(-2)[..., order].unflatten(-1, (size, size))
