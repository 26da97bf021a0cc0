"""Class-incremental streams: every experience has new classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import torch

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.streams.features import FeatureStore
from avalanche_dgm.streams.front_ends import front_end as make_front_end
from avalanche_dgm.streams.sources import find_root, load_set, load_sklearn_digits
from avalanche_dgm.streams.tensors import (
    ImageDataset,
    LabelledImages,
    Task,
    build_benchmark,
    thin,
)

if TYPE_CHECKING:
    from avalanche.benchmarks import CLScenario
    from torch import nn
    from typing_extensions import Unpack

    from avalanche_dgm.streams.front_ends import FrontEnd


class SplitOptions(TypedDict, total=False):
    """The options of `split`."""

    n_experiences: int
    class_order: Sequence[int] | None
    shuffle: bool
    task_labels: bool
    fraction: float
    n_train_per_class: int | None
    seed: int
    download: bool
    front_end: FrontEnd | nn.Module | str | None
    cache: str | os.PathLike[str] | None


def sklearn_digits(*, test_fraction: float = 0.2, **options: Unpack[SplitOptions]) -> CLScenario:
    """The 8x8 handwritten digits that scikit-learn ships (1,797 images): nothing to download.

    Args:
        test_fraction: Fraction of every class held out for ``test_stream``.
        **options: The options of ``split``. By default there are ten experiences. The ``seed`` also
            determines the held-out images.

    Returns:
        A benchmark of images (1, 8, 8) in [0, 1].

    Raises:
        ConfigError: An argument is out of range or does not fit ten classes.
    """
    parts = load_sklearn_digits(test_fraction=test_fraction, seed=options.get("seed", 0))
    options.setdefault("n_experiences", 10)
    return split(parts, **options)


def digits(
    root: str | os.PathLike[str] | None = None, **options: Unpack[SplitOptions]
) -> CLScenario:
    """Digits of the DGDMN paper: task t is all images of MNIST's digit t (Kamra et al. 2017, 8.1).

    Args:
        root: Folder with MNIST in torchvision's layout; ``None`` for ``AVALANCHE_DGM_DATA``.
        **options: The options of ``split``.

    Returns:
        A benchmark of ten experiences with one class each, images (1, 28, 28) in [0, 1].

    Raises:
        DataError: MNIST cannot be found.
        ConfigError: An option is out of range.
    """
    options.setdefault("n_experiences", 10)
    return split("MNIST", root, **options)


def photos(
    root: str | os.PathLike[str] | None = None, **options: Unpack[SplitOptions]
) -> CLScenario:
    """Your own photographs: a folder with ``train/<class>/`` and ``test/<class>/``.

    Args:
        root: The folder; ``None`` for ``AVALANCHE_DGM_DATA``.
        **options: The options of ``split``. With ``front_end`` the stream is of features, and
            photographs may be of any sizes.

    Returns:
        See ``split``.

    Raises:
        DataError: The folder cannot be found, or has no images.
        ConfigError: An option is out of range.
    """
    folder = find_root("the folder of photographs", root, download=False)
    return split((folder / "train", folder / "test"), **options)


def split(
    data: str | Sequence[Any],
    root: str | os.PathLike[str] | None = None,
    *,
    n_experiences: int = 5,
    class_order: Sequence[int] | None = None,
    shuffle: bool = False,
    task_labels: bool = False,
    fraction: float = 1.0,
    n_train_per_class: int | None = None,
    seed: int = 0,
    download: bool = False,
    front_end: FrontEnd | nn.Module | str | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> CLScenario:
    """Splits a classification set into experiences with equally many classes.

    Args:
        data: "MNIST", "FashionMNIST", "KMNIST", "SVHN", "CIFAR10", "CIFAR100" or "sklearn-digits",
            where case, hyphens and underscores are ignored; or a pair (training, test) of datasets
            of (image, label) or of folders with a subfolder per class.
        root: Folder of a set given by name; ``None`` for ``AVALANCHE_DGM_DATA``.
        n_experiences: Number of experiences; must divide the number of classes.
        class_order: The classes in order of appearance; ``None`` for ascending.
        shuffle: Draw the order from ``seed`` instead.
        task_labels: Give every experience its own task label (otherwise all have 0).
        fraction: Fraction of each class's training and test images to keep.
        n_train_per_class: At most this many training images of each class.
        seed: Determines the kept images and a shuffled order.
        download: Download a data set given by name if it is missing.
        front_end: A frozen network, or an argument of `front_end` such as ``"timm/resnet18"``; the
            stream consists of its features, computed once. Images may then have any sizes, and are
            read batch by batch.
        cache: Folder for storing the features; see `feature_stream`.

    Returns:
        A benchmark whose test stream has the set's test images. Images are (C, H, W); bytes are
        scaled to [0, 1]. Features are (D,).

    Raises:
        DataError: The data set cannot be found or read.
        ConfigError: An option is out of range.
    """
    read = front_end is None
    train, test = load_set(data, root, download=download, seed=seed, read=read)
    if front_end is not None:
        store = FeatureStore(make_front_end(front_end), cache=cache)
        train, test = (
            store.features_of(
                ImageDataset(part) if isinstance(part, LabelledImages) else part,
                bar=f"features, {name}",
            )
            for part, name in ((train, "training"), (test, "test"))
        )
    n_classes = 1 + int(max(train.labels.max(), test.labels.max()))
    order = _order(n_classes, class_order, shuffle=shuffle, seed=seed)
    if n_experiences < 1 or n_classes % n_experiences:
        raise ConfigError(
            f"{n_classes} classes cannot be split into {n_experiences} equal experiences. Use a"
            f" divisor of {n_classes}."
        )
    size = n_classes // n_experiences
    groups = [order[start : start + size] for start in range(0, n_classes, size)]
    train = thin(train, fraction=fraction, per_class=n_train_per_class, seed=seed)
    test = thin(test, fraction=fraction, seed=seed)

    def tasks(data: LabelledImages) -> list[Task]:
        return [
            Task(
                data.of_classes(group),
                position if task_labels else 0,
                f"class{'es' if size > 1 else ''} {', '.join(map(str, group))}",
            )
            for position, group in enumerate(groups)
        ]

    return build_benchmark(tasks(train), tasks(test), n_classes=n_classes)


def _order(
    n_classes: int, class_order: Sequence[int] | None, *, shuffle: bool, seed: int
) -> list[int]:
    if class_order is not None:
        if shuffle:
            raise ConfigError("Give either class_order or shuffle=True, not both.")
        order = [int(label) for label in class_order]
        if sorted(order) != list(range(n_classes)):
            raise ConfigError(
                f"class_order is {order}; it must name each of the classes 0 to {n_classes - 1}"
                " once."
            )
        return order
    if shuffle:
        return torch.randperm(n_classes, generator=torch.Generator().manual_seed(seed)).tolist()
    return list(range(n_classes))
