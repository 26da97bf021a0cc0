"""What an accuracy matrix says in one number, at the end and after every experience."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from avalanche_dgm.experiments.pages import formats
from avalanche_dgm.experiments.results import RunResult


@dataclass(frozen=True)
class Score:
    """A number to compare runs by.

    Attributes:
        label: Its name.
        explained: What it is, in a sentence.
        value: Gives it; ``None`` where it is not defined. At least one experience was learned.
        more_is_better: Whether larger is better, else smaller.
        text: Shows it.
    """

    label: str
    explained: str
    value: Callable[[RunResult], float | None]
    more_is_better: bool = True
    text: Callable[[float | None], str] = formats.share


def course(result: RunResult, score: Score) -> list[tuple[float, float | None]]:
    """A score after every experience, counted from 1.

    Args:
        result: A run.
        score: What to measure.
    """
    return [
        (k, score.value(dataclasses.replace(result, steps=result.steps[:k])))
        for k in range(1, len(result.steps) + 1)
    ]


def _summary(name: str) -> Callable[[RunResult], float | None]:
    return lambda result: result.summaries.get(name)


AVERAGE = Score(
    "average accuracy",
    "Mean test accuracy on the experiences learned so far.",
    _summary("average_accuracy"),
)
FORGETTING = Score(
    "forgetting",
    "Mean drop from an experience's best accuracy to the present one.",
    _summary("forgetting"),
    more_is_better=False,
)
BACKWARD = Score(
    "backward transfer",
    "Mean change of accuracy since an experience was learned; below 0 is forgetting.",
    _summary("backward_transfer"),
)
RETENTION = Score(
    "retention",
    "Which part is left: the present accuracy by that right after learning, on average.",
    _summary("retention"),
)
FORWARD = Score(
    "forward transfer",
    "Mean accuracy on each experience right before it was learned.",
    _summary("forward_transfer"),
)
LEARNING = Score(
    "learning accuracy",
    "Mean accuracy on each experience right after it was learned.",
    _summary("learning_accuracy"),
)
ANYTIME = Score(
    "anytime accuracy",
    "Mean of the average accuracy after every experience so far.",
    _summary("average_anytime_accuracy"),
)
STREAM = Score(
    "accuracy on the whole stream",
    "Accuracy on all test samples, also of what was not learned yet.",
    lambda result: result.steps[-1].stream_accuracy,
)
SECONDS = Score(
    "training time",
    "Seconds of learning, without tests.",
    lambda result: result.seconds,
    more_is_better=False,
    text=formats.seconds,
)
MEMORY = Score(
    "memory",
    "What is remembered beside the classifier, in bytes.",
    lambda result: float(result.steps[-1].memory_bytes),
    more_is_better=False,
    text=formats.size,
)
#: The columns of the final table.
FINAL = (AVERAGE, FORGETTING, BACKWARD, RETENTION, LEARNING, SECONDS, MEMORY)
