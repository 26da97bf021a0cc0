"""From Avalanche's experiences to the tensors and task keys that methods work on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from avalanche.benchmarks import OnlineCLExperience
from torch import Tensor
from torch.utils.data import DataLoader

from avalanche_dgm.data import ExperienceData
from avalanche_dgm.errors import ConfigError, DataError
from avalanche_dgm.randomness import global_state, seed_globally, set_global_state

#: Samples that are looked at to tell whether reading is random: a transform that acts on one
#: sample in ten would be missed once in a thousand times.
_LOOKS = 32

#: From an experience to the name of its task, equal for repetitions of the same task.
TaskOracle = Callable[[Any], str]


def classes_of(experience: Any) -> tuple[int, ...]:
    """The classes of an experience, in ascending order."""
    return tuple(sorted(int(c) for c in set(experience.classes_in_this_experience)))


def by_experience(experience: Any) -> str:
    """Each experience is a task of its own, named by its position in the stream: ``#3``."""
    return f"#{experience.current_experience}"


def by_classes(experience: Any) -> str:
    """Experiences with the same task labels and classes are the same task.

    Named by its classes, such as ``3``, ``0/1`` or ``10-19``, behind its task label if that is not
    0: ``2:0/1``.
    """
    if _hides_its_task(experience):
        raise ConfigError(
            "The stream is online and hides where its tasks begin, so tasks cannot be told apart."
            " Split it with access_task_boundaries=True, or pass oracle=<function from an"
            " experience to a string>."
        )
    # Some benchmarks, such as those with a validation stream, give no task labels at all.
    tasks = sorted({int(t) for t in getattr(experience, "task_labels", (0,))})
    classes = _name_of(classes_of(experience))
    return f"{'+'.join(map(str, tasks))}:{classes}" if tasks != [0] else classes


def _name_of(classes: tuple[int, ...]) -> str:
    """Writes classes shortly, runs of three or more as a range."""
    runs: list[list[int]] = []
    for c in classes:
        if runs and c == runs[-1][-1] + 1:
            runs[-1].append(c)
        else:
            runs.append([c])
    parts = [f"{run[0]}-{run[-1]}" if len(run) > 2 else "/".join(map(str, run)) for run in runs]
    return "/".join(parts)


def automatic(experience: Any) -> str:
    """`by_classes`, unless the stream's experiences all look the same (domain-incremental).

    Such a stream differs in its inputs only, so each of its experiences is a task.
    """
    stream = getattr(experience, "origin_stream", None)
    if stream is None or _hides_its_task(experience):
        return by_classes(experience)
    try:
        keys = {by_classes(other) for other in stream}
    except (TypeError, AttributeError):
        # Streams that are made as they go cannot be looked at ahead.
        keys = set()
    return by_experience(experience) if len(keys) == 1 else by_classes(experience)


ORACLES: dict[str, TaskOracle] = {
    "auto": automatic,
    "experience": by_experience,
    "classes": by_classes,
}


def find_oracle(oracle: str | TaskOracle) -> TaskOracle:
    """Returns the oracle of a name, or the callable itself.

    Raises:
        ConfigError: There is none of that name.
    """
    if callable(oracle):
        return oracle
    if oracle not in ORACLES:
        raise ConfigError(
            f"oracle={oracle!r} is not known; use one of {', '.join(ORACLES)}, or a function from"
            " an experience to a string."
        )
    return ORACLES[oracle]


def _hides_its_task(experience: Any) -> bool:
    return isinstance(experience, OnlineCLExperience) and not experience.access_task_boundaries


def starts_task(experience: Any) -> bool:
    """Whether an experience starts a task; parts of online streams mostly do not."""
    if not isinstance(experience, OnlineCLExperience) or _hides_its_task(experience):
        return True
    return bool(experience.is_first_subexp)


