"""Reads COIL-20 (Nene, Nayar & Murase 1996): 20 objects, an image every 5 degrees."""

from __future__ import annotations

import os

import numpy as np
import torch

from avalanche_dgm.checks import number, whole
from avalanche_dgm.errors import DataError
from avalanche_dgm.streams.rendering import N_ROTATIONS, Views

#: Images of one object, 5 degrees apart.
N_POSES = 72
#: Consecutive poses of one rotation of 45 degrees, for as many rotations as in iLab-20M.
_POSES = N_POSES // N_ROTATIONS


def load_coil20(
    path: str | os.PathLike[str], *, n_train: int = 7, n_test: int = 2, seed: int = 0
) -> tuple[Views, Views]:
    """Reads COIL-20 as categories (objects) and viewpoints (rotations of 45 degrees).

    Training and test images show the same objects from different angles. Some objects look the same
    from all sides, so their rotation cannot be recognised.

    Args:
        path: A file of ``numpy.savez`` with ``images``, uint8 (objects, 72, H, W), 5 degrees apart.
        n_train: At most this many training images of each object and rotation.
        n_test: Held-out images of each object and rotation, at most 8 of 9.
        seed: Determines the held-out and the kept images.

    Returns:
        The training and the test images, float tensors (N, 1, H, W) in [0, 1].

    Raises:
        ConfigError: A number is out of range.
        DataError: The file is not of this format.
    """
    whole("n_train", n_train)
    number("n_test", n_test, least=1, below=_POSES)
    try:
        with np.load(path, allow_pickle=False) as file:
            pixels = torch.from_numpy(file["images"])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"'{os.fspath(path)}' cannot be read as COIL-20: {error}. A file of numpy.savez with"
            f" images (objects, {N_POSES}, height, width) is needed."
        ) from error
    if pixels.ndim != 4 or pixels.shape[1] != N_POSES or pixels.dtype != torch.uint8:
        raise DataError(
            f"'{os.fspath(path)}' has {pixels.dtype} images of shape {tuple(pixels.shape)};"
            f" torch.uint8 and (objects, {N_POSES}, height, width) are needed."
        )
    generator = torch.Generator().manual_seed(seed)
    cells = len(pixels) * N_ROTATIONS
    order = torch.rand(cells, _POSES, generator=generator).argsort(dim=1)
    cell = torch.arange(cells)[:, None].expand(-1, _POSES)
    flat = pixels.flatten(0, 1)
    parts = []
    for chosen in (slice(n_test, n_test + n_train), slice(n_test)):
        rows = (cell * _POSES + order)[:, chosen].flatten()
        each = cell[:, chosen].flatten()
        images = flat[rows].unsqueeze(1).float() / 255
        parts.append(Views(images, each // N_ROTATIONS, each % N_ROTATIONS))
    return parts[0], parts[1]
