"""Names of axes and panels, the same for all sinks and backends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avalanche_dgm.methods import Method

#: Optimiser steps of the classifier so far.
STEP = "step"
#: Experiences learned so far: 1 after the first.
EXPERIENCE = "experience"
#: Sleeps so far: 1 after the first.
SLEEP = "sleep"
#: The start of the run; its only point is 0.
START = "start"

#: The axes, and the prefixes of the keys on each axis. Other keys are on ``step``.
AXES: dict[str, tuple[str, ...]] = {
    START: ("settings",),
    STEP: ("train/",),
    EXPERIENCE: (
        "stream/",
        "accuracy/",
        "replay/",
        "memory/",
        "masks/",
        "time/",
        "samples/",
        "reconstructions/",
        "latents/",
        "checkpoint",
    ),
    SLEEP: ("sleeps/",),
}

# At the start.
#: Table of the run's settings, for sinks without a config: ``setting``, ``value``.
SETTINGS = "settings"

# Scalars after a test, with the names of `avalanche_dgm.metrics`: stream/average_accuracy,
# stream/forgetting, stream/backward_transfer and so on.
STREAM = "stream/"
#: Accuracy on one test experience, in [0, 1].
ACCURACY = "accuracy/experience_{:03d}"
#: Image: the accuracies on every test experience after every experience.
MATRIX = "accuracy/matrix"
#: Table of the accuracies: ``after``, then a column per test experience.
MATRIX_TABLE = "accuracy/table"

# After an experience.
#: Image: samples from the memory, a row per class, from the same noise each time.
SAMPLES = "samples/grid"
#: Table ``experience, class, samples`` with an image per class, over all experiences so far.
SAMPLES_TABLE = "samples/table"
#: Image: test images of each learned class, each followed by its reconstruction.
RECONSTRUCTIONS = "reconstructions/grid"
#: Mean squared error of the reconstructions, in squared units of the samples.
RECONSTRUCTION_ERROR = "reconstructions/error"
#: Image: latents of test images in two dimensions (t-SNE), coloured by class.
LATENTS = "latents/tsne"
#: Samples replayed in the experience.
REPLAYED = "replay/samples"
#: Histogram: labels of the replayed samples.
REPLAY_LABELS = "replay/labels"
#: Bytes and parameters of the memory without the classifier; number of stored samples or latents.
MEMORY_BYTES = "memory/bytes"
MEMORY_PARAMETERS = "memory/parameters"
MEMORY_STORED = "memory/stored_samples"
#: Tasks in short-term memory, which await the next sleep.
STM_OCCUPANCY = "memory/stm_occupancy"
#: Width of a growing generator, relative to its initial width.
CAPACITY = "masks/capacity_ratio"
#: Usage of a mask, by layer: fraction of entries in [0, 1]; part is reserved, reused or free.
MASK = "masks/{layer}/{part}"
#: Image: mask usage, a bar per experience.
MASKS = "masks/usage"
#: Seconds of training on the experience, of the test after it, and of each phase.
TIME_LEARN = "time/learn"
TIME_TEST = "time/test"
TIME_PHASE = "time/phase/{}"
#: Samples trained on per second, over all epochs.
SAMPLES_PER_SECOND = "time/samples_per_second"

#: File: a checkpoint.
CHECKPOINT = "checkpoint"

# After a sleep. (A Trainer logs the losses of its phases, as ``sleep/learner/loss`` and so on.)
#: Seconds of the sleeps so far.
SLEEP_SECONDS = "sleeps/seconds"
#: Experiences learned before the sleep.
SLEEP_AFTER = "sleeps/experiences"

#: Keys of the tables.
TABLES = (SETTINGS, MATRIX_TABLE, SAMPLES_TABLE)

# During training of the classifier.
TRAIN_LOSS = "train/loss"
TRAIN_ACCURACY = "train/accuracy"


def axis_of(key: str) -> str:
    """The axis of a key."""
    for axis, prefixes in AXES.items():
        if key.startswith(prefixes):
            return axis
    return STEP


def settings_of(method: Method) -> dict[str, Any]:
    """A method's settings, defaults included, and the name of its class as ``class``.

    Returns:
        JSON values, such as ``{"class": "DGDMN", "stm_size": 3}``.
    """
    return {"class": type(method).__name__, **method.settings.to_dict()}
