"""Robustness of classifiers to noise and occlusion (Kamra et al. 2017, Sec. 5.2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from avalanche_dgm.dashboards.views import Examples
from avalanche_dgm.errors import ConfigError, ShapeError
from avalanche_dgm.plots.predictions import examples, predict

DEVIATIONS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Standard deviations of the noise, for intensities in [0, 1]; the paper's text gives none."""
OCCLUSIONS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Widths of the occluding patch, as a fraction of the image's."""


@dataclass(frozen=True)
class Robustness:
    """Accuracies on corrupted images.

    Attributes:
        deviations: Standard deviations of the noise, in the images' units.
        occlusions: Widths of the patch, as a fraction of the image's.
        noisy: For each classifier, accuracies from 0 to 1 for each deviation.
        occluded: For each classifier, accuracies from 0 to 1 for each width.
    """

    deviations: tuple[float, ...]
    occlusions: tuple[float, ...]
    noisy: Mapping[str, tuple[float, ...]]
    occluded: Mapping[str, tuple[float, ...]]


def add_noise(images: Tensor, deviation: float, *, generator: torch.Generator) -> Tensor:
    """Adds Gaussian noise to each pixel; intensities are not clipped.

    Args:
        images: Float tensor (n, *shape).
        deviation: Standard deviation of the noise, at least 0, in the images' units.
        generator: Random number generator on the CPU. In the same state, the noise of different
            deviations only differs by a factor.

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
        fraction: Width of the patch as a fraction of W, 0 to 1; rounded to pixels, and at most H.
            If it cannot be centred exactly, it is half a pixel towards the top left.
        fill: Intensity of the patch.

    Returns:
        Float tensor (n, C, H, W), a copy.

    Raises:
        ConfigError: The fraction is below 0 or above 1.
        ShapeError: The tensor has another shape.
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

    The paper compares a long-term memory, which classifies its reconstruction of an image, with a
    plain network, both trained on all tasks jointly. A `DGDMN` classifies reconstructions with
    ``reconstruct=True``; call `sleep` first, so that no short-term memory predicts.

    Args:
        classifiers: By name: plugins, methods or LightningModules of this package, without a task
            oracle, or functions from images (n, *shape) to logits (n, K), such as networks.
        images: Float tensor (n, C, H, W), test images.
        labels: int64 tensor (n,).
        tasks: int64 tensor (n,), task labels; ``None`` for 0.
        deviations: Standard deviations of the noise, in the images' units, at least 0.
        occlusions: Widths of a central square patch, as a fraction of the image's, 0 to 1.
        fill: Intensity of the patch; black, if 0 is black.
        generator: Random number generator of the noise, on the CPU; ``None`` for one with seed 0.
            The noise is the same for all classifiers and, up to a factor, for all deviations.

    Returns:
        The accuracies.

    Raises:
        ConfigError: There is no classifier, one is not supported, or a number is out of range.
        ShapeError: The images have another shape, or there are not as many labels.
    """
    if not classifiers:
        raise ConfigError("There is no classifier. Name at least one.")
    clean = examples(images, labels, tasks)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    state = generator.get_state()
    noisy: dict[str, list[float]] = {name: [] for name in classifiers}
    occluded: dict[str, list[float]] = {name: [] for name in classifiers}
    for deviation in deviations:
        # The same noise up to a factor, so that the curve only shows the effect of its strength.
        generator.set_state(state)
        corrupted = add_noise(images, deviation, generator=generator)
        _evaluate(noisy, classifiers, dataclasses.replace(clean, images=corrupted))
    for fraction in occlusions:
        corrupted = occlude(images, fraction, fill=fill)
        _evaluate(occluded, classifiers, dataclasses.replace(clean, images=corrupted))
    return Robustness(
        tuple(deviations),
        tuple(occlusions),
        {name: tuple(values) for name, values in noisy.items()},
        {name: tuple(values) for name, values in occluded.items()},
    )


def _evaluate(
    accuracies: dict[str, list[float]], classifiers: Mapping[str, Any], corrupted: Examples
) -> None:
    for name, classifier in classifiers.items():
        right = predict(classifier, corrupted) == corrupted.labels
        accuracies[name].append(float(right.double().mean()))