def ends_task(experience: Any, n_seen: int) -> bool:
    """Whether an experience ends a task.

    Args:
        experience: An Avalanche experience.
        n_seen: Samples of the task in its parts so far, this one among them.
    """
    if not isinstance(experience, OnlineCLExperience) or _hides_its_task(experience):
        return True
    # Avalanche marks no last part when the parts divide the experience without a remainder.
    return bool(experience.is_last_subexp) or n_seen >= len(experience.origin_experience.dataset)


def whole(experience: Any) -> Any:
    """The experience that a part of an online stream was cut from, where that may be known."""
    if isinstance(experience, OnlineCLExperience) and not _hides_its_task(experience):
        return experience.origin_experience
    return experience


def load(
    experience: Any, *, key: str, device: torch.device, num_workers: int = 0
) -> ExperienceData:
    """Reads all samples of an experience, without the augmentations of training.

    Args:
        experience: An Avalanche experience.
        key: Its task, from an oracle.
        device: Where the tensors shall be.
        num_workers: Processes that read, as for a DataLoader.

    Raises:
        DataError: Its samples are not images with a class and a task label, or differ in shape.
    """
    dataset = experience.dataset.eval()
    if len(dataset) == 0:
        raise DataError(f"Experience {key} holds no samples. Remove it from the stream.")
    loader = DataLoader(dataset, batch_size=512, num_workers=num_workers)
    try:
        columns = list(zip(*loader, strict=True))
        images = torch.cat([torch.as_tensor(part) for part in columns[0]]).to(device)
        labels = torch.cat([torch.as_tensor(part) for part in columns[1]]).to(device)
        tasks = torch.cat([torch.as_tensor(part) for part in columns[-1]]).to(device)
    except (RuntimeError, TypeError, IndexError) as error:
        raise DataError(
            f"The samples of experience {key} cannot be put into one tensor: {error}. Resize the"
            " images to one shape and convert them to tensors (torchvision.transforms.ToTensor)."
        ) from error
    if len(columns) < 3:
        raise DataError(
            f"The samples of experience {key} have {len(columns)} parts; image, class and task"
            " label are needed. Build the benchmark from classification datasets."
        )
    if images.is_floating_point():
        images = images.float()
    return ExperienceData(images, labels, tasks.to(torch.int64), key, key)


def is_augmented(dataset: Any) -> bool:
    """Whether training samples are read otherwise than for evaluation, or otherwise each time.

    Reads some samples, with global generators seeded for it and put back, so that all processes
    answer the same.

    Args:
        dataset: An Avalanche data set.
    """
    return reads_differ(dataset.train(), dataset.eval())


def reads_differ(used: Any, expected: Any) -> bool:
    """Whether two views of a data set give other images; see `is_augmented`.

    Args:
        used: An Avalanche data set.
        expected: The same or another view of it; the same one tells whether its reading is random.
    """
    looks = range(0, len(used), max(1, len(used) // _LOOKS))
    with seeded(0):
        for _ in range(2):
            for i in looks:
                image, other = image_of(used, i), image_of(expected, i)
                if image.shape != other.shape or not torch.equal(image, other):
                    return True
    return False


def image_of(dataset: Any, i: int) -> Tensor:
    """Reads the image of a sample.

    Args:
        dataset: Samples (image, ...).
        i: Position of the sample.

    Raises:
        DataError: It is no tensor.
    """
    image = dataset[i][0]
    if not isinstance(image, Tensor):
        raise DataError(
            f"The samples have images of type {type(image).__name__}, not tensors. Convert them"
            " with a transform (torchvision.transforms.ToTensor)."
        )
    return image


def shape_of(experience: Any) -> tuple[int, ...] | None:
    """The shape of an image of an experience, ``None`` if it is no tensor.

    Global generators, which augmentations draw from, stay as they are.

    Args:
        experience: An Avalanche experience.
    """
    with seeded(0):
        image = experience.dataset.eval()[0][0]
    return tuple(image.shape) if isinstance(image, Tensor) else None


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds the global generators for a while, and puts them back.

    Args:
        seed: The seed inside.
    """
    before = global_state()
    seed_globally(seed)
    try:
        yield
    finally:
        set_global_state(before)
