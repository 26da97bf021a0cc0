"""Data of experiences and replay batches, and checks before training."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from avalanche_dgm.errors import DataError, LabelError, RangeError, ShapeError

MASKED_LOGIT = -1000.0
"""The logit of a class that a sample's head does not have: finite, with a probability of 0."""


class Latents(Tensor):
    """Samples that are latents, the output of the frozen part of a classifier.

    All other tensors of samples are images. Results of slicing, concatenating, moving or converting
    latents are latents, too. Networks take the `plain` tensor, and states contain plain tensors.
    """

    @staticmethod
    def of(samples: Tensor) -> Latents:
        """Marks samples (n, *shape) as latents, in the same memory."""
        return samples.as_subclass(Latents)

    def plain(self) -> Tensor:
        """The same values as an ordinary tensor."""
        return self.as_subclass(Tensor)

    def __deepcopy__(self, memo: dict[int, Any]) -> Latents:
        """A copy that is marked as latents, too."""
        return Latents.of(copy.deepcopy(self.plain(), memo))


@dataclass(frozen=True)
class ExperienceData:
    """All samples of one experience, in memory.

    Attributes:
        images: Float tensor (N, C, H, W) or (N, D), any finite range of intensities; `Latents`
            of any shape once they are encoded.
        labels: int64 tensor (N,), class of each image, 0 or more.
        tasks: int64 tensor (N,), task label of each image; 0 if the benchmark has none.
        key: The task's key from the task oracle; experiences with equal keys repeat a task.
        name: Name of the experience for progress bars and messages.
        times: How often the task was repeated; above 1 for samples of a memory.
        partial: Whether it is a part of an online stream that hides its tasks, so that it may
            contain only some samples of a class.
    """

    images: Tensor
    labels: Tensor
    tasks: Tensor
    key: str
    name: str = ""
    times: int = 1
    partial: bool = False

    def __len__(self) -> int:
        return len(self.images)

    def take(self, index: Tensor) -> ExperienceData:
        """The samples at indices (M,)."""
        images, labels, tasks = (t[index] for t in (self.images, self.labels, self.tasks))
        return replace(self, images=images, labels=labels, tasks=tasks)

    @staticmethod
    def cat(parts: Sequence[ExperienceData]) -> ExperienceData:
        """Concatenates samples; all other attributes are those of the first part."""
        return replace(
            parts[0],
            images=torch.cat([part.images for part in parts]),
            labels=torch.cat([part.labels for part in parts]),
            tasks=torch.cat([part.tasks for part in parts]),
        )

    @property
    def pairs(self) -> Tensor:
        """Its classes: int64 rows (K, 2) of task label and class."""
        return torch.unique(torch.stack([self.tasks, self.labels], dim=1), dim=0)

    @property
    def classes(self) -> tuple[int, ...]:
        """The classes present, in ascending order."""
        return tuple(int(c) for c in torch.unique(self.labels).tolist())


@dataclass(frozen=True)
class Replay:
    """A batch drawn from a memory.

    Attributes:
        images: Float tensor (n, C, H, W) or (n, D), in the user's units, within the learned range
            for Bernoulli pixels, approximately for Gaussian ones. Or `Latents` of any shape.
        labels: int64 tensor (n,).
        tasks: int64 tensor (n,), task labels.
        targets: Float tensor (n, K), soft labels that sum to one, or ``None`` for hard labels.
    """

    images: Tensor
    labels: Tensor
    tasks: Tensor
    targets: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: slice | Tensor) -> Replay:
        targets = None if self.targets is None else self.targets[index]
        return Replay(self.images[index], self.labels[index], self.tasks[index], targets)

    def draw(self, n: int, rng: torch.Generator) -> Replay:
        """Draws n of these samples uniformly, with replacement."""
        return self[torch.randint(len(self), (n,), generator=rng, device=self.labels.device)]

    @staticmethod
    def cat(replays: Sequence[Replay]) -> Replay:
        """Concatenates batches; soft labels are padded, and kept only if all have them."""
        soft = [r.targets for r in replays if r.targets is not None]
        targets = None
        if len(soft) == len(replays):
            width = max(t.shape[1] for t in soft)
            targets = torch.cat([F.pad(t, (0, width - t.shape[1])) for t in soft])
        return Replay(
            torch.cat([r.images for r in replays]),
            torch.cat([r.labels for r in replays]),
            torch.cat([r.tasks for r in replays]),
            targets,
        )


@dataclass(frozen=True)
class Step:
    """One optimiser step of a classifier, before its loss is complete.

    Attributes:
        images: Float tensor (n, *shape), this process's new samples.
        tasks: int64 tensor (n,), their task labels.
        logits: Tensor (n, K), the classifier's logits.
        new: The loss on new samples, a scalar; ``None`` in a step on replayed samples alone.
        n: Number of new samples in the step, over all processes.
        replay: The replay batch, or ``None``.
        replay_logits: Tensor (m, K), the logits of the replay batch.
        share: Weight of this process's loss on new samples in the mean over processes; 1 for one
            process.
        replay_share: Weight of its loss on replayed samples in that mean.
    """

    images: Tensor
    tasks: Tensor
    logits: Tensor
    new: Tensor | None
    n: int
    replay: Replay | None = None
    replay_logits: Tensor | None = None
    share: float = 1.0
    replay_share: float = 1.0

    @staticmethod
    def on_replay(replay: Replay, logits: Tensor, n: int, *, share: float = 1.0) -> Step:
        """A step on a replay batch alone, with its logits, after one on ``n`` new samples."""
        none = slice(0)
        return Step(
            replay.images[none],
            replay.tasks[none],
            logits[none],
            new=None,
            n=n,
            replay=replay,
            replay_logits=logits,
            replay_share=share,
        )


