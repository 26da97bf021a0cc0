"""What an accuracy matrix says in one number, at the end and after every experience."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from avalanche_dgm.experiments.pages import formats
from avalanche_dgm.experiments.results import RunResult, mean
from avalanche_dgm.metrics import functional


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


def last_learned(result: RunResult) -> Tensor:
    """The accuracy matrix in the order in which experiences were last learned.

    The functions of `avalanche_dgm.metrics.functional` take the diagonal as "right after learning",
    which holds in this order, also where experiences are learned again.

    Args:
        result: A run.

    Returns:
        Float tensor (n, n), n the number of experiences seen; NaN where nothing was measured.
    """
    last = {step.experience: i for i, step in enumerate(result.steps)}
    order = sorted(last.items(), key=lambda item: item[1])
    rows = [
        [math.nan if (a := result.matrix[i][j]) is None else a for j, _ in order] for _, i in order
    ]
    return torch.tensor(rows, dtype=torch.float64)


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


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _forward(result: RunResult) -> float | None:
    if len(set(result.order)) < len(result.order):
        # Experiences that came again, or share a test: nothing says what comes next.
        return None
    rows = [[math.nan if row[j] is None else row[j] for j in result.order] for row in result.matrix]
    return _known(float(functional.forward_transfer(torch.tensor(rows, dtype=torch.float64))))


def _of_earlier(value: Callable[[RunResult], float | None]) -> Callable[[RunResult], float | None]:
    """Without earlier experiences there is nothing to forget."""
    return lambda result: value(result) if len(result.seen(len(result.steps) - 1)) > 1 else None


AVERAGE = Score(
    "average accuracy",
    "Mean test accuracy on the experiences learned so far.",
    lambda result: _known(result.average()),
)
FORGETTING = Score(
    "forgetting",
    "Mean drop from an experience's best accuracy to the present one.",
    _of_earlier(lambda result: _known(result.forgetting)),
    more_is_better=False,
)
BACKWARD = Score(
    "backward transfer",
    "Mean change of accuracy since an experience was learned; below 0 is forgetting.",
    _of_earlier(lambda r: _known(float(functional.backward_transfer(last_learned(r))))),
)
RETENTION = Score(
    "retention",
    "Which part is left: the present accuracy by that right after learning, on average.",
    lambda result: result.retention,
)
FORWARD = Score(
    "forward transfer",
    "Mean accuracy on each experience right before it was learned.",
    _forward,
)
LEARNING = Score(
    "learning accuracy",
    "Mean accuracy on each experience right after it was learned.",
    lambda result: _known(float(functional.learning_accuracy(last_learned(result)))),
)
ANYTIME = Score(
    "anytime accuracy",
    "Mean of the average accuracy after every experience so far.",
    lambda result: _known(mean([_known(average) for average in result.averages])),
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
