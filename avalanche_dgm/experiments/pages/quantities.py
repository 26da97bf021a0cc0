"""The numbers of runs that have line charts, by section, and columns of the final table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from avalanche_dgm.dashboards import keys

if TYPE_CHECKING:
    from avalanche_dgm.experiments.pages.loading import Run


@dataclass(frozen=True)
class Quantity:
    """A number of runs.

    Attributes:
        key: Its key in `Run.scalars`.
        title: Heading of its chart.
        label: Label of the y axis.
        note: One sentence.
        field: Its name in `Step` or `metrics.functional`; empty if only panels have it.
        text: Format of values: "share", "seconds", "plain", or "bytes" for a suitable unit.
        within: Range of possible values.
        zero: Whether the y axis begins at 0.
        more_is_better: Whether larger is better.
        final: Heading of its column in the final table; ``None`` for no column.
        total: Makes one number of the values after every experience; ``None`` for the last one.
    """

    key: str
    title: str
    label: str
    note: str | None = None
    field: str = ""
    text: str = "plain"
    within: tuple[float, float] = (-1e300, 1e300)
    zero: bool = True
    more_is_better: bool = False
    final: str | None = None
    total: Callable[[Iterable[float]], float] | None = None

    def points(self, run: Run) -> Sequence[tuple[float, float]]:
        """Its points in a run."""
        return list(run.scalars.get(self.key, {}).items())

    def last(self, run: Run) -> float | None:
        """Its value at the end of a run with learned experiences; ``None`` if not defined."""
        values = run.scalars.get(self.key, {})
        if self.total is None:
            return values.get(len(run.steps))
        return self.total(values.values()) if values else None


def _share(
    field: str,
    note: str,
    label: str = "accuracy",
    *,
    within: tuple[float, float] = (0.0, 1.0),
    title: str | None = None,
    more_is_better: bool = True,
    final: bool = False,
) -> Quantity:
    """An accuracy, or a difference or ratio of accuracies."""
    name = field.replace("_", " ")
    return Quantity(
        f"{keys.STREAM}{field}",
        title or name.capitalize(),
        label,
        note,
        field,
        "share",
        within,
        more_is_better=more_is_better,
        final=name if final else None,
    )


_SIGNED = (-1.0, 1.0)
AVERAGE = _share(
    "average_accuracy",
    "Mean test accuracy on the experiences learned so far.",
    "test accuracy",
    title="Average accuracy on experiences seen",
    final=True,
)
_ACCURACY = (
    AVERAGE,
    _share(
        "forgetting",
        "Mean drop from an experience's best accuracy to the current one.",
        "0 keeps all",
        within=_SIGNED,
        more_is_better=False,
        final=True,
    ),
    _share(
        "backward_transfer",
        "Mean change of accuracy since an experience was learned; below 0 is forgetting.",
        "below 0 forgets",
        within=_SIGNED,
        final=True,
    ),
    _share(
        "retention",
        "Mean ratio of the current accuracy to that right after learning.",
        "1 keeps all",
        within=(0.0, 1e300),
        final=True,
    ),
    _share(
        "learning_accuracy",
        "Mean accuracy on each experience right after it was learned.",
        final=True,
    ),
    _share("stream_accuracy", "Accuracy on all test samples, learned or not."),
    _share(
        "average_anytime_accuracy", "Mean of the average accuracy after every experience so far."
    ),
    _share(
        "forward_transfer",
        "Mean accuracy on each experience right before it was learned.",
        within=_SIGNED,
    ),
)
_TIME = (
    Quantity(
        keys.TIME_LEARN,
        "Learning",
        "seconds",
        "Learning, without tests.",
        "seconds",
        "seconds",
        final="training time",
        total=sum,
    ),
    Quantity(keys.TIME_TEST, "Tests", "seconds", field="eval_seconds", text="seconds"),
    Quantity(keys.SAMPLES_PER_SECOND, "Speed", "samples a second"),
)
_MEMORY = (
    Quantity(
        keys.MEMORY_BYTES,
        "Memory",
        "memory",
        "Memory besides the classifier.",
        "memory_bytes",
        "bytes",
        final="memory",
    ),
    Quantity(
        "memory/peak_bytes",
        "Peak memory",
        "memory",
        "Largest memory while an experience is learned.",
        "peak_bytes",
        "bytes",
        final="peak memory",
        total=max,
    ),
    Quantity(
        keys.STM_OCCUPANCY,
        "Short-term memories in use",
        "short-term memories",
        "Tasks to be consolidated at the next sleep.",
        "stm_occupancy",
    ),
    Quantity("memory/sleeps", "Sleeps", "sleeps so far", field="sleeps"),
    Quantity("time/sleep", "Time asleep", "seconds so far", field="sleep_seconds"),
    Quantity(keys.REPLAYED, "Samples replayed", "samples", field="replayed"),
    Quantity(keys.MEMORY_PARAMETERS, "Parameters", "parameters"),
    Quantity(keys.MEMORY_STORED, "Stored samples", "samples"),
)
_ERROR, _WHEN = keys.RECONSTRUCTION_ERROR, keys.SLEEP_AFTER

#: The quantities of each section. Numbers that are not among them are "More numbers".
QUANTITIES: Mapping[str, Sequence[Quantity]] = MappingProxyType(
    {
        "Accuracy": _ACCURACY,
        "Time": _TIME,
        "Memory": _MEMORY,
        "Masks": [Quantity(keys.CAPACITY, "Capacity", "width, times that at the start")],
        "Training": [
            Quantity(keys.TRAIN_LOSS, "Training loss", "loss", zero=False),
            Quantity(keys.TRAIN_ACCURACY, "Training accuracy", "accuracy on batches"),
        ],
        "More numbers": [
            Quantity(_ERROR, "Reconstruction error", "mean squared difference", zero=False),
            Quantity(_WHEN, "Experiences learned before a sleep", "experiences", zero=False),
        ],
    }
)
ALL = tuple(quantity for section in QUANTITIES.values() for quantity in section)
#: The columns of the final table.
SCORES = tuple(quantity for quantity in ALL if quantity.final)
