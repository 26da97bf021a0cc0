"""Names and example images of a test stream, for dashboards."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from avalanche_dgm.dashboards.dashboard import Dashboard
from avalanche_dgm.dashboards.views import Examples
from avalanche_dgm.errors import ConfigError, DataError
from avalanche_dgm.methods import Method
from avalanche_dgm.plugins.experiences import by_classes
from avalanche_dgm.plugins.samples import (
    classes_of,
    labels_of,
    sample_of,
    seeded,
    split_batch,
    task_column,
)

#: Number of test images over all classes, for the embedding of their latents.
_EXAMPLES = 500


def names_of(stream: Sequence[Any]) -> list[str]:
    """Names experiences by their classes, or by their positions if these are not unique."""
    stream = list(stream)
    try:
        names = [by_classes(experience) for experience in stream]
    except (AttributeError, TypeError, ConfigError):
        names = []
    return names if len(set(names)) == len(stream) else [str(i) for i in range(len(stream))]


def log_examples(
    dashboard: Dashboard,
    method: Method,
    tests: Sequence[Any],
    learned: Sequence[int],
    *,
    at: int,
    last: bool,
) -> None:
    """Logs panels of a few test images of each class; see `Dashboard.log_examples`.

    The images are read once, and again if ``tests`` has further experiences. ``learned`` are the
    positions of the learned experiences in the test stream.
    """
    positions = {int(experience.current_experience) for experience in tests}
    if dashboard.examples is None or not positions <= dashboard.examples.positions():
        dashboard.examples = _read(tests, dashboard.samples_per_class)
    if dashboard.examples is not None:
        seen = dashboard.examples.of_experiences(learned)
        dashboard.log_examples(method, seen, at=at, last=last)


def _read(experiences: Sequence[Any], least: int) -> Examples | None:
    """Reads example images; ``None`` if they are not tensors of one shape."""
    n_classes = sum(len(classes_of(experience)) for experience in experiences)
    per_class = max(least, _EXAMPLES // max(n_classes, 1))
    images: list[Tensor] = []
    rows: list[tuple[int, int, int]] = []
    with seeded(0):
        for experience in experiences:
            position, column = int(experience.current_experience), task_column(experience)
            dataset = experience.dataset.eval()
            for i in _first_of_each_class(experience.dataset, per_class):
                try:
                    image, label, task = split_batch(sample_of(dataset, i), column)
                except DataError:
                    return None
                images.append(image[0].float())
                rows.append((int(label), int(task), position))
    if len({image.shape for image in images}) != 1:
        return None
    labels, tasks, positions = torch.tensor(rows).unbind(dim=1)
    return Examples(torch.stack(images), labels, tasks, positions)


def _first_of_each_class(dataset: Any, n: int) -> list[int]:
    """Indices of the first ``n`` samples of each class."""
    counts: defaultdict[tuple[int, int], int] = defaultdict(int)
    chosen = []
    tasks = getattr(dataset, "targets_task_labels", [0] * len(dataset))
    for i, pair in enumerate(zip(labels_of(dataset), map(int, tasks), strict=True)):
        if counts[pair] < n:
            counts[pair] += 1
            chosen.append(i)
    return chosen
