"""Names of axes and panels: the same wherever a run is shown, and whatever trained it."""

from __future__ import annotations

#: Updates of the classifier so far.
STEP = "step"
#: Experiences learned so far: 1 after the first.
EXPERIENCE = "experience"
#: Sleeps so far: 1 after the first.
SLEEP = "sleep"

#: The axes, and the beginnings of the keys that lie on each. What begins otherwise is on ``step``.
AXES: dict[str, tuple[str, ...]] = {
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

# Scalars after a test. The continual metrics are those of `avalanche_dgm.metrics`, by their names:
# stream/average_accuracy, stream/forgetting, stream/backward_transfer and so on.
STREAM = "stream/"
#: Accuracy on one test experience, in [0, 1].
ACCURACY = "accuracy/experience_{:03d}"
#: Picture: the accuracies on every test experience after every experience.
MATRIX = "accuracy/matrix"
#: Table of the same: ``after``, then a column for each test experience.
MATRIX_TABLE = "accuracy/table"

# After an experience.
#: Picture: samples of what is remembered, a row for each class, of the same noise each time.
SAMPLES = "samples/grid"
#: Table ``experience, class, sample`` with a picture for each class: all experiences so far.
SAMPLES_TABLE = "samples/table"
#: Picture: test images of each learned class above what the generator makes of them.
RECONSTRUCTIONS = "reconstructions/grid"
#: Mean squared difference between them, in squared units of the samples.
RECONSTRUCTION_ERROR = "reconstructions/error"
#: Picture: latents of test images in two dimensions (t-SNE), coloured by class.
LATENTS = "latents/tsne"
#: Samples replayed in the experience.
REPLAYED = "replay/samples"
#: Histogram: how often each label was among them.
REPLAY_LABELS = "replay/labels"
#: Bytes and parameters of the memory beside the classifier; samples (or latents) that it stores.
MEMORY_BYTES = "memory/bytes"
MEMORY_PARAMETERS = "memory/parameters"
MEMORY_STORED = "memory/stored_samples"
#: Tasks that wait for the next sleep.
STM_OCCUPANCY = "memory/stm_occupancy"
#: How much wider a growing generator is than at the start.
CAPACITY = "masks/capacity_ratio"
#: Use of a mask, by layer: share of entries in [0, 1]; part is reserved, reused or free.
MASK = "masks/{layer}/{part}"
#: Picture: the same, a bar for each experience.
MASKS = "masks/usage"
#: Seconds of learning the experience in all, of the test after it, and of each phase.
TIME_LEARN = "time/learn"
TIME_TEST = "time/test"
TIME_PHASE = "time/phase/{}"
#: Samples of the experience times epochs, by seconds of learning it.
SAMPLES_PER_SECOND = "time/samples_per_second"

#: File: a checkpoint.
CHECKPOINT = "checkpoint"

# After a sleep. (Losses within one are a Trainer's own, ``sleep/learner/loss`` and so on.)
#: Seconds of the sleeps so far.
SLEEP_SECONDS = "sleeps/seconds"
#: Experiences learned when it was over.
SLEEP_AFTER = "sleeps/experiences"

#: The tables.
TABLES = (MATRIX_TABLE, SAMPLES_TABLE)

# While the classifier learns.
TRAIN_LOSS = "train/loss"
TRAIN_ACCURACY = "train/accuracy"


def axis_of(key: str) -> str:
    """The axis that a key lies on.

    Args:
        key: Name of a panel.
    """
    for axis, beginnings in AXES.items():
        if key.startswith(beginnings):
            return axis
    return STEP


def file_name(key: str, at: int) -> str:
    """A file's name, without its ending, for a panel at a point of its axis.

    Args:
        key: Name of the panel.
        at: Where on its axis.
    """
    return f"{key.replace('/', '-')}-{at:03d}"