def check_experience(data: ExperienceData, *, shape: tuple[int, ...] | None = None) -> None:
    """Checks that an experience can be learned; called before any training starts.

    Args:
        data: The experience.
        shape: Shape of one image learned before, or ``None`` on the first experience.

    Raises:
        DataError: There are no samples, or not one label and one task label for each image.
        ShapeError: The images are not float (N, C, H, W) or (N, D), or changed their shape.
        LabelError: Labels are not int64 or are negative.
        RangeError: An intensity is NaN or infinite.
    """
    images, labels, tasks = data.images, data.labels, data.tasks
    where = f"Experience {data.name}" if data.name else "The experience"
    if len(images) == 0:
        raise DataError(f"{where} holds no samples. Remove it from the stream.")
    if len(labels) != len(images) or len(tasks) != len(images):
        raise DataError(
            f"{where} has {len(images)} images but {len(labels)} labels and {len(tasks)} task"
            " labels. Each image needs one of each."
        )
    if images.ndim not in (2, 4):
        raise ShapeError(
            f"{where} has samples of shape {tuple(images.shape[1:])}; images (channels, height,"
            " width) or flat vectors (features,) are needed. Add a transform that reshapes them."
        )
    if not images.is_floating_point():
        raise RangeError(
            f"{where} has images of type {images.dtype}. Convert them to floating point"
            " (torchvision.transforms.ToTensor scales bytes to [0, 1])."
        )
    if shape is not None and tuple(images.shape[1:]) != shape:
        raise ShapeError(
            f"{where} has images of shape {tuple(images.shape[1:])}, but {shape} was learned"
            " before. One memory generates one shape: resize the images to it."
        )
    if labels.ndim != 1 or labels.dtype != torch.int64:
        raise LabelError(
            f"{where} has labels of shape {tuple(labels.shape)} and type {labels.dtype}; one int64"
            " class index for each image is needed."
        )
    if int(labels.min()) < 0:
        raise LabelError(
            f"{where} has the label {int(labels.min())}. Classes are numbered from 0; drop or"
            " relabel samples marked as unlabelled."
        )
    if not bool(torch.isfinite(images).all()):
        raise RangeError(
            f"{where} has images with NaN or infinite intensities. Check the transforms (a"
            " division by a standard deviation of zero is the usual cause)."
        )


def check_values(samples: Tensor) -> None:
    """Raises a `RangeError` if a value of samples (N, *shape) is NaN or infinite."""
    if not bool(torch.isfinite(samples).all()):
        raise RangeError(
            "A sample has NaN or infinite values. If it is an image, check the transforms; if it"
            " is a latent, the network has diverged: lower its learning rate."
        )


def check_labels(data: ExperienceData, width: int) -> None:
    """Raises a `LabelError` if a label has none of the ``width`` outputs of the learner.

    The learner is adapted to the experience already.
    """
    top = int(data.labels.max())
    if top >= width:
        raise LabelError(
            f"The experience has the label {top}, but the model has {width} outputs (0 to"
            f" {width - 1}). Give the model at least {top + 1} outputs, or a classifier that grows"
            " (avalanche.models.IncrementalClassifier)."
        )


def append_replay(images: Tensor, tasks: Tensor, replay: Replay | None) -> tuple[Tensor, Tensor]:
    """Appends replayed samples to new ones, (n, *shape) and (n,), for one forward pass."""
    if replay is None:
        return images, tasks
    if not len(images):
        return replay.images, replay.tasks
    return join(images, replay.images), torch.cat([tasks, replay.tasks])


def join(images: Tensor, replayed: Tensor) -> Tensor:
    """Appends replayed images (m, *shape) to new ones (n, *shape), in the type of these.

    Raises:
        ShapeError: The shapes of an image differ.
    """
    if images.shape[1:] != replayed.shape[1:]:
        raise ShapeError(
            f"The batch has images of shape {tuple(images.shape[1:])}, but the memory replays"
            f" {tuple(replayed.shape[1:])}, as it reads the data with the evaluation transforms."
            " Let both groups of transforms, and plugins that change batches, give the same shape."
        )
    return torch.cat([images, replayed.to(images.dtype)])


class SamplePool:
    """Samples for repeated weighted sampling.

    Args:
        samples: Float tensor (M, ...).
        rows: int64 tensor (M,), the class of each.
        weights: Float tensor (M,), relative frequency of each.
    """

    def __init__(self, samples: Tensor, rows: Tensor, weights: Tensor) -> None:
        self.samples, self.rows = samples, rows
        self._ends = torch.cumsum(weights.double(), dim=0)

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws samples (n, ...) and their rows (n,), with replacement."""
        device = self.rows.device
        places = torch.rand(n, generator=rng, device=device, dtype=torch.float64) * self._ends[-1]
        index = torch.searchsorted(self._ends, places, right=True).clamp(max=len(self) - 1)
        return self.samples[index], self.rows[index]


def split_budget(n: int, sizes: Sequence[int]) -> list[int]:
    """Divides n samples among tasks or classes, as evenly as possible (water-filling).

    Each gets at most the number in ``sizes`` that are available of it; together they get n, or all
    samples if these are fewer.
    """
    shares = [0] * len(sizes)
    # Smallest first: the rest of a small task's share is divided among the larger ones.
    order = sorted(range(len(sizes)), key=lambda i: sizes[i])
    for position, i in enumerate(order):
        shares[i] = min(sizes[i], n // (len(sizes) - position))
        n -= shares[i]
    return shares


def even_weights(rows: Tensor) -> Tensor:
    """Weights (M,) that sum to 1 for each class, of samples with the classes ``rows`` (M,)."""
    counts = torch.bincount(rows)
    return 1.0 / counts[rows].double()
