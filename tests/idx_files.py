"""Files as MNIST and its like come in; `conftest.py` puts this folder on the path."""

import struct

import numpy as np


def write_idx(path, array):
    """Writes bytes of any shape in the format that torchvision reads."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def random_set(folder, *, n_train: int, n_test: int) -> None:
    """Random images with every class among them, in the files that torchvision reads."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for name, n in (("train", n_train), ("t10k", n_test)):
        arrays = {
            "images-idx3": draw.integers(0, 256, (n, 28, 28)),
            "labels-idx1": np.arange(n) % 10,
        }
        for kind, array in arrays.items():
            write_idx(folder / f"{name}-{kind}-ubyte", array)
