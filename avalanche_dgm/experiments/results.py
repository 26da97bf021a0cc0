"""The result of a run, and numbers derived from its accuracy matrix."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments.config import ExperimentConfig
from avalanche_dgm.metrics.functional import mean
from avalanche_dgm.metrics.stream_accuracies import StreamAccuracies

Share = Annotated[float, Field(ge=0, le=1)]
#: Differences of clocks may be slightly below 0.
Seconds = Annotated[float, Field(ge=-1, le=1e18)]
Count = Annotated[int, Field(ge=0, le=10**18)]
Row = list[Share | None]
#: Files are read without conversion of types.
_STRICT = ConfigDict(strict=True, allow_inf_nan=False)


@dataclass
class Step:
    """Measurements of a learned experience.

    Attributes:
        experience: Index of the experience, from 0.
        accuracy: Test accuracy (0 to 1) on every experience of the stream afterwards, including
            those not learned yet; ``None`` if it was not measured.
        stream_accuracy: Accuracy over all test images of the stream.
        train_accuracy: Running accuracy of the classifier on new samples in its last epoch;
            ``None`` if no classifier is trained by batches.
        epochs: Epochs of training.
        seconds: Wall time of ``strategy.train``, in seconds, with a sleep before the evaluation.
        eval_seconds: Wall time of the evaluation, in seconds, without that sleep.
        by_epoch: Test accuracies, as in ``accuracy``, before the experience and after each of its
            epochs, if they were measured.
        phases: Seconds of each phase that the method reports (generator, sleep, ...).
        replayed: Number of replayed samples.
        histogram: Number of replayed samples of each label.
        stm_occupancy: Short-term memories in use afterwards (only dual memory).
        sleeps: Sleeps so far (only dual memory).
        sleep_seconds: Wall time of all sleeps so far, in seconds.
        memory_bytes: Size of the memory afterwards, in bytes, without the classifier: weights,
            importances, copies, stored samples; ``None`` if it is not known.
        peak_bytes: Largest size of the memory during the experience, in bytes.
        fid: Frechet distance of generated samples to real ones; ``None`` if it was not measured.
        generated_accuracy: Accuracy (0 to 1) of a classifier of real samples on generated ones;
            ``None`` if it was not measured.
    """

    __pydantic_config__ = _STRICT

    experience: Count
    accuracy: Row
    stream_accuracy: Share | None = None
    train_accuracy: float | None = None
    epochs: int | None = None
    seconds: Seconds = 0.0
    eval_seconds: Seconds = 0.0
    by_epoch: list[Row] = field(default_factory=list)
    phases: dict[str, Seconds] = field(default_factory=dict)
    replayed: Count = 0
    histogram: dict[int, Count] = field(default_factory=dict)
    stm_occupancy: Count = 0
    sleeps: Count = 0
    sleep_seconds: Seconds = 0.0
    memory_bytes: Count | None = None
    peak_bytes: Count | None = None
    fid: float | None = None
    generated_accuracy: float | None = None


@dataclass
class RunResult:
    """A run: its settings, experiences, and the measurements after each of them.

    Attributes:
        config: The settings.
        tasks: Short name of each test experience, for columns and legends.
        order: The experiences in order of learning.
        steps: One entry for each learned experience.
        provenance: Versions, platform and command line.
        samples: Generated images by class, (n, C, H, W) arrays, or empty; not saved in JSON.
        shape: Shape of one image, (channels, height, width).
        method_settings: All settings of the method with defaults, as JSON values; empty for methods
            of other packages.
    """

    config: ExperimentConfig
    tasks: list[str]
    order: list[int]
    steps: list[Step] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    samples: Mapping[int, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    method_settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every experience was learned."""
        return len(self.steps) == len(self.order)

    @property
    def progress(self) -> str:
        """The progress, such as "6 of 10 experiences"."""
        return f"{len(self.steps)} of {len(self.order)} experiences"

    @property
    def accuracies(self) -> StreamAccuracies:
        """The accuracies so far, with the order of all experiences."""
        return StreamAccuracies(self.matrix, self.order)

    @property
    def matrix(self) -> list[Row]:
        """Accuracies R[i][j] on experience j after the i-th learned one."""
        return [step.accuracy for step in self.steps]

    @property
    def summaries(self) -> dict[str, float]:
        """All summaries that are defined so far; see `avalanche_dgm.metrics.functional`."""
        return self.accuracies.summaries()

    def seen(self, step: int) -> list[int]:
        """Returns the experiences learned up to a step, each once, in ascending order."""
        return self.accuracies.learned(step)

    def average(self, step: int = -1) -> float:
        """Returns the mean accuracy over the experiences learned up to a step."""
        return self.accuracies.average(step)

    @property
    def averages(self) -> list[float]:
        """Mean accuracy over the experiences seen so far, after each step."""
        accuracies = self.accuracies
        return [accuracies.average(i) for i in range(len(accuracies))]

    def on(self, task: str, step: int = -1) -> float | None:
        """Returns the accuracy on a task after a step.

        Args:
            task: Name of the task, as in ``tasks``.
            step: Index of the step.

        Returns:
            0 to 1, or ``None`` if there is no such task, or it was not measured.
        """
        accuracy = self.steps[step].accuracy
        return accuracy[self.tasks.index(task)] if task in self.tasks else None

    def recent_averages(self, last: int) -> list[float]:
        """Returns the mean accuracy on the tasks learned last, after each step."""
        averages = []
        for i, step in enumerate(self.steps):
            learned = {s.experience for s in self.steps[max(0, i + 1 - last) : i + 1]}
            averages.append(mean([step.accuracy[j] for j in sorted(learned)]))
        return averages

    def after_classes(self, n: int) -> float | None:
        """Returns the mean accuracy over n classes after they were learned, one per experience.

        The A5 and A10 of Ostapenko et al. 2019: the mean over classes of test accuracies among all
        classes learned so far.

        Returns:
            0 to 1, or ``None`` if the stream has fewer experiences of one class each.
        """
        step = self.step_of_classes(n)
        return None if step is None else self.average(step)

    def step_of_classes(self, n: int) -> int | None:
        """Returns the index of the step after which n classes were learned, one per experience.

        Returns:
            From 0, or ``None`` if the stream has fewer experiences of one class each.
        """
        for i in range(len(self.steps)):
            seen = self.seen(i)
            if len(seen) == n:
                # Experiences of one class are named by it.
                return i if all(self.tasks[j].isdigit() for j in seen) else None
        return None

    @property
    def forgetting(self) -> float | None:
        """See `metrics.forgetting`; ``None`` before the second experience."""
        return self.summaries.get("forgetting")

    @property
    def retention(self) -> float | None:
        """See `metrics.retention`; ``None`` if it is not defined."""
        return self.summaries.get("retention")

    @property
    def seconds(self) -> float:
        """Training time of all experiences, in seconds, without evaluation."""
        return sum(step.seconds for step in self.steps)

    def to_json(self) -> dict[str, Any]:
        """Returns everything but the generated images as a dictionary for ``json.dump``."""
        steps = [dataclasses.asdict(step) for step in self.steps]
        return {
            "complete": self.complete,
            "config": self.config.to_json(),
            "method_settings": dict(self.method_settings),
            "seed": self.config.seed,
            "tasks": self.tasks,
            "order": self.order,
            "image_shape": list(self.shape),
            "accuracy": self.matrix,
            "average_accuracy": self.averages,
            "final_average_accuracy": self.average() if self.steps else None,
            "final_stream_accuracy": self.steps[-1].stream_accuracy if self.steps else None,
            "forgetting": self.forgetting,
            "retention": self.retention,
            "summaries": self.summaries,
            "training_seconds": self.seconds,
            "steps": steps,
            "provenance": self.provenance,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RunResult:
        """Reads what ``to_json`` returned.

        Raises:
            ConfigError: A value is missing or not valid.
        """
        try:
            # File names may have surrogates, which cannot be encoded.
            text = json.dumps(values, ensure_ascii=False).encode(errors="replace")
            file = _File.model_validate_json(text)
            config = ExperimentConfig.from_json(file.config.model_dump(exclude_unset=True))
        except ValidationError as error:
            first, *more = error.errors()
            parts = (".".join(map(str, first["loc"])), first["msg"])
            also = f", and {len(more)} more" if more else ""
            raise ConfigError(": ".join(filter(None, parts)) + also) from error
        except ConfigError:
            raise
        except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise ConfigError(f"{type(error).__name__}: {error}") from error
        for step, saved in zip(file.steps, values["steps"], strict=True):
            # Versions without the peak also wrote 0 for an unknown size.
            if not step.memory_bytes and "peak_bytes" not in saved:
                step.memory_bytes = None
        return cls(
            config,
            file.tasks,
            file.order,
            file.steps,
            file.provenance.model_dump(exclude_unset=True),
            shape=tuple(file.image_shape),
            method_settings=file.method_settings,
        )


class _Provenance(BaseModel):
    """The fields that are shown; others are kept without checks."""

    model_config = ConfigDict(strict=True, extra="allow")

    started: str | None = None
    command: str | None = None
    platform: str | None = None
    device: str | None = None
    gpu: str | None = None
    versions: dict[str, str] = {}


class _Config(BaseModel):
    """Fields of all versions, and mappings; `ExperimentConfig` checks all fields."""

    model_config = ConfigDict(strict=True, extra="allow")

    method: str
    stream: str
    seed: Count
    stream_options: dict[str, Any] = {}
    method_options: dict[str, Any] = {}


class _File(BaseModel):
    """A file of results; further fields of other versions are ignored."""

    model_config = _STRICT

    config: _Config
    tasks: list[str]
    order: list[Count]
    steps: list[Step]
    provenance: _Provenance
    image_shape: list[Count]
    method_settings: dict[str, Any] = {}  # Missing in files of older versions.

    @model_validator(mode="after")
    def _fits(self) -> _File:
        n = len(self.tasks)
        if len(self.steps) > len(self.order):
            raise ValueError(f"{len(self.steps)} steps exceed {len(self.order)} experiences")
        if any(len(step.accuracy) != n for step in self.steps):
            raise ValueError(f"a step has not one accuracy for each of {n} tasks")
        if any(j >= n for j in (*self.order, *(step.experience for step in self.steps))):
            raise ValueError(f"an experience is not one of {n} tasks")
        return self


def deviation(values: Sequence[float]) -> float:
    """Returns the sample standard deviation (n - 1), 0 for fewer than two values."""
    if len(values) < 2:
        return 0.0
    centre = sum(values) / len(values)
    return math.sqrt(sum((v - centre) ** 2 for v in values) / (len(values) - 1))
