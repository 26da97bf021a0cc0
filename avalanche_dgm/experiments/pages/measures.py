"""The numbers that runs are compared by, at the end and after every experience."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from avalanche_dgm.experiments.pages import formats
from avalanche_dgm.experiments.pages.loading import Run
from avalanche_dgm.experiments.tables import size


@dataclass(frozen=True)
class Measure:
    """A number that follows from accuracies, or what a run cost.

    Attributes:
        name: Of `avalanche_dgm.metrics.functional`, or of a step's own.
        explained: What it is, in a sentence.
        axis: How an axis is called on which it is drawn.
        within: What it can be at all.
        more_is_better: Whether larger is better, else smaller.
        final: Whether it is in the final table.
        cost: Gives what a run that learned something cost; ``None`` where it is not known.
        text: Writes it.
    """

    name: str
    explained: str
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
        """What it was after every experience of a run, counted from 1; ``None`` if not defined."""
        if self.name == "stream_accuracy":
            return [(k, step.stream_accuracy) for k, step in enumerate(run.steps, 1)]
        return [(k, found.get(self.name)) for k, found in enumerate(run.summaries, 1)]

    def last(self, run: Run) -> float | None:
        """What it is at the end of a run that learned something."""
        return self.cost(run) if self.cost is not None else self.course(run)[-1][1]


AVERAGE = Measure(
    "average_accuracy", "Mean test accuracy on the experiences learned so far.", "test accuracy"
)
MEASURES = (
    AVERAGE,
    Measure(
        "forgetting",
        "Mean drop from an experience's best accuracy to the present one.",
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
        "Which part is left: the present accuracy by that right after learning, on average.",
        "1 keeps all",
        (0.0, 1e300),
    ),
    Measure("learning_accuracy", "Mean accuracy on each experience right after it was learned."),
    Measure("stream_accuracy", "Accuracy on all test samples, also not learned yet.", final=False),
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
        "All that is held beside the classifier at the end.",
        more_is_better=False,
        cost=lambda run: run.steps[-1].memory_bytes,
        text=size,
    ),
    Measure(
        "peak_memory",
        "The most that is held while an experience is learned.",
        more_is_better=False,
        cost=lambda run: max(
            (peak for step in run.steps if (peak := step.peak_bytes) is not None), default=None
        ),
        text=size,
    ),
)
