"""Tensors and task keys of Avalanche's experiences, for the methods."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from itertools import combinations
from typing import Any

import torch
from avalanche.benchmarks import CLStream, OnlineCLExperience
from torch import Tensor
from torch.utils.data import DataLoader

from avalanche_dgm.data import ExperienceData, join
from avalanche_dgm.errors import ConfigError, DataError
from avalanche_dgm.methods import Method
from avalanche_dgm.methods.abilities import LatentInputs
from avalanche_dgm.plugins.samples import (
    Collate,
    classes_of,
    collate_of,
    columns_of,
    experiences_of,
    sample_of,
    seeded,
    split_batch,
    stream_of,
    task_column,
    task_labels_of,
    task_name_of,
)

#: Samples compared to detect random transforms. One that changes a tenth of the samples is missed
#: once in a thousand times.
_N_COMPARED = 32

#: A function from an experience to the name of its task, equal for repetitions of a task.
TaskOracle = Callable[[Any], str]

#: Name of the single task of a stream that hides its task boundaries.
SINGLE_TASK = "stream"

#: Cache of the oracles chosen by `rule_of`, by stream.
_RULES: weakref.WeakKeyDictionary[Any, TaskOracle] = weakref.WeakKeyDictionary()


def by_experience(experience: Any) -> str:
    """Each experience is a task, named by its position in the stream: ``#3``."""
    return f"#{experience.current_experience}"


def by_classes(experience: Any) -> str:
    """Experiences with the same task labels and classes are the same task.

    The name lists the classes, such as ``3``, ``0/1`` or ``10-19``, after the task label if that
    is not 0: ``2:0/1``.
    """
    if hides_task(experience):
        raise ConfigError(_HIDDEN)
    tasks = task_labels_of(experience)
    classes = _name_of(classes_of(experience))
    return f"{'+'.join(map(str, tasks))}:{classes}" if tasks != (0,) else classes


def by_task_label(experience: Any) -> str:
    """Experiences with the same task label are the same task: ``task 2``."""
    tasks = task_labels_of(experience)
    return f"task {tasks[0]}" if len(tasks) == 1 else by_classes(experience)


def by_name(experience: Any) -> str:
    """Experiences with the same task name, given by the stream, are the same task."""
    name = task_name_of(experience)
    return by_classes(experience) if name is None else name


def _name_of(classes: tuple[int, ...]) -> str:
    """Formats classes; three or more consecutive classes as a range."""
    runs: list[list[int]] = []
    for c in classes:
        if runs and c == runs[-1][-1] + 1:
            runs[-1].append(c)
        else:
            runs.append([c])
    parts = [f"{run[0]}-{run[-1]}" if len(run) > 2 else "/".join(map(str, run)) for run in runs]
    return "/".join(parts)


def automatic(experience: Any) -> str:
    """The task by the stream's oracle; see `rule_of`.

    A stream that hides its task boundaries is a single task.
    """
    if hides_task(experience):
        return SINGLE_TASK
    return rule_of(stream_of(experience))(experience)


def rule_of(stream: Any) -> TaskOracle:
    """Chooses the oracle of a stream.

    Tasks are identified by the first of these that distinguishes them: task names given by the
    stream, task labels, classes. If all experiences share classes (domain-incremental learning),
    each is a task, named by its position.

    Returns:
        An oracle with the same task names in training and in tests.
    """
    if not isinstance(stream, CLStream):
        return _rule_of(experiences_of(stream))
    if stream not in _RULES:
        _RULES[stream] = _rule_of(experiences_of(stream))
    return _RULES[stream]


def train_rule(oracle: TaskOracle, experience: Any, stream: Any = None) -> TaskOracle:
    """The oracle of a training experience, of that stream if it has no ``origin_stream``."""
    if oracle is not automatic or hides_task(experience):
        return oracle
    own = stream_of(experience)
    return rule_of(stream if own is None else own)


def test_rule(oracle: TaskOracle, trained: TaskOracle | None) -> TaskOracle:
    """The oracle of test experiences: that of training (see `train_rule`), once there is one."""
    if trained is None or (oracle is automatic and trained is by_experience):
        # Positions identify tasks only if the test stream's oracle uses positions, too.
        return oracle
    return trained


def _rule_of(stream: list[Any] | None) -> TaskOracle:
    if not stream or any(hides_task(experience) for experience in stream):
        # The experiences of lazy streams are not known in advance.
        return by_name
    if all(task_name_of(experience) is not None for experience in stream):
        return by_name
    found = [(task_labels_of(e), set(classes_of(e))) for e in stream]
    tasks = {labels for labels, _ in found}
    pairs = [(one, other) for one, other in combinations(found, 2) if one[0] == other[0]]
    if len(tasks) > 1:
        alike = all(one[1] & other[1] for one, other in pairs)
        return by_task_label if alike and all(len(labels) == 1 for labels in tasks) else by_classes
    if len(found) > 1 and all(one[1] & other[1] for one, other in pairs):
        return by_experience
    return by_classes


ORACLES: dict[str, TaskOracle] = {
    "auto": automatic,
    "experience": by_experience,
    "classes": by_classes,
}


