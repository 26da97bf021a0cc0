"""What a logger sees of the test stream that a strategy is evaluated on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from avalanche_dgm.dashboards.views import Examples
from avalanche_dgm.errors import ConfigError, DataError
from avalanche_dgm.plugins.experiences import by_classes, image_of, seeded

#: Test images to look at, of all classes together: enough to embed their latents.
_EXAMPLES = 500


def of_test(experience: Any) -> bool:
    """Whether an experience belongs to a benchmark's test stream."""
    return str(getattr(getattr(experience, "origin_stream", None), "name", "")).startswith("test")


def names_of(stream: Sequence[Any]) -> list[str]:
    """Names experiences by their classes, or by their positions if these do not tell them apart."""
    try:
        names = [by_classes(experience) for experience in stream]
    except (AttributeError, TypeError, ConfigError):
        names = []
    return names if len(set(names)) == len(stream) else [str(i) for i in range(len(stream))]


@dataclass
class TestTable:
    """Accuracies on the test experiences, as they are measured after each experience.

    Attributes:
        names: Of all test experiences.
        rows: For each experience learned so far, accuracies by position in the test stream.
    """

    __test__ = False  # Nothing for pytest.

    names: list[str] = field(default_factory=list)
    rows: list[dict[int, float]] = field(default_factory=list)

    def put(self, after: int, accuracies: dict[int, float]) -> None:
        """Notes what was measured after so many experiences; what is measured again counts."""
        # Experiences that were learned without a test have a row without numbers.
        self.rows += [{} for _ in range(after - len(self.rows))]
        self.rows[after - 1] |= accuracies

    @property
    def experiences(self) -> list[int]:
        """Positions of the test experiences that were tested."""
        return sorted({j for row in self.rows for j in row})

    def matrix(self) -> Tensor:
        """Float tensor (T, S) of the S experiences that were tested, NaN where one was not."""
        rows = [[row.get(j, torch.nan) for j in self.experiences] for row in self.rows]
        return torch.tensor(rows)

    def columns(self, learned: Sequence[int], names: Sequence[str]) -> list[int]:
        """The column of the matrix of each learned experience.

        Args:
            learned: Their positions in the training stream.
            names: Names of all training experiences.
        """
        tested, n = self.experiences, len(self.names)
        columns = []
        for index in learned:
            # Streams of different lengths: a task that comes again is tested once.
            test = index if len(names) == n else min(index, n - 1)
            if len(names) != n and names[index] in self.names:
                test = self.names.index(names[index])
            columns.append(tested.index(test) if test in tested else 0)
        return columns


def examples_of(experiences: Sequence[Any], *, least: int) -> Examples | None:
    """Reads a few images of each class, the same ones each time.

    Args:
        experiences: Test experiences.
        least: Images of each class, if there are so many.

    Returns:
        The images, or ``None`` if they cannot be put into one tensor.
    """
    datasets = {int(e.current_experience): e.dataset.eval() for e in experiences}
    n_classes = sum(len(set(map(int, dataset.targets))) for dataset in datasets.values())
    each = max(least, _EXAMPLES // max(n_classes, 1))
    images: list[Tensor] = []
    facts: list[tuple[int, int, int]] = []
    with seeded(0):
        for position, dataset in datasets.items():
            for i in _first_of_each(dataset, each):
                try:
                    images.append(image_of(dataset, i).float())
                except DataError:
                    return None
                sample = dataset[i]
                facts.append((int(sample[1]), int(sample[-1]), position))
    if len({image.shape for image in images}) != 1:
        return None
    labels, tasks, positions = torch.tensor(facts).unbind(dim=1)
    return Examples(torch.stack(images), labels, tasks, positions)


def _first_of_each(dataset: Any, n: int) -> list[int]:
    """Positions of the first samples of each class."""
    counts: defaultdict[tuple[int, int], int] = defaultdict(int)
    chosen = []
    tasks = getattr(dataset, "targets_task_labels", [0] * len(dataset))
    for i, one in enumerate(zip(map(int, dataset.targets), map(int, tasks), strict=True)):
        if counts[one] < n:
            counts[one] += 1
            chosen.append(i)
    return chosen
