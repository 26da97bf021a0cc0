"""Figures of reconstructions, latents and samples of memories (Kamra et al. 2017, Fig. 9 to 11)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from avalanche_dgm.checks import whole
from avalanche_dgm.dashboards import views
from avalanche_dgm.dashboards.drawing import draw_points, new_figure
from avalanche_dgm.errors import ConfigError, LabelError, ShapeError
from avalanche_dgm.experiments import figures
from avalanche_dgm.plots.corruption import Robustness, add_noise, occlude
from avalanche_dgm.plots.predictions import examples, method_of

#: Minimum number of points for t-SNE.
_LEAST_POINTS = 5


def resilience(
    measured: Robustness,
    memory: Any = None,
    images: Tensor | None = None,
    *,
    tasks: Tensor | None = None,
    deviation: float = 0.5,
    occlusion: float = 0.4,
    fill: float = 0.0,
    generator: torch.Generator | None = None,
) -> Figure:
    """Draws accuracy on corrupted images, and a memory's reconstructions of some (Fig. 9).

    Args:
        measured: Result of `robustness`, for panels (b) and (c).
        memory: A plugin, a method or a LightningModule that reconstructs, for panel (a); ``None``
            to omit that panel.
        images: Float tensor (n, C, H, W), a few images for panel (a), such as one of each class.
        tasks: int64 tensor (n,), task labels; ``None`` for 0.
        deviation: Standard deviation of their noise, in the images' units.
        occlusion: Width of their occluding patch, as a fraction of the images', 0 to 1.
        fill: Intensity of the patch.
        generator: Random number generator of the noise, on the CPU; ``None`` for one with seed 0.

    Raises:
        ConfigError: The memory does not reconstruct (yet), there are no images for it, or a number
            is out of range.
        ShapeError: The images have another shape.
    """
    if memory is None and images is None:
        figure = new_figure(9.0, 3.4)
        _draw_robustness(list(figure.subplots(1, 2)), measured)
        return figure
    if memory is None or images is None:
        raise ConfigError("Panel (a) needs both a memory that reconstructs and a few images.")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    noisy = add_noise(images, deviation, generator=generator)
    covered = occlude(images, occlusion, fill=fill)
    rows = {
        f"noise, sd {deviation:g}": noisy,
        "reconstructed": _reconstructed(memory, noisy, tasks),
        f"patch, {occlusion:g} of the width": covered,
        "reconstructed ": _reconstructed(memory, covered, tasks),
    }
    height, width = images.shape[-2:]
    wide = 9.0
    figure = new_figure(wide, 3.4 + min(5.0, 4 * (wide - 1.8) * height / (len(images) * width)))
    grid = figure.add_gridspec(2, 2, height_ratios=[figure.get_figheight() - 3.2, 3.2])
    axes = figure.add_subplot(grid[0, :])
    # Clipped to the range of the images.
    figures.draw_rows(
        axes,
        {name: row.float().cpu().numpy() for name, row in rows.items()},
        low=float(images.min()),
        high=float(images.max()),
    )
    axes.set_title("(a) corrupted images and their reconstructions", fontsize=10)
    _draw_robustness([figure.add_subplot(grid[1, i]) for i in (0, 1)], measured)
    return figure


def latents(
    memories: Mapping[str, Any],
    images: Tensor,
    labels: Tensor,
    *,
    tasks: Tensor | None = None,
    seed: int = 0,
) -> Figure:
    """Draws latents of images in two dimensions, by t-SNE, a panel for each memory (Fig. 10).

    The paper shows the same images and the same seed of t-SNE for a memory that was trained jointly
    and for one trained task by task. Only the separation of clusters is meaningful, not their
    positions.

    Args:
        memories: By title: plugins, methods or LightningModules with latents.
        images: Float tensor (n, *shape), n at least 5; some hundred take seconds.
        labels: int64 tensor (n,), of at least two classes.
        tasks: int64 tensor (n,), task labels; ``None`` for 0.
        seed: Seed of t-SNE for all memories.

    Raises:
        ConfigError: There is no memory, or one has no latents (yet).
        LabelError: There is a single class.
        ShapeError: There are fewer than 5 images, or not as many labels.
    """
    _check_some(memories)
    chosen = examples(images, labels, tasks)
    if len(images) < _LEAST_POINTS:
        raise ShapeError(f"t-SNE needs at least {_LEAST_POINTS} images, not {len(images)}.")
    if len(labels.unique()) < 2:
        raise LabelError(
            "All images are of one class, but the figure shows the separation of classes. Give"
            " images of at least two classes."
        )
    figure, places = figures.row_of(list(memories), 4.2 * len(memories), 4.0)
    for axes, (name, memory) in zip(places, memories.items(), strict=True):
        method = method_of(memory)
        points = views.embedding(method, chosen, seed=seed)
        if points is None:
            raise ConfigError(
                f"The memory '{name}', a {type(method).__name__}, has no latents. Give a trained"
                " one with a variational autoencoder, such as DGDMN or DGR."
            )
        draw_points(axes, points, labels.cpu().numpy())
    return figure


def samples(memories: Mapping[str, Any], *, n: int = 10, seed: int = 0) -> Figure:
    """Draws samples of each class that memories generate, a panel for each memory (Fig. 11).

    The paper shows a long-term memory that was trained jointly and one trained task by task. A
    `DGDMN` also samples its short-term memories; call `sleep` first for only the long-term one.

    Args:
        memories: By title: plugins, methods or LightningModules that generate images (C, H, W).
        n: Samples of each class, at least 1; there may be fewer of classes that are rarely sampled.
        seed: Seed of the samples; the memories' random states do not change.

    Raises:
        ConfigError: There is no memory, one generates no images (yet), or ``n`` is below 1.
    """
    _check_some(memories)
    whole("n", n)
    drawn = {name: _drawn(name, memory, n, seed) for name, memory in memories.items()}
    height = 0.4 * max(map(len, drawn.values())) + 0.6
    figure, places = figures.row_of(list(drawn), (0.4 * n + 0.9) * len(drawn), height)
    for axes, rows in zip(places, drawn.values(), strict=True):
        figures.draw_rows(axes, rows)
    places[0].set_ylabel("class")
    return figure


def _check_some(memories: Mapping[str, Any]) -> None:
    if not memories:
        raise ConfigError("There is no memory to draw. Give at least one, with its title.")


def _drawn(name: str, memory: Any, n: int, seed: int) -> dict[str, Any]:
    """Rows of samples, as float arrays (k, C, H, W), by class."""
    method = method_of(memory)
    drawn = views.samples(method, n, n_classes=_n_classes(method, seed), seed=seed)
    if not drawn or next(iter(drawn.values())).ndim != 4:
        raise ConfigError(
            f"The memory '{name}', a {type(method).__name__}, generates no images, or has learned"
            " nothing yet. Give one with a generator, such as DGDMN, after an experience."
        )
    several = len({task for task, _ in drawn}) > 1
    return {
        f"{task}: {label}" if several else str(label): images.float().cpu().numpy()
        for (task, label), images in drawn.items()
    }


def _n_classes(method: Any, seed: int) -> int:
    """Approximate number of learned classes: those among some samples."""
    return max(1, len(views.samples(method, 1, n_classes=64, seed=seed)))


def _reconstructed(memory: Any, images: Tensor, tasks: Tensor | None) -> Tensor:
    method = method_of(memory)
    inputs = examples(images, torch.zeros(len(images), dtype=torch.int64), tasks)
    reconstructed = views.reconstructions(method, inputs.images, inputs.tasks)
    if reconstructed is None:
        raise ConfigError(
            f"The {type(method).__name__} does not reconstruct images of shape"
            f" {tuple(images.shape[1:])}. Give a memory with a variational autoencoder, such as"
            " DGDMN or DGR, trained on images of this shape."
        )
    return reconstructed


def _draw_robustness(places: list[Axes], measured: Robustness) -> None:
    parts = (
        ("(b) noise", "standard deviation of the noise", measured.deviations, measured.noisy),
        ("(c) occlusion", "patch / width of the image", measured.occlusions, measured.occluded),
    )
    for axes, (title, label, x, accuracies) in zip(places, parts, strict=True):
        figures.draw_curves(axes, {name: [v] for name, v in accuracies.items()}, x=x)
        axes.set_title(title, fontsize=10)
        figures.share_axes(axes, label)
    places[0].set_ylabel("test accuracy")
    places[1].legend(loc="lower left", frameon=False, fontsize=9)