def find_oracle(oracle: str | TaskOracle) -> TaskOracle:
    """Returns the oracle of that name; a callable is returned unchanged.

    Raises:
        ConfigError: The name is unknown.
    """
    if callable(oracle):
        return oracle
    if oracle not in ORACLES:
        raise ConfigError(
            f"oracle={oracle!r} is not known; use one of {', '.join(ORACLES)}, or a function from"
            " an experience to a string."
        )
    return ORACLES[oracle]


_HIDDEN = (
    "The stream is online and hides its task boundaries, so tasks cannot be identified."
    " Split it with access_task_boundaries=True, or pass oracle=<function from an"
    " experience to a string>."
)


def hides_task(experience: Any) -> bool:
    """Whether an experience is part of an online stream without task boundaries."""
    return isinstance(experience, OnlineCLExperience) and not experience.access_task_boundaries


def is_part(experience: Any) -> bool:
    """Whether an experience is a part of a task in an online stream with task boundaries."""
    return isinstance(experience, OnlineCLExperience) and not hides_task(experience)


def check_boundaries(experience: Any, oracle: TaskOracle, method: Method) -> None:
    """Checks that tasks can be identified if a method needs them.

    Raises:
        ConfigError: Tasks cannot be identified.
    """
    if oracle is automatic and method.needs.tasks and hides_task(experience):
        raise ConfigError(f"{type(method).__name__} needs to identify tasks. {_HIDDEN}")


def starts_task(experience: Any) -> bool:
    """Whether an experience starts a task, unlike later parts of an online stream."""
    return not is_part(experience) or bool(experience.is_first_subexp)


def ends_task(experience: Any, n_seen: int) -> bool:
    """Whether an experience ends a task, with ``n_seen`` samples in all of its parts so far."""
    return not is_part(experience) or is_last_part(experience, n_seen)


def is_last_part(part: OnlineCLExperience, n_seen: int) -> bool:
    """Whether a part of an online stream, whose origin is known, is the last one."""
    # Avalanche does not mark the last part if all parts have the same size.
    return bool(part.is_last_subexp) or n_seen >= len(part.origin_experience.dataset)


def full_experience(experience: Any) -> Any:
    """The experience of which this is a part, or the experience itself."""
    return experience.origin_experience if is_part(experience) else experience


def load(
    experience: Any,
    *,
    key: str,
    device: torch.device,
    num_workers: int = 0,
    collate: Collate | None = None,
) -> ExperienceData:
    """Reads all samples of an experience, without training augmentations.

    Raises:
        DataError: The samples are not images with a class, or differ in shape.
    """
    dataset = experience.dataset.eval()
    if len(dataset) == 0:
        raise DataError(f"Experience {key} holds no samples. Remove it from the stream.")
    collate, column = collate or collate_of(dataset), task_column(experience)
    loader = DataLoader(dataset, batch_size=512, num_workers=num_workers, collate_fn=collate)
    try:
        batches = [split_batch(columns_of(batch), column) for batch in loader]
        images, labels, tasks = (torch.cat(part).to(device) for part in zip(*batches, strict=True))
    except (RuntimeError, TypeError, IndexError) as error:
        if str(error).startswith("DataLoader worker"):
            raise DataError(
                f"The samples of experience {key} cannot be read: {error}. Either memory is short,"
                " or processes are spawned and the script lacks if __name__ == '__main__':. Give it"
                " that guard, or set num_workers to 0."
            ) from error
        raise DataError(
            f"The samples of experience {key} cannot be put into one tensor: {error}. Resize the"
            " images to one shape and convert them to tensors (torchvision.transforms.ToTensor)."
        ) from error
    if images.is_floating_point():
        images = images.detach().float()
    tasks, partial = tasks.to(torch.int64), hides_task(experience)
    return ExperienceData(images, labels, tasks, key, key, partial=partial)


def is_augmented(dataset: Any) -> bool:
    """Whether training samples are random or differ from those of evaluation.

    Reads some samples with a fixed seed, so that the result is the same in all processes.
    """
    return reads_differ(dataset.train(), dataset.eval())


def reads_differ(used: Any, expected: Any) -> bool:
    """Whether two views of a dataset return different images; see `is_augmented`.

    A view and itself differ if it has random transforms.
    """
    compared = range(0, len(used), max(1, len(used) // _N_COMPARED))
    with seeded(0):
        for _ in range(2):
            for i in compared:
                image, other = image_of(used, i), image_of(expected, i)
                if image.shape != other.shape or not torch.equal(image, other):
                    return True
    return False


def check_training_shape(method: Method, dataset: Any, data: ExperienceData) -> None:
    """Checks that training transforms keep the shape that a memory of images has read.

    Raises:
        ShapeError: They change it, so replay could not be appended to a batch.
    """
    latents = isinstance(method, LatentInputs) and method.uses_latents
    if latents or not method.needs.learner:
        return
    with seeded(0):
        image = image_of(dataset.train(), 0)
    join(image[None], data.images[:1])


def image_of(dataset: Any, i: int) -> Tensor:
    """Reads the image of a sample, collated as in a batch.

    Raises:
        DataError: The image is not a tensor.
    """
    return sample_of(dataset, i)[0][0]
