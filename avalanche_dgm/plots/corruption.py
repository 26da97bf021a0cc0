"""How well classifiers stand noise and occlusion (Kamra et al. 2017, Sec. 5.2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from avalanche_dgm.dashboards.views import Examples
from avalanche_dgm.errors import ConfigError, ShapeError
from avalanche_dgm.plots.predictions import answers, examples

DEVIATIONS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Standard deviations of the noise, for intensities in [0, 1]; the paper gives none in its text."""
OCCLUSIONS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Widths of the occluding patch, as a fraction of the image's."""


@dataclass(frozen=True)
class Robustness:
    """Accuracies on images that were corrupted.

    Attributes:
        deviations: Standard deviations of the noise, in the images' units.
        occlusions: Widths of the patch, as a fraction of the image's.
        noisy: For each classifier accuracies, 0 to 1, one for each deviation.
        occluded: For each classifier accuracies, 0 to 1, one for each width.
    """

    deviations: tuple[float, ...]
    occlusions: tuple[float, ...]
    noisy: Mapping[str, tuple[float, ...]]
    occluded: Mapping[str, tuple[float, ...]]


def add_noise(images: Tensor, deviation: float, *, generator: torch.Generator) -> Tensor:
    """Adds Gaussian noise to each pixel; intensities are not cut off.

    Args:
        images: Float tensor (n, *shape).
        deviation: Its standard deviation, at least 0, in the images' units.
        generator: Source of random numbers, on the CPU. In the same state it draws the same noise,
            only weaker or stronger, for another deviation.

    Returns:
        Float tensor (n, *shape).

    Raises:
        ConfigError: The deviation is negative.
    """
    if not deviation >= 0:
        raise ConfigError(f"The noise's standard deviation is {deviation}; it must be 0 or more.")
    noise = torch.randn(images.shape, generator=generator).to(images)
    return images + deviation * noise


def occlude(images: Tensor, fraction: float, *, fill: float = 0.0) -> Tensor:
    """Covers the middle of images with a square patch.

    Args:
        images: Float tensor (n, C, H, W).
        fraction: Width of the patch as a fraction of W, 0 to 1; rounded to whole pixels, and no
            higher than the image. Where it cannot lie in the very middle, it lies half a pixel
            towards the top left.
        fill: Intensity of the patch.

    Returns:
        Float tensor (n, C, H, W); the images themselves stay as they are.

    Raises:
        ConfigError: The fraction is below 0 or above 1.
        ShapeError: These are no images.
    """
    if not 0 <= fraction <= 1:
        raise ConfigError(f"The occluded fraction of the width is {fraction}; it must be 0 to 1.")
    if images.ndim != 4:
        raise ShapeError(f"Occlusion needs images (n, C, H, W), not {tuple(images.shape)}.")
    height, width = images.shape[-2:]
    side = min(int(fraction * width + 0.5), height)
    top, left = (height - side) // 2, (width - side) // 2
    covered = images.clone()
    covered[..., top : top + side, left : left + side] = fill
    return covered


def robustness(
    classifiers: Mapping[str, Any],
    images: Tensor,
    labels: Tensor,
    *,
    tasks: Tensor | None = None,
    deviations: Sequence[float] = DEVIATIONS,
    occlusions: Sequence[float] = OCCLUSIONS,
    fill: float = 0.0,
    generator: torch.Generator | None = None,
) -> Robustness:
    """Measures accuracies on noisy and on occluded images (Kamra et al. 2017, Fig. 9b and 9c).

    The paper compares a long-term memory, which classifies its own reconstruction of an image, with
    a plain network, both trained on all tasks jointly. The memory of a `DGDMN` answers in this way
    if it was made with ``reconstruct=True``; call `sleep` first, so that no short-term memory
    answers in its place.

    Args:
        classifiers: By name: plugins, methods or LightningModules of this package, asked without an
            oracle, or functions from images (n, *shape) to logits (n, K), such as networks.
        images: Float tensor (n, C, H, W), test images.
        labels: int64 tensor (n,).
        tasks: int64 tensor (n,), task labels; ``None`` for 0.
        deviations: Standard deviations of the noise, in the images' units, at least 0.
        occlusions: Widths of a central square patch, as a fraction of the image's, 0 to 1.
        fill: Intensity of the patch; black, if 0 is black.
        generator: Of the noise, on the CPU; ``None`` for one with seed 0. All classifiers see the
            same noise, which only grows from one deviation to the next.

    Returns:
        The accuracies.

    Raises:
        ConfigError: There is no classifier, one does not answer, or a number is out of range.
        ShapeError: These are no images, or not as many labels as images.
    """
    if not classifiers:
        raise ConfigError("There is no classifier. Name at least one.")
    clean = examples(images, labels, tasks)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    state = generator.get_state()
    noisy: dict[str, list[float]] = {name: [] for name in classifiers}
    occluded: dict[str, list[float]] = {name: [] for name in classifiers}
    for deviation in deviations:
        # From the same state: the curve then shows the noise's strength, and not its luck.
        generator.set_state(state)
        shown = add_noise(images, deviation, generator=generator)
        _note(noisy, classifiers, dataclasses.replace(clean, images=shown))
    for fraction in occlusions:
        shown = occlude(images, fraction, fill=fill)
        _note(occluded, classifiers, dataclasses.replace(clean, images=shown))
    return Robustness(
        tuple(deviations),
        tuple(occlusions),
        {name: tuple(values) for name, values in noisy.items()},
        {name: tuple(values) for name, values in occluded.items()},
    )


def _note(found: dict[str, list[float]], classifiers: Mapping[str, Any], shown: Examples) -> None:
    for name, classifier in classifiers.items():
        right = answers(classifier, shown) == shown.labels
        found[name].append(float(right.double().mean()))
