"""The metrics and costs of runs, at the end and after every experience."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from avalanche_dgm.experiments.pages import formats
from avalanche_dgm.experiments.pages.loading import Run
from avalanche_dgm.experiments.tables import size


@dataclass(frozen=True)
class Measure:
    """A metric of accuracies, or a cost of a run.

    Attributes:
        name: Name in `avalanche_dgm.metrics.functional`, or of an attribute of a step.
        description: One sentence.
        axis: Label of the axis.
        within: Range of possible values.
        more_is_better: Whether larger is better.
        final: Whether it is in the final table.
        cost: Returns the cost of a run with learned experiences; ``None`` if unknown.
        text: Formats a value.
    """

    name: str
    description: str
    axis: str = "accuracy"
    within: tuple[float, float] = (0.0, 1.0)
    more_is_better: bool = True
    final: bool = True
    cost: Callable[[Run], float | None] | None = None
    text: Callable[[float | None], str] = formats.share

    @property
    def label(self) -> str:
        """Its name in words."""
        return self.name.replace("_", " ")

    def course(self, run: Run) -> list[tuple[float, float | None]]:
        """Its values after every experience, counted from 1; ``None`` if not defined."""
        if self.name == "stream_accuracy":
            return [(k, step.stream_accuracy) for k, step in enumerate(run.steps, 1)]
        return [(k, found.get(self.name)) for k, found in enumerate(run.summaries, 1)]

    def last(self, run: Run) -> float | None:
        """Its value at the end of a run with learned experiences."""
        return self.cost(run) if self.cost is not None else self.course(run)[-1][1]


AVERAGE = Measure(
    "average_accuracy", "Mean test accuracy on the experiences learned so far.", "test accuracy"
)
MEASURES = (
    AVERAGE,
    Measure(
        "forgetting",
        "Mean drop from an experience's best accuracy to the current one.",
        "0 keeps all",
        (-1.0, 1.0),
        more_is_better=False,
    ),
    Measure(
        "backward_transfer",
        "Mean change of accuracy since an experience was learned; below 0 is forgetting.",
        "below 0 forgets",
        (-1.0, 1.0),
    ),
    Measure(
        "retention",
        "Mean ratio of the current accuracy to that right after learning.",
        "1 keeps all",
        (0.0, 1e300),
    ),
    Measure("learning_accuracy", "Mean accuracy on each experience right after it was learned."),
    Measure("stream_accuracy", "Accuracy on all test samples, learned or not.", final=False),
    Measure(
        "average_anytime_accuracy",
        "Mean of the average accuracy after every experience so far.",
        final=False,
    ),
    Measure(
        "forward_transfer",
        "Mean accuracy on each experience right before it was learned.",
        within=(-1.0, 1.0),
        final=False,
    ),
)

#: The columns of the final table.
SCORES = (
    *(measure for measure in MEASURES if measure.final),
    Measure(
        "training_time",
        "Learning, without tests.",
        more_is_better=False,
        cost=lambda run: run.result.seconds,
        text=formats.seconds,
    ),
    Measure(
        "memory",
        "Memory besides the classifier, at the end.",
        more_is_better=False,
        cost=lambda run: run.steps[-1].memory_bytes,
        text=size,
    ),
    Measure(
        "peak_memory",
        "Largest memory while an experience is learned.",
        more_is_better=False,
        cost=lambda run: max(
            (peak for step in run.steps if (peak := step.peak_bytes) is not None), default=None
        ),
        text=size,
    ),
)
