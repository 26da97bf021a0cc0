"""Remembering labelled samples by a generator that a discriminator trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from avalanche_dgm.data import ExperienceData, Replay
from avalanche_dgm.errors import ConfigError, LabelError, ShapeError
from avalanche_dgm.generators.growing import MaskedGenerator
from avalanche_dgm.generators.ranges import (
    check_intensities,
    check_scale,
    check_variety,
    intensity_range,
    known_range,
    standard_range,
)
from avalanche_dgm.generators.scaler import Scaler
from avalanche_dgm.memories.adversarial_settings import GANSettings
from avalanche_dgm.modules import GrowingBuffers

#: Samples that are generated at once.
CHUNK = 512


class GANMemory(GrowingBuffers, ABC):
    """A generator of labelled samples, and which classes it knows.

    A class is a row of ``entries``: the experience that it came with, its task label, its label.
    Begin with `build` and `open`, train, and end with `close`; what was opened and not closed is
    dropped by the next `open`.

    Args:
        settings: Hyper-parameters.

    Attributes:
        scaler: Scales samples to what the networks work on; ``None`` before the first experience.
        entries: int64 tensor (K, 3), classes in the order in which they were met.
        learned: How many of them are learned; the rest belongs to the current experience.
        generator: What makes samples; ``None`` before the first experience.
    """

    entries: Tensor

    def __init__(self, settings: GANSettings) -> None:
        super().__init__()
        self.settings = settings
        self.scaler: Scaler | None = None
        self.generator: MaskedGenerator | None = None
        self.learned = 0
        self.experiences = 0
        self.register_buffer("entries", torch.empty(0, 3, dtype=torch.int64))

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Shape of one sample, or ``None`` before the first experience."""
        return self.scaler.shape if self.scaler is not None else None

    @property
    def ready(self) -> Scaler:
        """The scaler, once there is one."""
        if self.scaler is None:
            raise RuntimeError("The memory has no generator yet; call build() first.")
        return self.scaler

    @property
    def built(self) -> MaskedGenerator:
        """The generator, once there is one."""
        if self.generator is None:
            raise RuntimeError("The memory has no generator yet; call build() first.")
        return self.generator

    @property
    def architecture(self) -> str:
        """The networks' architecture, once the samples are known."""
        return self.architecture_for(self.ready.shape)

    def architecture_for(self, shape: tuple[int, ...]) -> str:
        """The networks' architecture for samples of a shape."""
        given = self.settings.architecture
        return ("dense" if len(shape) == 1 else "dcgan") if given == "auto" else given

    def check(self, data: ExperienceData) -> None:
        """Checks that an experience can be learned.

        Args:
            data: The experience.

        Raises:
            LabelError: One of its classes was learned before.
            RangeError: Intensities that the generator cannot make.
            ShapeError: Samples that it cannot make.
            ConfigError: More classes than there are noise dimensions to tell them by.
        """
        s, shape = self.settings, tuple(data.images.shape[1:])
        if (s.architecture == "dense") != (len(shape) == 1) and s.architecture != "auto":
            needed = "flat samples (features,)"
            if s.architecture != "dense":
                needed = "images (channels, height, width)"
            raise ShapeError(
                f"architecture={s.architecture!r} makes {needed}, but the samples are of shape"
                f" {shape}. Use architecture='auto'."
            )
        scaler = self.scaler if self.scaler is not None else self._scaler(data.images)
        if scaler.bounded:
            given = s.value_range is not None
            check_intensities(data.images, scaler.low, scaler.high, given=given, what="a generator")
        if s.value_range is None:
            check_variety(data.images, first=self.scaler is None)
            check_scale(data.images, scaler.low, scaler.high)
        known = {(task, label) for _, task, label in self.entries[: self.learned].tolist()}
        groups = torch.unique(torch.stack([data.tasks, data.labels], dim=1), dim=0).tolist()
        again = sorted({label for task, label in groups if (task, label) in known})
        if again:
            raise LabelError(
                f"Experience {data.name or data.key} brings back the classes"
                f" {', '.join(map(str, again))}, which were learned before. This memory learns a"
                " class once, with the experience it comes in. Use a stream in which each class"
                " comes in one experience, or a method that takes classes back, such as DGDMN."
            )
        if len(groups) >= s.latent:
            raise ConfigError(
                f"latent={s.latent} noise dimensions cannot tell {len(groups)} classes of one"
                f" experience. Set latent to more than {len(groups)}."
            )

    def _scaler(self, images: Tensor) -> Scaler:
        """The scaler for first samples: with bounds if there are any, see `known_range`."""
        shape, given = tuple(int(side) for side in images.shape[1:]), self.settings.value_range
        if given is not None:
            return Scaler(shape, *intensity_range(images, given))
        pixels = known_range(images)
        if pixels is not None:
            return Scaler(shape, *pixels)
        scale = standard_range(images) if len(shape) == 1 else intensity_range(images, None)
        return Scaler(shape, *scale, bounded=False)

    def build(self, images: Tensor) -> None:
        """Builds the generator for the first samples; later ones were checked against it.

        Args:
            images: Float tensor (N, *shape).
        """
        if self.scaler is None:
            scaler = self._scaler(images)
            self._make(scaler)
            self.to(images.device)

    def _make(self, scaler: Scaler) -> None:
        self.scaler = scaler
        self._build(scaler.padded)

    @abstractmethod
    def _build(self, shape: tuple[int, ...]) -> None:
        """Builds ``generator`` for samples of a shape on the scaler."""

    def open(self, data: ExperienceData) -> None:
        """Takes the classes of an experience in, so that they can be learned.

        Args:
            data: The experience, after `check` and `build`.
        """
        groups = torch.unique(torch.stack([data.tasks, data.labels], dim=1), dim=0)
        index = torch.full_like(groups[:, :1], self.experiences)
        new = torch.cat([index, groups], dim=1)
        self.entries = torch.cat([self.entries[: self.learned].to(new.device), new])

    def close(self) -> None:
        """Ends an experience: its classes are learned."""
        self.learned, self.experiences = len(self.entries), self.experiences + 1

    def rows_of(self, data: ExperienceData) -> Tensor:
        """The row of ``entries`` (N,) of each sample of the current experience."""
        mine = torch.stack([data.tasks, data.labels], dim=1)
        new = self.entries[self.learned :, 1:]
        return self.learned + (mine[:, None] == new[None]).all(dim=2).int().argmax(dim=1)

    @abstractmethod
    def imagine(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        """Generates samples on the scaler, without gradients.

        Args:
            rows: int64 tensor (n,), rows of ``entries``, ascending; those of the current experience
                are made as they are learned so far.
            rng: Generator on the memory's device.

        Returns:
            Float tensor (n, *padded), in [-1, 1] if the scaler is bounded.
        """

    def generate(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        """Generates any number of samples on the scaler, a chunk at a time."""
        if not len(rows):
            return torch.empty(0, *self.ready.padded, device=self.entries.device)
        return torch.cat([self.imagine(part, rng) for part in rows.split(CHUNK)])

    def replay(self, images: Tensor, rows: Tensor) -> Replay:
        """Labels samples, to be shown to a classifier.

        Args:
            images: Float tensor (n, *shape), in the user's units.
            rows: int64 tensor (n,), rows of ``entries``.
        """
        entries = self.entries[rows]
        return Replay(images, entries[:, 2], entries[:, 1])

    def get_extra_state(self) -> dict[str, Any]:
        """What ``state_dict`` needs to build the generator again."""
        return {
            "scaler": self.scaler.to_dict() if self.scaler is not None else None,
            "learned": self.learned,
            "experiences": self.experiences,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Builds the generator before its weights are loaded."""
        self.learned, self.experiences = state["learned"], state["experiences"]
        if state["scaler"] is None:
            self.scaler = self.generator = None
            return
        scaler = Scaler.from_dict(state["scaler"])
        if scaler != self.scaler:
            device = self.entries.device
            self._make(scaler)
            self.to(device)


class SamplePool:
    """Samples that are generated once and drawn from often, some more often than others.

    Args:
        samples: Float tensor (M, ...), on the scaler or in the user's units.
        rows: int64 tensor (M,), their rows of a memory's ``entries``.
        weights: Float tensor (M,), how often each is drawn relative to the others.
    """

    def __init__(self, samples: Tensor, rows: Tensor, weights: Tensor) -> None:
        self.samples, self.rows = samples, rows
        self._ends = torch.cumsum(weights.double(), dim=0)

    def __len__(self) -> int:
        return len(self.rows)

    def draw(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws with replacement.

        Args:
            n: How many.
            rng: Generator on the samples' device.

        Returns:
            Samples (n, ...) and rows (n,).
        """
        device = self.rows.device
        places = torch.rand(n, generator=rng, device=device, dtype=torch.float64) * self._ends[-1]
        index = torch.searchsorted(self._ends, places, right=True).clamp(max=len(self) - 1)
        return self.samples[index], self.rows[index]


def even_weights(rows: Tensor) -> Tensor:
    """Weights (M,) that give each class the same share: 1 in all.

    Args:
        rows: int64 tensor (M,), the class of each sample.
    """
    counts = torch.bincount(rows)
    return 1.0 / counts[rows].double()


def noise_with_class(
    positions: Tensor, n_classes: int, latent: int, rng: torch.Generator
) -> Tensor:
    """Standard normal noise whose first entries say the class, as the authors' code has it.

    Args:
        positions: int64 tensor (n,), the class, from 0 to ``n_classes`` - 1.
        n_classes: How many there are to tell apart.
        latent: Entries in all, more than ``n_classes``.
        rng: Generator on the device of ``positions``.

    Returns:
        Float tensor (n, latent).
    """
    noise = torch.randn(len(positions), latent, generator=rng, device=positions.device)
    noise[:, :n_classes] = nn.functional.one_hot(positions, n_classes).to(noise)
    return noise
