"""Sources of images: scikit-learn, torchvision, folders of images, any pair of datasets."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avalanche_dgm.errors import ConfigError, DataError, LabelError, ShapeError
from avalanche_dgm.streams.tensors import LabelledImages, hold_out

ENVIRONMENT_VARIABLE = "AVALANCHE_DGM_DATA"
"""The environment variable of the folder of data sets, for use without ``root``."""

TORCHVISION_SETS = ("MNIST", "FashionMNIST", "KMNIST", "SVHN", "CIFAR10", "CIFAR100")
"""The sets that can be given by name, as in torchvision."""


def find_root(name: str, root: str | os.PathLike[str] | None, *, download: bool) -> Path:
    """Returns the folder of a data set.

    Args:
        name: The data set, for the error message.
        root: The folder that the user gave, or ``None``.
        download: Whether the set may be downloaded.

    Returns:
        ``root``, else the value of ``AVALANCHE_DGM_DATA``, else, for a download, a folder in the
        user's cache.

    Raises:
        DataError: No folder is known and nothing may be downloaded.
    """
    given = root if root is not None else os.environ.get(ENVIRONMENT_VARIABLE)
    if given:
        return Path(given).expanduser()
    if download:
        return Path.home() / ".cache" / "avalanche_dgm"
    raise DataError(
        f"The folder of {name} is not known. Give it (root=..., on the command line --data-root),"
        f" or set the variable {ENVIRONMENT_VARIABLE} to it, in torchvision's layout; or allow the"
        " download with download=True (--download). The stream 'sklearn-digits' needs no data."
    )


def load_set(
    data: str | Sequence[Any],
    root: str | os.PathLike[str] | None = None,
    *,
    download: bool = False,
    seed: int = 0,
    read: bool = True,
) -> tuple[Any, Any]:
    """Loads the training and the test set of a data set.

    Args:
        data: "sklearn-digits", or one of ``TORCHVISION_SETS``, where case, hyphens and underscores
            are ignored; or a pair (training, test) of `LabelledImages`, of datasets, or of folders,
            see `load_pair`.
        root: Folder of a set of torchvision, or ``None`` for the environment's.
        download: Download a set of torchvision if it is missing.
        seed: Determines the held-out images of scikit-learn's digits.
        read: Whether to read the samples of a pair; otherwise see `open_pair`.

    Returns:
        Two `LabelledImages`; without ``read``, those of a pair as they are.

    Raises:
        ConfigError: ``data`` is none of these.
        DataError: The set is missing or damaged, or its parts do not fit together.
        ShapeError: The images have different shapes.
        LabelError: A label is negative.
    """
    names = ("sklearn-digits", *TORCHVISION_SETS)
    if isinstance(data, str):
        plain = {re.sub(r"[\W_]", "", name.lower()): name for name in names}
        name = plain.get(re.sub(r"[\W_]", "", data.lower()))
        if name == "sklearn-digits":
            return load_sklearn_digits(seed=seed)
        if name is not None:
            return load_torchvision(name, root, download=download)
    elif isinstance(data, Sequence) and len(data) == 2:
        return (load_pair if read else open_pair)(*data)
    raise ConfigError(
        f"{data!r} is not a known data set; known are {', '.join(names)}. Give any other set as a"
        " pair (training, test) of datasets or of folders, on the command line as"
        ' ["TRAIN", "TEST"].'
    )


def load_torchvision(
    name: str, root: str | os.PathLike[str] | None, *, download: bool = False
) -> tuple[LabelledImages, LabelledImages]:
    """Loads the training and the test set of a torchvision data set.

    Args:
        name: One of ``TORCHVISION_SETS``.
        root: Folder in torchvision's layout, or ``None`` for the environment's.
        download: Download the data set if it is missing.

    Returns:
        The training and the test set, intensities scaled from 0 ... 255 to [0, 1].

    Raises:
        DataError: The data set is missing or damaged.
    """
    folder = find_root(name, root, download=download)
    from torchvision import datasets

    loader = getattr(datasets, name)
    parts = []
    for train in (True, False):
        which: dict[str, Any] = (
            {"split": "train" if train else "test"} if name == "SVHN" else {"train": train}
        )
        try:
            raw = loader(root=str(folder), download=download, **which)
        except RuntimeError as error:
            raise DataError(
                f"{name} cannot be read from '{folder}': {str(error).rstrip('. ')}. Put it there"
                " in torchvision's layout, give another folder, or allow the download with"
                " download=True (--download)."
            ) from error
        labels = raw.labels if name == "SVHN" else raw.targets
        # Only CIFAR has the channels last.
        parts.append(_labelled(raw.data, labels, channels_last=name.startswith("CIFAR")))
    return parts[0], parts[1]


def load_pair(train: Any, test: Any) -> tuple[LabelledImages, LabelledImages]:
    """Reads two datasets, or two folders with a subfolder per class, into memory.

    Args:
        train: A dataset of (image, label), the image a PIL image, an array or a tensor (C, H, W);
            or the path of a folder in the layout of ``torchvision.datasets.ImageFolder``; or
            `LabelledImages`, which are returned as they are.
        test: The same for the test set.

    Returns:
        The training and the test set. Bytes are scaled to [0, 1], floats are not changed.

    Raises:
        DataError: A folder or dataset is empty, or the two folders have different classes.
        ShapeError: The images have different shapes.
        LabelError: A label is negative.
    """
    opened = open_pair(train, test)
    return _read(opened[0], "training"), _read(opened[1], "test")


def open_pair(train: Any, test: Any) -> tuple[Any, Any]:
    """The two data sets of a pair, see `load_pair`, without reading their samples.

    Raises:
        DataError: A folder has no images, or the two have different classes.
    """
    first, second = (
        _open_folder(s) if isinstance(s, (str, os.PathLike)) else s for s in (train, test)
    )
    names = [getattr(dataset, "classes", None) for dataset in (first, second)]
    if names[0] is not None and names[1] is not None and list(names[0]) != list(names[1]):
        raise DataError(
            f"The training set has the classes {list(names[0])[:10]}, the test set"
            f" {list(names[1])[:10]}. Their labels would not correspond: give both the same"
            " sub-folders."
        )
    return first, second


def load_sklearn_digits(
    *, test_fraction: float = 0.2, seed: int = 0
) -> tuple[LabelledImages, LabelledImages]:
    """Loads the 1,797 handwritten digits that scikit-learn ships, shape (1, 8, 8).

    Args:
        test_fraction: Fraction of every class that is held out, above 0 and below 1.
        seed: Determines the held-out images.

    Returns:
        The training and the test set, intensities scaled from 0 ... 16 to [0, 1].

    Raises:
        ConfigError: ``test_fraction`` is out of range.
    """
    return hold_out(_all_sklearn_digits(), test_fraction, seed=seed)


@cache
def _all_sklearn_digits() -> LabelledImages:
    """Parsed once a process, 0.5 MB; `hold_out` copies what it takes."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    return LabelledImages(
        torch.from_numpy(raw.images).to(torch.float32).div(16).unsqueeze(1),
        torch.from_numpy(raw.target).to(torch.int64),
    )


