"""From the values of Avalanche's metrics to what Weights & Biases shows."""

from __future__ import annotations

import io
import re
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from avalanche.evaluation.metric_results import AlternativeValues, TensorImage
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from avalanche_dgm.errors import DataError


def kind_of(value: Any) -> str | None:
    """What a value is, in words for a message, or ``None`` if it cannot be shown.

    Args:
        value: Value of a metric; of alternatives, one that was chosen with `best_of`.
    """
    import wandb

    if isinstance(value, Real) or (isinstance(value, Tensor) and value.ndim == 0):
        return "numbers"
    if isinstance(value, (Image.Image, TensorImage, Figure)):
        return "images"
    if isinstance(value, Tensor):
        return "histograms"
    if isinstance(value, (wandb.data_types.WBValue, wandb.plot.CustomChart)):
        return "charts"
    return None


def best_of(value: Any) -> Any:
    """The first of a value's alternatives that can be shown, ``None`` if there is none.

    Args:
        value: Value of a metric.
    """
    if not isinstance(value, AlternativeValues):
        return value
    return next((one for one in value.alternatives if kind_of(one) is not None), None)


def converted(value: Any) -> Any:
    """What ``run.log`` takes for a value.

    Args:
        value: One that has a kind (`kind_of`).

    Returns:
        A number, an object of W&B's, or ``None`` for a tensor without finite values.
    """
    import wandb

    if isinstance(value, Real) or (isinstance(value, Tensor) and value.ndim == 0):
        # Bools and the numbers of NumPy and PyTorch become Python's.
        number = value.item() if hasattr(value, "item") else value
        return int(number) if isinstance(number, bool) else number
    if isinstance(value, Tensor):
        numbers = value.detach().flatten().to("cpu", torch.float64)
        numbers = numbers[numbers.isfinite()]
        if not len(numbers):
            return None
        return wandb.Histogram(np_histogram=np.histogram(numbers.numpy()))
    if isinstance(value, TensorImage):
        value = _from_tensor(value.image)
    if isinstance(value, Figure):
        value = _drawn(value)
    if isinstance(value, Image.Image):
        plain = value.mode in {"L", "RGB", "RGBA"}
        return wandb.Image(value if plain else value.convert("RGB"))
    return value


def weights_artifact(name: str, weights: bytes, folder: Path, at: int) -> tuple[Any, Path]:
    """Saves a value of Avalanche's ``WeightCheckpoint``, and puts it into an artifact.

    Args:
        name: Avalanche's name of the value, which ends with its experience.
        weights: The value.
        folder: Where to save it; made where it is missing.
        at: Updates of the classifier so far.

    Returns:
        The artifact, not logged yet, and the file.

    Raises:
        DataError: The name does not say which experience it is.
    """
    import wandb

    # Such as WeightCheckpoint/train_phase/train_stream/Task000/Exp000; the task may be missing.
    found = re.search(r"(?:/Task(\d+))?/Exp(\d+)$", name)
    if found is None:
        raise DataError(f"The name {name!r} of a checkpoint does not end with its experience.")
    metadata = {"experience": int(found[2]), "x_step": at}
    if found[1] is not None:
        metadata["task_id"] = int(found[1])
    path = folder / f"Model_{int(found[2])}.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(weights)
    artifact = wandb.Artifact(path.stem, type="model", metadata=metadata)
    artifact.add_file(str(path), name=f"Models/{path.name}")
    return artifact, path


def _from_tensor(image: Tensor) -> Image.Image:
    """From (C, H, W), (H, W, C) or (H, W), of bytes or of numbers in [0, 1]."""
    image = image.detach().cpu()
    if image.ndim == 3 and image.shape[0] in (1, 3, 4):
        image = image.permute(1, 2, 0)
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.is_floating_point():
        image = (image.float().nan_to_num().clamp(0, 1) * 255).round()
    return Image.fromarray(image.to(torch.uint8).contiguous().numpy())


def _drawn(figure: Figure) -> Image.Image:
    """Pixels: W&B itself would draw a figure anew, and needs a further package for it."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    file.seek(0)
    return Image.open(file)
