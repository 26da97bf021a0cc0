"""Files as MNIST and its like come in; `conftest.py` puts this folder on the path."""

import struct

import numpy as np


def write_idx(path, array):
    """Writes bytes of any shape in the format that torchvision reads."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())