def _open_folder(path: str | os.PathLike[str]) -> Any:
    from torchvision.datasets import ImageFolder

    try:
        return ImageFolder(os.fspath(path))
    except FileNotFoundError as error:
        raise DataError(
            f"'{os.fspath(path)}' is not a folder with a subfolder of images for each class."
        ) from error


def _read(dataset: Any, part: str) -> LabelledImages:
    """Reads every sample once; ``part`` names the set in messages."""
    if isinstance(dataset, LabelledImages):
        return dataset
    if len(dataset) == 0:
        raise DataError(f"The {part} set is empty.")
    images, labels = [], []
    for index in range(len(dataset)):
        image, label = dataset[index][:2]
        images.append(as_tensor(image))
        labels.append(int(label))
        if images[-1].shape != images[0].shape:
            raise ShapeError(
                f"Image {index} of the {part} set has the shape {tuple(images[-1].shape)}, the"
                f" first one {tuple(images[0].shape)}. Add a transform that makes them equal"
                " (Resize and CenterCrop)."
            )
        if labels[-1] < 0:
            raise LabelError(
                f"Image {index} of the {part} set has the label {label}; classes are numbered from"
                " 0."
            )
    return LabelledImages(torch.stack(images), torch.tensor(labels, dtype=torch.int64))


def as_tensor(image: Any) -> Tensor:
    """Converts a PIL image, array or tensor to a float32 tensor (C, H, W)."""
    if not isinstance(image, (Tensor, np.ndarray)):
        array = np.array(image)  # a PIL image: (H, W) or (H, W, C)
        image = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    tensor = torch.as_tensor(image)
    if tensor.ndim == 2:
        tensor = tensor.unsqueeze(0)
    if tensor.ndim != 3:
        raise ShapeError(f"An image has the shape {tuple(tensor.shape)}; (C, H, W) is needed.")
    return tensor.to(torch.float32).div(255) if tensor.dtype == torch.uint8 else tensor.float()


def _labelled(data: Any, labels: Sequence[int] | Any, *, channels_last: bool) -> LabelledImages:
    """Scales an array of bytes (N, H, W), (N, C, H, W) or (N, H, W, C) to [0, 1]."""
    images = torch.as_tensor(data)
    if images.ndim == 3:
        images = images.unsqueeze(1)
    elif channels_last:
        images = images.permute(0, 3, 1, 2)
    images = images.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    return LabelledImages(images, torch.as_tensor(labels).to(torch.int64))
