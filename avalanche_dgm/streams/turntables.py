"""Objects on a turntable: two tasks on the same images, and a change of domain (A-LTM)."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from avalanche_dgm.checks import one_of
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.streams.coil import load_coil20
from avalanche_dgm.streams.ilab import load_ilab
from avalanche_dgm.streams.rendering import N_ROTATIONS, N_VIEWPOINTS, Views, render
from avalanche_dgm.streams.sources import load_set
from avalanche_dgm.streams.tensors import LabelledImages, Task, build_benchmark, thin

if TYPE_CHECKING:
    from avalanche.benchmarks import CLScenario

CATEGORY, VIEWPOINT, DOMAIN = 0, 1, 2
"""The task labels, in any order of the tasks."""

ORDERS = ("category-viewpoint", "viewpoint-category")
"""The orders of ``turntable``."""


def turntable(
    *,
    order: str = "category-viewpoint",
    n_train: int = 8,
    n_test: int = 2,
    size: int = 32,
    channels: int = 1,
    task_labels: bool = True,
    fraction: float = 1.0,
    seed: int = 0,
    ilab_root: str | os.PathLike[str] | None = None,
    coil20: str | os.PathLike[str] | None = None,
) -> CLScenario:
    """Categories and viewpoints of the same images, one after the other (A-LTM, Sec. 4.2).

    The paper's iLab-20M is 22 million photographs of toy vehicles. By default, images of ten kinds
    of vehicles are rendered instead, each from 8 rotations x 11 cameras.

    Args:
        order: "category-viewpoint" or "viewpoint-category".
        n_train: Training images of each category and viewpoint (880 pairs).
        n_test: Test images of each category and viewpoint.
        size: Height and width, in pixels.
        channels: 1 for grey, 3 for colour.
        task_labels: Give the categories the task label 0 and the viewpoints 1, for one head each.
            Otherwise all have 0, and the viewpoints' labels follow those of the categories.
        fraction: Fraction of each viewpoint's training and test images to keep.
        seed: Determines the rendered images, or the photographs that are read.
        ilab_root: Folder of iLab-20M, see `load_ilab`; ``None`` to render images.
        coil20: File of COIL-20, see `load_coil20`: 20 real objects and 8 rotations, with at most
            ``n_train`` training and ``n_test`` test images of each pair.

    Returns:
        A benchmark of two experiences, images (channels, size, size) in [0, 1].

    Raises:
        ConfigError: An option is out of range.
        DataError: ``ilab_root`` or ``coil20`` has no such photographs.
    """
    one_of("order", order, *ORDERS)
    parts = _views(n_train, n_test, size, channels, fraction, seed, ilab_root, coil20)
    shift = 0 if task_labels else _n_categories(parts)

    def tasks(views: Views) -> list[Task]:
        both = [_categories(views), _viewpoints(views, shift, VIEWPOINT if task_labels else 0)]
        return both if order == ORDERS[0] else both[::-1]

    return build_benchmark(tasks(parts[0]), tasks(parts[1]), n_classes=_n_classes(parts, shift))


def turntable_domains(
    root: str | os.PathLike[str] | None = None,
    *,
    domain: str | tuple[Any, Any] = "sklearn-digits",
    categories: bool = False,
    alone: bool = False,
    n_train: int = 8,
    n_test: int = 2,
    n_train_per_class: int | None = None,
    size: int = 32,
    channels: int | None = None,
    task_labels: bool = True,
    fraction: float = 1.0,
    seed: int = 0,
    download: bool = False,
    ilab_root: str | os.PathLike[str] | None = None,
    coil20: str | os.PathLike[str] | None = None,
) -> CLScenario:
    """Viewpoints on a turntable, then another domain (A-LTM, Sec. 4.3).

    The paper's second domain is ImageNet; here it is a smaller set.

    Args:
        root: Folder of the second domain in torchvision's layout; ``None`` for
            ``AVALANCHE_DGM_DATA``. Not needed for the digits of scikit-learn.
        domain: "sklearn-digits", or another set or a pair (training, test), as ``data`` of
            `split`.
        categories: Learn the categories together with the viewpoints in the first experience, like
            the paper's stable network. The test stream then has a third experience with them.
        alone: Learn and test only the second domain, as a baseline without earlier training.
        n_train: Training images of each category and viewpoint (880 pairs).
        n_test: Test images of each category and viewpoint.
        n_train_per_class: At most this many training images of each class of the second domain.
        size: Height and width of all images, in pixels; those of the second domain are resized.
        channels: 1 for grey, 3 for colour; ``None`` for the number of the second domain.
        task_labels: Give the categories the task label 0, the viewpoints 1 and the second domain 2,
            for one head each. Otherwise all have 0, and labels continue from task to task.
        fraction: Fraction of each viewpoint's and each class's training and test images to keep.
        seed: Determines the rendered and the kept images.
        download: Download the second domain if it is missing.
        ilab_root: Folder of iLab-20M, see `load_ilab`; ``None`` to render images.
        coil20: File of COIL-20, see `turntable`.

    Returns:
        A benchmark of two experiences, images (channels, size, size) in [0, 1]; of one experience
        with ``alone``.

    Raises:
        ConfigError: An option is out of range.
        DataError: A set cannot be found or read.
    """
    second = load_set(domain, root, download=download, seed=seed)
    if channels is None:
        channels = second[0].images.shape[1]
    parts = _views(n_train, n_test, size, channels, fraction, seed, ilab_root, coil20)
    shift = _n_categories(parts) if categories and not task_labels else 0
    after = 0 if task_labels else _n_classes(parts, shift)
    kept = [
        thin(data, fraction=fraction, per_class=limit, seed=seed)
        for data, limit in zip(second, (n_train_per_class, None), strict=True)
    ]
    others = [
        Task(
            LabelledImages(_fitted(data.images, size, channels), data.labels + after),
            DOMAIN if task_labels else 0,
            domain if isinstance(domain, str) else "second domain",
        )
        for data in kept
    ]
    viewpoints = [_viewpoints(views, shift, VIEWPOINT if task_labels else 0) for views in parts]
    named = [_categories(views) for views in parts]
    first = _together(viewpoints[0], named[0]) if categories else viewpoints[0]
    n_classes = 1 + max(int(data.labels.max()) for data in second)
    if alone:
        return build_benchmark(others[:1], others[1:], n_classes=n_classes + after)
    return build_benchmark(
        [first, others[0]],
        [viewpoints[1], others[1], *([named[1]] if categories else [])],
        n_classes=max(_n_classes(parts, shift), n_classes + after),
    )


def _views(
    n_train: int,
    n_test: int,
    size: int,
    channels: int,
    fraction: float,
    seed: int,
    ilab_root: str | os.PathLike[str] | None,
    coil20: str | os.PathLike[str] | None,
) -> tuple[Views, Views]:
    """Renders or reads the training and the test images."""
    if coil20 is not None:
        if ilab_root is not None:
            raise ConfigError("Give ilab_root or coil20, not both.")
        parts = load_coil20(coil20, n_train=n_train, n_test=n_test, seed=seed)
        train, test = (
            replace(views, images=_fitted(views.images, size, channels)) for views in parts
        )
    elif ilab_root is None:
        # Different seeds, so that no test image of one seed is a training image of another.
        return (
            render(n_train, size=size, channels=channels, fraction=fraction, seed=2 * seed),
            render(n_test, size=size, channels=channels, fraction=fraction, seed=2 * seed + 1),
        )
    else:
        train, test = load_ilab(
            ilab_root, n_train=n_train, n_test=n_test, size=size, channels=channels, seed=seed
        )
    return train.thin(fraction, seed), test.thin(fraction, seed)


def _n_categories(parts: tuple[Views, Views]) -> int:
    return 1 + max(int(views.categories.max()) for views in parts)


def _n_classes(parts: tuple[Views, Views], shift: int) -> int:
    """Number of labels of the viewpoints and, if they are shifted, of the categories."""
    present = 1 + max(int(views.viewpoints.max()) for views in parts)
    return shift + (N_VIEWPOINTS if present > N_ROTATIONS else present)


def _categories(views: Views) -> Task:
    return Task(LabelledImages(views.images, views.categories), CATEGORY, "categories")


def _viewpoints(views: Views, shift: int, label: int) -> Task:
    return Task(LabelledImages(views.images, views.viewpoints + shift), label, "viewpoints")


def _together(first: Task, second: Task) -> Task:
    """Joins two tasks on the same images under the first one's name."""
    return Task(
        LabelledImages(
            torch.cat([first.data.images, second.data.images]),
            torch.cat([first.data.labels, second.data.labels]),
        ),
        torch.cat([torch.zeros_like(t.data.labels) + t.label for t in (first, second)]),
        first.name,
    )


def _fitted(images: Tensor, size: int, channels: int) -> Tensor:
    """Resizes images (N, C, H, W), and converts them to grey or to three channels."""
    if images.shape[1] == 3 and channels == 1:
        weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
        images = (images * weights).sum(dim=1, keepdim=True)
    elif images.shape[1] == 1 and channels == 3:
        images = images.expand(-1, 3, -1, -1)
    if images.shape[-2:] != (size, size):
        images = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
    return images.clamp(0, 1).contiguous()
