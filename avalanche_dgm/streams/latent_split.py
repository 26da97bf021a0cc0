"""Ten classes in two experiences of five, as in the paper on latent replay."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.streams.classes import split
from avalanche_dgm.streams.sources import load_set
from avalanche_dgm.streams.tensors import LabelledImages, hold_out

if TYPE_CHECKING:
    from avalanche.benchmarks import CLScenario

CASES: Mapping[int, tuple[tuple[int, ...], tuple[int, ...]]] = MappingProxyType(
    {
        1: ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9)),
        2: ((5, 6, 7, 8, 9), (0, 1, 2, 3, 4)),
        3: ((0, 1, 2, 5, 6), (3, 4, 7, 8, 9)),
        4: ((5, 6, 7, 0, 1), (8, 9, 2, 3, 4)),
    }
)
"""The classes of the first and of the second experience (Saez de Ocariz Borde 2022, Table 3)."""


def latent_split(
    root: str | os.PathLike[str] | None = None,
    *,
    dataset: str = "mnist",
    case: int = 1,
    test_fraction: float = 0.1,
    task_labels: bool = False,
    fraction: float = 1.0,
    n_train_per_class: int | None = None,
    seed: int = 0,
    download: bool = False,
) -> CLScenario:
    """Splits ten classes into two experiences of five (Saez de Ocariz Borde 2022, Sec. 5).

    A set's training and test images are pooled, and 10 % of every class are held out.

    Args:
        root: Folder with the set in torchvision's layout; ``None`` for ``AVALANCHE_DGM_DATA``.
        dataset: "mnist", "fashion-mnist" or "kmnist", which the paper has, or another set of
            `split` with ten classes, such as "sklearn-digits". Case, hyphens and underscores are
            ignored.
        case: 1 to 4, see ``CASES``.
        test_fraction: Fraction of every class held out for ``test_stream``.
        task_labels: Give both experiences their own task label (otherwise both have 0).
        fraction: Fraction of each class's training and test images to keep.
        n_train_per_class: At most this many training images of each class.
        seed: Determines the held-out and the kept images; they are the same in all cases.
        download: Download the data set if it is missing.

    Returns:
        A benchmark of two experiences, images (1, 28, 28), or (1, 8, 8), in [0, 1].

    Raises:
        DataError: The data set cannot be found or read.
        ConfigError: There is no such set or case, or another option is out of range.
    """
    if case not in CASES:
        raise ConfigError(f"case is {case}; the cases are 1 to 4: {_listing()}.")
    parts = load_set(dataset, root, download=download)
    pooled = LabelledImages(
        torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])
    )
    return split(
        hold_out(pooled, test_fraction, seed=seed),
        n_experiences=2,
        class_order=[*CASES[case][0], *CASES[case][1]],
        task_labels=task_labels,
        fraction=fraction,
        n_train_per_class=n_train_per_class,
        seed=seed,
    )


def _listing() -> str:
    return "; ".join(
        f"{case} {list(first)} then {list(second)}" for case, (first, second) in CASES.items()
    )
