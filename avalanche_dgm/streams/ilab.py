"""Reads photographs of iLab-20M (Borji, Izadi & Itti, CVPR 2016)."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from avalanche_dgm.checks import whole
from avalanche_dgm.errors import DataError
from avalanche_dgm.streams.rendering import N_ROTATIONS, Views

# File names as in the set's tools (tfurlanello/ActLTM on GitHub, iLab_genImgFileName.m,
# iLab_parseFileName.m and iLab_splitImages.m), for example
# car-i0100-b0025-c01-r04-l0-f0-crop256x256.png, with cameras 0 to 10, rotations 0 to 7, lights 0 to
# 4 and focus 0 to 2; only crops have the part after the focus. The folders
# category/category-instance/background are not needed.
_NAME = re.compile(
    r"([A-Za-z0-9_]+)-i(\d+)-b\d+-c0*(10|\d)-r0*([0-7])-l\d+-f\d+(?:-[^.]*)?\.(?:png|jpe?g|ppm)"
)
#: Fraction of a category's objects that is held out.
_HELD_OUT = 0.2


class ILabName(NamedTuple):
    """The parts of a file name of iLab-20M that are needed.

    Attributes:
        category: Such as "car".
        instance: Number of the object within its category.
        viewpoint: 8 camera + rotation, 0 to 87.
    """

    category: str
    instance: int
    viewpoint: int

    @classmethod
    def parse(cls, name: str) -> ILabName | None:
        """Parses a file name without the folder; ``None`` if it is not a name of this set."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        category, instance, camera, rotation = match.groups()
        return cls(category, int(instance), N_ROTATIONS * int(camera) + int(rotation))


def load_ilab(
    root: str | os.PathLike[str],
    *,
    n_train: int = 8,
    n_test: int = 2,
    size: int = 32,
    channels: int = 1,
    seed: int = 0,
) -> tuple[Views, Views]:
    """Reads a part of iLab-20M: the first ten categories in alphabetical order.

    Training and test images show different objects: a fifth of each category's objects, at least
    one, is held out.

    Args:
        root: Folder with the photographs, at any depth.
        n_train: At most this many training images of each category and viewpoint.
        n_test: At most this many test images of each category and viewpoint.
        size: Height and width to which the central square of each photograph is resized.
        channels: 1 for grey, 3 for colour.
        seed: Determines the held-out objects and the photographs.

    Returns:
        The training and the test images, intensities in [0, 1].

    Raises:
        ConfigError: An argument is out of range.
        DataError: There are no such photographs, too few objects, or damaged files.
    """
    whole("n_train", n_train)
    whole("n_test", n_test)
    files_by_class: dict[str, list[tuple[ILabName, Path]]] = defaultdict(list)
    for folder, _, files in os.walk(Path(root).expanduser()):
        for file in files:
            name = ILabName.parse(file)
            if name is not None:
                files_by_class[name.category].append((name, Path(folder) / file))
    if not files_by_class:
        raise DataError(
            f"'{os.fspath(root)}' has no photographs of iLab-20M. Their names are like"
            " car-i0100-b0025-c01-r04-l0-f0.png."
        )
    generator = torch.Generator().manual_seed(seed)
    parts: tuple[list[tuple[int, ILabName, Path]], ...] = ([], [])
    for label, category in enumerate(sorted(files_by_class)[:10]):
        photographs = sorted(files_by_class[category], key=lambda pair: pair[1])
        held_out = _held_out(category, photographs, generator)
        for part, limit, tested in zip(parts, (n_train, n_test), (False, True), strict=True):
            taken: dict[int, int] = defaultdict(int)
            for position in torch.randperm(len(photographs), generator=generator).tolist():
                name, path = photographs[position]
                if (name.instance in held_out) == tested and taken[name.viewpoint] < limit:
                    taken[name.viewpoint] += 1
                    part.append((label, name, path))
    return _read(parts[0], size, channels), _read(parts[1], size, channels)


def _held_out(
    category: str, photographs: Sequence[tuple[ILabName, Path]], generator: torch.Generator
) -> set[int]:
    instances = sorted({name.instance for name, _ in photographs})
    if len(instances) < 2:
        raise DataError(
            f"The category {category} has photographs of only one object; at least two are needed,"
            " as training and test images show different objects."
        )
    count = min(len(instances) - 1, max(1, round(_HELD_OUT * len(instances))))
    order = torch.randperm(len(instances), generator=generator)[:count]
    return {instances[i] for i in order.tolist()}


def _read(part: Sequence[tuple[int, ILabName, Path]], size: int, channels: int) -> Views:
    images = torch.empty(len(part), channels, size, size)
    for row, (_, _, path) in enumerate(part):
        images[row] = _open(path, size, channels)
    return Views(
        images,
        torch.tensor([label for label, _, _ in part], dtype=torch.int64),
        torch.tensor([name.viewpoint for _, name, _ in part], dtype=torch.int64),
    )


def _open(path: Path, size: int, channels: int) -> Tensor:
    """Reads the central square of a photograph: float tensor (channels, size, size)."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            square = image.convert("L" if channels == 1 else "RGB").crop(
                (left, top, left + side, top + side)
            )
            pixels = np.array(square.resize((size, size), Image.Resampling.BILINEAR))
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error}") from error
    tensor = torch.from_numpy(pixels).float().div_(255)
    return tensor.unsqueeze(0) if channels == 1 else tensor.permute(2, 0, 1)
